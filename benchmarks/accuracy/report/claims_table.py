"""The claims as a table and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.accuracy.run.methods import METHODS, OURS
from cluster_jobs.comparison import aligned


def claims_cells(found: Mapping[str, Any]) -> list[list[str]]:
    """A header, a line a data set, and the averages.

    Args:
        found: what `summarise_claims` returns.
    """
    cells = [
        [
            OURS,
            "balanced accuracy",
            "s.e. of one run",
            "best classic",
            "points",
            "best of clusters",
            "points",
            "few-shot recall",
            "best of sampling and costs",
            "points",
            "rank",
        ]
    ]
    for line in found["datasets"]:
        rank = "-" if line["rank"] is None else f"{line['rank']} of {line['of']}"
        cells.append(
            [
                line["data"],
                _score(line["ours"]),
                _number(line["image_error"], "{:.2f}"),
                _named(line["classic"]),
                signed(line["over_classic"]),
                _named(line["cluster"]),
                signed(line["over_cluster"]),
                _score(line["ours_few"]),
                _named(line["few"]),
                signed(line["over_few"]),
                rank,
            ]
        )
    mean = found["averages"]
    cells.append(
        [
            "average",
            _number(mean["ours"], "{:.4f}"),
            "",
            _number(mean["classic"], "{:.4f}"),
            signed(mean["over_classic"]),
            "",
            signed(mean["over_cluster"]),
            "",
            "",
            signed(mean["over_few"]),
            _number(mean["rank"], "{:.1f}"),
        ]
    )
    return cells


def single_text(found: Mapping[str, Any]) -> str:
    """CLMLE compared with one classic for all data sets, in words; empty without one."""
    single = found["single"]
    if single is None:
        return ""
    return (
        f"one classic for all data sets: {single['method']} is the best, {single['mean']:.4f} on "
        f"average; {OURS} {signed(single['over'])}\n"
    )


def missing_text(found: Mapping[str, Any]) -> str:
    """What the numbers lack, in words; empty if nothing."""
    datasets = [line["data"] for line in found["datasets"]]
    where: dict[tuple[str, ...], list[str]] = {}
    for method in METHODS:
        lacking = tuple(d for d in datasets if method in found["missing"].get(d, ()))
        if lacking:
            where.setdefault(lacking, []).append(method)
    diverged = "".join(
        f"{method} on {line['data']}: the loss became infinite with {number} seeds, they count in "
        "no number here\n"
        for line in found["datasets"]
        for method, number in line["diverged"].items()
    )
    return diverged + "".join(
        f"not trained on {'any of these' if list(lacking) == datasets else ', '.join(lacking)}: "
        f"{', '.join(methods)}\n"
        for lacking, methods in where.items()
    )


def claims_text(found: Mapping[str, Any] | None) -> str:
    """The table and what is missing; empty without a claim.

    Args:
        found: what `summarise_claims` returns.
    """
    if found is None:
        return ""
    return "\n" + aligned(claims_cells(found)) + single_text(found) + missing_text(found)


def signed(points: float | None) -> str:
    """A difference in points, with its sign."""
    return _number(points, "{:+.2f}")


def _score(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    return f"{entry['mean']:.4f}" + ("" if entry["sd"] is None else f" +- {entry['sd']:.4f}")


def _named(entry: Mapping[str, Any] | None) -> str:
    return "-" if entry is None else f"{entry['method']} {_score(entry)}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
