"""Which data sets, methods and seeds belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.accuracy.run.ablations import ABLATIONS
from benchmarks.accuracy.run.datasets import DATASETS
from benchmarks.accuracy.run.methods import METHODS, OURS


@dataclass(frozen=True)
class Suite:
    """A named comparison."""

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    num_seeds: int
    """Of every method."""
    top_seeds: int = 0
    """Of the best methods of each data set and of CLMLE; at most `num_seeds` = no further ones."""


_CONTROL = ("mnist_control_0", "mnist_control_20", "mnist_control_40")

SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        # Shows in a minute that the benchmark works here; needs no files.
        "smoke": Suite(("digits",), ("softmax", "clmle"), 2),
        # CLMLE and the usual choice of each kind, in 15 to 20 minutes on two cores with bf16.
        "quick": Suite(
            ("fashion_lt_100", "lfw10", "utk_gender10"),
            ("softmax", "class_balanced", "balanced_softmax", "ldam_drw", "cosface", OURS),
            2,
        ),
        "full": Suite(
            tuple(name for name in DATASETS if name not in ("digits", *_CONTROL)),
            tuple(name for name, method in METHODS.items() if method.group != "ablation"),
            3,
            top_seeds=5,
        ),
        # What each choice of CLMLE is worth.
        "ablation": Suite(("fashion_lt_100", "lfw10", "utk_race"), (OURS, *ABLATIONS), 5),
        # The experiment of LMLE with growing imbalance.
        "control": Suite(
            _CONTROL,
            ("softmax", "class_balanced", "class_costs", "triplet", "lmle", OURS),
            3,
        ),
    }
)
