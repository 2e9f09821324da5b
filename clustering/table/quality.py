"""How good a cluster table is, in numbers to watch: of the whole table, and of each class.

Legend: M clusters, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.table.table import ClusterTable
from data_shards.progress import OnStep, no_step

_MOST_PAIRS = 1_000_000  # of clusters, compared for the mutual information: about a second
_PAIRS_A_CALL = 1000  # that take as long as the overhead of a class
_PAIRS_OF_A_CLASS = _MOST_PAIRS // 4
_SAMPLED_CLUSTERS = 1000  # of a class of more pairs: earlier clusters, at most


@dataclass(frozen=True, kw_only=True)
class ClassQuality:
    """How well each class is clustered."""

    num_clusters: npt.NDArray[np.int64]
    """(C,) >= 1."""
    concentration: npt.NDArray[np.float64]
    """(C,) mean cosine of a sample and its centroid, in [0, 1]: what k-means of the class
    maximises. 1 = all samples of each cluster are the same."""
    imbalance: npt.NDArray[np.float64]
    """(C,) largest cluster divided by the mean one, >= 1; 1 = all are the same size."""
    spread: npt.NDArray[np.float64]
    """(C,) mean angle of a sample to its centroid, in radians."""

    def worst(self, num_wanted: int) -> npt.NDArray[np.int64]:
        """Classes of the least concentration, the worst first, equal ones by number."""
        return np.argsort(self.concentration, kind="stable")[:num_wanted]


def class_quality(table: ClusterTable) -> ClassQuality:
    """Measure each class of a table, from its arrays alone.

    Args:
        table: a valid table.
    """
    sizes = table.cluster_sizes
    starts = np.searchsorted(table.class_of, np.arange(table.num_classes))
    counts = np.diff(starts, append=table.num_clusters)
    samples = table.class_sizes

    def mean_of_samples(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        sums = np.add.reduceat(sizes * values.astype(np.float64), starts)
        means: npt.NDArray[np.float64] = sums / samples
        return means

    return ClassQuality(
        num_clusters=counts,
        concentration=mean_of_samples(table.concentration),
        imbalance=np.maximum.reduceat(sizes, starts) * counts / samples,
        spread=mean_of_samples(table.spread),
    )


def table_quality(
    table: ClusterTable, previous: ClusterTable | None = None, on_step: OnStep = no_step
) -> dict[str, float]:
    """Measure a table; the names are those of metrics.

    Args:
        table: a valid table.
        previous: the previous table of the same task; None for the first.
        on_step: called after each measure, and each class of those that take long.

    Returns:
        - clusters/count, clusters/smallest, clusters/largest: clusters, and samples of the smallest
          and the largest;
        - clusters/singletons: share of clusters with one sample;
        - clusters/imbalance: M sum(n^2) / N^2 of the cluster sizes n; 1 = all are the same size;
        - clusters/spread_rad: mean angle of a sample to its centroid;
        - clusters/concentration: mean cosine of a sample and its centroid, what k-means maximises;
        - clusters/class_concentration_least, clusters/class_concentration_p05: the same of a class
          (`class_quality`): the least of all, and the 5th percentile of the classes;
        - clusters/class_imbalance_most, clusters/class_imbalance_p95: largest cluster of a class
          divided by its mean one: the most of all, and the 95th percentile of the classes;
        - clusters/separation_rad: mean angle of a cluster to the nearest of another class (when
          there is another class, and neighbours are listed);
        - clusters/churn (when there is a previous table): of the samples in both tables, the share
          that lies outside the largest overlap of its cluster with any earlier one.
          0 = each cluster is a subset of an earlier one, however they are numbered;
        - clusters/moved (with a previous table): of the samples in both tables, the share that is
          in a cluster of another number within its class;
        - clusters/ami (with a previous table): adjusted mutual information of the clusters of a
          class now and before, the mean over the samples of some classes of several clusters (when
          any have common samples). 1 = the same, 0 = as by chance. In a class of more than about
          500 clusters only the members of some earlier ones are compared, at most 1,000 of them,
          fewer the more clusters their members are in now; they are chosen at random, seeded by
          the table's version. Between 0 and 1 this estimates a little high, by at most 0.09 of 200
          clusters of 20 samples.
    """
    sizes, of_class = table.cluster_sizes, class_quality(table)
    quality = {
        "clusters/count": float(table.num_clusters),
        "clusters/smallest": float(sizes.min()),
        "clusters/largest": float(sizes.max()),
        "clusters/singletons": float(np.mean(sizes == 1)),
        "clusters/imbalance": float(table.num_clusters * np.sum((sizes / sizes.sum()) ** 2)),
        "clusters/spread_rad": float(np.average(table.spread, weights=sizes)),
        "clusters/concentration": float(np.average(table.concentration, weights=sizes)),
        "clusters/class_concentration_least": float(of_class.concentration.min()),
        "clusters/class_concentration_p05": float(np.quantile(of_class.concentration, 0.05)),
        "clusters/class_imbalance_most": float(of_class.imbalance.max()),
        "clusters/class_imbalance_p95": float(np.quantile(of_class.imbalance, 0.95)),
    }
    on_step()
    if table.neighbours.shape[1]:
        quality["clusters/separation_rad"] = _separation(table)
        on_step()
    return quality if previous is None else quality | _changes(previous, table, on_step)


def _changes(old: ClusterTable, new: ClusterTable, on_step: OnStep) -> dict[str, float]:
    """The measures that compare a table with the one before."""
    changes = {"clusters/churn": _churn(old, new)}
    on_step()
    changes["clusters/moved"] = _moved(old, new)
    on_step()
    information = _adjusted_mutual_information(old, new, on_step)
    return changes if information is None else changes | {"clusters/ami": information}


def _separation(table: ClusterTable) -> float:
    nearest = table.centroids[table.neighbours[:, 0]]
    cosines = np.einsum("md,md->m", table.centroids, nearest, dtype=np.float64)
    return float(np.arccos(np.clip(cosines, -1.0, 1.0)).mean())


def _common(
    old: ClusterTable, new: ClusterTable
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Old and new cluster of each sample that is in both tables."""
    _, of_old, of_new = np.intersect1d(
        old.member_ids, new.member_ids, assume_unique=True, return_indices=True
    )
    return _cluster_of_member(old)[of_old], _cluster_of_member(new)[of_new]


