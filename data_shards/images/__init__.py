"""Decoding images, and augmenting them in training."""
