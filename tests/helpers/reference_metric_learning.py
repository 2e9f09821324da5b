"""Slow twins of the classic metric losses: loops written down from the papers' equations.

All rows are unit vectors; `vectors` holds the V vectors of a class side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

Rows = Sequence[Sequence[float]]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    return math.dist(a, b)


def cross_entropy(logits: Sequence[float], label: int) -> float:
    return math.log(sum(math.exp(value - logits[label]) for value in logits))


def class_cosines(row: Sequence[float], vectors: Rows, per_class: int) -> list[float]:
    """Cosine to the nearest vector of each class."""
    cosines = [dot(row, vector) for vector in vectors]
    return [max(cosines[c : c + per_class]) for c in range(0, len(cosines), per_class)]


def arcface(
    rows: Tensor, labels: Sequence[int], vectors: Tensor, *, margin: float, scale: float, v: int = 1
) -> float:
    """Deng et al., CVPR 2019, equation 3; with v > 1, their ECCV 2020 paper."""
    total = 0.0
    for row, label in zip(rows.tolist(), labels, strict=True):
        cosines = class_cosines(row, vectors.tolist(), v)
        angle = math.acos(cosines[label]) + margin
        cosines[label] = math.cos(angle) if angle <= math.pi else -2 - math.cos(angle)
        total += cross_entropy([scale * c for c in cosines], label) / len(labels)
    return total


def cosface(
    rows: Tensor, labels: Sequence[int], vectors: Tensor, *, margin: float, scale: float
) -> float:
    """Wang et al., CVPR 2018, equation 4."""
    total = 0.0
    for row, label in zip(rows.tolist(), labels, strict=True):
        cosines = class_cosines(row, vectors.tolist(), 1)
        cosines[label] -= margin
        total += cross_entropy([scale * c for c in cosines], label) / len(labels)
    return total


def soft_triple(
    rows: Tensor, labels: Sequence[int], vectors: Tensor, *, margin: float, scale: float, v: int
) -> float:
    """Qian et al., ICCV 2019, equations 6 and 7, with gamma 0.1."""
    total = 0.0
    for row, label in zip(rows.tolist(), labels, strict=True):
        cosines = [dot(row, vector) for vector in vectors.tolist()]
        similarity = []
        for start in range(0, len(cosines), v):
            votes = [math.exp(c / 0.1) for c in cosines[start : start + v]]
            weighted = zip(votes, cosines[start : start + v], strict=True)
            similarity.append(sum(vote * c for vote, c in weighted) / sum(votes))
        similarity[label] -= margin
        total += cross_entropy([scale * s for s in similarity], label) / len(labels)
    return total


def batch_hard_triplet(rows: Tensor, labels: Sequence[int], *, margin: float) -> float:
    """Hermans et al., 2017, equation 5; the mean is over the triplets that are not yet solved."""
    points, hinges = rows.tolist(), []
    for a, label in enumerate(labels):
        same = [distance(points[a], p) for i, p in enumerate(points) if labels[i] == label]
        others = [distance(points[a], p) for i, p in enumerate(points) if labels[i] != label]
        if labels.count(label) > 1 and others:
            hinges.append(max(same) - min(others) + margin)
    return mean_of_positive(hinges)


def semi_hard_triplet(rows: Tensor, labels: Sequence[int], *, margin: float) -> float:
    """Schroff et al., CVPR 2015: negatives farther than the positive, but not by the margin."""
    points, hinges = rows.tolist(), []
    indices = range(len(labels))
    for a in indices:
        for p in indices:
            for n in indices:
                if p == a or labels[p] != labels[a] or labels[n] == labels[a]:
                    continue
                gap = distance(points[a], points[n]) - distance(points[a], points[p])
                if 0 < gap <= margin:
                    hinges.append(margin - gap)
    return mean_of_positive(hinges)


def mean_of_positive(hinges: Sequence[float]) -> float:
    positive = [hinge for hinge in hinges if hinge > 0]
    return sum(positive) / len(positive) if positive else 0.0


def supervised_contrastive(rows: Tensor, labels: Sequence[int], *, scale: float) -> float:
    """Khosla et al., NeurIPS 2020, equation 2; the mean is over anchors that have a positive.

    0 where all are of one class, as the library has it.
    """
    points, losses = rows.tolist(), []
    if len(set(labels)) == 1:
        return 0.0
    for a, label in enumerate(labels):
        others = [i for i in range(len(labels)) if i != a]
        positives = [i for i in others if labels[i] == label]
        if positives:
            everyone = math.log(sum(math.exp(scale * dot(points[a], points[i])) for i in others))
            own = [everyone - scale * dot(points[a], points[i]) for i in positives]
            losses.append(sum(own) / len(own))
    return sum(losses) / len(losses) if losses else 0.0


def magnet(rows: Tensor, clusters: Sequence[int], labels: Sequence[int], *, alpha: float) -> float:
    """Rippel et al., ICLR 2016, equation 5."""
    points = rows.tolist()
    class_of = dict(zip(clusters, labels, strict=True))
    means = {}
    for cluster in class_of:
        members = [p for p, c in zip(points, clusters, strict=True) if c == cluster]
        means[cluster] = [sum(column) / len(members) for column in zip(*members, strict=True)]
    own = [distance(p, means[c]) ** 2 for p, c in zip(points, clusters, strict=True)]
    variance = max(1e-4, sum(own) / max(1, len(points) - 1))
    total = 0.0
    for point, label, to_own in zip(points, labels, own, strict=True):
        others = [
            math.exp(-(distance(point, mean) ** 2) / (2 * variance))
            for cluster, mean in means.items()
            if class_of[cluster] != label
        ]
        if sum(others) > 0:  # an infinitely far class is told apart
            hinge = to_own / (2 * variance) + alpha + math.log(sum(others))
            total += max(0.0, hinge) / len(points)
    return total


def lmle(
    rows: Tensor,
    clusters: Sequence[int],
    labels: Sequence[int],
    margins: Sequence[tuple[float, float, float]],
) -> float:
    """Huang et al., CVPR 2016, equation 3, with the hardest quintuplet of each sample."""
    points, total = rows.tolist(), 0.0
    for a, (cluster, label, (g1, g2, g3)) in enumerate(zip(clusters, labels, margins, strict=True)):
        own, siblings, others = [], [], []
        for b, point in enumerate(points):
            d = distance(points[a], point)
            if clusters[b] == cluster:
                own.append(d)
            elif labels[b] == label:
                siblings.append(d)
            else:
                others.append(d)
        if siblings:
            total += max(0.0, g1 + max(own) - min(siblings))
            total += max(0.0, g2 + min(siblings) - max(siblings))
        if others:
            total += max(0.0, g3 + max(siblings or own) - min(others))
    return total / len(points)
