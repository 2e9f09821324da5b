"""CLMLE compared with the best of the other methods on each data set.

The others are chosen on the measured images, separately for each data set and column: CLMLE, one
method with one recipe, is compared with whichever method happened to do best.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.run.methods import METHODS, OURS
from benchmarks.accuracy.run.rows import Row, mean_and_deviation, mean_of

SAMPLING_AND_COSTS = (
    "class_balanced",
    "square_root",
    "under",
    "progressive",
    "class_costs",
    "effective_number",
    "focal",
    "balanced_softmax",
    "ldam_drw",
    "crt",
)
"""Methods that treat a long tail by re-sampling or by costs."""
_AVERAGED = ("over_classic", "over_cluster", "over_few", "rank")


def summarise_claims(
    rows: Sequence[Row],
    datasets: Sequence[str],
    image_counts: Mapping[str, npt.NDArray[np.int64]] = MappingProxyType({}),
) -> dict[str, Any] | None:
    """What may be claimed, as JSON.

    Args:
        rows: of all training runs.
        datasets: those of the comparison; those without a row are listed as missing.
        image_counts: data set -> (C,) images of each class that are measured on.

    Returns:
        "datasets": a line each: "ours", "classic", "cluster" (the best of the group) and "few" (the
        best few-shot recall of `SAMPLING_AND_COSTS`), each with "method", "mean", "sd"; "ours_few";
        differences of ours to them in points, "over_*"; "rank" of ours among "of" methods,
        ablations aside; "diverged": method -> number of runs whose loss became infinite; except
        for ours, they keep it from being the best or having a rank; "image_error": `image_error` of
        ours in points. None wherever there is no number.
        "averages": means over the data sets that have a number, "ours" and "classic" over those
        that have both.
        "single": the classic with the highest mean over these data sets, of those that were trained
        on all: "method", "mean", "over".
        "missing": data set -> methods without a training run.
        None without CLMLE, or with nothing to compare it with.
    """
    trained = {(row.data, row.method) for row in rows}
    expected = [
        name for name in METHODS if name == OURS or METHODS[name].group in ("classic", "cluster")
    ]
    others = {name for name in expected if name != OURS}
    names = {method for _, method in trained}
    if OURS not in names or not others & names:
        return None
    by_data = {data: [row for row in rows if row.data == data] for data in datasets}
    accuracy = {data: _accuracy(of_data) for data, of_data in by_data.items()}
    lines = [
        _line(data, by_data[data], accuracy[data], image_counts.get(data)) for data in datasets
    ]
    missing = {data: [m for m in expected if (data, m) not in trained] for data in datasets}
    both = [line for line in lines if line["over_classic"] is not None]
    return {
        "datasets": lines,
        "averages": {
            **{name: mean_of(line[name]["mean"] for line in both) for name in ("ours", "classic")},
            **{name: mean_of(line[name] for line in lines) for name in _AVERAGED},
        },
        "single": _single_classic([accuracy[line["data"]] for line in both]),
        "missing": {data: methods for data, methods in missing.items() if methods},
    }


def image_error(recall: float, counts: npt.NDArray[np.int64]) -> float:
    """Standard error of one run's balanced accuracy, taking each image's answer as random.

    Roughly how much other images of the same classes would change it: an overestimate where recalls
    differ between classes of one size, an underestimate where small classes have the lower recall.
    Part of it is the randomness of training, which a mean over seeds averages out and the standard
    deviation shows; more seeds do not reduce the rest. How much it affects a difference between
    methods depends on how correlated their errors are.

    Args:
        recall: in [0, 1], taken to be that of every class.
        counts: (C,) images of each class; classes without any do not count.
    """
    present = counts[counts > 0]
    return float(np.sqrt(recall * (1 - recall) * (1 / present).sum()) / len(present))


def _single_classic(means: Sequence[Mapping[str, dict[str, Any]]]) -> dict[str, Any] | None:
    """The best classic for all data sets together; None without one that was trained on all.

    Args:
        means: of each data set that has a number of ours and of a classic, what `_means` returns.
    """
    averages = {
        method: {
            "method": method,
            "mean": statistics.fmean(of_data[method]["mean"] for of_data in means),
        }
        for method in METHODS
        if means and all(method in of_data for of_data in means)
    }
    best = _best({m: v for m, v in averages.items() if METHODS[m].group == "classic"})
    return None if best is None else {**best, "over": _points(averages[OURS], best)}


def _line(
    data: str,
    rows: Sequence[Row],
    accuracy: Mapping[str, dict[str, Any]],
    counts: npt.NDArray[np.int64] | None,
) -> dict[str, Any]:
    few = _means((row.method, row.few) for row in rows if row.method in accuracy)
    ours = accuracy.get(OURS)
    best = {
        group: _best({m: v for m, v in accuracy.items() if METHODS[m].group == group})
        for group in ("classic", "cluster")
    }
    best["few"] = _best({m: v for m, v in few.items() if m in SAMPLING_AND_COSTS})
    compared = [v["mean"] for m, v in accuracy.items() if METHODS[m].group != "ablation"]
    return {
        "data": data,
        "ours": ours,
        "ours_few": few.get(OURS),
        **best,
        "over_classic": _points(ours, best["classic"]),
        "over_cluster": _points(ours, best["cluster"]),
        "over_few": _points(few.get(OURS), best["few"]),
        "rank": None if ours is None else 1 + sum(mean > ours["mean"] for mean in compared),
        "of": len(compared),
        "diverged": _diverged(rows),
        "image_error": None
        if ours is None or counts is None
        else 100 * image_error(ours["mean"], counts),
    }


def _diverged(rows: Sequence[Row]) -> dict[str, int]:
    return dict(Counter(row.method for row in rows if row.balanced_accuracy is None))


def _accuracy(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """`_means` of ours, and of the others whose loss became infinite with no seed."""
    diverged = _diverged(rows).keys() - {OURS}
    return _means((r.method, r.balanced_accuracy) for r in rows if r.method not in diverged)


def _means(values: Iterable[tuple[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Method -> its name, mean and deviation over the seeds that have a number."""
    found: dict[str, list[float]] = {}
    for method, value in values:
        if value is not None:
            found.setdefault(method, []).append(value)
    made = {}
    for method, of_method in found.items():
        mean, deviation = mean_and_deviation(of_method)
        made[method] = {"method": method, "mean": mean, "sd": deviation}
    return made


def _best(means: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    return max(means.values(), key=lambda of_method: of_method["mean"], default=None)


def _points(ours: dict[str, Any] | None, other: dict[str, Any] | None) -> float | None:
    """Difference of the means in percentage points."""
    return None if ours is None or other is None else 100 * (ours["mean"] - other["mean"])
