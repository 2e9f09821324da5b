"""Which images can be used: asked of a few before anything is written, then of each."""

from __future__ import annotations

from data_shards.errors import DataError
from data_shards.images.limits import ImageLimits
from data_shards.images.transforms import check_image
from data_shards.importing.plan import ImportPlan
from data_shards.sources.base import SourceItem

UNUSABLE = (DataError, OSError)
"""What `read_image` raises."""


def read_image(item: SourceItem, limits: ImageLimits) -> bytes:
    """Load an image file that every network can be given.

    Raises:
        DataError: it cannot be decoded.
        OSError: it cannot be read.
    """
    image = item.load()
    check_image(image, limits)
    return image


def why_unusable(item: SourceItem, limits: ImageLimits) -> str | None:
    """What is wrong with an image; None if it can be read and decoded."""
    try:
        read_image(item, limits)
    except UNUSABLE as error:
        return str(error)
    return None


def unusable_classes(plan: ImportPlan, limits: ImageLimits) -> dict[str, tuple[str, ...]]:
    """Find the classes of which no training image can be used, by trying as few as possible.

    Returns:
        Label column -> names of such classes; only columns that have one.
    """
    waiting = {column: set(range(len(names))) for column, names in plan.label_names.items()}
    for item in plan.splits.get("train", ()):
        shown = [column for column, numbers in waiting.items() if item.labels[column] in numbers]
        if shown and why_unusable(item, limits) is None:
            for column in shown:
                waiting[column].discard(item.labels[column])
        if not any(waiting.values()):
            break
    return {
        column: tuple(plan.label_names[column][number] for number in sorted(numbers))
        for column, numbers in waiting.items()
        if numbers
    }
