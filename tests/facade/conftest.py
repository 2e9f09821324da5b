"""Imported digits and a run of an untrained network with its table, where the README has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import clmle
from clustering.table import store
from data_shards.importer import main as run_import
from data_shards.shards.manifest import Manifest
from trainer.config.builder import build_config
from trainer.config.yaml_file import to_yaml
from trainer.models.embed import embed_shard
from trainer.run.folder import RunFolder
from trainer.state.snapshot import NetworkDescription, load_network, write_snapshot

STEP, SHARDS, RUN = 40, "data/digits_lt", "runs/digits"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `make demo` leaves behind, as far as this package reads it."""
    folder = tmp_path_factory.mktemp("demo")
    thinned = ["--long-tail-ratio", "4", "--max-per-class", "16"]
    assert run_import(["digits", "--out", str(folder / SHARDS), *thinned]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _write_run(Manifest.load(SHARDS))
    return folder


@pytest.fixture
def in_demo(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory is where the demo ran."""
    monkeypatch.chdir(demo)
    return demo


def _write_run(manifest: Manifest) -> None:
    config = build_config(
        {
            "run": {"folder": RUN},
            "recipe": "none",
            "data": {"shards": SHARDS},
            "model": {"backbone": "tiny", "channels": 1, "input_size": 16, "embedding_dim": 8},
            "evaluation": {"batch_size": 32},
        }
    )
    run, (column, *_) = RunFolder(config.run_path), manifest.label_columns
    run.path.mkdir(parents=True)
    run.config.write_text(to_yaml(config))
    description = NetworkDescription.of(config, {column: manifest.num_classes(column)})
    torch.manual_seed(0)
    snapshot = write_snapshot(
        run,
        STEP,
        state=description.build().state_dict(),
        network=description,
        data_checksum=manifest.checksum,
    )
    embedded = embed_shard(
        load_network(snapshot), manifest, 0, split="train", batch_size=32, labels={column: column}
    )[column]
    assert np.array_equal(embedded.ids, np.arange(len(embedded.ids)))
    stats = {"snapshot_checksum": snapshot.checksum, "data_checksum": manifest.checksum}
    table = clmle.cluster(embedded.embeddings, embedded.labels, target_size=8)
    store.publish(
        run.tables, STEP, {column: replace(table, version=STEP, task=column, stats=stats)}
    )
