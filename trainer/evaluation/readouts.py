"""Read-outs: the ways to turn an embedding into a class.

Legend: N queries, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clustering.knc import Rule, knc_predict, knc_scores, nearest_class_mean_scores
from clustering.table import ClusterTable
from data_shards.embeddings import EmbeddingShards
from trainer.evaluation.knn import neighbour_readouts, predict_by_images
from trainer.evaluation.readout_names import (
    BLEND,
    HEAD,
    HEAD_ADJUSTED,
    HEAD_RETRAINED,
    HEAD_TAU,
    KNC_BALANCED,
    KNC_MARGIN,
    KNC_SOFT,
    NEAREST_CLASS_MEAN,
)
from trainer.losses.softmax import log_priors
from trainer.models.network import Network, TaskOutput
from trainer.sections import EvaluationConfig

_RULES: Mapping[str, Rule] = {KNC_MARGIN: "margin", KNC_SOFT: "soft"}


def readouts(
    table: ClusterTable | None,
    config: EvaluationConfig,
    network: Network,
    *,
    has_training: bool = False,
) -> list[str]:
    """Names of the read-outs that `predict` gives, in its order.

    Args:
        table: the task's clusters, or None.
        config: settings of the read-outs.
        network: its classifiers count.
        has_training: whether the training images' embeddings are at hand.
    """
    names = [*_RULES, KNC_BALANCED, NEAREST_CLASS_MEAN] if table is not None else []
    if network.has_linear_classifier and table is not None:
        names.append(BLEND)
    if has_training:
        names += neighbour_readouts(config)
    if network.has_classifier:
        names.append(HEAD)
    if network.has_linear_classifier and config.tau > 0:
        names.append(HEAD_TAU)
    if network.has_linear_classifier and config.head_adjustment > 0:
        names.append(HEAD_ADJUSTED)
    if network.has_retrained:
        names.append(HEAD_RETRAINED)
    return names


def predict(
    output: TaskOutput,
    table: ClusterTable | None,
    config: EvaluationConfig,
    *,
    class_counts: npt.NDArray[np.int64],
    training: EmbeddingShards | None = None,
    tau_logits: Tensor | None = None,
) -> Mapping[str, np.ndarray]:
    """Predict the class of each query by every read-out that is possible.

    Args:
        output: one task's forward pass.
        table: the task's clusters; None leaves only the classifiers.
        config: settings of the read-outs.
        class_counts: (C,) training images of each class.
        training: embeddings of the training images, if a read-out by the nearest is wanted.
        tau_logits: (N, C) of the linear head with evened norms (`TaskHead.tau_logits`), if wanted.

    Returns:
        read-out -> (N,) int64 predicted classes.
    """
    predictions: dict[str, np.ndarray] = {}
    queries = output.embedding.float().cpu().numpy()
    linear = output.logits if output.class_vectors is None else None
    if table is not None:
        predictions |= _by_table(queries, table, config, linear)
    if training is not None:
        predictions |= predict_by_images(
            queries, training, class_counts=class_counts, config=config
        )
    adjusted = None
    if linear is not None and config.head_adjustment > 0:
        adjusted = adjusted_logits(linear, class_counts, config.head_adjustment)
    logits = {
        HEAD: output.logits,
        HEAD_TAU: tau_logits,
        HEAD_ADJUSTED: adjusted,
        HEAD_RETRAINED: output.retrained_logits,
    }
    return predictions | {
        readout: scores.argmax(dim=1).cpu().numpy()
        for readout, scores in logits.items()
        if scores is not None
    }


def _by_table(
    queries: npt.NDArray[np.float32],
    table: ClusterTable,
    config: EvaluationConfig,
    linear: Tensor | None,
) -> dict[str, np.ndarray]:
    """Read-outs by a table; with (N, C) logits of a linear head, also the blend of both."""
    settings: dict[str, Any] = {
        "num_classes": table.num_classes,
        "num_neighbours": config.num_neighbours,
        "scale": config.soft_scale,
    }
    clusters = (table.centroids, table.class_of)
    predictions: dict[str, np.ndarray] = {
        readout: knc_predict(queries, *clusters, rule=rule, **settings)
        for readout, rule in _RULES.items()
    }
    votes = knc_scores(queries, *clusters, rule="balanced", **settings)
    predictions[KNC_BALANCED] = votes.argmax(axis=1)
    by_mean = nearest_class_mean_scores(queries, table.class_means())
    predictions[NEAREST_CLASS_MEAN] = by_mean.argmax(axis=1)
    if linear is not None:
        blended = blended_scores(linear.float().cpu(), torch.from_numpy(votes))
        predictions[BLEND] = blended.argmax(dim=1).numpy()
    return predictions


def blended_scores(logits: Tensor, votes: Tensor) -> Tensor:
    """Log of the product of two classifiers' probabilities: each has a veto, neither the last word.

    Args:
        logits: (N, C) floating point, of the linear head.
        votes: (N, C) floating point log-densities of the classes (`clustering.knc`), -inf for a
            class without clusters.

    Returns:
        (N, C): sum of the log-softmax of both; of each row, only differences count.
    """
    return logits.log_softmax(dim=1) + votes.log_softmax(dim=1)


def adjusted_logits(logits: Tensor, class_counts: npt.NDArray[np.int64], strength: float) -> Tensor:
    """Take the imbalance of the training images out of a classifier's logits.

    Post-hoc logit adjustment (Menon et al., ICLR 2021).

    Args:
        logits: (N, C) floating point, trained without an adjustment.
        class_counts: (C,) training images of each class, at least one above 0.
        strength: tau, >= 0; 1 makes up for the imbalance where the logits are calibrated.

    Returns:
        (N, C) float32: logits less tau times the log of the class's share of the training images;
        -inf for a class without any, whose logit nothing has taught to be high.
    """
    log_shares = log_priors(class_counts).to(logits.device)
    adjusted = logits.float() - strength * log_shares
    return adjusted.masked_fill(log_shares.isneginf(), -torch.inf)
