"""Records, rows and recipes of training runs that never took place."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.accuracy.run.recipes import Recipe
from benchmarks.accuracy.run.records import Record
from benchmarks.accuracy.run.rows import Row, make_row

RECORD = Record(
    data="digits",
    method="clmle",
    seed=0,
    split="test",
    chosen={"optim.learning_rate": 0.1},
    balanced_accuracy={"head": 0.6, "knc_soft": 0.7},
    recall_by_size={
        "head": {"many": 0.6, "medium": 0.6, "few": 0.6},
        "knc_soft": {"many": 1.0, "medium": 0.8, "few": 0.4},
    },
    images_seen=6000,
    precision="fp32",
    seconds=12.0,
)
SOFT = Recipe(settings={}, readout="knc_soft", tried=[])


def trial(learning_rate: float, **values: float) -> Record:
    chosen = {"optim.learning_rate": learning_rate}
    return replace(RECORD, chosen=chosen, balanced_accuracy=values)


def row(
    data: str, method: str, value: float | None, few: float | None = None, seed: int = 0
) -> Row:
    return Row(
        data=data,
        method=method,
        seed=seed,
        readout="head",
        balanced_accuracy=value,
        many=None,
        medium=None,
        few=few,
        images_seen=1,
        precision="fp32",
        seconds=1.0,
    )


def row_of_record(method: str, value: float | None, *, seed: int = 0, data: str = "digits") -> Row:
    """`RECORD` by its kNC, with another method and value."""
    made = make_row(RECORD, SOFT)
    return replace(made, method=method, seed=seed, data=data, balanced_accuracy=value)
