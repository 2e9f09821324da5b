"""Data sets, methods, settings, and the training runs of a comparison."""
