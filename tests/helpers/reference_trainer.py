"""Slow twins of `trainer`: loops written down from the equations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def angular_margin_cosine(cosine: Tensor, margin_rad: float) -> Tensor:
    angle = cosine.acos() + margin_rad
    return angle.cos() if float(angle.detach()) <= math.pi else -2 - angle.cos()


def clmle_terms(
    embeddings: Tensor,
    cluster: Sequence[int],
    centroids: Tensor,
    class_of: Sequence[int],
    *,
    scale: float,
    margins_between: Sequence[float],
    margins_within: Sequence[float],
    log_prior: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """The two terms of the equation in `trainer.losses.clmle`, sample by sample."""
    between, within = torch.zeros(()), torch.zeros(())
    for i, own in enumerate(cluster):
        own_cosine = embeddings[i] @ centroids[own]
        sums = {"between": torch.ones(()), "within": torch.ones(())}
        for j in range(len(centroids)):
            if j == own:
                continue
            term = "within" if class_of[j] == class_of[own] else "between"
            margin = (margins_within if term == "within" else margins_between)[i]
            target = angular_margin_cosine(own_cosine, margin)
            exponent = scale * (embeddings[i] @ centroids[j] - target)
            if log_prior is not None and term == "between":
                exponent = exponent + log_prior[j] - log_prior[own]
            sums[term] = sums[term] + torch.exp(exponent)
        between = between + torch.log(sums["between"]) / len(cluster)
        within = within + torch.log(sums["within"]) / len(cluster)
    return between, within


def batch_means(
    embeddings: Tensor, cluster_ids: Sequence[int], centroids: Tensor, momentum: float = 0.0
) -> dict[int, Tensor]:
    """Cluster of the batch -> its centroid in the loss."""
    result = {}
    for cluster in sorted(set(cluster_ids)):
        total, count = torch.zeros_like(centroids[0]), 0
        for embedding, its_cluster in zip(embeddings, cluster_ids, strict=True):
            if its_cluster == cluster:
                total, count = total + embedding, count + 1
        total = momentum * centroids[cluster] + (1 - momentum) * total / count
        length = total.norm()
        result[cluster] = total / length if float(length.detach()) > 1e-6 else centroids[cluster]
    return result


def running_means(
    centroids: Tensor, steps: Sequence[tuple[Tensor, Sequence[int]]], momentum: float
) -> Tensor:
    """Where clusters stand after steps of (embeddings, clusters)."""
    means = list(centroids)
    for embeddings, clusters in steps:
        for cluster in set(clusters):
            own = [e for e, c in zip(embeddings, clusters, strict=True) if c == cluster]
            moved = momentum * means[cluster] + (1 - momentum) * sum(own) / len(own)
            means[cluster] = moved / moved.norm()
    return torch.stack(means)


def running_covariance(steps: Sequence[tuple[Tensor, Tensor]], momentum: float) -> Tensor:
    """Pooled covariance after steps of (embeddings, centroid of the cluster of each)."""
    result = None
    for embeddings, centers in steps:
        outer = [torch.outer(e - c, e - c) for e, c in zip(embeddings, centers, strict=True)]
        of_step = sum(outer) / len(outer)
        result = of_step if result is None else momentum * result + (1 - momentum) * of_step
    assert isinstance(result, Tensor)
    return result


def isda_offsets(slopes: Tensor, covariance: Tensor, labels: Sequence[int]) -> Tensor:
    """Half the variance of each logit's lead over the sample's own."""
    table = []
    for label in labels:
        leads = [slope - slopes[label] for slope in slopes]
        table.append([0.5 * float(lead @ covariance @ lead) for lead in leads])
    return torch.tensor(table)


def blended(logits: Tensor, votes: Tensor) -> list[list[float]]:
    """Log of the product of two softmaxes."""
    rows = []
    for ours, theirs in zip(logits.tolist(), votes.tolist(), strict=True):
        a, b = ([math.exp(v) for v in row] for row in (ours, theirs))
        rows.append(
            [
                math.log(x / sum(a)) + (math.log(y / sum(b)) if y else -math.inf)
                for x, y in zip(a, b, strict=True)
            ]
        )
    return rows


def effective_number_weights(counts: Sequence[int], beta: float) -> list[float]:
    """Cui et al., CVPR 2019, equation 2: E_n = 1 + beta + ... + beta^(n-1); weight 1 / E_n."""
    raw = [1 / sum(beta**k for k in range(n)) for n in counts]
    return [weight * len(raw) / sum(raw) for weight in raw]


def weighted_cross_entropy(
    logits: Tensor, labels: Sequence[int], weights: Sequence[float]
) -> float:
    total, weight_sum = 0.0, 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        total += weights[label] * (log_sum - row[label])
        weight_sum += weights[label]
    return total / weight_sum


def focal(logits: Tensor, labels: Sequence[int], weights: Sequence[float], gamma: float) -> float:
    """Lin et al., ICCV 2017, equation 5, weighted by class."""
    total, weight_sum = 0.0, 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        p = math.exp(row[label]) / sum(math.exp(value) for value in row)
        total += weights[label] * -((1 - p) ** gamma) * math.log(p)
        weight_sum += weights[label]
    return total / weight_sum


def balanced_softmax(logits: Tensor, labels: Sequence[int], counts: Sequence[int]) -> float:
    total = 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        terms = [n * math.exp(value) for n, value in zip(counts, row, strict=True)]
        total -= math.log(terms[label] / sum(terms)) / len(labels)
    return total


def logit_adjusted(logits: Tensor, counts: Sequence[int], tau: float) -> list[list[float]]:
    """Menon et al., ICLR 2021, their post-hoc form; a class without images is never predicted."""
    return [
        [
            value - tau * math.log(n / sum(counts)) if n else -math.inf
            for value, n in zip(row, counts, strict=True)
        ]
        for row in logits.tolist()
    ]


def ldam(
    cosines: Tensor, labels: Sequence[int], counts: Sequence[int], *, largest: float, scale: float
) -> float:
    margins = [n**-0.25 for n in counts]
    margins = [margin * largest / max(margins) for margin in margins]
    total = 0.0
    for row, label in zip(cosines.tolist(), labels, strict=True):
        own = math.exp(scale * (row[label] - margins[label]))
        others = sum(math.exp(scale * c) for j, c in enumerate(row) if j != label)
        total -= math.log(own / (own + others)) / len(labels)
    return total


def nearest_images_vote(
    query: Tensor,
    rows: Tensor,
    labels: Sequence[int],
    k: int,
    scale: float,
    *,
    balanced: bool = False,
) -> int:
    """Wu et al., CVPR 2018, section 3.4; balanced: each sum over the images of its class."""
    cosines = [float(query @ row) for row in rows]
    nearest = sorted(range(len(rows)), key=lambda i: (-cosines[i], i))[:k]
    votes = {label: 0.0 for label in sorted(labels)}
    for i in nearest:
        votes[labels[i]] += math.exp(scale * cosines[i])
    if balanced:
        votes = {label: vote / list(labels).count(label) for label, vote in votes.items()}
    return max(votes, key=lambda label: votes[label])


def mean_pair_distance(embeddings: Tensor) -> float:
    """Mean of 1 - cosine over all ordered pairs, each with itself included."""
    pairs = [float(1 - a @ b) for a in embeddings for b in embeddings]
    return sum(pairs) / len(pairs)
