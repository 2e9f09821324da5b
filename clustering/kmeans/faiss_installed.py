"""Whether FAISS is there, asked before anything starts and without importing it."""

from __future__ import annotations

from importlib.util import find_spec

from clustering.errors import FaissMissingError


def require_faiss() -> None:
    """Refuse to continue without FAISS.

    Raises:
        FaissMissingError: it is not installed; names the extras that bring it.
    """
    if find_spec("faiss") is None:
        raise FaissMissingError(
            "clustering needs FAISS, which is not installed; pip install 'clmle[cpu]', or, for "
            "CUDA GPUs, 'clmle[gpu]' (in a checkout '.[cpu]' or '.[gpu]'), never both"
        )
