"""A training run of the benchmark: its settings, and the name under which its record is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.run.datasets import DATASETS
from benchmarks.accuracy.run.methods import METHODS
from data_shards.shards.manifest import Manifest
from trainer.config.builder import build_config, with_settings
from trainer.config.recipe import derived_settings
from trainer.config.run_config import RunConfig, as_dict
from trainer.config.tasks import resolve_tasks
from trainer.runtime.precision import cpu_has_bf16

Split = Literal["test", "validation"]
SEARCH_SEED = 1000
"""No seed of a suite, so that no run of a comparison starts from the weights of a search."""

# The same for every method: one rank, one micro-batch a step, only the last weights are kept.
_FRAME = {
    "sampler.micro_batches": 1,
    "evaluation.knn": 20,
    "evaluation.knn_balanced": 200,
    # Post-hoc classics: read-outs of any run with a linear head.
    "evaluation.tau": 0.7,
    "evaluation.head_adjustment": 1.0,
    "refresh.lag": 10,  # tables are made in the same process, while the trainer waits
    "checkpoint.every": 0,
    "evaluation.every": 0,
    "checkpoint.keep": 1,
    "data.reader_threads": 1,
    "train.log_every": 50,
    # With the trainer's default of 0.0005 the classics are under-regularised (docs/accuracy.md).
    "optim.weight_decay": 0.002,
    "launch.num_ranks": 1,
    "launch.threads_per_rank": 1,
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run to be done."""

    data: str
    method: str
    seed: int
    chosen: Mapping[str, Any]
    """The settings that a search chooses: a trial, or the recipe's."""
    config: RunConfig
    """Complete but for `run.folder`."""
    data_checksum: str

    @property
    def split(self) -> Split:
        """On which images it is measured."""
        return self.config.evaluation.split

    @property
    def num_images(self) -> int:
        """Images that it sees."""
        return self.config.train.steps * self.config.images_per_step

    @property
    def name(self) -> str:
        """Name of its record: other settings or data, another name.

        Settings at their defaults do not count, so that a new setting leaves old records valid; a
        changed default goes unnoticed, as changed code does. Nor does the precision count, which is
        the machine's: a comparison may be continued on another.
        """
        content = json.dumps([_changed_settings(self.config), self.data_checksum], sort_keys=True)
        checksum = hashlib.sha256(content.encode()).hexdigest()[:12]
        return f"{self.data}-{self.method}-{self.split}-{self.seed}-{checksum}"

    def __str__(self) -> str:
        tried = [f", {name}={value}" for name, value in self.chosen.items()]
        about = "".join(tried) if self.seed == SEARCH_SEED else f", seed {self.seed}"
        return f"{self.data}, {self.method}{about}"


def class_sizes(manifest: Manifest, split: str = "train") -> npt.NDArray[np.int64]:
    """(C,) images of a split of each class of the task that is trained."""
    (task,) = resolve_tasks(build_config({}), manifest)
    return manifest.class_counts(split, task.label)


def _changed_settings(config: RunConfig) -> dict[str, Any]:
    """Sections with their settings that are not at the default."""
    settings, defaults = as_dict(config), as_dict(RunConfig(loss=type(config.loss)()))
    defaults["loss"]["name"] = RunConfig().loss.name  # another loss is another run
    # A recipe is in the values that it derived.
    del settings["run"]["folder"], settings["data"]["shards"], settings["recipe"]
    del settings["baselines"]  # training runs of their own
    del settings["train"]["precision"]  # the machine's
    return {
        section: {name: v for name, v in values.items() if v != defaults[section][name]}
        if isinstance(values, dict)
        else values
        for section, values in settings.items()
    }


def stated_settings(data: str, method: str) -> dict[str, Any]:
    """Dotted settings that the code states: the frame, the data set's, the method's."""
    dataset, entry = DATASETS[data], METHODS[method]
    return {
        **_FRAME,
        **dataset.settings,
        **(dataset.table_settings if entry.uses_tables else {}),
        "train.steps": dataset.steps,
        **entry.settings,
    }


def make_job(
    data: str,
    method: str,
    *,
    seed: int,
    chosen: Mapping[str, Any],
    manifest: Manifest,
    split: Split,
) -> Job:
    """Make a job: the stated settings, then the chosen ones, then what an ablation changes.

    Raises:
        ConfigError: the settings contradict each other.
    """
    settings = {
        **stated_settings(data, method),
        **chosen,
        "train.precision": "bf16" if cpu_has_bf16() else "fp32",  # whichever is faster
        "run.seed": seed,
        "data.shards": str(manifest.folder),
        "evaluation.split": split,
    }
    if "recipe" in settings:
        tasks = resolve_tasks(build_config({}), manifest)
        settings |= derived_settings(manifest, tasks, given=settings)
    config = with_settings(build_config({}), settings)
    ablation = METHODS[method].ablation
    if ablation is not None:
        config = with_settings(config, ablation.changes(config))
    return Job(
        data=data,
        method=method,
        seed=seed,
        chosen=chosen,
        config=config,
        data_checksum=manifest.checksum,
    )
