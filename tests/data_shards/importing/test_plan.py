from __future__ import annotations

import hashlib
import json
import logging
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from data_shards.errors import DataError
from data_shards.importing import plan as import_plan
from data_shards.importing.plan import ImportOptions, ImportPlan, plan_import
from data_shards.shards.manifest import FORMAT
from data_shards.sources.base import Source, SourceItem
from tests.helpers.image_shards import png


def items(prefix: str, counts: list[int]) -> list[SourceItem]:
    """Images of class 0, 1, ... in turns, so that a plan has something to sort."""
    labels = [(n, label) for label, count in enumerate(counts) for n in range(count)]
    return [
        SourceItem(f"{prefix}/{label}/{n}", {"class": label}, lambda: png(0), "png")
        for n, label in sorted(labels)
    ]


def source(train: list[int], test: list[int] | None = None) -> Source:
    splits = {"train": items("train", train)}
    if test is not None:
        splits["test"] = items("test", test)
    names = tuple("abcdefgh"[: len(train)])
    return Source("made", splits, ("class",), {"class": names})


def plan(made: Source, **options: Any) -> ImportPlan:
    return plan_import(made, ImportOptions(out=Path("unused"), **options))


def counts(made: ImportPlan, split: str) -> list[int]:
    labels = Counter(item.labels["class"] for item in made.splits[split])
    return [labels[label] for label in range(len(made.label_names["class"]))]


def test_classes_lie_together_and_test_ids_follow() -> None:
    made = plan(source([4, 8, 12]))
    assert list(made.splits) == ["train", "test"]
    for split in made.splits.values():
        labels = [item.labels["class"] for item in split]
        assert labels == sorted(labels)
    assert (counts(made, "train"), counts(made, "test")) == ([3, 6, 9], [1, 2, 3])
    assert (made.first_id("train"), made.first_id("test")) == (0, 18)


def test_a_test_split_of_the_source_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    made = plan(source([4, 8], [3, 1]))
    assert (counts(made, "train"), counts(made, "test")) == ([4, 8], [3, 1])
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        assert counts(plan(source([4, 8], [3, 1]), test_fraction=0.5), "test") == [3, 1]
    assert "--test-fraction is not used" in caplog.text


def test_the_validation_split_is_taken_from_the_training_images() -> None:
    full = plan(source([100, 100, 2]), test_fraction=0.2)
    held = plan(source([100, 100, 2]), test_fraction=0.2, validation_fraction=0.25)
    assert list(held.splits) == ["train", "test", "validation"]
    assert [item.name for item in held.splits["test"]] == [i.name for i in full.splits["test"]]
    assert counts(held, "validation") == [20, 20, 0]  # one image of the last class was left
    assert counts(held, "train") == [60, 60, 1]
    assert (held.first_id("test"), held.first_id("validation")) == (121, 162)
    train, validation = (
        {item.name for item in held.splits[split]} for split in ("train", "validation")
    )
    assert train | validation == {item.name for item in full.splits["train"]}
    assert not train & validation


def test_the_validation_split_is_as_balanced_as_the_source() -> None:
    made = plan(source([100, 100, 100], [1, 1, 1]), validation_fraction=0.2, long_tail_ratio=16)
    assert counts(made, "train") == [80, 20, 5]
    assert counts(made, "validation") == [20, 20, 20]


def test_a_validation_split_of_the_source_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    made = source([4, 8], [3, 1])
    made = replace(made, splits={**made.splits, "validation": items("validation", [2, 2])})
    assert counts(plan(made), "validation") == [2, 2]
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        assert counts(plan(made, validation_fraction=0.5), "validation") == [2, 2]
    assert "--validation-fraction is not used" in caplog.text


