"""Which images each step uses, for this rank: the same batches for any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping

from clustering.table.table import ClusterTable
from data_shards.shards.index import SampleIndex
from trainer.config.run_config import RunConfig
from trainer.config.sections import TaskConfig
from trainer.config.tasks import task_of_step
from trainer.runtime.world import World, micro_batches_of_rank
from trainer.sampling.batch_loader import PlannedBatch
from trainer.sampling.cluster_sampler import BatchShape, cluster_batch
from trainer.sampling.label_sampler import label_batch


class BatchPlan:
    """A pure function of (configuration, step, tables), as `BatchLoader.start` wants it."""

    def __init__(
        self,
        config: RunConfig,
        tasks: tuple[TaskConfig, ...],
        index: SampleIndex,
        world: World,
        tables: Mapping[str, ClusterTable],
    ) -> None:
        sampler = config.sampler
        self.shape = BatchShape(
            micro_batches=sampler.micro_batches,
            micro_batch_size=sampler.micro_batch_size,
            clusters=sampler.clusters,
            siblings=sampler.siblings,
            max_clusters_per_class=sampler.max_clusters_per_class,
            images_per_class=sampler.images_per_class,
        )
        self._config = config
        self._tasks = tasks
        self._world = world
        self._tables = dict(tables)
        self._ids = index.ids
        self._labels = {task.name: index.labels(task.label) for task in tasks}

    def __call__(self, step: int) -> list[PlannedBatch]:
        """This rank's micro-batches of a step, in order."""
        config, world = self._config, self._world
        # Only these are drawn: a whole step would keep each rank as long as one that is alone.
        numbers = micro_batches_of_rank(range(self.shape.micro_batches), world.rank, world.size)
        task = task_of_step(self._tasks, step).name
        # Tasks take turns: a task's own steps are counted, so that it skips none of its
        # clusters. Instances are of all tasks alike, and so is their order.
        turn = step // len(self._tasks)
        sampling = config.sampling_at(step)
        if sampling == "cluster":
            batch = cluster_batch(
                self._tables[task],
                seed=config.run.seed,
                step=turn,
                shape=self.shape,
                seed_by=config.sampler.seed_by,
                numbers=numbers,
            )
        else:
            batch = label_batch(
                self._labels[task],
                self._ids,
                seed=config.run.seed,
                step=step if sampling == "instance" else turn,
                shape=self.shape,
                sampling=sampling,
                progress=min(1.0, step / max(1, config.classifier_start - 1)),
                numbers=numbers,
            )
        drawn = zip(numbers, batch, strict=True)
        return [PlannedBatch(n, (config.run.seed, step, g)) for g, n in drawn]
