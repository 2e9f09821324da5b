"""Which tasks a run has and on which split they are evaluated, given its shards."""

from __future__ import annotations

from collections.abc import Mapping

from clustering.table.table import ClusterTable
from data_shards.errors import ConfigError
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.sections import TaskConfig


def load_manifest(config: RunConfig, *, split: str | None = None) -> Manifest:
    """The manifest of the run's shards, which are there.

    Args:
        config: the run.
        split: the only one whose shards are needed; None for all.

    Raises:
        ConfigError: the run names no shards.
        DataError: what it names holds none that can be read.
    """
    return Manifest.load(_shards(config), split=split)


def read_manifest(config: RunConfig) -> Manifest:
    """The manifest of the run's shards alone: classes, their names and sizes.

    Raises:
        ConfigError: the run names no shards.
        DataError: what it names holds no manifest.
    """
    return Manifest.read(_shards(config))


def _shards(config: RunConfig) -> str:
    if not config.data.shards:
        raise ConfigError(
            "data.shards is not set; set it to the folder that `clmle import ... --out` wrote"
        )
    return config.data.shards


def resolve_tasks(config: RunConfig, manifest: Manifest) -> tuple[TaskConfig, ...]:
    """The run's tasks: those that it names, or every label column, or the first one.

    Raises:
        ConfigError: a task names a label column that the shards do not have, or a column is no
            name of a task.
    """
    columns = manifest.label_columns if config.data.every_label else manifest.label_columns[:1]
    tasks = config.tasks or tuple(TaskConfig(name=column, label=column) for column in columns)
    for task in tasks:
        if task.label not in manifest.label_columns:
            raise ConfigError(
                f"task {task.name}: the shards in {manifest.folder} have no label {task.label!r}; "
                f"they have {', '.join(manifest.label_columns)}"
            )
    return tasks


def classes_of_tasks(config: RunConfig, manifest: Manifest) -> dict[str, int]:
    """Number of classes of each task of the run; raises as `resolve_tasks`."""
    tasks = resolve_tasks(config, manifest)
    return {task.name: manifest.num_classes(task.label) for task in tasks}


def evaluation_warning(config: RunConfig, manifest: Manifest) -> str | None:
    """A warning if nothing is evaluated; None otherwise. Raises as `evaluated_split`."""
    if evaluated_split(config, manifest) is not None:
        return None
    return f"{manifest.folder} has no test split; nothing is evaluated"


def evaluated_split(config: RunConfig, manifest: Manifest) -> str | None:
    """The split that the run's evaluation reads; None when the shards have no test split.

    Raises:
        DataError: there is no split of the other name that was asked for.
    """
    split = config.evaluation.split
    if split == "test" and split not in manifest.splits:
        return None
    manifest.split(split)
    return split


def task_of_step(tasks: tuple[TaskConfig, ...], step: int) -> TaskConfig:
    """The task whose neighbourhoods make the batch of a step: round robin."""
    return tasks[step % len(tasks)]


def check_tables(
    tables: Mapping[str, ClusterTable], *, embedding_dim: int, num_classes: Mapping[str, int]
) -> None:
    """Refuse cluster tables that do not fit the model and the data.

    Args:
        tables: task -> its table.
        embedding_dim: of the model.
        num_classes: task -> its classes, for each task of the run.

    Raises:
        ConfigError: other tasks, another embedding dimension or another number of classes.
    """
    if set(tables) != set(num_classes):
        raise ConfigError(
            f"the cluster tables are of tasks {', '.join(sorted(tables))}, this run has "
            f"{', '.join(sorted(num_classes))}: they were made for another run; remove them"
        )
    for table in tables.values():
        _check_table(table, embedding_dim=embedding_dim, num_classes=num_classes[table.task])


def _check_table(table: ClusterTable, *, embedding_dim: int, num_classes: int) -> None:
    if table.dim != embedding_dim:
        raise ConfigError(
            f"cluster table {table.version} of task {table.task} has embedding dimension "
            f"{table.dim}, the model has {embedding_dim}: it was made by another model; "
            "set model.embedding_dim to match, or remove the run's tables"
        )
    if table.num_classes != num_classes:
        raise ConfigError(
            f"cluster table {table.version} of task {table.task} has {table.num_classes} classes, "
            f"the shards have {num_classes}: it was made from other data; set data.shards to "
            "those, or run.folder to a new folder"
        )
