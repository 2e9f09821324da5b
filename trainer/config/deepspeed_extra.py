"""`train.deepspeed_extra`: what it may not set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_shards.errors import ConfigError

DECIDED_ELSEWHERE = frozenset(
    (
        *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
        *("gradient_clipping", "optimizer", "scheduler", "fp16", "bf16", "amp", "torch_autocast"),
        *("zero_allow_untested_optimizer", "steps_per_print", "zero_optimization.stage"),
    )
)
"""Keys of DeepSpeed's JSON that the sections sampler, optim and train decide, in other ways."""


def check_deepspeed_extra(extra: Mapping[str, Any]) -> None:
    """Refuse keys that are decided elsewhere.

    Raises:
        ConfigError: it sets some; names them.
    """
    zero = extra.get("zero_optimization", {})
    if not isinstance(zero, Mapping):
        raise ConfigError(
            "train.deepspeed_extra: zero_optimization must map names to values, got "
            f"{zero!r}; the stage itself is set by train.zero_stage"
        )
    given = [*extra, *(f"zero_optimization.{key}" for key in zero)]
    if decided := sorted(DECIDED_ELSEWHERE.intersection(given)):
        raise ConfigError(
            f"train.deepspeed_extra sets {', '.join(decided)}, which this configuration decides "
            "elsewhere (sections sampler, optim, train); remove it there"
        )