def test_the_first_label_decides_over_order_and_long_tail() -> None:
    labelled = [
        SourceItem(f"{a}{b}{n}", {"a": a, "b": b}, lambda: png(0), "png")
        for n in range(20)
        for a in (0, 1)
        for b in (0, 1)
    ]
    names = {"a": ("a0", "a1"), "b": ("b0", "b1")}
    made = Source("made", {"train": labelled}, ("a", "b"), names)
    options: dict[str, Any] = {"test_fraction": 0.0, "long_tail_ratio": 10}
    thinned = plan(made, label="b", **options)
    assert thinned.label_columns == ("b", "a")
    labels = [item.labels["b"] for item in thinned.splits["train"]]
    assert labels == [0] * 40 + [1] * 4
    assert plan(made, label="a", **options).fingerprint() == plan(made, **options).fingerprint()
    assert thinned.fingerprint() != plan(made, **options).fingerprint()
    with pytest.raises(DataError, match="made has no label 'c'; name one that it has: a, b"):
        plan(made, label="c")


def test_another_label_stays_while_each_of_its_classes_has_a_training_image(
    caplog: pytest.LogCaptureFixture,
) -> None:
    labelled = [
        SourceItem(f"{a}/{n}", {"a": a, "rare": int(n < 2), "half": n % 2}, lambda: png(0), "png")
        for n in range(40)
        for a in (0, 1)
    ]
    names = {"a": ("a0", "a1"), "rare": ("no", "yes"), "half": ("even", "odd")}
    made = Source("made", {"train": labelled}, ("rare", "a", "half"), names)
    left_out = 0
    for seed in range(10):
        caplog.clear()
        thinned = plan(made, label="a", seed=seed, max_per_class=20, long_tail_ratio=10)
        has_rare = any(item.labels["rare"] for item in thinned.splits["train"])
        assert thinned.label_columns == (("a", "rare", "half") if has_rare else ("a", "half"))
        assert set(thinned.label_names) == set(thinned.label_columns)
        assert (
            "that have a class without a training image: rare (no 'yes')" in caplog.text
        ) != has_rare
        left_out += not has_rare
    assert 0 < left_out < 10
    assert plan(made, label="rare").label_columns == ("rare", "a", "half")


def test_images_without_labels_stop_an_import_or_are_listed() -> None:
    made = replace(source([4, 8]), unlabelled=("odd.jpg", "odder.jpg"))
    with pytest.raises(DataError, match=r"2 image\(s\) are unknown, the first is odd.jpg"):
        plan(made)
    assert plan(made, on_error="skip").skipped == ("odd.jpg", "odder.jpg")


def test_no_test_split_when_none_is_wanted() -> None:
    made = plan(source([4, 8]), test_fraction=0)
    assert list(made.splits) == ["train"]
    assert counts(made, "train") == [4, 8]


def test_the_long_tail_thins_the_training_images_alone() -> None:
    full = plan(source([100, 100, 100]), test_fraction=0.2)
    tail = plan(source([100, 100, 100]), test_fraction=0.2, long_tail_ratio=16)
    assert counts(tail, "train") == [80, 20, 5]
    assert tail.wanted_counts == (80, 20, 5)
    assert [item.name for item in tail.splits["test"]] == [i.name for i in full.splits["test"]]
    names = {item.name for item in full.splits["train"]}
    assert {item.name for item in tail.splits["train"]} < names


def test_a_class_with_too_few_images_keeps_all() -> None:
    made = plan(source([50, 6, 100], [1, 1, 1]), long_tail_ratio=4, max_per_class=80)
    assert counts(made, "train") == [50, 6, 20]
    assert made.wanted_counts == (80, 40, 20)


def test_max_per_class_alone_is_a_cap() -> None:
    assert counts(plan(source([50, 6], [1, 1]), max_per_class=10), "train") == [10, 6]


