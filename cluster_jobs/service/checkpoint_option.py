"""The option `--checkpoint` of the verbs that use a run's weights and tables."""

from __future__ import annotations

from argparse import ArgumentParser

from data_shards.paths import path_or_name


def add_checkpoint_option(parser: ArgumentParser) -> None:
    """Add `--checkpoint`, which names what `served_snapshot` takes."""
    parser.add_argument(
        "--checkpoint",
        type=path_or_name,
        metavar="STEP|FOLDER",
        help="a step of the run, or the folder of a snapshot or a checkpoint; default: the newest "
        "with its table",
    )
