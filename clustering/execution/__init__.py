"""Which worker clusters which classes, on Ray."""
