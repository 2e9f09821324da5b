"""Read-outs by a cluster table: k-nearest-cluster rules, class means, and a blend with the head.

Legend: N queries, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from clustering.table.knc import KncPrediction, Rule, knc_predict, nearest_class_mean_scores
from trainer.config.readout_names import BLEND, KNC_BALANCED, KNC_MARGIN, KNC_SOFT
from trainer.evaluation.readout import IntArray, Queries, needed

_RULES: Mapping[str, Rule] = {KNC_MARGIN: "margin", KNC_SOFT: "soft", KNC_BALANCED: "balanced"}


def nearest_clusters(name: str) -> Callable[[Queries], IntArray]:
    """The read-out of that name, by its rule of `clustering.table.knc`."""
    rule = _RULES[name]
    return lambda queries: queries.once(_by_rule).classes[rule]


def nearest_class_mean(queries: Queries) -> IntArray:
    """The class whose mean has the largest cosine."""
    (rows,) = queries.batches
    means = needed(queries.context.table).class_means()
    predicted: IntArray = nearest_class_mean_scores(rows, means).argmax(axis=1)
    return predicted


def blend(queries: Queries) -> IntArray:
    """The class to which linear head and clusters together give the largest probability."""
    votes = queries.once(_by_rule).scores["balanced"]
    logits = needed(needed(queries.output).logits).float().cpu()
    predicted: IntArray = blended_scores(logits, torch.from_numpy(votes)).argmax(dim=1).numpy()
    return predicted


def blended_scores(logits: Tensor, votes: Tensor) -> Tensor:
    """Log of the product of two classifiers' probabilities: either can veto, neither decides alone.

    Args:
        logits: (N, C) floating point, of the linear head.
        votes: (N, C) floating point log-densities of the classes (`clustering.table.knc`), -inf
            for a class without clusters.

    Returns:
        (N, C): sum of the log-softmax of both; only differences within a row count.
    """
    return logits.log_softmax(dim=1) + votes.log_softmax(dim=1)


def _by_rule(queries: Queries) -> KncPrediction:
    """Predictions by each wanted rule, and for the blend the (N, C) balanced votes; one search."""
    context, (rows,) = queries.context, queries.batches
    table = needed(context.table)
    rules = [rule for name, rule in _RULES.items() if name in queries.wanted]
    scored: list[Rule] = ["balanced"] if BLEND in queries.wanted else []
    return knc_predict(
        rows,
        table.centroids,
        table.class_of,
        num_classes=table.num_classes,
        rules=list(dict.fromkeys([*rules, *scored])),
        num_neighbours=context.config.num_neighbours,
        scale=context.config.soft_scale,
        scored=scored,
    )
