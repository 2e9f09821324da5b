"""The images of a split as arrays. Legend: N images, H height, W width, C channels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError
from data_shards.images.limits import SHARD_LIMITS
from data_shards.images.transforms import decode_image
from data_shards.paths import home_expanded
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest


class ShardImages:
    """A split of imported images; a map-style data set for PyTorch's `DataLoader` too.

    `for image, label in images` and `images[3]` read images from the disk when they are asked for.

    Attributes:
        labels: (N,) int64, the class of each image.
        names: name of each class, in the order of their numbers.
        ids: (N,) int64, sample ids, ascending.
    """

    def __init__(
        self, manifest: Manifest, split: str, *, label: str, size: int | None, channels: int
    ) -> None:
        self._index = SampleIndex(manifest, split)
        self._size, self._channels = size, channels
        self.labels = self._index.labels(label)
        self.names = manifest.label_names[label]
        self.ids = self._index.ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> tuple[npt.NDArray[np.uint8], int]:
        """(H, W, C) uint8 pixels and the class of one image."""
        return self._image(int(self.ids[position])), int(self.labels[position])

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
        return (self[position] for position in range(len(self)))

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """All images, read from the disk each time: (N, H, W, C) uint8.

        Raises:
            DataError: their sizes differ, and `read_shards` was given no size.
        """
        found = [image for image, _ in self]
        shapes = {image.shape for image in found}
        if len(shapes) > 1:
            raise DataError(
                f"the images have {len(shapes)} different sizes; give read_shards a size"
            )
        return np.stack(found)

    def _image(self, sample_id: int) -> npt.NDArray[np.uint8]:
        return decode_image(
            self._index.read(sample_id),
            size=self._size,
            channels=self._channels,
            limits=SHARD_LIMITS,
        )


def read_shards(
    folder: Path | str,
    split: str = "train",
    *,
    label: str | None = None,
    size: int | None = None,
    channels: int = 3,
) -> ShardImages:
    """Open a split of images that `clmle import` wrote.

    Args:
        folder: the one that the import's `--out` named.
        split: "train", "test" or "validation".
        label: label column; None for the first.
        size: height and width to resize and crop the images to; None keeps their sizes.
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: no finished import there, no such split or label, or a damaged file (named).
    """
    manifest = Manifest.load(home_expanded(str(folder)), split=split)
    column = manifest.label_columns[0] if label is None else label
    return ShardImages(manifest, split, label=column, size=size, channels=channels)
