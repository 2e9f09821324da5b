"""A Ray of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray


@contextmanager
def small_ray(
    num_cpus: int = 2,
    object_store_memory: int = 78643200,
    num_gpus: int = 0,
    folder: Path | None = None,
) -> Iterator[None]:
    """Be connected to a cluster of this process, by default with the least object store.

    GPUs are only said to be there. Its files are in the folder, if one is given.
    """
    ray.init(
        address="local",  # otherwise a cluster that another process left in a file would be joined
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        include_dashboard=False,
        object_store_memory=object_store_memory,
        log_to_driver=False,
        logging_level="error",
        _temp_dir=None if folder is None else str(folder),
    )
    try:
        yield
    finally:
        ray.shutdown()
