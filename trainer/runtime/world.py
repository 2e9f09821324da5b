"""Which rank this process is, its part of a step, and the collectives that the trainer uses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from data_shards.errors import ConfigError
from trainer.errors import TrainingError

ROUND_SECONDS = 1.0
"""Ranks that wait for each other communicate this often: far below any time-out."""

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The ranks of a training run. With several ranks, collectives need a running process group."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @classmethod
    def from_environment(cls) -> World:
        """Read what the launcher set (RANK, WORLD_SIZE, LOCAL_RANK); without it, a single rank."""
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        use_cuda = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
        device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
        return cls(
            rank=int(os.environ.get("RANK", "0")),
            size=int(os.environ.get("WORLD_SIZE", "1")),
            local_rank=local_rank,
            device=device,
        )

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes shared files."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, on each rank; any shape and dtype, on any device."""
        if self.size == 1:
            return tensor
        total = tensor.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """(W, ...): the tensors of all W ranks in order, on each rank; of one shape and dtype."""
        if self.size == 1:
            return tensor[None]
        mine = tensor.to(self.device).contiguous()
        gathered = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(gathered, mine)
        return torch.stack(gathered).to(tensor.device)

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over ranks, on each rank; floating point."""
        return self.sum(tensor) / self.size

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum(torch.zeros(1))

    def run_on_rank_zero(self, work: Callable[[], T]) -> T | None:
        """Run work on rank 0 while the others wait, even longer than the collectives' time-out.

        Args:
            work: calls no collective; runs in a thread if there are several ranks.

        Returns:
            On rank 0 the result of the work, None on the others.

        Raises:
            TrainingError: on the other ranks, if the work failed; rank 0 raises the work's error.
        """
        return self._in_rounds(work if self.is_first else None)

    def run_on_all_ranks(self, work: Callable[[], None]) -> None:
        """Run work on every rank, even longer than the collectives' time-out.

        Args:
            work: as for `run_on_rank_zero`.

        Raises:
            TrainingError: on ranks whose work succeeded, if another's failed, which raises its own
                error.
        """
        self._in_rounds(work)

    def _in_rounds(self, work: Callable[[], T] | None) -> T | None:
        """Run the work, if any; meanwhile the ranks exchange keep-alive messages."""
        if self.size == 1:
            return None if work is None else work()
        with ThreadPoolExecutor(1, thread_name_prefix="in_rounds") as pool:
            future = None if work is None else pool.submit(work)
            num_busy, num_failed = 1, 0
            while num_busy:
                busy = future is not None and bool(wait([future], ROUND_SECONDS).not_done)
                failed = future is not None and not busy and future.exception() is not None
                state = torch.tensor([busy, failed], dtype=torch.int32)
                num_busy, num_failed = self.sum(state).tolist()
        if num_failed and not failed:
            raise TrainingError("another rank failed; its own error message says why")
        return None if future is None else future.result()

    def broadcast_text(self, text: str | None) -> str | None:
        """Rank 0's text (or None), on each rank."""
        if self.size == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def broadcast_arrays(self, arrays: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """Rank 0's arrays, on each rank; the others pass None."""
        if self.size == 1:
            assert arrays is not None
            return dict(arrays)
        header = (
            {k: (v.shape, v.dtype.str) for k, v in arrays.items()} if arrays is not None else None
        )
        box = [header]
        dist.broadcast_object_list(box, src=0, device=self.device)
        header = box[0]
        assert header is not None
        result = {}
        for name, (shape, dtype) in header.items():
            array = arrays[name] if arrays else np.empty(shape, np.dtype(dtype))
            tensor = torch.from_numpy(np.array(array)).to(self.device)
            dist.broadcast(tensor, src=0)
            result[name] = tensor.cpu().numpy()
        return result


_LOSSES = ("timed out", "connection closed", "connection reset", "broken pipe", "connectfullmesh")


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether ranks lost each other, or did not meet: torch's own errors, and gloo's by its words.

    Other errors of gloo, such as about tensors of two sizes, are bugs.
    """
    text = str(error).lower()
    gloo = "gloo" in text and any(words in text for words in _LOSSES)
    return gloo or isinstance(error, dist.DistError)


def first_line(error: RuntimeError) -> str:
    """What an error of torch says: no place in its source, no calls that led there, no advice."""
    line = str(error).strip().partition("\n")[0].partition(". This ")[0]
    return re.sub(r"^\[\S+:\d+\] ", "", line).rstrip(".")


def micro_batches_per_rank(micro_batches: int, world_size: int) -> int:
    """Micro-batches of a step that each rank trains on.

    Raises:
        ConfigError: they do not divide evenly among the ranks.
    """
    if micro_batches % world_size:
        raise ConfigError(
            f"sampler.micro_batches = {micro_batches} does not divide among {world_size} ranks; "
            f"set it to a multiple of {world_size}, or start another number of ranks"
        )
    return micro_batches // world_size


def micro_batches_of_rank(micro_batches: Sequence[T], rank: int, world_size: int) -> list[T]:
    """One rank's part of a step: micro-batch g goes to rank g % world_size.

    Raises:
        ConfigError: the micro-batches do not divide evenly among the ranks.
    """
    micro_batches_per_rank(len(micro_batches), world_size)
    return list(micro_batches[rank::world_size])
