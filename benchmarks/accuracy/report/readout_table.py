"""Balanced accuracy of the methods by one read-out for all data sets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.accuracy.run.records import Record


def summarise_readouts(
    records: Iterable[Record], datasets: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Balanced accuracy of each method by the same read-out on all data sets.

    Args:
        records: of all training runs.
        datasets: those of the comparison.

    Returns:
        Method -> read-out -> balanced accuracy, the mean over the data sets of the mean over the
        seeds; of the read-outs that all of the method's runs have. Without methods that were not
        trained on all data sets.
    """
    found: dict[str, dict[str, list[Mapping[str, float]]]] = {}
    for record in records:
        of_method = found.setdefault(record.method, {})
        of_method.setdefault(record.data, []).append(record.balanced_accuracy)
    means = {}
    for method, of_method in found.items():
        trained = [values for of_data in of_method.values() for values in of_data]
        if set(of_method) == set(datasets):
            means[method] = {
                readout: statistics.fmean(
                    statistics.fmean(values[readout] for values in of_data)
                    for of_data in of_method.values()
                )
                for readout in sorted(set.intersection(*map(set, trained)))
            }
    return means


def readout_cells(found: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """A header, and a line a method, the best by any read-out first.

    Args:
        found: what `summarise_readouts` returns.
    """
    readouts = sorted({readout for values in found.values() for readout in values})
    methods = sorted(found, key=lambda method: -max(found[method].values(), default=0.0))
    cells = [["one read-out for all data sets", *readouts]]
    for method in methods:
        values = found[method]
        cells.append([method, *(f"{values[r]:.4f}" if r in values else "-" for r in readouts)])
    return cells
