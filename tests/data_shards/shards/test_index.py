from __future__ import annotations

import errno
import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from data_shards.errors import DataError
from data_shards.shards import index as index_module
from data_shards.shards.index import SampleIndex, read_index, sample_ids, scan_tar, write_index
from data_shards.shards.manifest import Manifest
from tests.helpers import reference_data_shards as reference
from tests.helpers.image_shards import COLUMN, png, write_image_shards

DENSE = list(range(10))
WITH_HOLES = [0, 1, 2, 4, 5, 9, 12, 13, 14, 20]
LABELS = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]


@pytest.fixture(params=[DENSE, WITH_HOLES], ids=["dense", "with holes"])
def ids(request: pytest.FixtureRequest) -> list[int]:
    return request.param


@pytest.fixture
def manifest(tmp_path: Path, ids: list[int]) -> Manifest:
    return write_image_shards(tmp_path / "shards", ids, LABELS)


def test_every_sample_is_found(manifest: Manifest, ids: list[int]) -> None:
    index = SampleIndex(manifest, "train")
    assert len(index) == 10
    assert index.ids.tolist() == ids
    assert index.labels(COLUMN).tolist() == LABELS
    assert index.labels(COLUMN) is index.labels(COLUMN)
    for sample_id in reversed(ids):
        assert index.read(sample_id) == png(sample_id)


def test_reading_equals_a_walk_through_the_tar(manifest: Manifest, ids: list[int]) -> None:
    index = SampleIndex(manifest, "train")
    for number, sample_id in enumerate(ids):
        tar = manifest.folder / f"train-{number // 4:06d}.tar"
        assert index.read(sample_id) == reference.read_member(tar, f"{sample_id:09d}.png")


def test_an_unknown_id_or_column_is_refused(manifest: Manifest, ids: list[int]) -> None:
    index = SampleIndex(manifest, "train")
    for unknown in {-1, 3, 10, 21, 1000} - set(ids):
        with pytest.raises(DataError, match=f"no sample {unknown}; "):
            index.read(unknown)
    with pytest.raises(DataError, match="no label column 'age'; name one that it has: class"):
        index.labels("age")


def test_many_threads_and_a_forked_process_read_at_once(
    manifest: Manifest, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_MAX_OPEN_TARS", 1)  # tars are closed all the time
    index = SampleIndex(manifest, "train")
    wanted = ids * 50
    before = set(threading.enumerate())  # an earlier test's last one may end meanwhile
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(index.read, wanted))
    assert got == [png(sample_id) for sample_id in wanted]
    assert set(threading.enumerate()) <= before
    child = os.fork()
    if child == 0:
        os._exit(0 if index.read(ids[-1]) == png(ids[-1]) else 1)
    assert index.read(ids[0]) == png(ids[0])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_closing_frees_the_files_and_reading_opens_them_again(manifest: Manifest) -> None:
    index = SampleIndex(manifest, "train")
    before = len(os.listdir("/proc/self/fd"))
    index.read(0)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    index.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert index.read(0) == png(0)


@pytest.mark.parametrize("suffix", ["idx", "labels.npy"])
def test_a_changed_index_or_label_file_is_named(manifest: Manifest, suffix: str) -> None:
    path = manifest.folder / f"train-000001.{suffix}"
    path.write_bytes(path.read_bytes()[:-1] + b"7")
    with pytest.raises(DataError, match=rf"train-000001\.{suffix} is damaged"):
        SampleIndex(manifest, "train")


def test_a_tar_that_shrinks_under_way_is_named(manifest: Manifest, ids: list[int]) -> None:
    index = SampleIndex(manifest, "train")
    os.truncate(manifest.folder / "train-000000.tar", 100)
    with pytest.raises(DataError, match=rf"train-000000\.tar is truncated.*sample {ids[2]}"):
        index.read(ids[2])


def test_a_tar_that_is_gone_is_named(manifest: Manifest, ids: list[int]) -> None:
    index = SampleIndex(manifest, "train")
    (manifest.folder / "train-000000.tar").unlink()
    with pytest.raises(DataError, match=r"cannot read .*/train-000000\.tar: No such file.*again"):
        index.read(ids[2])
    assert index.read(ids[4]) == png(ids[4])


def test_a_file_that_has_gone_stale_is_named_and_opened_anew(
    manifest: Manifest, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = SampleIndex(manifest, "train")
    index.read(ids[2])
    tar, pread = manifest.folder / "train-000000.tar", os.pread
    old = tar.stat().st_ino
    (tar.parent / "copy").write_bytes(tar.read_bytes())
    (tar.parent / "copy").rename(tar)

    def stale(descriptor: int, size: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == old:
            raise OSError(errno.ESTALE, "Stale file handle")
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", stale)
    with pytest.raises(DataError, match=r"train-000000\.tar: Stale file handle; make it readable"):
        index.read(ids[2])
    assert index.read(ids[2]) == png(ids[2])


def test_an_index_that_is_let_go_closes_its_files(manifest: Manifest, ids: list[int]) -> None:
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        index = SampleIndex(manifest, "train")
        index.read(ids[0])
        del index
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_ids_that_do_not_ascend_are_refused(manifest: Manifest) -> None:
    train = manifest.split("train")
    backwards = replace(manifest, splits={"train": replace(train, shards=train.shards[::-1])})
    with pytest.raises(DataError, match="do not ascend"):
        SampleIndex(backwards, "train")


def test_the_layout_is_that_of_wds2idx(tmp_path: Path) -> None:
    manifest = write_image_shards(tmp_path / "shards", [7, 8, 9], [0, 1, 2])
    header, first, *rest = (manifest.folder / "train-000000.idx").read_text().splitlines()
    assert header == "v1.2 3"
    assert len(rest) == 2
    label, image = first.split(" ")[:4], first.split(" ")[4:]
    assert (label[0], label[3]) == ("json", "000000007.json")
    assert (image[0], image[2], image[3]) == ("png", str(len(png(7))), "000000007.png")
    tar = (manifest.folder / "train-000000.tar").read_bytes()
    assert tar[int(image[1]) :].startswith(png(7))


def test_an_index_comes_back_as_written(tmp_path: Path) -> None:
    manifest = write_image_shards(tmp_path / "shards", [7, 9], [0, 1])
    members = scan_tar(manifest.folder / "train-000000.tar")
    write_index(tmp_path / "again.idx", members)
    assert read_index(tmp_path / "again.idx") == members
    assert sample_ids(tmp_path / "again.idx") == [7, 9]


@pytest.mark.parametrize("text", ["", "v1.2", "v1.1 0\n", "v1.2 2\nb 1 2 c\n", "v1.2 1\nb 1 c\n"])
def test_a_file_that_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.idx"
    path.write_text(text)
    with pytest.raises(DataError, match=r"cannot read the index .*a\.idx"):
        read_index(path)
