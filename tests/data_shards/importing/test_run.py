from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_shards.errors import DataError
from data_shards.images.limits import ImageLimits
from data_shards.importer import import_source, main
from data_shards.importing import run as import_run
from data_shards.importing.plan import ImportOptions
from data_shards.importing.usable import read_image
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import IMPORT_NAME, Manifest
from data_shards.shards.reader import read_shard
from data_shards.sources import digits, image_folder, lfw
from data_shards.sources.base import SourceItem
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


def overwrite(faces: Path, *, longer: bool = False) -> None:
    """Put other images in the place of all; PNGs may have something behind their end."""
    for number, path in enumerate(sorted(faces.rglob("*.png"))):
        size, modified = path.stat().st_size, path.stat().st_mtime_ns
        path.write_bytes(png(1000 + number).ljust(size + longer, b"\0")[: size + longer])
        os.utime(path, ns=(0, modified if longer else modified + 1))


@pytest.mark.parametrize(
    ("longer", "what"),
    [
        (True, "some have other sizes; "),
        (False, r"their sizes are the same, but not their modification times "),
    ],
)
def test_a_finished_import_is_not_taken_for_one_of_changed_images(
    faces: Path, tmp_path: Path, longer: bool, what: str
) -> None:
    out = tmp_path / "out"
    run(faces, out)
    before = folder_bytes(out)
    overwrite(faces, longer=longer)
    shards = "train-000000, train-000001, train-000002, train-000003, test-000000 and 1 more"
    with pytest.raises(DataError, match=f"files of {shards} have changed since: {what}") as error:
        run(faces, out)
    assert str(error.value).endswith("remove the folder to import them as they are now")
    assert folder_bytes(out) == before


def test_a_copy_with_its_times_is_no_change(faces: Path, tmp_path: Path) -> None:
    manifest = run(faces, tmp_path / "out")
    shutil.copytree(faces, tmp_path / "copy")
    shutil.rmtree(faces)
    assert run(tmp_path / "copy", tmp_path / "out") == manifest


def test_an_import_needs_its_images_no_more(faces: Path, tmp_path: Path) -> None:
    manifest = run(faces, tmp_path / "out")
    shutil.rmtree(faces)
    assert Manifest.load(tmp_path / "out") == manifest
    assert main(["--verify", str(tmp_path / "out")]) == 0


