"""Names of all kinds, in locales that cannot write them: the commands say what they have to say."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster_jobs import classify
from cluster_jobs.service.executor import LocalExecutor
from cluster_jobs.service.refresh import Refresher
from data_shards.importer import main as run_import
from data_shards.shards.manifest import Manifest
from tests.helpers.image_shards import png
from trainer.config.builder import build_config
from trainer.config.yaml_file import to_yaml
from trainer.run.claim import claim_folder
from trainer.run.folder import RunFolder
from trainer.state.snapshot import NetworkDescription, write_snapshot

CLASSES = ("Jürgen", "b\udce9a", "日本", "😀")
"""As a UTF-8 locale reads them: the second holds a byte that is no UTF-8."""
NAMES = ("Jürgen", "b\\xe9a", "日本", "😀")
FILES = [f"{number}-ß\udcfc.png" for number in range(4)]
PYTHON_AS_IN_OLD_TIMES = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
MADE = {"en_US.UTF-8": "UTF-8", "en_US.ISO-8859-1": "ISO-8859-1"}
CHARSETS = {"C": "ascii", "C.UTF-8": "UTF-8", **MADE}


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the locales that few machines have."""
    folder = tmp_path_factory.mktemp("locales")
    for name, charset in MADE.items():
        command = ["localedef", "-f", charset, "-i", "en_US", str(folder / name)]
        if shutil.which("localedef") is not None:
            subprocess.run(command, capture_output=True, check=False)
    return folder


@pytest.fixture(params=CHARSETS)
def environment(request: pytest.FixtureRequest, locales: Path) -> dict[str, str]:
    """That of a user with this locale."""
    name: str = request.param
    if name in MADE and not (locales / name).is_dir():
        pytest.skip(f"this machine cannot make {name}")
    return {**os.environ, **PYTHON_AS_IN_OLD_TIMES, "LOCPATH": str(locales), "LC_ALL": name}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd") / "f\udce4ces"
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for place, file in enumerate(FILES):
            (root / name / file).write_bytes(png(10 * number + place))
        (root / name / "no\udce9.txt").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def shards(faces: Path) -> Path:
    out = faces.parent / "sh\udce4rds"
    assert run_import(["image-folder", str(faces), "--out", str(out), "--on-error", "skip"]) == 0
    return out


@pytest.fixture(scope="module")
def run(shards: Path) -> RunFolder:
    """An untrained network with its table."""
    settings = {
        "recipe": "none",
        "run": {"folder": str(shards.parent / "run")},
        "data": {"shards": str(shards)},
        "model": {"input_size": 8, "embedding_dim": 8},
    }
    config, manifest = build_config(settings), Manifest.load(shards)
    found = RunFolder(config.run_path)
    claim_folder(found, config, fresh=True)
    network = NetworkDescription.of(config, {"class": len(CLASSES)})
    snapshot = write_snapshot(
        found,
        0,
        state=network.build().state_dict(),
        network=network,
        data_checksum=manifest.checksum,
    )
    Refresher(config, manifest, LocalExecutor(config.cluster)).serve(snapshot)
    return found


def clmle(
    *arguments: str | Path, environment: dict[str, str], timeout: float = 120
) -> tuple[bytes, bytes]:
    """Output and messages of a command that ends well."""
    command = [sys.executable, "-m", "cluster_jobs.cli", *map(os.fsencode, arguments)]
    done = subprocess.run(
        command, env=environment, capture_output=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout, done.stderr


def test_an_import_names_what_it_skips_and_reads_classes_alike(
    faces: Path, shards: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "o\udcfct"
    options = ["--out", out, "--on-error", "skip"]
    shown, warnings = clmle("import", "image-folder", faces, *options, environment=environment)
    assert b"skipped 4 image(s)" in shown
    assert warnings.count(b"not an image") == 4
    made, expected = Manifest.load(out), Manifest.load(shards)
    assert expected.label_names["class"] == NAMES
    assert sorted(expected.skipped) == sorted(f"{name}/no\\xe9.txt" for name in NAMES)
    if "ISO-8859-1" in environment["LC_ALL"]:  # every byte is a letter there
        assert made.label_names["class"] == tuple(n.replace("\\xe9", "é") for n in NAMES)
    else:
        assert made.fingerprint == expected.fingerprint


def test_a_dry_run_can_be_saved_and_run(run: RunFolder, environment: dict[str, str]) -> None:
    changed = ["--set", "model.weights=日本 #2", "--dry-run"]
    shown, _ = clmle("recluster", "--config", run.path, *changed, environment=environment)
    weights: str = yaml.safe_load(shown.decode("utf-8"))["model"]["weights"]
    charset = CHARSETS[environment["LC_ALL"]]
    assert weights.encode(charset, "surrogateescape") == "日本 #2".encode()


@pytest.fixture(scope="module")
def classes(run: RunFolder, faces: Path) -> bytes:
    """What `clmle classify` writes to a file."""
    out = run.path.parent / "classes.csv"
    command = ["--config", str(run.path), "--on-error", "skip", str(faces), "--out", str(out)]
    assert classify.main(command) == 0
    return out.read_bytes()


def test_classes_go_to_the_screen_as_to_a_file(
    run: RunFolder, faces: Path, classes: bytes, environment: dict[str, str]
) -> None:
    lines = list(csv.DictReader(classes.decode("utf-8", "surrogateescape").splitlines()))
    assert {line["image"] for line in lines} == {
        str(faces / name / file) for name in CLASSES for file in FILES
    }
    assert {line["class"] for line in lines} <= set(NAMES)
    command = ("classify", "--config", run.path, "--on-error", "skip", faces)
    shown, warnings = clmle(*command, environment=environment)
    assert shown == classes
    assert warnings.count(b"warning: skipped") == 4


@pytest.mark.parametrize("folder", ["日本", "r\udcfc"])
def test_a_run_folder_that_cannot_be_is_refused_with_what_to_do(
    run: RunFolder, folder: str
) -> None:
    environment = {**os.environ, **PYTHON_AS_IN_OLD_TIMES, "LC_ALL": "C"}
    command = [sys.executable, "-m", "cluster_jobs.cli", "run", "--config", str(run.path)]
    done = subprocess.run(
        [*command, "--set", os.fsencode(f"run.folder={folder}")],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"error: run.folder must be in UTF-8" in done.stderr
    assert b"set LC_ALL=C.UTF-8" in done.stderr


@pytest.mark.slow
@pytest.mark.ray
def test_a_whole_run_in_the_poorest_locale_ends_with_its_table(
    shards: Path, tmp_path: Path
) -> None:
    settings = {
        "recipe": "none",
        "run": {"folder": str(tmp_path / "run #2")},
        "data": {"shards": str(shards)},
        "model": {"input_size": 8, "embedding_dim": 8},
        "sampler": {
            "micro_batches": 1,
            "micro_batch_size": 6,
            "images_per_cluster": 3,
            "siblings": 1,
        },
        "refresh": {"every": 0},
        "train": {"steps": 2},
        "launch": {"num_ranks": 1, "ray_cpus": 1},
    }
    (tmp_path / "config.yaml").write_text(to_yaml(build_config(settings)), encoding="utf-8")
    environment = {**os.environ, **PYTHON_AS_IN_OLD_TIMES, "LC_ALL": "C"}
    shown, _ = clmle(
        *("run", "--config", tmp_path / "config.yaml"), environment=environment, timeout=300
    )
    for name in NAMES:
        assert name.encode("ascii", "backslashreplace") in shown
