"""Where cluster tables are published: one folder a version, and a pointer to the newest.

    DIR/000200/identity.safetensors  arrays of the table of task `identity`
    DIR/000200/identity.json         its stats
    DIR/000200/manifest.json         checksums of the others, written last
    DIR/LATEST                       000200

A version appears whole or not at all. One process publishes at a time; any number may read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from clustering.errors import ClusterError
from clustering.table.table import ClusterTable
from data_shards.atomic import (
    atomic_file,
    atomic_folder,
    clear_leftovers,
    read_json,
    sha256_of,
    write_in_parts,
    write_json,
)
from data_shards.errors import DataError
from data_shards.progress import OnStep, no_step
from data_shards.replacing import finish_replacements, read_whole

logger = logging.getLogger(__name__)

FORMAT = "clmle-cluster-tables-1"
LATEST_NAME = "LATEST"
MANIFEST_NAME = "manifest.json"
_VERSION_NAME = re.compile(r"[0-9]{6,}")
_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_REMEDY = "cluster that snapshot again, or remove the version's folder"


def publish(
    folder: Path | str,
    version: int,
    tables: Mapping[str, ClusterTable],
    on_step: OnStep = no_step,
) -> Path:
    """Publish the tables of all tasks as one version; an older version of that number is replaced.

    Also removes the leftovers of a killed publisher, so no other process may publish here.

    Args:
        folder: the store; made when missing.
        version: the step whose weights made the tables, >= 0.
        tables: task -> its table.
        on_step: called after each table is checked, and each part of a file is written or read.

    Returns:
        The version's folder.

    Raises:
        ClusterError: when a table is broken, or is not of this version and task.
        DiskError: when the disk is full, or fails.
    """
    _check_tables(version, tables, on_step)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    target = folder / _version_name(version)
    with atomic_folder(target, "the cluster tables") as new:
        for task, table in tables.items():
            arrays_name, stats_name = _file_names(task)
            # Not save_file: it makes files that only their owner can read.
            write_in_parts(new / arrays_name, save_arrays(table.arrays()), on_step)
            write_json(new / stats_name, dict(table.stats))
        checksums = {}
        for path in sorted(new.iterdir()):
            checksums[path.name] = sha256_of(path)
            on_step()
        content = {
            "format": FORMAT,
            "version": version,
            "tasks": sorted(tables),
            "sha256": checksums,
        }
        write_json(new / MANIFEST_NAME, content)
    with atomic_file(folder / LATEST_NAME) as pointer:
        pointer.write_text(f"{target.name}\n", encoding="utf-8")
    return target


def latest_version(folder: Path | str) -> int | None:
    """The version that was published last; None when there is none.

    If the pointer is missing, garbled or names an incomplete version, it is the highest complete
    one.
    """
    folder = Path(folder)
    try:
        name = (folder / LATEST_NAME).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    if _VERSION_NAME.fullmatch(name) and _is_complete(folder, int(name)):
        return int(name)
    complete = versions(folder)
    if not complete:
        return None
    logger.warning(
        "%s holds %r, which is no complete version; taking %d",
        folder / LATEST_NAME,
        name,
        complete[-1],
    )
    return complete[-1]


def versions(folder: Path | str) -> list[int]:
    """All complete versions, ascending: those with a manifest and all files that it lists."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    finish_replacements(folder)
    found = sorted(int(p.name) for p in folder.iterdir() if _VERSION_NAME.fullmatch(p.name))
    return [version for version in found if _is_complete(folder, version)]


def load(folder: Path | str, version: int) -> dict[str, ClusterTable]:
    """Read a version, and check its checksums and the invariants of its tables.

    Returns:
        task -> its table.

    Raises:
        ClusterError: when the version is not there, or naming the file that is damaged.
    """
    folder = Path(folder)
    return read_whole(folder / _version_name(version), lambda: _load(folder, version))


def _load(folder: Path, version: int) -> dict[str, ClusterTable]:
    manifest = _read_manifest(folder, version)
    tables = {}
    for task in manifest["tasks"]:
        path = folder / _version_name(version) / _file_names(task)[0]
        try:
            arrays = load_arrays(_checked_bytes(path, manifest))
        except SafetensorError as error:
            raise ClusterError(f"cannot read {path}: {error}; {_REMEDY}") from error
        table = ClusterTable.from_arrays(
            arrays, version=version, task=task, stats=_read_stats(folder, task, manifest)
        )
        table.validate()
        tables[task] = table
    return tables


def stats(folder: Path | str, version: int) -> dict[str, dict[str, Any]]:
    """Read the stats of a version's tables without their arrays: cheap.

    Returns:
        task -> its table's stats.

    Raises:
        ClusterError: when the version is not there, or naming the file that is damaged.
    """
    folder = Path(folder)

    def read() -> dict[str, dict[str, Any]]:
        manifest = _read_manifest(folder, version)
        return {task: _read_stats(folder, task, manifest) for task in manifest["tasks"]}

    return read_whole(folder / _version_name(version), read)


def _version_name(version: int) -> str:
    return f"{version:06d}"


def _check_tables(version: int, tables: Mapping[str, ClusterTable], on_step: OnStep) -> None:
    if version < 0 or not tables:
        raise ClusterError(
            f"expected a version >= 0 and at least one table, got version {version} and "
            f"{len(tables)} tables"
        )
    for task, table in tables.items():
        if not _TASK_NAME.fullmatch(task) or f"{task}.json" == MANIFEST_NAME:
            raise ClusterError(
                f"task {task!r} cannot name its files; use a letter or digit, then letters, "
                "digits, '_', '-' and '.', and not 'manifest'"
            )
        if (table.version, table.task) != (version, task):
            raise ClusterError(
                f"expected the table of version {version}, task {task}, got one of version "
                f"{table.version}, task {table.task}"
            )
        table.validate()
        on_step()


def _is_complete(folder: Path, version: int) -> bool:
    try:
        manifest = read_whole(
            folder / _version_name(version), lambda: _read_manifest(folder, version)
        )
    except ClusterError:
        return False
    return all((folder / _version_name(version) / name).is_file() for name in manifest["sha256"])


def _read_manifest(folder: Path, version: int) -> dict[str, Any]:
    path = folder / _version_name(version) / MANIFEST_NAME
    try:
        manifest = read_json(path)
    except DataError as error:
        raise ClusterError(f"no cluster tables of version {version}: {error}") from error
    tasks, checksums = manifest.get("tasks"), manifest.get("sha256")
    if (
        manifest.get("format") != FORMAT
        or manifest.get("version") != version
        or not isinstance(tasks, list)
        or not isinstance(checksums, dict)
        or any(name not in checksums for task in tasks for name in _file_names(task))
    ):
        raise ClusterError(f"{path} is no manifest of {FORMAT}, version {version}; {_REMEDY}")
    return manifest


def _file_names(task: str) -> tuple[str, str]:
    return f"{task}.safetensors", f"{task}.json"


def _read_stats(folder: Path, task: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / _version_name(manifest["version"]) / _file_names(task)[1]
    content: dict[str, Any] = json.loads(_checked_bytes(path, manifest))
    return content


def _checked_bytes(path: Path, manifest: Mapping[str, Any]) -> bytes:
    """The content of a file: the very bytes that were checked, even if it is replaced meanwhile."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ClusterError(f"cannot read {path}: {error.strerror}; {_REMEDY}") from error
    got, expected = hashlib.sha256(content).hexdigest(), manifest["sha256"][path.name]
    if got != expected:
        raise ClusterError(
            f"{path} is damaged: its SHA-256 is {got}, the manifest says {expected}; {_REMEDY}"
        )
    return content