def test_small_classes_are_left_out_and_the_rest_numbered_anew() -> None:
    made = plan(source([9, 3, 10, 2], [1, 1, 1, 1]), min_images=4)
    assert made.label_names == {"class": ("a", "c")}
    assert (counts(made, "train"), counts(made, "test")) == ([9, 10], [1, 1])
    assert made.splits["train"][-1].name.startswith("train/2/")


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (source([5]), {}, "at least two classes, got 1 of made .*: a; name the folder"),
        (source([5, 2]), {"min_images": 3}, "at least two classes, got 1"),
        (
            source([5, 2]),
            {"min_images": 9},
            "at least two classes, got 0 .*: none; lower --min-images$",
        ),
        (
            source([5, 0, 3], [1, 1, 1]),
            {},
            r"1 class\(es\) of 'class' \(b\) have images in a held-out",
        ),
    ],
)
def test_classes_that_cannot_be_trained_are_named(
    made: Source, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        plan(made, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"long_tail_ratio": 0.5}, "--long-tail-ratio must be >= 1, got 0.5"),
        ({"long_tail_ratio": float("nan")}, "--long-tail-ratio must be >= 1, got nan"),
        ({"max_per_class": 0}, "--max-per-class must be >= 1, got 0"),
        ({"min_images": 0}, "--min-images must be >= 1, got 0"),
        ({"test_fraction": 1.0}, "--test-fraction must be >= 0 and < 1, got 1.0"),
        ({"validation_fraction": 1.0}, "--validation-fraction must be >= 0 and < 1, got 1.0"),
        ({"seed": -1}, "--seed must be >= 0, got -1"),
        ({"samples_per_shard": 0}, "--samples-per-shard must be >= 1, got 0"),
        ({"on_error": "ask"}, "--on-error must be stop or skip, got ask"),
        ({"duplicates": "ask"}, "--duplicates must be stop, keep or drop, got ask"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImportOptions(out=Path("unused"), **options)


def test_the_fingerprint_tells_imports_apart() -> None:
    first = plan(source([8, 8]))
    same = plan(source([8, 8]), long_tail_ratio=1, on_error="skip")
    assert same.fingerprint() == first.fingerprint()
    others = [
        plan(source([8, 8]), seed=1),
        plan(source([8, 8]), samples_per_shard=3),
        plan(source([8, 9])),
        replace(first, source="else"),
        replace(first, label_names={"class": ("a", "z")}),
    ]
    assert len({first.fingerprint(), *(other.fingerprint() for other in others)}) == 6


def json_of(made: ImportPlan) -> str:
    """The JSON text that a fingerprint is a checksum of, made at once."""
    items = {
        split: [(item.name, dict(item.labels)) for item in items]
        for split, items in made.splits.items()
    }
    content = [FORMAT, made.source, made.label_columns, made.label_names, made.settings, items]
    return json.dumps(content, sort_keys=True, default=dict)


@pytest.mark.parametrize("items_at_once", [1, 3, 1000])
def test_the_fingerprint_is_of_one_json_text(
    items_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_plan, "_ITEMS_AT_ONCE", items_at_once)
    odd = [
        SourceItem(f'Zoë "{n}\\', MappingProxyType({"z": n % 2, "a": n % 3}), lambda: b"", "png")
        for n in range(7)
    ]
    names = MappingProxyType({"z": ("0", "ö"), "a": ("x", "y", "z")})
    plans = [
        plan(source([8, 9], [2, 3]), validation_fraction=0.5),
        replace(plan(source([4, 8])), splits={"train": odd, "test": odd[:6]}, label_names=names),
        replace(plan(source([4, 8])), splits={"train": [], "test": odd[:1]}),
        replace(plan(source([4, 8])), splits={}),
    ]
    for made in plans:
        expected = hashlib.sha256(json_of(made).encode("ascii")).hexdigest()
        assert made.fingerprint() == expected


def test_a_fingerprint_does_not_hold_its_text() -> None:
    made = plan(source([10_000, 10_000]))
    tracemalloc.start()
    try:
        made.fingerprint()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(json_of(made))


def test_the_seed_alone_decides() -> None:
    def chosen(seed: int) -> list[str]:
        made = plan(source([40, 40]), seed=seed, long_tail_ratio=4)
        return [item.name for split in made.splits.values() for item in split]

    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)
