from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clustering.errors import ClusterError
from clustering.table import store
from clustering.table.table import ClusterTable
from tests.helpers.cluster_tables import tiny_table

REPOSITORY = Path(__file__).parents[3]

# Publishes version 200 and dies at the given moment: after so many files of that version.
KILLED_PUBLISHER = """
import os, signal, sys
from clustering.table import store
from tests.helpers.cluster_tables import tiny_table

folder, num_files = sys.argv[1], int(sys.argv[2])
written = []

def dying(function):
    def wrapped(*arguments):
        if len(written) == num_files:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(arguments)
        return function(*arguments)
    return wrapped

store.save_arrays = dying(store.save_arrays)
store.write_json = dying(store.write_json)
store.atomic_file = dying(store.atomic_file)
tables = {task: tiny_table(version=200, task=task, seed=9) for task in ("a", "b")}
store.publish(folder, 200, tables)
"""


def _tables(version: int, seed: int = 0) -> dict[str, ClusterTable]:
    return {task: tiny_table(version=version, task=task, seed=seed) for task in ("a", "b")}


def _assert_equal(got: ClusterTable, expected: ClusterTable) -> None:
    assert (got.version, got.task, got.stats) == (expected.version, expected.task, expected.stats)
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(got.arrays()[name], array)


def test_what_is_published_is_loaded(tmp_path: Path) -> None:
    tables = _tables(200)
    folder = store.publish(tmp_path / "tables", 200, tables)
    assert folder == tmp_path / "tables" / "000200"
    loaded = store.load(tmp_path / "tables", 200)
    assert sorted(loaded) == ["a", "b"]
    for task, table in loaded.items():
        _assert_equal(table, tables[task])


def test_whoever_can_read_the_manifest_can_read_the_arrays(tmp_path: Path) -> None:
    folder = store.publish(tmp_path, 200, _tables(200))
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


def test_the_latest_is_what_was_published_last(tmp_path: Path) -> None:
    assert store.latest_version(tmp_path / "none") is None
    assert store.versions(tmp_path / "none") == []
    for version in (0, 200, 1_000_000):
        store.publish(tmp_path, version, _tables(version))
        assert store.latest_version(tmp_path) == version
    assert store.versions(tmp_path) == [0, 200, 1_000_000]


def test_a_version_can_be_replaced(tmp_path: Path) -> None:
    store.publish(tmp_path, 200, _tables(200, seed=0))
    again = {"a": tiny_table(version=200, task="a", seed=1)}
    store.publish(tmp_path, 200, again)
    loaded = store.load(tmp_path, 200)
    assert list(loaded) == ["a"]
    _assert_equal(loaded["a"], again["a"])


def test_a_version_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(tmp_path, 200, _tables(200))
    after, read = _tables(200, seed=1), store._checked_bytes

    def replaced(path: Path, manifest: Mapping[str, Any]) -> bytes:
        monkeypatch.undo()
        store.publish(tmp_path, 200, after)
        return read(path, manifest)

    for load in (lambda: store.load(tmp_path, 200)["a"].stats, lambda: store.stats(tmp_path, 200)):
        monkeypatch.setattr(store, "_checked_bytes", replaced)
        load()
    _assert_equal(store.load(tmp_path, 200)["a"], after["a"])


def test_stats_need_no_arrays(tmp_path: Path) -> None:
    folder = store.publish(tmp_path, 200, _tables(200, seed=3))
    (folder / "a.safetensors").unlink()
    assert store.stats(tmp_path, 200) == {"a": {"seed": 3}, "b": {"seed": 3}}


@pytest.mark.parametrize("content", ["", "000300\n", "../000200", "\x00garbage", "200"])
def test_a_garbled_pointer_gives_way_to_the_newest(tmp_path: Path, content: str) -> None:
    for version in (100, 200):
        store.publish(tmp_path, version, _tables(version))
    (tmp_path / "LATEST").write_text(content)
    assert store.latest_version(tmp_path) == 200
    (tmp_path / "LATEST").unlink()
    assert store.latest_version(tmp_path) == 200


@pytest.mark.parametrize("name", ["a.safetensors", "b.json"])
def test_one_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    path = store.publish(tmp_path, 200, _tables(200)) / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ClusterError, match=f"000200/{name} is damaged"):
        store.load(tmp_path, 200)


@pytest.mark.parametrize("name", ["a.safetensors", "b.json", "manifest.json"])
def test_a_version_that_lacks_a_file_is_not_listed(tmp_path: Path, name: str) -> None:
    store.publish(tmp_path, 100, _tables(100))
    path = store.publish(tmp_path, 200, _tables(200)) / name
    path.unlink()
    assert store.versions(tmp_path) == [100]
    assert store.latest_version(tmp_path) == 100
    with pytest.raises(ClusterError, match=name):
        store.load(tmp_path, 200)


@pytest.mark.parametrize(
    "manifest", ["{", "[]", "{}", '{"format": "clmle-cluster-tables-1", "version": 7}']
)
def test_a_garbled_manifest(tmp_path: Path, manifest: str) -> None:
    folder = store.publish(tmp_path, 200, _tables(200))
    (folder / "manifest.json").write_text(manifest)
    assert store.versions(tmp_path) == []
    with pytest.raises(ClusterError, match=r"000200/manifest\.json"):
        store.stats(tmp_path, 200)


def test_a_table_that_is_whole_but_wrong(tmp_path: Path) -> None:
    """Checksums that fit do not save a file that is no table."""
    folder = store.publish(tmp_path, 200, _tables(200))
    (folder / "a.safetensors").write_bytes(b"no safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["a.safetensors"] = store.sha256_of(folder / "a.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ClusterError, match=r"cannot read .*a\.safetensors"):
        store.load(tmp_path, 200)


def test_an_unknown_version(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no cluster tables of version 300"):
        store.load(tmp_path, 300)


@pytest.mark.parametrize(
    ("version", "tables", "message"),
    [
        (200, {}, "at least one table"),
        (-1, {"a": tiny_table(task="a")}, "expected a version >= 0"),
        (300, {"a": tiny_table(task="a")}, "expected the table of version 300"),
        (200, {"b": tiny_table(task="a")}, "expected the table of version 200, task b"),
        (200, {"../a": tiny_table(task="../a")}, "cannot name its files"),
        (200, {"manifest": tiny_table(task="manifest")}, "cannot name its files"),
    ],
)
def test_what_cannot_be_published(
    tmp_path: Path, version: int, tables: dict[str, ClusterTable], message: str
) -> None:
    with pytest.raises(ClusterError, match=message):
        store.publish(tmp_path, version, tables)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_files", range(6))
def test_a_killed_publisher_leaves_nothing_that_looks_real(tmp_path: Path, num_files: int) -> None:
    """Killed before each of its five files and before the pointer."""
    before = _tables(100)
    store.publish(tmp_path, 100, before)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_PUBLISHER, str(tmp_path), str(num_files)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    in_place = num_files == 5
    assert store.latest_version(tmp_path) == 100
    assert store.versions(tmp_path) == ([100, 200] if in_place else [100])
    _assert_equal(store.load(tmp_path, 100)["a"], before["a"])

    after = _tables(200)
    store.publish(tmp_path, 200, after)
    assert store.latest_version(tmp_path) == 200
    _assert_equal(store.load(tmp_path, 200)["b"], after["b"])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["000100", "000200", "LATEST"]
