"""Slow twins of data_shards: the same results by plain loops."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def long_tail_counts(num_classes: int, max_per_class: int, ratio: float) -> list[int]:
    """Counts of a long tail, one class at a time."""
    counts = []
    for number in range(num_classes):
        share = ratio ** (-number / (num_classes - 1)) if num_classes > 1 else 1.0
        exact = max_per_class * share
        nearest = round(exact)
        counts.append(max(1, nearest if abs(exact - nearest) < 1e-6 else int(exact)))
    return counts


def even_counts(class_sizes: list[int], total: int) -> list[int]:
    """One sample at a time, to the class that has the fewest of those that have more."""
    counts = [0] * len(class_sizes)
    for _ in range(min(total, sum(class_sizes))):
        open_ones = [c for c, size in enumerate(class_sizes) if counts[c] < size]
        counts[min(open_ones, key=lambda c: counts[c])] += 1
    return counts


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """One image (H, W, C) moved pixel by pixel, the nearest edge pixel in the gap."""
    height, width, _ = image.shape
    moved = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            from_row = min(max(row - down, 0), height - 1)
            from_column = min(max(column - right, 0), width - 1)
            moved[row, column] = image[from_row, from_column]
    return moved


def augmentations(image: np.ndarray, shift: int, *, flip: bool) -> set[bytes]:
    """Every image that `augment` may make of one image."""
    made = set()
    for down in range(-shift, shift + 1):
        for right in range(-shift, shift + 1):
            moved = shifted(image, down, right)
            made.add(moved.tobytes())
            if flip:
                made.add(moved[:, ::-1].tobytes())
    return made


def fitted(image: Image.Image, size: int) -> Image.Image:
    """An image resized so that its short side has `size` pixels, then cut to the centre."""
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


def read_member(tar_path: Path, name: str) -> bytes:
    """One file out of a tar, found by walking through it."""
    with tarfile.open(tar_path) as tar:
        for member in tar:
            if member.name == name:
                file = tar.extractfile(member)
                assert file is not None
                return file.read()
    raise KeyError(name)
