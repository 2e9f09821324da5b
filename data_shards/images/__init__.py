"""Decoding images and varying them in training."""
