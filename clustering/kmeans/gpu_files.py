"""Whether this machine may have a GPU, by its device files: importing torch takes seconds.

A file of its own, so that it can be asked without importing FAISS.
"""

from __future__ import annotations

from pathlib import Path


def has_gpu_file(folder: Path = Path("/dev")) -> bool:
    """Whether a driver has made its file: one for each GPU, or under WSL 2 one for all."""
    return any(folder.glob("nvidia[0-9]*")) or (folder / "dxg").exists()
