"""Slow, obvious twins of the clustering package: loops straight from the definitions."""

from __future__ import annotations

import math

import numpy as np


def unit_rows(rng: np.random.Generator, num_rows: int, dim: int) -> np.ndarray:
    rows = rng.normal(size=(num_rows, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def nearest(query: np.ndarray, centroids: np.ndarray, num_wanted: int) -> list[int]:
    """The clusters of largest cosine; the lower of equal ones first."""
    cosines = [float(query @ centroid) for centroid in centroids]
    return sorted(range(len(centroids)), key=lambda j: (-cosines[j], j))[:num_wanted]


def margin_scores(
    query: np.ndarray, centroids: np.ndarray, class_of: np.ndarray, num_classes: int, k: int
) -> list[float]:
    """LMLE: min over phi of D(q, m), m not of c, minus max over phi of D(q, m), m of c."""
    phi = nearest(query, centroids, k)
    scores = []
    for class_ in range(num_classes):
        distance = {j: math.sqrt(max(0.0, 2 - 2 * float(query @ centroids[j]))) for j in phi}
        of_class = [distance[j] for j in phi if class_of[j] == class_]
        of_others = [distance[j] for j in phi if class_of[j] != class_]
        if not of_class:
            scores.append(-math.inf)
        elif not of_others:
            scores.append(math.inf)
        else:
            scores.append(min(of_others) - max(of_class))
    return scores


def soft_scores(
    query: np.ndarray,
    centroids: np.ndarray,
    class_of: np.ndarray,
    num_classes: int,
    k: int,
    scale: float,
) -> list[float]:
    """log mean exp(scale * cos) over the clusters of a class among the k nearest."""
    phi = nearest(query, centroids, k)
    scores = []
    for class_ in range(num_classes):
        votes = [
            math.exp(scale * float(query @ centroids[j])) for j in phi if class_of[j] == class_
        ]
        scores.append(math.log(sum(votes) / len(votes)) if votes else -math.inf)
    return scores


def balanced_scores(
    query: np.ndarray,
    centroids: np.ndarray,
    class_of: np.ndarray,
    num_classes: int,
    k: int,
    scale: float,
) -> list[float]:
    """log mean exp(scale * cos) over the k nearest clusters of each class."""
    scores = []
    for class_ in range(num_classes):
        of_class = centroids[class_of == class_]
        cosines = sorted((float(query @ centroid) for centroid in of_class), reverse=True)[:k]
        votes = [math.exp(scale * cosine) for cosine in cosines]
        scores.append(math.log(sum(votes) / len(votes)) if votes else -math.inf)
    return scores


def greedy_places(centroids: np.ndarray, former: np.ndarray, num_candidates: int) -> list[int]:
    """The most similar two that are left are paired, of each new one's nearest earlier ones; those
    without a partner, or whose partner's place there is not, take the places left."""
    pairs = [
        (-float(centroid @ former[j]), i, j)
        for i, centroid in enumerate(centroids)
        for j in nearest(centroid, former, num_candidates)
    ]
    partner: dict[int, int] = {}
    for _, i, j in sorted(pairs):
        if i not in partner and j not in partner.values():
            partner[i] = j
    kept = {i: j for i, j in partner.items() if j < len(centroids)}
    left = [place for place in range(len(centroids)) if place not in kept.values()]
    return [kept[i] if i in kept else left.pop(0) for i in range(len(centroids))]


def neighbour_lists(
    centroids: np.ndarray, class_of: np.ndarray, num_neighbours: int, num_siblings: int
) -> tuple[list[list[int]], list[list[int]]]:
    """For each cluster its nearest of other classes and of its own class, without padding."""
    neighbours, siblings = [], []
    for j, centroid in enumerate(centroids):
        by_distance = nearest(centroid, centroids, len(centroids))
        others = [i for i in by_distance if class_of[i] != class_of[j]]
        own = [i for i in by_distance if class_of[i] == class_of[j] and i != j]
        neighbours.append(others[:num_neighbours])
        siblings.append(own[:num_siblings])
    return neighbours, siblings


def cluster_shapes(
    rows: np.ndarray, assignment: np.ndarray
) -> tuple[list[np.ndarray], list[float], list[float]]:
    """Of each cluster: the direction of its mean, its mean angle, the length of its mean."""
    centroids, spreads, concentrations = [], [], []
    for cluster in range(int(assignment.max()) + 1):
        members = [
            row.astype(np.float64) for row, j in zip(rows, assignment, strict=True) if j == cluster
        ]
        mean = sum(members) / len(members)
        length = math.sqrt(float(mean @ mean))
        centroid = mean / length if length > 1e-6 else members[0]
        angles = [math.acos(min(1.0, max(-1.0, float(row @ centroid)))) for row in members]
        centroids.append(centroid)
        spreads.append(sum(angles) / len(angles))
        concentrations.append(length)
    return centroids, spreads, concentrations


def lloyd(rows: np.ndarray, num_clusters: int, iterations: int, seed: int) -> float:
    """Spherical k-means from random rows; the mean cosine of rows and centroids in the end."""
    rng = np.random.default_rng(seed)
    centroids = [rows[i] for i in rng.choice(len(rows), num_clusters, replace=False)]
    for _ in range(iterations):
        assignment = [nearest(row, np.array(centroids), 1)[0] for row in rows]
        for j in range(num_clusters):
            members = [row for row, a in zip(rows, assignment, strict=True) if a == j]
            if members:
                mean = np.sum(members, axis=0)
                centroids[j] = mean / np.linalg.norm(mean)
    return sum(max(float(row @ c) for c in centroids) for row in rows) / len(rows)


def class_quality(
    class_of: np.ndarray, sizes: np.ndarray, concentration: np.ndarray, spread: np.ndarray
) -> list[tuple[float, float, float]]:
    """Of each class: mean cosine, largest / mean cluster, mean angle, of its samples one by one."""
    described = []
    for class_ in range(int(class_of.max()) + 1):
        own = [j for j in range(len(class_of)) if class_of[j] == class_]
        cosines = [float(concentration[j]) for j in own for _ in range(sizes[j])]
        angles = [float(spread[j]) for j in own for _ in range(sizes[j])]
        largest = max(int(sizes[j]) for j in own)
        described.append(
            (
                sum(cosines) / len(cosines),
                largest / (len(cosines) / len(own)),
                sum(angles) / len(angles),
            )
        )
    return described


def churn(old: list[list[int]], new: list[list[int]]) -> float:
    """Share of the common samples outside the largest part that their new cluster shares with an
    old one."""
    common = {i for cluster in old for i in cluster} & {i for cluster in new for i in cluster}
    if not common:
        return 1.0
    kept = sum(max(len(common & set(cluster) & set(older)) for older in old) for cluster in new)
    return 1.0 - kept / len(common)
