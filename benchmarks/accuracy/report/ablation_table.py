"""What each choice of CLMLE is worth: differences of its variants to it, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.accuracy.report.significance import holm, signed_rank_p
from benchmarks.accuracy.run.methods import METHODS, OURS
from benchmarks.accuracy.run.rows import Row, mean_and_deviation
from cluster_jobs.comparison import aligned

Ours = Mapping[tuple[str, int], Mapping[str, float]]
"""(Data set, seed) -> CLMLE's balanced accuracy by read-out."""


def summarise_ablations(rows: Sequence[Row], ours: Ours) -> list[dict[str, Any]] | None:
    """Differences of balanced accuracy in points, variant less CLMLE, as JSON.

    Both are read in the same way: CLMLE by the variant's read-out, which is another than CLMLE's
    own where the change takes that away.

    Args:
        rows: of all training runs.
        ours: of CLMLE's training runs.

    Returns:
        An entry a variant: "method", "choice", "readout": the variant's where CLMLE's own is
        another on any data set, else None; "differences": data set -> "mean", "sd" and "seeds",
        over the seeds that both have; "all": the same over all (data set, seed) pairs; "p":
        Wilcoxon's signed-rank test over these, "p_holm": corrected for the number of variants.
        "mean" is None where no seed has both numbers, "sd", "p" and "p_holm" below two of them.
        None without a variant or CLMLE.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    variants = [name for name in methods if METHODS[name].ablation is not None]
    if not variants or OURS not in methods:
        return None
    own = {row.data: row.readout for row in rows if row.method == OURS}
    datasets = dict.fromkeys(row.data for row in rows)
    entries = []
    for method in variants:
        mine = [row for row in rows if row.method == method]
        of_data = {
            data: _paired([row for row in mine if row.data == data], ours) for data in datasets
        }
        together = [value for found in of_data.values() for value in found]
        ablation = METHODS[method].ablation
        assert ablation is not None
        others = [row.readout for row in mine if row.readout != own.get(row.data, row.readout)]
        entries.append(
            {
                "method": method,
                "choice": ablation.choice,
                "readout": others[0] if others else None,
                "differences": {data: _described(found) for data, found in of_data.items()},
                "all": _described(together),
                "p": signed_rank_p(np.array(together)) if len(together) > 1 else None,
                "p_holm": None,
            }
        )
    tested = [entry for entry in entries if entry["p"] is not None]
    corrected = holm(np.array([entry["p"] for entry in tested]))
    for entry, p_holm in zip(tested, corrected.tolist(), strict=True):
        entry["p_holm"] = p_holm
    return entries


def _paired(rows: Sequence[Row], ours: Ours) -> list[float]:
    """Differences in points, of a variant's seeds on a data set that CLMLE has too."""
    found = []
    for row in rows:
        beside = ours.get((row.data, row.seed), {}).get(row.readout)
        if row.balanced_accuracy is not None and beside is not None:
            found.append(100 * (row.balanced_accuracy - beside))
    return found


def _described(differences: Sequence[float]) -> dict[str, Any]:
    mean, deviation = mean_and_deviation(differences) if differences else (None, None)
    return {"mean": mean, "sd": deviation, "seeds": len(differences)}


def ablation_cells(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header and a line a choice.

    Args:
        found: what `summarise_ablations` returns.
    """
    datasets = list(found[0]["differences"])
    cells = [[f"points against {OURS}, seed by seed", *datasets, "all", "Holm p"]]
    for entry in found:
        described = [*(entry["differences"][data] for data in datasets), entry["all"]]
        p = "-" if entry["p_holm"] is None else f"{entry['p_holm']:.3g}"
        by = "" if entry["readout"] is None else f" (both read by {entry['readout']})"
        cells.append([entry["choice"] + by, *map(_cell, described), p])
    return cells


def _cell(described: Mapping[str, Any]) -> str:
    if described["mean"] is None:
        return "-"
    sd = "" if described["sd"] is None else f" +- {described['sd']:.2f}"
    return f"{described['mean']:+.2f}{sd}"


def ablation_text(found: Sequence[Mapping[str, Any]] | None) -> str:
    """The table; empty without a variant.

    Args:
        found: what `summarise_ablations` returns.
    """
    return "" if found is None else "\n" + aligned(ablation_cells(found))