def test_what_is_changed_in_an_unfinished_import_is_written_again(
    faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    broken = faces / "cy" / "003.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cy/003\.png: not an image"):
        run(faces, out, test_fraction=0)
    kept = identity(out / "train-000000.tar")
    (faces / "ann" / "007.png").write_bytes(png(1000) + b"longer")  # the third of the second shard
    broken.write_bytes(whole)
    run(faces, out, test_fraction=0)
    assert "files of train-000001 have changed since: some have other sizes" in caplog.text
    assert identity(out / "train-000000.tar") == kept
    run(faces, tmp_path / "fresh", test_fraction=0)
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def test_each_file_is_looked_at_twice_and_a_tar_once_more_than_it_has_shards(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, asked = os.stat, Counter[str]()

    def counted(path: Any, *arguments: Any, **others: Any) -> os.stat_result:
        asked[str(path)] += 1
        return stat(path, *arguments, **others)

    archive = tmp_path / "faces.tar"
    with tarfile.open(archive, "w") as tar:
        for path in faces.rglob("*.png"):
            tar.add(path, arcname=f"{path.parent.name}/{path.parent.name}_{path.name}")
    loose, packed = image_folder.read(faces), lfw.read(archive)
    monkeypatch.setattr(os, "stat", counted)
    for _ in range(2):  # a new import, and the same again
        asked.clear()
        import_source(loose, ImportOptions(out=tmp_path / "loose", samples_per_shard=5))
        # Once to find copies, once for its shard.
        assert all(asked[str(path)] == 2 for path in faces.rglob("*.png"))
        import_source(packed, ImportOptions(out=tmp_path / "packed", samples_per_shard=10))
        assert asked[str(archive)] == 1 + 3
    with archive.open("ab") as file:
        file.write(b"longer")
    with pytest.raises(DataError, match="changed since: some have other sizes"):
        import_source(packed, ImportOptions(out=tmp_path / "packed", samples_per_shard=10))


def test_images_of_no_file_do_not_change(tmp_path: Path) -> None:
    options = ImportOptions(out=tmp_path, max_per_class=2, test_fraction=0)
    assert import_source(digits.read(), options) == import_source(digits.read(), options)


def test_an_import_that_noted_no_files_is_taken_as_it_is(faces: Path, tmp_path: Path) -> None:
    manifest = run(faces, tmp_path / "out")
    for path in (tmp_path / "out").glob("t*-*.json"):
        content = json.loads(path.read_text())
        del content["files"]  # as before they were noted
        path.write_text(json.dumps(content))
    overwrite(faces)
    assert run(faces, tmp_path / "out") == manifest


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
    assert "is replaced" in caplog.text
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
    with pytest.raises(DataError, match="cannot write to .*file/out; choose another --out"):
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


@pytest.fixture
def with_skipped(faces: Path, tmp_path: Path) -> Path:
    """An import that finished without bo/003.png; bo/005.png is in the same shard."""
    (faces / "bo" / "003.png").write_bytes(png(0)[:40])
    run(faces, tmp_path / "out", on_error="skip", test_fraction=0)
    return tmp_path / "out"


def test_what_lacks_an_image_is_kept_while_it_cannot_be_read(
    faces: Path, with_skipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: identity(path) for path in with_skipped.iterdir()}
    tried = list[str]()

    def counted(item: SourceItem, limits: ImageLimits) -> bytes:
        tried.append(item.name)
        return read_image(item, limits)

    monkeypatch.setattr(import_run, "read_image", counted)
    for has_finished in (True, False):
        if not has_finished:
            (with_skipped / "manifest.json").unlink()
            del before["manifest.json"]
        again = run(faces, with_skipped, on_error="skip", test_fraction=0)
        assert again.skipped == ("bo/003.png",)
        after = {path.name: identity(path) for path in with_skipped.iterdir()}
        assert after.items() >= (before.items() - {("import.lock", before["import.lock"])})
        assert tried == ["bo/003.png"]
        tried.clear()


def test_an_image_that_was_repaired_does_not_change_a_finished_import(
    faces: Path, with_skipped: Path, tmp_path: Path
) -> None:
    """Trainings read its shards; an unfinished one takes the image up."""
    before = folder_bytes(with_skipped)
    (faces / "bo" / "003.png").write_bytes(png(1000))
    with pytest.raises(DataError, match="readable now: bo/003.png; choose another --out or rem"):
        run(faces, with_skipped, on_error="skip", test_fraction=0)
    assert folder_bytes(with_skipped) == before
    (with_skipped / "manifest.json").unlink()
    repaired = run(faces, with_skipped, on_error="skip", test_fraction=0)
    assert repaired.skipped == ()
    assert SampleIndex(repaired, "train").read(15) == png(1000)
    run(faces, tmp_path / "fresh", test_fraction=0)
    assert folder_bytes(with_skipped) == folder_bytes(tmp_path / "fresh")


def test_a_changed_file_is_found_beside_a_skipped_one(faces: Path, with_skipped: Path) -> None:
    (faces / "bo" / "004.png").write_bytes(png(1) + b"longer")
    with pytest.raises(DataError, match="changed since: some have other sizes"):
        run(faces, with_skipped, on_error="skip", test_fraction=0)


@pytest.mark.parametrize("suffix", ["tar", "idx", "labels.npy", "json"])
def test_a_damaged_shard_of_a_finished_import_comes_out_as_it_was_or_not_at_all(
    faces: Path, with_skipped: Path, suffix: str
) -> None:
    before = folder_bytes(with_skipped)
    broken = (faces / "bo" / "003.png").read_bytes()
    damaged = with_skipped / f"train-000003.{suffix}"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    (faces / "bo" / "003.png").write_bytes(png(1000))  # repaired
    with pytest.raises(DataError, match="its shard train-000003 is damaged and would not come out"):
        run(faces, with_skipped, on_error="skip", test_fraction=0)
    assert folder_bytes(with_skipped) == {**before, damaged.name: before[damaged.name][:-10]}
    (faces / "bo" / "003.png").write_bytes(broken)
    run(faces, with_skipped, on_error="skip", test_fraction=0)
    assert folder_bytes(with_skipped) == before


def test_a_finished_import_of_other_skipped_names_is_not_touched(
    faces: Path, tmp_path: Path
) -> None:
    source = image_folder.read(faces)
    options = ImportOptions(out=tmp_path / "out", on_error="skip")
    import_source(replace(source, unlabelled=("odd.jpg",)), options)
    before = folder_bytes(tmp_path / "out")
    with pytest.raises(DataError, match=r"left out then: odd\.jpg, now: none; choose another"):
        import_source(source, options)
    assert folder_bytes(tmp_path / "out") == before


def test_a_damaged_manifest_is_written_again(faces: Path, tmp_path: Path) -> None:
    manifest = run(faces, tmp_path / "out")
    before = folder_bytes(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text("{")
    assert run(faces, tmp_path / "out") == manifest
    assert folder_bytes(tmp_path / "out") == before


def test_a_second_import_into_a_folder_is_refused_and_harms_nothing(
    faces: Path, tmp_path: Path
) -> None:
    out, second = tmp_path / "out", list[str]()
    source = image_folder.read(faces)
    first, *others = source.splits["train"]

    def load() -> bytes:
        if not (out / IMPORT_NAME).exists():  # its bytes are compared with those of others
            return first.load()
        with pytest.raises(DataError, match=f"another import is writing into {out}; wait"):
            run(faces, out)
        second.append("refused")
        return first.load()

    busy = replace(source, splits={"train": [replace(first, load=load), *others]})
    made = import_source(busy, ImportOptions(out=out, samples_per_shard=5))
    assert second == ["refused"]
    assert run(faces, out) == made


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


def test_a_class_that_cannot_be_used_is_named_before_anything_is_written(
    faces: Path, tmp_path: Path
) -> None:
    for number in range(4):
        (faces / "cy" / f"{number:03d}.png").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"of 1 class\(es\) of 'class' can be used: cy \(cy/000.png: not an image"
    ):
        run(faces, tmp_path / "out")
    assert not (tmp_path / "out").exists()


STUCK = """
import sys, time
from data_shards import importer
from data_shards.importing import run

def stuck(item, limits, read=run.read_image):
    if item.name == "ann/007.png":
        time.sleep(600)
    return read(item, limits)

run.read_image = stuck
sys.exit(importer.main(sys.argv[1:]))
"""


def test_a_killed_import_goes_on_and_ends_in_the_same_bytes(faces: Path, tmp_path: Path) -> None:
    """It is killed while it stands still in its second shard."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", STUCK, "image-folder", str(faces)]
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

    run(faces, out, test_fraction=0)
    assert identity(out / "train-000000.tar") == finished
    run(faces, tmp_path / "uninterrupted", test_fraction=0)
    assert folder_bytes(out) == folder_bytes(tmp_path / "uninterrupted")


def test_what_another_import_has_finished_is_kept_where_it_comes_out_the_same(
    faces: Path, tmp_path: Path
) -> None:
    """Who removes an image that cannot be read, or a class, loses only what changes by that."""
    out = tmp_path / "out"
    broken = faces / "cy" / "001.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cy/001\.png: .*; repair it or add --on-error skip, and"):
        run(faces, out, test_fraction=0)
    kept = {name: identity(out / name) for name in ("train-000000.tar", "train-000003.tar")}
    assert (out / "train-000003.json").exists()
    broken.unlink()
    run(faces, out, test_fraction=0)
    assert {name: identity(out / name) for name in kept} == kept
    run(faces, tmp_path / "fresh", test_fraction=0)
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def test_of_a_larger_unfinished_import_nothing_stays_behind(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(faces, out)
    (out / "manifest.json").unlink()
    shutil.rmtree(faces / "ann")
    run(faces, out, test_fraction=0)
    run(faces, tmp_path / "fresh", test_fraction=0)
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def test_shards_of_files_that_only_have_the_same_names_are_not_kept(
    faces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(faces, out)
    (out / "manifest.json").unlink()
    overwrite(faces)
    shutil.rmtree(faces / "cy")
    run(faces, out)
    run(faces, tmp_path / "fresh")
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def test_a_class_is_left_out_before_anything_is_written_and_may_be_removed_later(
    faces: Path, tmp_path: Path
) -> None:
    for path in (faces / "bo").iterdir():
        path.write_bytes(b"no image")
    manifest = run(faces, tmp_path / "out", on_error="skip")
    assert manifest.label_names == {"class": ("ann", "cy")}
    assert manifest.skipped == ()
    before = folder_bytes(tmp_path / "out")
    shutil.rmtree(faces / "bo")
    assert run(faces, tmp_path / "out") == manifest
    assert folder_bytes(tmp_path / "out") == before


def test_dropped_copies_are_dropped_again_when_an_import_goes_on(
    faces: Path, tmp_path: Path
) -> None:
    shutil.copyfile(faces / "ann" / "000.png", faces / "ann" / "012.png")
    shutil.copyfile(faces / "ann" / "001.png", faces / "bo" / "001.png")
    out, options = tmp_path / "out", {"duplicates": "drop", "test_fraction": 0}
    broken = faces / "cy" / "003.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cy/003\.png: not an image"):
        run(faces, out, **options)
    kept = identity(out / "train-000000.tar")
    broken.write_bytes(whole)
    manifest = run(faces, out, **options)
    assert manifest.skipped == ("ann/001.png", "bo/001.png", "ann/012.png")
    assert manifest.class_counts("train", "class").tolist() == [11, 8, 4]
    assert identity(out / "train-000000.tar") == kept
    assert run(faces, out, **options) == manifest
    run(faces, tmp_path / "fresh", **options)
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def test_a_folder_of_other_files_is_refused_before_the_images_are_looked_at(
    faces: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    unread = replace(image_folder.read(faces), splits={})
    with pytest.raises(DataError, match="is not empty and holds no import"):
        import_source(unread, ImportOptions(out=tmp_path / "out"))
