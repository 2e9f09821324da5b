"""Starts the parts of a run on one machine and watches them."""
