"""Approximate nearest vectors of each of many, in a fraction of the time of an exact search.

FAISS splits the vectors into cells, and scans the cells near a vector in codes of 4 bits for two
dimensions (its fast scan of an inverted file). The codes are coarse, so several times the wanted
number is taken and the cosines are computed. Nearness is mutual, so each pair found counts for both
vectors: what the search of one misses, that of the other finds.

Legend: M vectors, D dimensions, k wanted for each.
"""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from clustering.kmeans.backends import one_thread
from clustering.table.top_k import row_blocks, top_k
from data_shards.progress import OnStep, no_step

FEWEST_VECTORS = 256
"""With fewer, comparing all with all takes no time, and codes cannot be trained."""

# Chosen on 200,000 vectors of 128 dimensions: nearly all of the nearest 32 for the least time.
_ROWS_PER_CELL = 800
_FRACTION_OF_CELLS = 1 / 6
_FEWEST_CELLS = 16
_CANDIDATES_WANTED = 3.5
_TRAINING_ITERATIONS = 8
_TRAINING_ROWS_PER_CELL = 64
_BLOCK_ROWS = 4096
_ADDED_ROWS = 1 << 17
_WIDTHS = 8  # parts of a block, each of vectors with about as many candidates


def near_candidates(
    vectors: npt.NDArray[np.float32],
    num_wanted: int,
    *,
    side: npt.NDArray[np.bool_] | None = None,
    on_step: OnStep = no_step,
) -> Iterator[tuple[slice, npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Find vectors that are near each other.

    Memory is about 3 kB a vector for 36 wanted, on top of the vectors, which are copied if
    there are sides.

    Args:
        vectors: (M, D) float32 unit rows, C-contiguous, M >= `FEWEST_VECTORS`.
        num_wanted: k, 1 <= k <= M; a vector counts as near itself.
        side: (M,) which of two sides a vector is on, neither empty: only vectors of the other side
            are found for it. None: vectors of all.
        on_step: called after each block of vectors.

    Yields:
        (rows, found, cosines): a range of vectors; (rows, k) int64 vectors found for them by
        descending cosine, equal ones ascending, -1 where fewer were found; and (rows, k) float32
        cosines, -inf where there is none. The ranges cover all vectors in order.
    """
    num_candidates = min(round(_CANDIDATES_WANTED * num_wanted), len(vectors))
    if side is None:
        found = _search(vectors, vectors, num_candidates, on_step)
    else:
        found = np.empty((len(vectors), num_candidates), dtype=np.int32)
        for own, other in ((side, ~side), (~side, side)):
            numbers = np.flatnonzero(other).astype(np.int32)
            columns = _search(vectors[other], vectors[own], num_candidates, on_step)
            found[own] = np.where(columns < 0, -1, numbers[columns])
    mutual = _mutual(found)
    on_step()
    for rows in row_blocks(len(vectors), 1, _BLOCK_ROWS, on_step):
        yield rows, *_nearest(vectors, mutual[rows], rows, num_wanted)


def _search(
    vectors: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    num_wanted: int,
    on_step: OnStep,
) -> npt.NDArray[np.int32]:
    """(queries, num_wanted) vectors that are probably near, judged by codes; -1 for none."""
    few = len(vectors) < FEWEST_VECTORS
    index = _exact_index(vectors) if few else _coded_index(vectors, on_step)
    found = np.empty((len(queries), num_wanted), dtype=np.int32)
    for rows in row_blocks(len(queries), 1, _BLOCK_ROWS, on_step):
        found[rows] = index.search(queries[rows], num_wanted)[1]
    return found


def _exact_index(vectors: npt.NDArray[np.float32]) -> faiss.Index:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _coded_index(vectors: npt.NDArray[np.float32], on_step: OnStep) -> faiss.Index:
    num_rows, dim = vectors.shape
    num_cells = max(1, num_rows // _ROWS_PER_CELL)
    quantizer = faiss.IndexFlatIP(dim)
    codes_per_vector = dim // 2 if dim % 2 == 0 else dim
    index = faiss.IndexIVFPQFastScan(
        quantizer, dim, num_cells, codes_per_vector, 4, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter = _TRAINING_ITERATIONS
    index.cp.max_points_per_centroid = _TRAINING_ROWS_PER_CELL
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    with one_thread():  # so that the cells do not depend on the number of threads
        index.train(vectors)
        for rows in row_blocks(num_rows, 1, _ADDED_ROWS, on_step):
            index.add(vectors[rows])
    index.implem = 13  # otherwise the number of threads decides which algorithm is used
    index.nprobe = min(num_cells, max(_FEWEST_CELLS, round(_FRACTION_OF_CELLS * num_cells)))
    return index


def _mutual(found: npt.NDArray[np.int32]) -> csr_matrix:
    """(M, M) True where one of two vectors was found for the other, columns ascending.

    Args:
        found: (M, candidates) vectors found for each, -1 for none.
    """
    there = found.ravel() >= 0
    ends = np.arange(len(found) + 1) * found.shape[1]
    columns = np.where(there, found.ravel(), 0)
    graph = csr_matrix((there, columns, ends), shape=(len(found), len(found)))
    graph.eliminate_zeros()
    graph.sum_duplicates()
    mutual = graph.maximum(graph.T.tocsr())
    mutual.sort_indices()
    return mutual


def _nearest(
    vectors: npt.NDArray[np.float32], candidates: csr_matrix, rows: slice, num_wanted: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The (rows, k) nearest of the (rows, M) candidates of some vectors, and their cosines."""
    lengths = np.diff(candidates.indptr)
    nearest = np.empty((len(lengths), num_wanted), dtype=np.int64)
    cosines = np.empty(nearest.shape, dtype=np.float32)
    # A few vectors are near very many; sorted by width, they widen the matrix of few others.
    for part in np.array_split(np.argsort(lengths, kind="stable"), _WIDTHS):
        width = max(int(lengths[part].max(initial=0)), num_wanted)
        column = np.arange(width)
        there = column < lengths[part, np.newaxis]
        numbers = np.full(there.shape, -1, dtype=np.int64)
        numbers[there] = candidates.indices[(candidates.indptr[part, np.newaxis] + column)[there]]
        own = vectors[rows][part]  # kept alive, as FAISS is given bare addresses
        similarities = np.empty(numbers.shape, dtype=np.float32)
        faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined] # the stubs lack it
            faiss.swig_ptr(similarities),
            faiss.swig_ptr(own),
            faiss.swig_ptr(vectors),
            faiss.swig_ptr(numbers),
            vectors.shape[1],
            *numbers.shape,
        )
        similarities[~there] = -np.inf
        columns, cosines[part] = top_k(similarities, num_wanted)
        nearest[part] = np.take_along_axis(numbers, columns, axis=1)
    return nearest, cosines
