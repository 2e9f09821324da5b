"""The images of coming steps, read ahead by threads.

Which images a step uses is known beforehand (`cluster_sampler`), so exactly those are fetched.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from data_shards.errors import DataError
from data_shards.images.limits import SHARD_LIMITS
from data_shards.images.transforms import augment, decode_image, to_float
from data_shards.shards.index import SampleIndex
from trainer.config.sections import DataConfig, ModelConfig
from trainer.sampling.cluster_sampler import MicroBatchSamples


@dataclass(frozen=True)
class MicroBatch:
    """The images of a micro-batch, ready for the network."""

    images: torch.Tensor
    """(B, C, H, W) float32 in [-1, 1], on the CPU."""
    samples: MicroBatchSamples
    torch_seed: int
    """Of what the network itself draws (dropout)."""


@dataclass(frozen=True)
class PlannedBatch:
    """What a rank will train on: a micro-batch, and the seed of all that is random about it."""

    samples: MicroBatchSamples
    seed: tuple[int, ...]


Plan = Callable[[int], list[PlannedBatch]]
"""step -> this rank's micro-batches of that step, in order."""


class DecodedImages:
    """Images that were decoded, up to a number of bytes; the first ones stay.

    Nothing is replaced: in random order, an image seen lately is no likelier to be next. Any number
    of threads may use it.
    """

    def __init__(self, num_bytes: int) -> None:
        self._free = num_bytes
        self._images: dict[int, npt.NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def find(self, sample_id: int) -> npt.NDArray[np.uint8] | None:
        """(H, W, C) uint8, not to be written to; None when it is not kept."""
        return self._images.get(sample_id)

    def keep(self, sample_id: int, image: npt.NDArray[np.uint8]) -> None:
        """Keep an image if there is room for it."""
        with self._lock:
            if sample_id not in self._images and image.nbytes <= self._free:
                self._free -= image.nbytes
                self._images[sample_id] = image


class BatchLoader:
    """Serves micro-batches in order and keeps `prefetch_batches` of them on the way."""

    def __init__(self, index: SampleIndex, data: DataConfig, model: ModelConfig) -> None:
        self._index = index
        self._data = data
        self._model = model
        self._decoded = DecodedImages(data.cache_mib * 2**20)
        self._pool = (
            ThreadPoolExecutor(data.reader_threads, thread_name_prefix="batches")
            if data.reader_threads
            else None
        )
        self._coming: deque[Future[MicroBatch]] = deque()
        self._planned: Iterator[PlannedBatch] = iter(())

    def start(self, plan: Plan, *, first_step: int, end_step: int) -> None:
        """Serve the steps in [first_step, end_step) by this plan from now on.

        What was read ahead for an older plan is dropped.
        """
        for future in self._coming:
            future.cancel()
        self._coming.clear()
        self._planned = (batch for step in range(first_step, end_step) for batch in plan(step))

    def next(self) -> MicroBatch:
        """The next micro-batch of the plan.

        Raises:
            DataError: an image could not be read.
        """
        if self._pool is None:
            return self._load(next(self._planned))
        while len(self._coming) < self._data.prefetch_batches + 1:
            batch = next(self._planned, None)
            if batch is None:
                break
            self._coming.append(self._pool.submit(self._load, batch))
        return self._coming.popleft().result()

    def _load(self, batch: PlannedBatch) -> MicroBatch:
        images = np.stack([self._image(int(i)) for i in batch.samples.sample_ids])
        rng = np.random.default_rng(batch.seed)
        varied = augment(images, rng, shift=self._data.shift, flip=self._data.flip)
        return MicroBatch(
            images=torch.from_numpy(to_float(varied)),
            samples=batch.samples,
            torch_seed=int(rng.integers(2**63)),
        )

    def _image(self, sample_id: int) -> npt.NDArray[np.uint8]:
        kept = self._decoded.find(sample_id)
        if kept is not None:
            return kept
        file = self._index.read(sample_id)
        size, channels = self._model.input_size, self._model.channels
        try:
            image = decode_image(file, size=size, channels=channels, limits=SHARD_LIMITS)
        except DataError as error:
            raise DataError(f"sample {sample_id}: {error}; import again") from error
        self._decoded.keep(sample_id, image)
        return image

    def close(self) -> None:
        """End the threads; batches still on their way are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
