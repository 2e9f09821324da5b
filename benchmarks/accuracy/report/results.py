"""What a comparison came to: the content of its JSON file, from which every table is made."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.accuracy.report import significance
from benchmarks.accuracy.report.ablation_table import summarise_ablations
from benchmarks.accuracy.report.claims import summarise_claims
from benchmarks.accuracy.report.readout_table import summarise_readouts
from benchmarks.accuracy.report.significance_table import score_table
from benchmarks.accuracy.run.comparison import Comparison
from benchmarks.accuracy.run.jobs import Job
from benchmarks.accuracy.run.methods import METHODS, OURS


def summarise(comparison: Comparison, jobs: Sequence[Job]) -> dict[str, Any]:
    """Summarise the finished jobs, as JSON.

    Args:
        comparison: with the records of the jobs.
        jobs: of the comparison; those without a record are left out.

    Returns:
        "results": a `Row` for each finished job, in the plan's order of data sets and methods;
        "significance", "ablations", "claims", "readouts": what `significance.summarise` and
        `summarise_*` return; "command", "machine" and "split": how they were made.
    """
    plan = comparison.plan
    rows = comparison.rows(jobs)
    rows.sort(key=lambda row: (plan.datasets.index(row.data), plan.methods.index(row.method)))
    records = comparison.records.of(jobs)
    ours = {(r.data, r.seed): r.balanced_accuracy for r in records if r.method == OURS}
    scores = score_table(rows, peers(plan.methods))
    return {
        "command": plan.command,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
        "split": plan.split,
        "results": [asdict(row) for row in rows],
        "significance": significance.summarise(*scores, control=OURS),
        "ablations": summarise_ablations(rows, ours),
        "claims": summarise_claims(rows, plan.datasets, comparison.image_counts()),
        "readouts": summarise_readouts(records, plan.datasets),
    }


def peers(methods: Sequence[str]) -> list[str]:
    """The methods without CLMLE's variants, which `summarise_ablations` compares with it."""
    return [method for method in methods if METHODS[method].ablation is None]
