"""Measure clustering against the obvious alternatives, in the same run on the same rows.

    python -m benchmarks.clustering --out FILE [--only CASE ...] [--scale S]

Prints a table and writes JSON `{"figures": [{"name", "value", "unit", "target", "detail"}]}`.
Times are medians of interleaved repeats; the overhead is of the first table that fresh processes
make. `--scale tiny` shrinks the sizes for a smoke test; the targets then mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict

for _name, _value in {
    "OMP_NUM_THREADS": "",  # FAISS's default is part of what is compared
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}.items():
    if _value:
        os.environ.setdefault(_name, _value)
    else:
        os.environ.pop(_name, None)

from benchmarks.clustering_cases import (  # noqa: E402 - the environment comes first
    beyond_memory,
    many_classes,
    mixed_classes,
    one_class,
    two_workers,
)
from benchmarks.measure import Figure  # noqa: E402
from benchmarks.table_cases import neighbours, plan  # noqa: E402
from data_shards.paths import path_option  # noqa: E402

CASES: dict[str, Callable[[float], list[Figure]]] = {
    "plan": plan,
    "one_class": one_class,
    "two_workers": two_workers,
    "many_classes": many_classes,
    "mixed_classes": mixed_classes,
    "beyond_memory": beyond_memory,
    "neighbours": neighbours,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clustering",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=path_option, required=True, help="JSON file to write")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=CASES,
        metavar="CASE",
        help=f"of {', '.join(CASES)}; docs/clustering.md says which figures are of which case",
    )
    parser.add_argument(
        "--scale",
        type=_scale,
        default=1.0,
        help="factor on the sizes, or tiny: the least there are",
    )
    options = parser.parse_args(argv)
    figures: list[Figure] = []
    for name in dict.fromkeys(options.only or CASES):
        for figure in CASES[name](options.scale):
            figures.append(figure)
            print(figure, flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.platform()}"
    content = {
        "command": " ".join(["python -m benchmarks.clustering", *(argv or sys.argv[1:])]),
        "machine": machine,
        "scale": options.scale,
        "figures": [asdict(figure) for figure in figures],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def _scale(text: str) -> float:
    return 0.0 if text == "tiny" else float(text)


if __name__ == "__main__":
    sys.exit(main())
