"""A folder of images of one's own, and no choice but where it lies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cluster_jobs import cli
from clustering.table import store
from data_shards.images.transforms import encode_png
from trainer.state.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).parents[2]
COUNTS = [max(3, round(30 * 0.85**c)) for c in range(22)]
"""Images of each class: a natural tail, and more classes than count as few."""


def clmle(*arguments):
    result = subprocess.run(
        [sys.executable, "-m", "cluster_jobs.cli", *map(str, arguments)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def write_images(root):
    """ROOT/CLASS/000.png, ...: a coloured pattern a class, under noise."""
    rng = np.random.default_rng(0)
    for number, count in enumerate(COUNTS):
        folder = root / f"class_{number:02d}"
        folder.mkdir(parents=True)
        pattern = rng.integers(0, 150, size=(12, 12, 3))
        for image in range(count):
            noisy = pattern + rng.integers(0, 106, size=pattern.shape)
            (folder / f"{image:03d}.png").write_bytes(encode_png(noisy.astype(np.uint8)))
    return root


def test_a_folder_of_images_is_imported_and_trained_on_without_a_choice(tmp_path):
    images, data, run = write_images(tmp_path / "images"), tmp_path / "data", tmp_path / "run"
    assert cli.main(["import", "image-folder", str(images), "--out", str(data)]) == 0
    output = clmle(
        *("run", "--config", ROOT / "configs" / "long_tail.yaml"),
        *("--set", f"data.shards={data}", "--set", f"run.folder={run}"),
        *("--set", "train.steps=20", "--set", "model.input_size=12", "--set", "train.log_every=1"),
        *("--set", "launch.num_ranks=1", "--set", "baselines={}"),
    )
    assert output.count("recipe long_tail: loss.scale = 24.0: 22 classes\n") == 1
    assert "recipe long_tail: train.steps" not in output
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["recipe"] == "long_tail"
    assert config["sampler"]["sampling"] == "square_root"

    # What was derived is what was done: the warm-up, the table, the batches.
    report = json.loads((run / "report.json").read_text())
    assert report["table_switches"] == [[6, 6], [20, 20]]
    assert report["images_seen"] == 20 * 2 * 40 * 3
    table = store.load(run / "tables", 20)["class"]
    assert table.dim == 64
    train_counts = json.loads((data / "manifest.json").read_text())["splits"]["train"]
    wanted = [max(1, round(n / 20)) for n in train_counts["histograms"]["class"]]
    assert np.bincount(table.class_of).tolist() == wanted
    losses = {row["name"] for row in read_metrics(run / "metrics.jsonl") if row["step"] > 6}
    assert any("between" in name for name in losses)
