"""Classify image files with the weights and the cluster table of a run.

    clmle classify --config configs/long_tail.yaml PHOTOS new.jpg --out classes.csv

Writes one CSV line per image and task: the file, the class, and the cosine of the angle to the
nearest cluster of that class, which is low for an image of no class at all. One process, on a GPU
if there is one.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from cluster_jobs.errors import JobError, run_job
from cluster_jobs.service.snapshots import add_checkpoint_option, check_data, served_snapshot
from clustering.table import store
from clustering.table.table import ClusterTable
from data_shards.atomic import atomic_file
from data_shards.errors import DataError
from data_shards.images.transforms import decode_image
from data_shards.progress import Progress
from data_shards.shards.manifest import Manifest
from data_shards.sources.files import visible_files
from trainer.config.command_line import config_parser, print_if_dry_run, resolved
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.config.tasks import load_manifest, resolve_tasks
from trainer.evaluation.readout import TaskContext
from trainer.evaluation.registry import (
    READ_OUTS,
    available_readouts,
    by_training_images,
    predict,
)
from trainer.models.embed import embed_images
from trainer.models.network import Network
from trainer.run.folder import RunFolder
from trainer.runtime.world import World
from trainer.state.snapshot import load_network

HEADER = ("image", "task", "class", "similarity")
_NAME_ERRORS = "surrogateescape"  # writes the bytes of a file name that is not UTF-8 as they are


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network with the clusters of each task."""

    network: Network
    """In evaluation mode."""
    manifest: Manifest
    """Of the training images: their numbers and the names of the classes."""
    tasks: Sequence[TaskConfig]
    tables: Mapping[str, ClusterTable]
    config: EvaluationConfig
    readout: str

    def check(self) -> None:
        """Refuse a read-out that a task does not have.

        Raises:
            JobError: naming those that it has.
        """
        why = (
            ": it needs the embeddings of the training images, which clmle classify does not read"
            if by_training_images(self.readout)
            else ""
        )
        for task in self.tasks:
            there = available_readouts(self._context(task))
            if self.readout not in there:
                raise JobError(
                    f"--readout {self.readout} is not available{why}; "
                    f"this run has {', '.join(there)}"
                )

    def classify(
        self, images: npt.NDArray[np.uint8]
    ) -> dict[str, tuple[list[str], npt.NDArray[np.float32]]]:
        """Classify a batch.

        Args:
            images: (N, size, size, channels), as the network wants them.

        Returns:
            Task -> N names of classes, and (N,) similarities in [-1, 1].
        """
        outputs = embed_images(self.network, images)
        found = {}
        for task in self.tasks:
            output, table = outputs[task.name], self.tables[task.name]
            predicted = predict(self._context(task), output, [self.readout])[self.readout]
            names = self.manifest.label_names[task.label]
            embeddings = output.embedding.float().cpu().numpy()
            found[task.name] = (
                [names[c] for c in predicted],
                similarities(embeddings, predicted, table),
            )
        return found

    def _context(self, task: TaskConfig) -> TaskContext:
        return TaskContext(
            head=self.network.head(task.name),
            config=self.config,
            class_counts=self.manifest.class_counts("train", task.label),
            table=self.tables[task.name],
        )


def similarities(
    embeddings: npt.NDArray[np.float32], classes: npt.NDArray[np.int64], table: ClusterTable
) -> npt.NDArray[np.float32]:
    """Cosine to the nearest cluster of a class each.

    Args:
        embeddings: (N, D) unit rows.
        classes: (N,) which have clusters.
        table: the clusters.

    Returns:
        (N,) in [-1, 1].
    """
    nearest = np.empty(len(embeddings), np.float32)
    for chosen in np.unique(classes):
        rows = classes == chosen
        centroids = table.centroids[table.class_of == chosen]
        nearest[rows] = (embeddings[rows] @ centroids.T).max(axis=1)
    return nearest


def image_files(named: Iterable[Path]) -> list[Path]:
    """Files as they are named, and those in named folders at any depth but for hidden ones.

    Raises:
        DataError: one is not there, or a folder holds none.
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
    """Lines of the CSV, of one batch.

    Args:
        classifier: what classifies.
        files: in the order of the lines.
        skip: pass over files that cannot be read or are no images, with a warning.

    Raises:
        DataError: a file cannot be read or is no image, unless skipped.
    """
    images = list(_decoded(files, classifier.network, skip=skip))
    if not images:
        return []
    found = classifier.classify(np.stack([pixels for _, pixels in images]))
    return [
        (str(path), task, name, f"{value:.4f}")
        for task, (names, nearest) in found.items()
        for (path, _), name, value in zip(images, names, nearest, strict=True)
    ]


def _decoded(
    files: Iterable[Path], network: Network, *, skip: bool
) -> Iterator[tuple[Path, npt.NDArray[np.uint8]]]:
    for path in files:
        try:
            image = decode_image(
                path.read_bytes(), size=network.input_size, channels=network.channels
            )
        except (DataError, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            if not skip:
                raise DataError(f"{path}: {reason}; --on-error skip passes over it") from error
            sys.stderr.write(f"warning: {path} is skipped: {reason}\n")
        else:
            yield path, image


def main(argv: Sequence[str] | None = None) -> int:
    """The job."""
    options = _parser().parse_args(argv)
    config, derived = resolved(options)
    if print_if_dry_run(options, config, derived):
        return 0
    files = image_files(options.images)
    manifest, run = load_manifest(config), RunFolder(config.run_path)
    snapshot = served_snapshot(options.checkpoint, run)
    check_data(snapshot, manifest)
    classifier = Classifier(
        network=load_network(snapshot).to(World.from_environment().device),
        manifest=manifest,
        tasks=resolve_tasks(config, manifest),
        tables=store.load(run.tables, snapshot.step),
        config=config.evaluation,
        readout=options.readout or config.readout,
    )
    classifier.check()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_NAME_ERRORS)
    with ExitStack() as stack:
        file: TextIO = sys.stdout
        if options.out is not None:
            temporary = stack.enter_context(atomic_file(options.out))
            file = stack.enter_context(
                temporary.open("w", encoding="utf-8", errors=_NAME_ERRORS, newline="")
            )
        progress = stack.enter_context(Progress(len(files), label="classify", unit="images"))
        _write(file, classifier, files, progress, skip=options.on_error == "skip")
    if options.out is not None:
        sys.stdout.write(f"{options.out}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = config_parser("clmle classify", __doc__)
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE|FOLDER",
        help="image files, or folders whose files at any depth are images; hidden ones are passed "
        "over",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--readout",
        metavar="NAME",
        help="what makes a class of an embedding: "
        f"{', '.join(name for name in READ_OUTS if not by_training_images(name))}, as far as the "
        "run has them (default: the one that its method is meant for)",
    )
    add_checkpoint_option(parser)
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="what a file that cannot be read or is no image does (default: stop)",
    )
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
