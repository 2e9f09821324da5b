"""Who may import whom: between the packages, between the rooms of one, and from outside."""

import pytest

from tests.policy.product_code import (
    FILES,
    MODULES,
    NAMES,
    PACKAGES,
    ROOMS,
    ROOT,
    all_imports,
    imports,
    imports_by_name,
    room_of,
    rooms,
)

# Heavy packages have few doors: so the rest can be read, tested and imported without them.
DOORS = {
    "webdataset": ("data_shards/shards/writer.py", "data_shards/shards/reader.py"),
    "PIL": ("data_shards/",),
    "sklearn": ("data_shards/sources/digits.py", "clustering/table/quality.py"),
    "faiss": ("clustering/", "cluster_jobs/doctor.py"),
    "ray": ("clustering/execution/", "cluster_jobs/"),
    "deepspeed": ("trainer/runtime/engine.py", "cluster_jobs/doctor.py"),
    "tensorboard": ("trainer/state/metrics.py",),
    "torch": (
        *(f"trainer/{room}" for room in rooms("trainer") if room not in ("config", "run")),
        "cluster_jobs/",
        "clmle/loss.py",
        "clustering/kmeans/backends.py",
    ),
    "pytorch_metric_learning": ("trainer/losses/",),
    "timm": ("trainer/models/timm_backbone.py",),
}
# It names modules that other processes run.
COMMANDS = "cluster_jobs/launch/command_lines.py"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_between_packages_go_one_way(path):
    own = PACKAGES.index(path.relative_to(ROOT).parts[0])
    for module, line in imports(path):
        first = module.split(".")[0]
        assert first != "tests", f"{path}:{line} imports {module}"
        if first in PACKAGES:
            assert PACKAGES.index(first) <= own, f"{path}:{line} imports {module}"
        is_facade = path.is_relative_to(ROOT / "clmle")
        assert first != "clmle" or is_facade, f"{path}:{line} imports the facade"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_file_is_in_a_room(path):
    package = path.relative_to(ROOT).parts[0]
    assert room_of(path) in rooms(package), f"{path}: add its room to {package} in ROOMS"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_is_there(package):
    there = {room_of(path) for path in FILES if path.is_relative_to(ROOT / package)}
    assert there == set(rooms(package))
    assert sum(len(line.split()) for line in ROOMS[package]) == len(there), "a room stands twice"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_between_rooms_run_down(path):
    package, own = path.relative_to(ROOT).parts[0], room_of(path)
    lines = rooms(package)
    named = [] if path == ROOT / COMMANDS else imports_by_name(path)
    for module, line in [*imports(path), *named]:
        if module in MODULES and MODULES[module].is_relative_to(ROOT / package):
            room = room_of(MODULES[module])
            is_below = room == own or lines[room] < lines[own]
            assert is_below, f"{path}:{line}: {own} imports {module}, of a room that is not below"


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
    if path.is_relative_to(ROOT / "trainer"):
        assert not {module for module in all_imports(path) if module.split(".")[0] == "ray"}


def test_there_is_something_to_check():
    assert len(FILES) > 40
    assert {name.split("/")[0] for name in NAMES} == set(PACKAGES)
    assert "clustering.table.table" in {module for path in FILES for module, _ in imports(path)}
    assert len(imports_by_name(ROOT / "cluster_jobs/cli.py")) > 5
    assert "ray" in all_imports(ROOT / "clustering/coordinator.py")
