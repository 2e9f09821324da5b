"""A loaded run embeds and classifies as evaluation and `clmle classify` do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clmle
from cluster_jobs.classify import main as run_classify
from data_shards.errors import ConfigError, DataError
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest
from tests.facade.conftest import RUN, SHARDS, STEP
from trainer.models.embed import embed_shard
from trainer.run.folder import RunFolder, step_name
from trainer.state.snapshot import load_network, read_snapshot


@pytest.fixture
def photos(in_demo: Path, tmp_path: Path) -> list[Path]:
    """The first test images as files."""
    index = SampleIndex(Manifest.load(SHARDS), "test")
    files = []
    for number in index.ids[:40]:
        files.append(tmp_path / f"{number:05d}.png")
        files[-1].write_bytes(index.read(int(number)))
    return files


def test_embeddings_are_those_of_the_clustering(in_demo: Path) -> None:
    run = clmle.load_run(RUN)
    network = load_network(read_snapshot(RunFolder(Path(RUN)).snapshots / step_name(STEP)))
    expected = embed_shard(
        network, Manifest.load(SHARDS), 0, split="train", batch_size=32, labels={"digit": "digit"}
    )["digit"].embeddings
    assert np.array_equal(run.embed(clmle.read_shards(SHARDS, channels=1).images), expected)
    assert (run.tasks, run.step, list(run.tables)) == (("digit",), STEP, ["digit"])


def test_files_and_pixels_are_prepared_alike(photos: list[Path]) -> None:
    run = clmle.load_run(RUN)
    pixels = [np.asarray(Image.open(file)) for file in photos]
    of_files = run.embed(photos)
    assert of_files.shape == (len(photos), 8)
    assert np.array_equal(run.embed(pixels), of_files)
    assert np.array_equal(run.embed(np.stack(pixels)), of_files)
    assert np.array_equal(run.embed(np.stack(pixels)[..., None].repeat(3, axis=3)), of_files)
    assert run.embed([]).shape == (0, 8)


def test_classes_are_those_of_the_command(
    photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = clmle.load_run(RUN).classify(photos)
    assert run_classify(["--config", f"{RUN}/config.yaml", *map(str, photos)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [f"{c.name},{c.similarity:.4f}" for c in found] == [
        line.split(",", maxsplit=2)[2] for line in lines
    ]


def test_wrong_images_are_told_what_was_expected(in_demo: Path, photos: list[Path]) -> None:
    run = clmle.load_run(RUN)
    with pytest.raises(DataError, match=r"must be uint8 .* got float64 of shape \(8, 8\)"):
        run.embed(np.zeros((2, 8, 8)))
    with pytest.raises(DataError, match="expected a list of images"):
        run.embed(str(photos[0]))
    for lone in (np.zeros((16, 16, 1), np.uint8), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(DataError, match=r"got one of shape .*; write \[image\]"):
            run.classify(lone)
    with pytest.raises(DataError, match=r"nowhere\.png: No such file"):
        run.embed(["nowhere.png"])
    with pytest.raises(DataError, match="has no task 'age'; name one that it has: digit"):
        run.embed(photos, task="age")


def test_runs_and_shards_may_be_in_the_home_folder(
    in_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(in_demo))
    assert clmle.load_run(f"~/{RUN}", shards=f"~/{SHARDS}").step == STEP
    assert len(clmle.read_shards(f"~/{SHARDS}", "test"))


def test_what_cannot_be_loaded_says_what_to_do(
    in_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"data is not a run \(seen from .*name the run\.folder"):
        clmle.load_run("data")
    with pytest.raises(ConfigError, match="read-out knn is not available: it needs the embeddings"):
        clmle.load_run(RUN, readout="knn")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"call load_run\(\.\.\., shards=FOLDER\)"):
        clmle.load_run(in_demo / RUN)
    assert clmle.load_run(in_demo / RUN, shards=in_demo / SHARDS).step == STEP
