from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_shards.errors import DataError
from data_shards.import_plan import ImportOptions
from data_shards.importer import import_source
from data_shards.index import SampleIndex
from data_shards.manifest import Manifest
from data_shards.reader import read_shard
from data_shards.sources import image_folder
from tests.helpers.image_shards import folder_bytes, png, write_image_folder

COUNTS = {"ann": 12, "bo": 9, "cy": 4}


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "faces", COUNTS)


def run(faces: Path, out: Path, **options: Any) -> Manifest:
    settings = {"samples_per_shard": 5, **options}
    return import_source(image_folder.read(faces), ImportOptions(out=out, **settings))


def identity(path: Path) -> tuple[int, int]:
    """Changes when a file is written anew, even with the same bytes."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_every_image_arrives_once_under_its_class(faces: Path, tmp_path: Path) -> None:
    manifest = run(faces, tmp_path / "out")
    assert manifest.class_counts("train", "class").tolist() == [9, 7, 3]
    assert manifest.class_counts("test", "class").tolist() == [3, 2, 1]
    seen = {}
    for split, info in manifest.splits.items():
        index = SampleIndex(manifest, split)
        for number in range(len(info.shards)):
            for sample in read_shard(manifest, split, number):
                assert index.read(sample.id) == sample.image
                seen[sample.source] = (sample.id, sample.image)
                name = manifest.label_names["class"][sample.labels["class"]]
                assert sample.source.startswith(f"{name}/")
    assert sorted(number for number, _ in seen.values()) == list(range(25))
    assert all(image == (faces / name).read_bytes() for name, (_, image) in seen.items())


def test_the_same_import_makes_the_same_bytes(faces: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        run(faces, tmp_path / out, long_tail_ratio=3)
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")


def test_running_again_changes_nothing_and_repairs_damage(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(faces, out)
    before = folder_bytes(out)
    untouched = identity(out / "train-000000.tar")
    tar = out / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:100])
    run(faces, out)
    assert folder_bytes(out) == before
    assert identity(out / "train-000000.tar") == untouched


def test_a_finished_other_import_is_not_touched(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(faces, out)
    before = folder_bytes(out)
    with pytest.raises(DataError, match="holds another import"):
        run(faces, out, seed=1)
    assert folder_bytes(out) == before


def test_an_unfinished_other_import_is_started_over(
    faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    (faces / "cy" / "notes.txt").write_text("no image")
    with pytest.raises(
        DataError, match=r"^cy/notes\.txt: not an image that Pillow can read.*--on-error skip"
    ):
        run(faces, out)
    with pytest.raises(DataError, match="has not finished"):
        Manifest.load(out)
    (faces / "cy" / "notes.txt").unlink()
    with caplog.at_level(logging.WARNING):
        run(faces, out)
    assert "is started over" in caplog.text
    run(faces, tmp_path / "fresh")
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def test_files_of_somebody_else_are_not_touched(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-000000.tar").write_bytes(b"precious")
    (out / ".tmp-theirs").write_bytes(b"at work")
    with pytest.raises(DataError, match="is not empty and holds no import"):
        run(faces, out)
    assert folder_bytes(out) == {".tmp-theirs": b"at work", "train-000000.tar": b"precious"}


def test_a_folder_that_cannot_be_made_is_named(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write to .*file/out: .*; choose another --out"):
        run(faces, tmp_path / "file" / "out")


def test_skipped_images_leave_holes_and_are_listed(
    faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (faces / "bo" / "003.png").write_bytes(png(0)[:40])
    (faces / "bo" / "Thumbs.db").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        manifest = run(faces, tmp_path / "out", on_error="skip", test_fraction=0)
    assert manifest.skipped == ("bo/003.png", "bo/Thumbs.db")
    assert "skipped bo/003.png: not an image" in caplog.text
    assert manifest.class_counts("train", "class").tolist() == [12, 8, 4]
    index = SampleIndex(manifest, "train")
    assert sorted(set(range(26)) - set(index.ids.tolist())) == [15, 21]
    assert index.read(22) == (faces / "cy" / "000.png").read_bytes()
    again = run(faces, tmp_path / "out", on_error="skip", test_fraction=0)
    assert again == manifest
    (faces / "bo" / "003.png").write_bytes(png(0))  # repaired
    repaired = run(faces, tmp_path / "out", on_error="skip", test_fraction=0)
    assert repaired.skipped == ("bo/Thumbs.db",)
    assert repaired.class_counts("train", "class").tolist() == [12, 9, 4]
    assert SampleIndex(repaired, "train").read(15) == png(0)


def test_an_image_of_floats_is_refused_by_name(faces: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(faces / "bo" / "depth.tiff")
    with pytest.raises(DataError, match=r"^bo/depth\.tiff: its pixels are floating-point"):
        run(faces, tmp_path / "out")


def test_a_whole_shard_may_be_skipped(faces: Path, tmp_path: Path) -> None:
    for number in range(5):
        (faces / "ann" / f"{number:03d}.png").write_bytes(b"")
    manifest = run(faces, tmp_path / "out", on_error="skip", test_fraction=0)
    assert manifest.split("train").shards[0].num_samples == 0
    assert list(read_shard(manifest, "train", 0)) == []
    assert SampleIndex(manifest, "train").ids.tolist() == list(range(5, 25))


def test_a_class_whose_images_are_all_skipped_is_named(faces: Path, tmp_path: Path) -> None:
    for number in range(4):
        (faces / "cy" / f"{number:03d}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="class 'cy' of 'class' has no training image"):
        run(faces, tmp_path / "out", on_error="skip")
    with pytest.raises(DataError, match="has not finished"):
        Manifest.load(tmp_path / "out")


def test_a_killed_import_goes_on_and_ends_in_the_same_bytes(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stuck = faces / "ann" / "007.png"
    data = stuck.read_bytes()
    stuck.unlink()
    os.mkfifo(stuck)  # opening it blocks: the import stands still in its second shard
    command = [sys.executable, "-m", "data_shards.importer", "image-folder", str(faces)]
    options = ["--out", str(out), "--samples-per-shard", "5", "--test-fraction", "0"]
    with subprocess.Popen(command + options, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not any(out.glob(".tmp-*-train-000001.tar")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finished = identity(out / "train-000000.tar")
    assert any(out.glob(".tmp-*"))
    with pytest.raises(DataError, match="has not finished .* run the same `clmle import` command"):
        Manifest.load(out)

    stuck.unlink()
    stuck.write_bytes(data)
    run(faces, out, test_fraction=0)
    assert identity(out / "train-000000.tar") == finished
    run(faces, tmp_path / "uninterrupted", test_fraction=0)
    assert folder_bytes(out) == folder_bytes(tmp_path / "uninterrupted")
