from __future__ import annotations

import pytest

from data_shards.errors import DataError
from data_shards.importing.classes import (
    check_every_class,
    check_imported,
    empty_classes,
    without_classes,
)
from data_shards.sources.base import Source, SourceItem


def source(**splits: dict[str, int]) -> Source:
    """Split -> class -> number of images."""
    names = tuple(sorted({name for counts in splits.values() for name in counts}))
    items = {
        split: [
            SourceItem(f"{split}/{name}/{n}", {"who": names.index(name)}, lambda: b"", "png")
            for name, count in counts.items()
            for n in range(count)
        ]
        for split, counts in splits.items()
    }
    return Source("made", items, ("who",), {"who": names})


def problem(made: Source) -> str:
    with pytest.raises(DataError) as caught:
        check_every_class(made, "who")
    return str(caught.value)


def test_classes_with_training_images_pass() -> None:
    check_every_class(source(train={"a": 1, "b": 2}, test={"a": 1}), "who")


def test_classes_without_images_are_named_together() -> None:
    made = source(train={"a": 1, **dict.fromkeys("bcdefgh", 0)})
    assert empty_classes(made, "who") == tuple("bcdefgh")
    assert problem(made) == (
        "7 class(es) of 'who' (b, c, d, e, f and 2 more) hold no image; add some, remove these "
        "classes, or leave them out with --on-error skip"
    )


def test_other_people_in_test_than_in_train_are_named_together() -> None:
    assert problem(source(train={"a": 1, "b": 1}, test={"x": 1, "y": 1}, validation={"z": 1})) == (
        "3 class(es) of 'who' (x, y, z) have images in a held-out split but none in train, which "
        "has a, b; the splits must show the same classes: move some of their images to train, or "
        "remove them from the held-out splits"
    )


def test_names_that_are_only_spelt_otherwise_are_recognised() -> None:
    said = problem(source(train={"Ann Lee": 1, "bo": 1}, test={"ann_lee": 1, "cy": 1}))
    assert said.startswith("2 class(es) of 'who' (ann_lee, cy) have images in a held-out split")
    assert said.endswith("only spelt otherwise, give them one name: 'ann_lee' (train: 'Ann Lee')")


def test_two_causes_are_told_apart() -> None:
    said = problem(source(train={"a": 1, "none": 0}, test={"x": 1}))
    assert "1 class(es) of 'who' (none) hold no image; " in said
    assert "1 class(es) of 'who' (x) have images in a held-out split" in said


def test_classes_that_are_left_out_leave_no_gap() -> None:
    made = without_classes(
        source(train={"a": 1, "b": 1, "c": 2}, test={"b": 1, "c": 1}), "who", "b"
    )
    assert made.label_names == {"who": ("a", "c")}
    assert [item.labels["who"] for item in made.splits["train"]] == [0, 1, 1]
    assert [item.name for item in made.splits["test"]] == ["test/c/0"]


def test_what_was_lost_on_the_way_is_named() -> None:
    made = source(train={"a": 1, "b": 0, "c": 0})
    with pytest.raises(DataError, match=r"any more of 2 class\(es\) of 'who' \(b, c\); repair"):
        check_imported(made.splits["train"], made.label_names)
