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
