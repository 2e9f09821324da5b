from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards.errors import DataError
from data_shards.images.limits import USUAL_LIMITS
from data_shards.importing.copies import find_copies, same_bytes, settle_copies
from data_shards.importing.plan import ImportOptions, ImportPlan, plan_import
from data_shards.sources.base import Source, SourceItem
from tests.helpers.image_shards import png

CLASSES = ("a", "b", "c")


def item(name: str, content: bytes | Callable[[], bytes], file: Path | None = None) -> SourceItem:
    """An image of the class that its name begins with."""
    load = content if callable(content) else partial(bytes, content)
    return SourceItem(name, {"class": CLASSES.index(name[0])}, load, "png", file)


def plan(*, duplicates: Any = "stop", **splits: dict[str, int]) -> ImportPlan:
    """Split -> name -> number of its picture; settled."""
    items = {
        split: [item(name, png(number)) for name, number in pictures.items()]
        for split, pictures in splits.items()
    }
    names = CLASSES[: 1 + max(i.labels["class"] for part in items.values() for i in part)]
    made = Source("made", items, ("class",), {"class": names})
    options = ImportOptions(out=Path("unused"), duplicates=duplicates)
    return settle_copies(plan_import(made, options), options)


def names(made: ImportPlan, split: str) -> list[str]:
    return [item.name for item in made.splits[split]]


OWN_TEST = {"a9": 90, "b9": 91}


def test_without_copies_nothing_happens() -> None:
    for duplicates in ("stop", "keep", "drop"):
        made = plan(duplicates=duplicates, train={"a1": 1, "b1": 2}, test=OWN_TEST)
        assert (made.notes, made.dropped_copies) == ((), ())


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"a1": 1, "b1": 1, "b2": 2}, "images occur several times, 1 with different labels: a1"),
        ({"a1": 90, "b1": 2}, "images occur several times, 1 in more than one split: a9 = a1;"),
        ({"a1": 91, "b1": 2}, "images occur several times, 1 with different labels: b9 = a1;"),
        ({"a1": 1, "b1": 1, "b2": 91}, "with different labels: a1 = b1; 1 in more than one split"),
        (
            {f"a{n}": 1 for n in range(8)} | {"b1": 1},
            "images occur several times, 1 with different labels: a0 = a1 = a2 = 6 more; remove "
            "all copies but the right one, or choose --duplicates drop (each",
        ),
    ],
)
def test_copies_that_do_harm_stop_an_import(train: dict[str, int], message: str) -> None:
    with pytest.raises(DataError) as caught:
        plan(train=train, test=OWN_TEST)
    assert message in str(caught.value)
    kept = plan(duplicates="keep", train=train, test=OWN_TEST)
    assert sum(map(len, kept.splits.values())) == len(train) + 2
    assert kept.notes[0].startswith("images that occur several times, 1 ")


def test_copies_in_one_class_and_split_are_only_mentioned() -> None:
    made = plan(train={"a1": 1, "a2": 1, "b1": 2}, test=OWN_TEST)
    assert names(made, "train") == ["a1", "a2", "b1"]
    assert made.notes == ("images that occur several times, 1 within a class and a split: a1 = a2",)


def test_of_copies_the_one_in_the_test_split_stays() -> None:
    made = plan(
        duplicates="drop",
        train={"a1": 1, "a2": 90, "a3": 3, "b1": 2, "b2": 4, "b3": 4},
        validation={"a5": 90, "a6": 3, "b5": 5},
        test=OWN_TEST,
    )
    assert names(made, "test") == ["a9", "b9"]
    assert names(made, "validation") == ["a6", "b5"]
    assert names(made, "train") == ["a1", "b1", "b2"]
    assert made.dropped_copies == ("a5", "a2", "a3", "b3")
    assert made.notes[-1] == "dropped 4 of these; manifest.json names them"


def test_of_copies_with_different_labels_none_stays() -> None:
    made = plan(
        duplicates="drop", train={"a1": 1, "a2": 2, "b1": 1, "b2": 3, "b3": 90}, test=OWN_TEST
    )
    assert names(made, "train") == ["a2", "b2"]
    assert names(made, "test") == ["b9"]


def test_a_class_that_is_a_copy_of_another_is_named() -> None:
    with pytest.raises(
        DataError, match=r"drop leaves 2 class\(es\) of 'class' without .* image: a, c, since"
    ):
        plan(duplicates="drop", train={"a1": 1, "b1": 2, "c1": 1}, test={"b9": 90})


def test_the_copies_of_a_drawn_split_are_found() -> None:
    """Which of them meet in one split depends on the seed, but not whether they are copies."""
    pictures = {f"{c}{n}": 100 * at + n // 2 for at, c in enumerate("ab") for n in range(20)}
    with pytest.raises(DataError, match="in more than one split"):
        plan(train=pictures)
    made = plan(duplicates="drop", train=pictures)
    assert len(names(made, "train")) + len(names(made, "test")) == 20


def test_what_is_no_image_is_no_copy() -> None:
    """It is reported as what it is when it is read."""
    broken = [item("a1", b""), item("b1", b""), item("a2", b"text"), item("b2", b"text")]

    def missing() -> bytes:
        raise FileNotFoundError("gone")

    lost = [item("a3", missing), item("b3", missing)]
    whole = [item("a4", png(1)), item("b4", png(2))]
    source = Source("made", {"train": broken + lost + whole}, ("class",), {"class": ("a", "b")})
    made = plan_import(source, ImportOptions(out=Path("unused"), test_fraction=0))
    assert find_copies(made, USUAL_LIMITS).described() == []


def test_files_of_a_size_of_their_own_are_not_read(tmp_path: Path) -> None:
    def must_not() -> bytes:
        raise AssertionError("read")

    items = []
    for name, size in {"a1": 10, "a2": 20, "a3": 10, "b1": 30}.items():
        (tmp_path / name).write_bytes(b"x" * size)
        read = (tmp_path / name).read_bytes if size == 10 else must_not
        items.append(item(name, read, tmp_path / name))
    assert same_bytes(items, label="test") == [[0, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_those_of_a_comparison_of_each_with_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contents = [bytes(rng.integers(0, 3, size=rng.integers(0, 4))) for _ in range(60)]
    items = [item("a", content) for content in contents]
    first_of: dict[bytes, list[int]] = {}
    for position, content in enumerate(contents):
        first_of.setdefault(content, []).append(position)
    expected = [group for group in first_of.values() if len(group) > 1]
    assert same_bytes(items, label="test") == expected
    assert same_bytes([], label="test") == []


def test_little_is_remembered_of_an_image() -> None:
    def content(number: int) -> bytes:
        return number.to_bytes(4, "big") * 1000

    items = [item("a", partial(content, number)) for number in range(20_000)]
    tracemalloc.start()
    try:
        same_bytes(items, label="test")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000  # the images are 80 MB
