"""Spherical k-means inside a class. No Ray."""
