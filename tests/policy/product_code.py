"""The product's packages, their rooms and files, and who imports whom."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A room is a folder or a file of a package. Each imports only itself and the lines above it:
# rooms on one line do not import each other. `__init__` is the package's front door.
ROOMS = {
    "data_shards": (
        "public_names errors streams",
        "cgroups disk replacing options progress paths",
        "atomic folder_lock",
        "images",
        "shards",
        "features",
        "sources",
        "importing",
        "importer",
        "__init__",
    ),
    "clustering": (
        "errors settings initialisation",
        "config",
        "kmeans",
        "table",
        "execution",
        "coordinator",
        "arrays",
        "__init__",
    ),
    "trainer": (
        "errors",
        "losses",
        "config",
        "run",
        "models",
        "runtime",
        "sampling",
        "state",
        "evaluation",
        "step",
        "loop",
        "train",
        "__init__",
    ),
    "clmle": (
        "own_packages directions",
        "clusters shard_images trained_run",
        "loss",
        "__init__",
    ),
    "cluster_jobs": (
        "errors",
        "machine",
        "ray_cluster",
        "service",
        "launch comparison",
        "preflight",
        "run evaluate classify embed recluster doctor",
        "cli",
        "__init__",
    ),
    "benchmarks": (
        "measure",
        "kmeans_peers fault_site",
        "table_cases clustering_cases",
        "clustering faults",
        "accuracy/run",
        "accuracy/report",
        "accuracy/options",
        "accuracy/__main__",
        "accuracy/__init__ __init__",
    ),
}
PACKAGES = tuple(ROOMS)
"""Each imports only itself and those before it."""

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def _module(name):
    """clustering/table/table.py -> clustering.table.table, clustering/__init__.py -> clustering."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {_module(name): path for name, path in zip(NAMES, FILES, strict=True)}


@cache
def imports(path):
    """(module, line) of every import in a file, also in functions and under TYPE_CHECKING."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append((inner if inner in MODULES else node.module, node.lineno))
    return found


@cache
def imports_by_name(path):
    """(module, line) of every string in a file that is the name of one of our modules."""
    return [
        (node.value, node.lineno)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "." in node.value
        and node.value in MODULES
    ]


@cache
def all_imports(path):
    """Names of the modules that a file, or what it imports, may import; ours and others'."""
    found, waiting = set(), [path]
    while waiting:
        for module, _ in imports(waiting.pop()):
            if module not in found:
                found.add(module)
                waiting += [MODULES[module]] if module in MODULES else []
    return found


def rooms(package):
    """Room -> its line in `ROOMS`."""
    return {room: line for line, names in enumerate(ROOMS[package]) for room in names.split()}


def room_of(path):
    """The room that a file is in; a name that is not in `ROOMS` where it is in none."""
    package, *parts = re.split("/", str(path.relative_to(ROOT).with_suffix("")))
    known = rooms(package)
    return next(
        (room for n in range(len(parts), 0, -1) if (room := "/".join(parts[:n])) in known),
        parts[0],
    )
