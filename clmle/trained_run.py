"""A trained run for embedding and classifying images, without Ray and DeepSpeed.

Legend: N images, H height, W width, C channels, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cluster_jobs.classify import Classifier
from cluster_jobs.service.snapshots import check_data, served_snapshot
from clustering.table import store
from clustering.table.table import ClusterTable
from data_shards.errors import DataError
from data_shards.images.transforms import decode_image, fit_pixels
from trainer.config.run_config import RunConfig
from trainer.config.tasks import load_manifest, resolve_tasks
from trainer.config.yaml_file import load_config
from trainer.models.embed import embed_images
from trainer.run.folder import RunFolder
from trainer.runtime.world import World
from trainer.state.snapshot import load_network

Pixels = npt.NDArray[np.uint8]
ImageLike = str | Path | Pixels
"""A file's path, or (H, W), (H, W, 1) or (H, W, 3) uint8 pixels."""
Images = Sequence[ImageLike] | Pixels
"""A list of them, or (N, H, W) or (N, H, W, C) uint8 pixels."""


class Classified(NamedTuple):
    """What an image was taken for."""

    name: str
    """Name of the class."""
    similarity: float
    """Cosine to the nearest cluster of that class, in [-1, 1]; low for an image of no class."""


class TrainedRun:
    """The network and the clusters of a run; `load_run` makes it.

    Images are prepared as in training: decoded, made grey or RGB, resized by the short side, cut to
    a square, scaled to [-1, 1]. Nothing random is done to them.

    Attributes:
        tasks: names of the run's tasks, the first of which is the default.
        tables: task -> its clusters.
        step: of the training run whose weights these are.
    """

    def __init__(self, classifier: Classifier, step: int) -> None:
        self._classifier = classifier
        self.tasks: tuple[str, ...] = tuple(task.name for task in classifier.tasks)
        self.tables: dict[str, ClusterTable] = dict(classifier.tables)
        self.step = step

    def embed(self, images: Images, *, task: str | None = None) -> npt.NDArray[np.float32]:
        """Embed images.

        Args:
            images: paths of image files, or uint8 pixels: (N, H, W), (N, H, W, C), or a list of
                images of any sizes; C is 1 or 3.
            task: one of `tasks`; None for the first.

        Returns:
            (N, D) float32 unit rows.

        Raises:
            DataError: an image cannot be read, or is no uint8 image; or there is no such task.
        """
        network, name = self._classifier.network, self._task(task)
        parts = [
            embed_images(network, batch)[name].embedding.float().cpu().numpy()
            for batch in self._batches(images)
        ]
        return np.concatenate([np.empty((0, network.embedding_dim), np.float32), *parts])

    def classify(self, images: Images, *, task: str | None = None) -> list[Classified]:
        """Classify images by the run's read-out, as `clmle classify` does.

        Args:
            images: as of `embed`.
            task: one of `tasks`; None for the first.

        Raises:
            DataError: as of `embed`.
        """
        name = self._task(task)
        found: list[Classified] = []
        for batch in self._batches(images):
            classes, similarities = self._classifier.classify(batch)[name]
            found += map(Classified, classes, similarities.tolist())
        return found

    def _task(self, task: str | None) -> str:
        if task is not None and task not in self.tasks:
            raise DataError(f"this run has no task {task!r}, it has {', '.join(self.tasks)}")
        return self.tasks[0] if task is None else task

    def _batches(
        self, images: Sequence[ImageLike] | npt.NDArray[np.uint8]
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """(n, size, size, channels) uint8, as many as an evaluation takes at a time."""
        if isinstance(images, (str, Path)):
            raise DataError(f"expected a list of images, got one path; write [{str(images)!r}]")
        network = self._classifier.network
        size, channels = network.input_size, network.channels
        prepared = (_pixels(image, size=size, channels=channels) for image in images)
        while batch := list(islice(prepared, self._classifier.config.batch_size)):
            yield np.stack(batch)


def load_run(
    folder: Path | str,
    *,
    checkpoint: str | None = None,
    readout: str | None = None,
    shards: Path | str | None = None,
) -> TrainedRun:
    """Load a run's newest weights that have a cluster table, on a GPU if there is one.

    Args:
        folder: of the run, such as "runs/digits".
        checkpoint: a step of the run, or the folder of a snapshot or checkpoint; None: the newest.
        readout: what makes a class of an embedding; None: the one that the run's method is meant
            for.
        shards: folder of the training images, which name the classes; None: the one that the run
            was trained on, where a relative path counts from the working directory.

    Raises:
        ClmleError: no such run, no finished weights or tables, other shards than the run's, or a
            read-out that the run does not have; says what to do.
    """
    run = RunFolder(Path(folder))
    if not run.config.is_file():
        raise DataError(f"{folder} is no run: it has no {run.config.name}")
    config = _with_shards(load_config(run.config), shards)
    manifest = load_manifest(config)
    snapshot = served_snapshot(checkpoint, run)
    check_data(snapshot, manifest)
    classifier = Classifier(
        network=load_network(snapshot).to(World.from_environment().device),
        manifest=manifest,
        tasks=resolve_tasks(config, manifest),
        tables=store.load(run.tables, snapshot.step),
        config=config.evaluation,
        readout=readout or config.readout,
    )
    classifier.check()
    return TrainedRun(classifier, snapshot.step)


def _with_shards(config: RunConfig, shards: Path | str | None) -> RunConfig:
    if shards is not None:
        return replace(config, data=replace(config.data, shards=str(shards)))
    if not Path(config.data.shards).is_dir():
        raise DataError(
            f"the run's images are not in {config.data.shards} (seen from {Path.cwd()}); start "
            "Python where the run was started, or call load_run(..., shards=FOLDER)"
        )
    return config


def _pixels(image: ImageLike, *, size: int, channels: int) -> Pixels:
    """(size, size, channels) uint8 of a file or an array."""
    if isinstance(image, (str, Path)):
        try:
            return decode_image(Path(image).read_bytes(), size=size, channels=channels)
        except (DataError, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise DataError(f"{image}: {reason}") from error
    return fit_pixels(np.asarray(image), size=size, channels=channels)