def _churn(old: ClusterTable, new: ClusterTable) -> float:
    before, now = _common(old, new)
    if not len(now):
        return 1.0
    pairs = now * old.num_clusters + before
    pair, overlap = np.unique(pairs, return_counts=True)
    largest = np.zeros(new.num_clusters, dtype=np.int64)
    np.maximum.at(largest, pair // old.num_clusters, overlap)
    return float(1.0 - largest.sum() / len(now))


def _moved(old: ClusterTable, new: ClusterTable) -> float:
    before, now = _common(old, new)
    if not len(now):
        return 1.0
    same_class = old.class_of[before] == new.class_of[now]
    return float(1.0 - np.mean(same_class & (_place(old)[before] == _place(new)[now])))


def _place(table: ClusterTable) -> npt.NDArray[np.int64]:
    """(M,) number of each cluster within its class."""
    return np.arange(table.num_clusters) - np.searchsorted(table.class_of, table.class_of)


def _adjusted_mutual_information(
    old: ClusterTable, new: ClusterTable, on_step: OnStep
) -> float | None:
    """Of random classes: the expected information takes time for each pair of clusters."""
    from sklearn.metrics import adjusted_mutual_info_score

    before, now = _common(old, new)
    class_ = new.class_of[now]
    by_class = np.argsort(class_, kind="stable")
    several = np.flatnonzero(np.bincount(new.class_of) > 1)
    pairs, total, weight = 0, 0.0, 0
    rng = np.random.default_rng(new.version)
    for chosen in rng.permutation(several).tolist():
        first, end = np.searchsorted(class_, (chosen, chosen + 1), sorter=by_class)
        left, right = _of_some_clusters(before[by_class[first:end]], now[by_class[first:end]], rng)
        own = _PAIRS_A_CALL + _num_pairs(left, right)
        if len(left) and pairs + own <= _MOST_PAIRS:
            pairs += own
            total += len(left) * adjusted_mutual_info_score(left, right)
            weight += len(left)
        on_step()
        if pairs + _PAIRS_A_CALL > _MOST_PAIRS:
            break
    return total / weight if weight else None


def _of_some_clusters(
    left: npt.NDArray[np.int64], right: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Keep the samples of so few left clusters that there are not too many pairs to compare."""
    if _num_pairs(left, right) > _PAIRS_OF_A_CLASS:
        kept = rng.permutation(np.unique(left))[:_SAMPLED_CLUSTERS]
        left, right = _members_of(kept, left, right)
        while _num_pairs(left, right) > _PAIRS_OF_A_CLASS and len(kept) >= 4:
            kept = kept[: len(kept) // 2]
            left, right = _members_of(kept, left, right)
    return left, right


def _members_of(
    kept: npt.NDArray[np.int64], left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    own = np.isin(left, kept)
    return left[own], right[own]


def _num_pairs(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> int:
    return len(np.unique(left)) * len(np.unique(right))


def _cluster_of_member(table: ClusterTable) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(table.num_clusters), table.cluster_sizes)
