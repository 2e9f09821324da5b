"""Whether this machine may have a GPU, by its device files: to ask torch takes seconds."""

from __future__ import annotations

from pathlib import Path


def has_gpu_file(folder: Path = Path("/dev")) -> bool:
    """Whether there is a driver's file: one for each GPU, or under WSL 2 one for all."""
    return any(folder.glob("nvidia[0-9]*")) or (folder / "dxg").exists()
