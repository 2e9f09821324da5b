"""Spherical k-means within a class. No Ray."""
