"""A trained network with the clusters of each task: pixels -> classes.

Legend: N images, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clustering.table import store
from clustering.table.table import ClusterTable
from data_shards.errors import ConfigError, DataError
from data_shards.images.limits import USUAL_LIMITS, ImageLimits
from data_shards.images.transforms import decode_image
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.config.tasks import read_manifest, resolve_tasks
from trainer.evaluation.readout import TaskContext
from trainer.evaluation.registry import available_readouts, by_training_images, predict
from trainer.models.embed import embed_images
from trainer.models.network import Network
from trainer.run.folder import RunFolder
from trainer.runtime.threads import limit_threads
from trainer.runtime.world import World
from trainer.state.served_snapshot import check_data, served_snapshot
from trainer.state.snapshot import load_network


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network with the clusters of each task."""

    step: int
    """Of the training run whose weights these are."""
    network: Network
    """In evaluation mode."""
    manifest: Manifest
    """Of the training images, which may be gone: their numbers and the names of the classes."""
    tasks: Sequence[TaskConfig]
    tables: Mapping[str, ClusterTable]
    config: EvaluationConfig
    readout: str
    limits: ImageLimits = USUAL_LIMITS
    """Of the image files that `read_image` decodes."""

    def classify(
        self, images: npt.NDArray[np.uint8]
    ) -> dict[str, tuple[list[str], npt.NDArray[np.float32]]]:
        """Classify a batch.

        Args:
            images: (N, size, size, channels), as the network expects them (`read_image`).

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

    def read_image(self, path: Path) -> npt.NDArray[np.uint8]:
        """Decode an image file as the network expects it.

        Returns:
            (size, size, channels) uint8.

        Raises:
            DataError: it cannot be read or is not an image; names it.
        """
        size, channels = self.network.input_size, self.network.channels
        try:
            file = path.read_bytes()
            return decode_image(file, size=size, channels=channels, limits=self.limits)
        except (DataError, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise DataError(f"{path}: {reason}") from error

    def check_readout(self) -> None:
        """Refuse a read-out that a task does not have.

        Raises:
            ConfigError: naming those that it has.
        """
        why = (
            ": it needs the embeddings of the training images, which are not read here"
            if by_training_images(self.readout)
            else ""
        )
        for task in self.tasks:
            available = available_readouts(self._context(task))
            if self.readout not in available:
                raise ConfigError(
                    f"read-out {self.readout} is not available{why}; "
                    f"choose one that this run has: {', '.join(available)}"
                )

    def _context(self, task: TaskConfig) -> TaskContext:
        return TaskContext(
            head=self.network.head(task.name),
            config=self.config,
            class_counts=self.manifest.class_counts("train", task.label),
            table=self.tables[task.name],
        )


def load_classifier(
    config: RunConfig,
    run: RunFolder,
    *,
    checkpoint: str | None = None,
    readout: str | None = None,
    limits: ImageLimits = USUAL_LIMITS,
) -> Classifier:
    """Load weights of a run and their cluster tables, on a GPU if there is one.

    Args:
        config: the run's; the manifest of its shards names the classes, no image is read.
        run: the run's folder.
        checkpoint: a step of the run, or the folder of a snapshot or a checkpoint; None for the
            newest that has its tables.
        readout: what makes a class of an embedding; None for the one that the run's method is
            meant for.
        limits: of the image files that it is to read.

    Raises:
        ConfigError: the run does not have the read-out; says which it has.
        DataError: the manifest cannot be read, or is not that of the run.
        UnusableSnapshot: there are no such weights, or no tables of them.
        TrainingError: the weights are damaged.
        ClusterError: the tables are damaged.
    """
    manifest = read_manifest(config)
    snapshot = served_snapshot(checkpoint, run)
    check_data(snapshot, manifest)
    limit_threads()
    classifier = Classifier(
        step=snapshot.step,
        network=load_network(snapshot).to(World.from_environment().device),
        manifest=manifest,
        tasks=resolve_tasks(config, manifest),
        tables=store.load(run.tables, snapshot.step),
        config=config.evaluation,
        readout=readout or config.readout,
        limits=limits,
    )
    classifier.check_readout()
    return classifier


def similarities(
    embeddings: npt.NDArray[np.float32], classes: npt.NDArray[np.int64], table: ClusterTable
) -> npt.NDArray[np.float32]:
    """Cosine of each embedding and the nearest cluster of its class.

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
        centroids = table.centroids[table.clusters_of_class(chosen)]
        nearest[rows] = (embeddings[rows] @ centroids.T).max(axis=1)
    return nearest
