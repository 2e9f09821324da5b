"""The house rules that a machine can check: who imports whom, what never appears."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each imports only itself and those before it.
PACKAGES = ("data_shards", "clustering", "trainer", "clmle", "cluster_jobs", "benchmarks")
# Heavy packages have few doors: so the rest can be read, tested and imported without them.
DOORS = {
    "webdataset": ("data_shards/shards/writer.py", "data_shards/shards/reader.py"),
    "PIL": ("data_shards/",),
    "sklearn": ("data_shards/sources/digits.py", "clustering/table/quality.py"),
    "faiss": ("clustering/", "cluster_jobs/doctor.py"),
    "ray": ("clustering/execution/", "cluster_jobs/"),
    "deepspeed": ("trainer/runtime/engine.py", "cluster_jobs/doctor.py"),
    "tensorboard": ("trainer/state/metrics.py",),
    "torch": ("trainer/", "cluster_jobs/", "clmle/loss.py", "clustering/kmeans/backends.py"),
    "pytorch_metric_learning": ("trainer/losses/",),
    "timm": ("trainer/models/timm_backbone.py",),
}
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
NAMES = [str(p.relative_to(ROOT)) for p in FILES]


def imports(path):
    """(module, line) of every import in a file, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found.append((node.module, node.lineno))
    return found


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_go_one_way(path):
    own = PACKAGES.index(path.relative_to(ROOT).parts[0])
    for module, line in imports(path):
        first = module.split(".")[0]
        assert first != "tests", f"{path}:{line} imports {module}"
        if first in PACKAGES:
            assert PACKAGES.index(first) <= own, f"{path}:{line} imports {module}"
        is_facade = path.is_relative_to(ROOT / "clmle")
        assert first != "clmle" or is_facade, f"{path}:{line} imports the facade"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_heavy_packages_enter_through_their_doors(path):
    name = str(path.relative_to(ROOT))
    for module, line in imports(path):
        doors = DOORS.get("tensorboard" if "tensorboard" in module else module.split(".")[0])
        if doors is not None:  # a benchmark imports what it measures, and nobody imports it
            allowed = name.startswith((*doors, "benchmarks/"))
            assert allowed, f"{name}:{line} imports {module}; its doors: {doors}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_training_ranks_never_import_ray(path):
    if path.relative_to(ROOT).parts[0] != "trainer":
        return
    for module, line in imports(path):
        assert module not in (
            "clustering.execution.ray_workers",
            "clustering.execution.ray_calls",
            "clustering.execution.partition_calls",
            "clustering.coordinator",
        ), f"{path}:{line}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_is_unpickled_and_nothing_shadows_the_standard_library(path):
    assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names, path
    text = path.read_text()
    for forbidden in ("import pickle", "allow_pickle=True", "torch.load(", "weights_only=False"):
        assert forbidden not in text, f"{path}: {forbidden}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_and_functions_stay_readable(path):
    text = path.read_text()
    assert text.count("\n") <= 400, f"{path} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= 70, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_there_is_something_to_check():
    assert len(FILES) > 40
    assert {name.split("/")[0] for name in NAMES} == set(PACKAGES)
