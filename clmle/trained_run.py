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

from clustering.table.table import ClusterTable
from data_shards.errors import DataError
from data_shards.images.transforms import fit_pixels
from data_shards.paths import home_expanded
from trainer.config.run_config import RunConfig
from trainer.config.yaml_file import load_config
from trainer.evaluation.classifier import Classifier, load_classifier
from trainer.models.embed import embed_images
from trainer.run.folder import RunFolder

Pixels = npt.NDArray[np.uint8]
ImageLike = str | Path | Pixels
"""A file's path, within the default limits of `clmle classify`, or (H, W), (H, W, 1) or (H, W, 3)
uint8 pixels."""
Images = Sequence[ImageLike] | Pixels
"""A list of them, or (N, H, W) or (N, H, W, C) uint8 pixels."""


class Classified(NamedTuple):
    """The predicted class of an image."""

    name: str
    """Name of the class."""
    similarity: float
    """Cosine to the nearest cluster of that class, in [-1, 1]; low for an image of none of them."""


class TrainedRun:
    """The network and the clusters of a run; `load_run` makes it.

    Images are prepared as in training: decoded, converted to grey or RGB, resized by the short
    side, cropped to a square, scaled to [-1, 1]; without random augmentation.

    Attributes:
        tasks: names of the run's tasks, the first of which is the default.
        tables: task -> its clusters.
        step: of the training run whose weights these are.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self.tasks: tuple[str, ...] = tuple(task.name for task in classifier.tasks)
        self.tables: dict[str, ClusterTable] = dict(classifier.tables)
        self.step = classifier.step

    def embed(self, images: Images, *, task: str | None = None) -> npt.NDArray[np.float32]:
        """Embed images.

        Args:
            images: paths of image files, or uint8 pixels: (N, H, W), (N, H, W, C), or a list of
                images of any sizes; C is 1 or 3. Not one image: put it into a list.
            task: one of `tasks`; None for the first.

        Returns:
            (N, D) float32 unit rows.

        Raises:
            DataError: an image cannot be read or is not uint8, or there is no such task.
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
            raise DataError(
                f"this run has no task {task!r}; name one that it has: {', '.join(self.tasks)}"
            )
        return self.tasks[0] if task is None else task

    def _batches(
        self, images: Sequence[ImageLike] | npt.NDArray[np.uint8]
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """(n, size, size, channels) uint8, each of at most the evaluation's batch size."""
        if isinstance(images, (str, Path)):
            raise DataError(f"expected a list of images, got one path; write [{str(images)!r}]")
        if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] in (1, 3):
            raise DataError(
                f"expected a list of images, got one of shape {images.shape}; write [image], or "
                "image[None] for an array of one"
            )
        prepared = map(self._pixels, images)
        while batch := list(islice(prepared, self._classifier.config.batch_size)):
            yield np.stack(batch)

    def _pixels(self, image: ImageLike) -> Pixels:
        """(size, size, channels) uint8 of a file or an array."""
        if isinstance(image, (str, Path)):
            return self._classifier.read_image(Path(image))
        network = self._classifier.network
        return fit_pixels(np.asarray(image), size=network.input_size, channels=network.channels)


def load_run(
    folder: Path | str,
    *,
    checkpoint: str | None = None,
    readout: str | None = None,
    shards: Path | str | None = None,
) -> TrainedRun:
    """Load the newest weights of a run that have a cluster table, on a GPU if there is one.

    Args:
        folder: of the run, such as "runs/digits".
        checkpoint: a step of the run, or the folder of a snapshot or checkpoint; None for the
            newest.
        readout: how an embedding is turned into a class; None for the one that suits the run's
            method.
        shards: folder of the training images, whose `manifest.json` names the classes; None for
            the one that the run was trained on, relative to the working directory.

    Raises:
        ClmleError: no such run, no complete weights or tables, other shards than the run's, or a
            read-out that the run does not have; says what to do.
    """
    run = RunFolder(Path(home_expanded(str(folder))))
    if not run.config.is_file():
        raise DataError(
            f"{folder} is not a run (seen from {Path.cwd()}): there is no {run.config}; name the "
            "run.folder of a run that was started"
        )
    config = _with_shards(load_config(run.config), shards)
    return TrainedRun(load_classifier(config, run, checkpoint=checkpoint, readout=readout))


def _with_shards(config: RunConfig, shards: Path | str | None) -> RunConfig:
    if shards is not None:
        return replace(config, data=replace(config.data, shards=home_expanded(str(shards))))
    if not Path(config.data.shards).is_dir():
        raise DataError(
            f"the run's data are not in {config.data.shards} (seen from {Path.cwd()}); start "
            "Python where the run was started, or call load_run(..., shards=FOLDER)"
        )
    return config
