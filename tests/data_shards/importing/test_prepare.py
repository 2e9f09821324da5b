from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_shards.errors import DataError
from data_shards.importing.plan import ImportOptions, ImportPlan
from data_shards.importing.prepare import prepare_import
from data_shards.sources.base import Source, SourceItem
from tests.helpers.image_shards import png

OUT = Path("unused")


def source(classes: dict[str, list[bool]], tags: dict[str, int] | None = None) -> Source:
    """Class -> whether each of its images can be read; `tags`: values of a second label."""
    names, count = tuple(classes), 0
    items = []
    for label, (name, usable) in enumerate(classes.items()):
        for number, can_be_read in enumerate(usable):
            data = png(count) if can_be_read else b"no image"
            labels = {"class": label, "tag": (tags or {}).get(f"{name}/{number}", 0)}
            items.append(SourceItem(f"{name}/{number}", labels, lambda data=data: data, "png"))
            count += 1
    columns = ("class", "tag") if tags else ("class",)
    return Source("made", {"train": items}, columns, {"class": names, "tag": ("no", "yes")})


def prepare(made: Source, **options: Any) -> ImportPlan:
    return prepare_import(made, ImportOptions(out=OUT, **{"test_fraction": 0, **options}))


BAD, GOOD = [False, False, False], [True, True, True]


def test_classes_that_cannot_be_used_are_named_together_with_a_reason() -> None:
    made = source({"a": GOOD, "b": BAD, "c": GOOD, "d": BAD})
    with pytest.raises(DataError) as caught:
        prepare(made)
    assert str(caught.value) == (
        "no training image of 2 class(es) of 'class' can be used: b, d (b/0: not an image that "
        "Pillow can read (8 bytes); expected one of --formats JPEG,PNG,WEBP,GIF,BMP,TIFF,PPM); "
        "repair one of each, remove these classes, or leave them out with --on-error skip"
    )


def test_one_image_that_can_be_used_is_enough() -> None:
    made = prepare(source({"a": GOOD, "b": [False, False, True]}))
    assert len(made.splits["train"]) == 6


def test_a_class_left_out_is_as_one_that_was_removed(caplog: pytest.LogCaptureFixture) -> None:
    classes = {"a": GOOD * 4, "b": BAD, "c": GOOD * 4, "empty": []}
    with caplog.at_level(logging.WARNING):
        skipped = prepare(source(classes), on_error="skip", test_fraction=0.3, long_tail_ratio=2)
    assert skipped.label_names["class"] == ("a", "c")
    assert skipped.unusable_classes == ("b", "empty")
    assert "left out 2 class(es) without an image that can be used: b, empty" in caplog.text
    removed = prepare(
        source({name: classes[name] for name in ("a", "c")}), test_fraction=0.3, long_tail_ratio=2
    )
    # Not the pictures: the source above numbers them through.
    assert skipped.fingerprint() == removed.fingerprint()


def test_a_class_may_have_its_good_images_in_the_test_split() -> None:
    """Then it cannot be trained either; without it, the split is drawn anew."""
    classes = {"a": GOOD, "b": [True, False, False, False], "c": GOOD}
    seen = set()
    for seed in range(12):
        made = prepare(source(classes), on_error="skip", seed=seed, test_fraction=0.25)
        seen.add(made.label_names["class"])
        for number, name in enumerate(made.label_names["class"]):
            images = [i for i in made.splits["train"] if i.labels["class"] == number]
            assert any(item.load() != b"no image" for item in images), name
    assert seen == {("a", "b", "c"), ("a", "c")}


def test_one_class_left_is_too_few() -> None:
    with pytest.raises(
        DataError, match="at least two classes, got 1 of made .*: a; name the folder"
    ):
        prepare(source({"a": GOOD, "b": BAD}), on_error="skip")


def test_another_label_whose_class_cannot_be_used_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    classes = {"a": [True, True, False], "b": GOOD}
    made = prepare(source(classes, tags={"a/2": 1}), on_error="skip")
    assert made.label_columns == ("class",)
    assert "without a training image: tag (no 'yes')" in caplog.text
    assert prepare(source(classes, tags={"b/2": 1})).label_columns == ("class", "tag")


def test_copies_are_dealt_with_before_the_classes() -> None:
    """What can be read of a class may be a copy."""
    made = source({"a": GOOD, "b": GOOD, "c": [False, True]})
    *others, last = made.splits["train"]
    copy = replace(last, load=others[0].load)
    doubled = replace(made, splits={"train": [*others, copy]})
    plan = prepare(doubled, on_error="skip", duplicates="drop")
    assert plan.label_names["class"] == ("a", "b")
    # The copy went with its class: nothing is left to drop.
    assert plan.dropped_copies == ()
