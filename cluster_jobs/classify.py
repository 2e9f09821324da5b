"""Classify image files with the weights and the cluster table of a run.

    clmle classify --config long_tail PHOTOS new.jpg --out classes.csv

Writes one CSV line per image and task: the file, the class, and the cosine of the angle to the
nearest cluster of that class, which is low for an image of none of the classes. One process, on a
GPU if there is one.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from cluster_jobs.errors import run_job
from cluster_jobs.service.checkpoint_option import add_checkpoint_option
from data_shards.atomic import atomic_file
from data_shards.errors import DataError
from data_shards.images.limits import add_limit_options, limits_of
from data_shards.paths import path_option
from data_shards.progress import Progress
from data_shards.sources.files import visible_files
from data_shards.streams import FILE_ERRORS, in_utf8, write_file_to_stdout
from trainer.config.command_line import config_parser, print_if_dry_run, resolved
from trainer.evaluation.classifier import Classifier, load_classifier
from trainer.evaluation.registry import READ_OUTS, by_training_images
from trainer.run.folder import RunFolder

HEADER = ("image", "task", "class", "similarity")


def image_files(named: Iterable[Path]) -> list[Path]:
    """The named files, and those in named folders at any depth, except hidden ones.

    Raises:
        DataError: one does not exist, or a folder holds none.
    """
    files: list[Path] = []
    for path in named:
        if not os.path.lexists(path):  # a link to nowhere cannot be read: --on-error decides
            raise DataError(f"{path} is not there; name image files or folders of them")
        below = visible_files(path) if path.is_dir() else [path]
        if not below:
            raise DataError(f"{path} holds no file; name a folder that holds images")
        files += below
    return files


def classified(
    classifier: Classifier, files: Sequence[Path], *, skip: bool
) -> list[tuple[str, str, str, str]]:
    """Lines of the CSV for one batch.

    Args:
        classifier: what classifies.
        files: in the order of the lines.
        skip: skip files that cannot be read or are not images, with a warning.

    Raises:
        DataError: a file cannot be read or is not an image, unless skipped.
    """
    images = list(_decoded(files, classifier, skip=skip))
    if not images:
        return []
    found = classifier.classify(np.stack([pixels for _, pixels in images]))
    return [
        (in_utf8(path), task, name, f"{value:.4f}")
        for task, (names, nearest) in found.items()
        for (path, _), name, value in zip(images, names, nearest, strict=True)
    ]


def _decoded(
    files: Iterable[Path], classifier: Classifier, *, skip: bool
) -> Iterator[tuple[Path, npt.NDArray[np.uint8]]]:
    for path in files:
        try:
            image = classifier.read_image(path)
        except DataError as error:
            if not skip:
                raise DataError(f"{error}; to skip it, use --on-error skip") from error
            sys.stderr.write(f"warning: skipped {error}\n")
        else:
            yield path, image


def main(argv: Sequence[str] | None = None) -> int:
    """The job."""
    options = _parser().parse_args(argv)
    config, derived = resolved(options)
    if print_if_dry_run(options, config, derived):
        return 0
    limits = limits_of(options)
    if options.out is not None:
        _check_output(options.out)
    files = image_files(options.images)
    classifier = load_classifier(
        config,
        RunFolder(config.run_path),
        checkpoint=options.checkpoint,
        readout=options.readout,
        limits=limits,
    )
    with ExitStack() as stack:
        file: TextIO = sys.stdout
        if options.out is None:
            write_file_to_stdout()
        else:
            file = stack.enter_context(_output(options.out))
        progress = stack.enter_context(Progress(len(files), label="classify", unit="images"))
        _write(file, classifier, files, progress, skip=options.on_error == "skip")
    if options.out is not None and options.out.is_file():  # to /dev/stdout, it would be a line
        sys.stdout.write(f"{options.out}\n")
    return 0


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"--out {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise DataError(f"--out {path}: {path.parent} is not a folder; make it, or choose another")


@contextmanager
def _output(path: Path) -> Iterator[TextIO]:
    """Open what the lines go to. A file appears complete or not at all, where a link leads too."""
    with ExitStack() as stack:
        if path.is_file() or not path.exists():
            path = stack.enter_context(atomic_file(path.resolve()))
        # A pipe or a device, such as /dev/stdout, is written to: a renamed file would replace it.
        yield stack.enter_context(path.open("w", encoding="utf-8", errors=FILE_ERRORS, newline=""))


def _parser() -> argparse.ArgumentParser:
    parser = config_parser("clmle classify", __doc__)
    parser.add_argument(
        "images",
        nargs="+",
        type=path_option,
        metavar="IMAGE|FOLDER",
        help="image files, or folders whose files at any depth are images; hidden ones are skipped",
    )
    parser.add_argument("--out", type=path_option, metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--readout",
        metavar="NAME",
        help="how an embedding is turned into a class: "
        f"{', '.join(name for name in READ_OUTS if not by_training_images(name))}, if the run has "
        "them (default: the one that its method is meant for)",
    )
    add_checkpoint_option(parser)
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="what to do about a file that cannot be read or is not an image (default: stop)",
    )
    add_limit_options(parser)
    return parser


def _write(
    file: TextIO, classifier: Classifier, files: Sequence[Path], progress: Progress, *, skip: bool
) -> None:
    lines, size = csv.writer(file, lineterminator="\n"), classifier.config.batch_size
    lines.writerow(HEADER)
    for first in range(0, len(files), size):
        batch = files[first : first + size]
        lines.writerows(classified(classifier, batch, skip=skip))
        progress.update(len(batch))


if __name__ == "__main__":
    sys.exit(run_job(main))
