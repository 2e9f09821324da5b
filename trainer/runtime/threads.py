"""Threads of torch, which counts the cores of the machine, not those of its container."""

from __future__ import annotations

import torch

from data_shards.cgroups import num_cores


def limit_threads() -> None:
    """Compute on no more threads than this process has cores."""
    torch.set_num_threads(min(torch.get_num_threads(), num_cores()))
