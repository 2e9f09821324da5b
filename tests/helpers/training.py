"""Whole trainings of seconds: ranks in processes of their own, tables from a local service."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.helpers.ranks import run_ranks
from trainer.config.builder import build_config, with_settings
from trainer.config.run_config import RunConfig
from trainer.config.yaml_file import to_yaml
from trainer.run.folder import RunFolder, step_name
from trainer.state.metrics import read_metrics
from trainer.state.snapshot import NetworkDescription
from trainer.train import main

TIMEOUT = 60
NETWORK = NetworkDescription(
    backbone="tiny",
    channels=1,
    input_size=8,
    embedding_dim=8,
    classifier_input="features",
    num_classes={"shape": 4},
)
"""The network of `tiny_config`, with one task of `tiny_data`."""


def tiny_config(folder: Path, shards: Path, **settings: Any) -> RunConfig:
    """A run of 20 steps on `tiny_data`; dotted settings differ ("train__steps" for train.steps)."""
    config = build_config(
        {
            "run": {"folder": str(folder)},
            "data": {"shards": str(shards), "shift": 1, "reader_threads": 1},
            "model": {"input_size": 8, "embedding_dim": 8},
            "sampler": {
                "micro_batches": 2,
                "micro_batch_size": 12,
                "images_per_cluster": 3,
                "images_per_class": 3,
                "siblings": 1,
            },
            "cluster": {"target_size": 6},
            "refresh": {"every": 8, "lag": 2, "timeout_seconds": 30},
            "optim": {"learning_rate": 0.05, "warmup_steps": 2},
            "train": {"steps": 20, "log_every": 1, "communication_timeout_seconds": 30},
        }
    )
    return with_settings(
        config, {name.replace("__", "."): value for name, value in settings.items()}
    )


def train_ranks(
    config: RunConfig,
    num_ranks: int = 1,
    *,
    options: tuple[str, ...] = (),
    prepare: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> list[tuple[int, str]]:
    """Run `trainer.train.main` on each rank.

    Args:
        config: the run.
        num_ranks: processes.
        options: further command-line options.
        prepare: called as prepare(rank, *arguments) in each process before; top level of a module.
        arguments: of `prepare`.

    Returns:
        Each rank's exit code and what it wrote to stderr; of one that was killed, the signal's
        number, negative, and nothing.
    """
    path = Path(config.run.folder).with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_yaml(config))
    command = ("--config", str(path), *options)
    results = run_ranks(_rank, num_ranks, command, prepare, arguments, timeout=TIMEOUT)
    return [(result, "") if isinstance(result, int) else result for result in results]


def _rank(
    rank: int,
    num_ranks: int,
    command: tuple[str, ...],
    prepare: Callable[..., None] | None,
    arguments: tuple[Any, ...],
) -> tuple[int, str]:
    torch.set_num_threads(1)
    if prepare is not None:
        prepare(rank, *arguments)
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = main(command)
    return code, stderr.getvalue()


def succeeded(results: list[tuple[int, str]]) -> list[str]:
    """What the ranks wrote, once it is sure that all went well."""
    assert [code for code, _ in results] == [0] * len(results), "\n".join(t for _, t in results)
    return [text for _, text in results]


def series(config: RunConfig, name: str = "train/loss") -> dict[int, float]:
    """step -> value of a metric."""
    rows = read_metrics(RunFolder(config.run_path).metrics, [name])
    return {row["step"]: row["value"] for row in rows}


def weights(config: RunConfig, step: int) -> Mapping[str, torch.Tensor]:
    """The weights and statistics of a snapshot."""
    return load_file(str(weights_file(config, step)))


def weights_file(config: RunConfig, step: int) -> Path:
    return RunFolder(config.run_path).snapshots / step_name(step) / "weights.safetensors"
