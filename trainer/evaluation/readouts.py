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
from trainer.evaluation.neighbours import knn_predict
from trainer.models.network import Network, TaskOutput
from trainer.sections import EvaluationConfig

KNC_MARGIN = "knc_margin"
KNC_SOFT = "knc_soft"
KNC_BALANCED = "knc_balanced"
NEAREST_CLASS_MEAN = "ncm"
BLEND = "blend"
NEAREST_IMAGES = "knn"
HEAD = "head"
HEAD_TAU = "head_tau"
HEAD_RETRAINED = "head_crt"

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
        names.append(NEAREST_IMAGES)
    if network.has_classifier:
        names.append(HEAD)
    if network.has_linear_classifier and config.tau > 0:
        names.append(HEAD_TAU)
    if network.has_retrained:
        names.append(HEAD_RETRAINED)
    return names


def predict(
    output: TaskOutput,
    table: ClusterTable | None,
    config: EvaluationConfig,
    *,
    training: EmbeddingShards | None = None,
    tau_logits: Tensor | None = None,
) -> Mapping[str, np.ndarray]:
    """Predict the class of each query by every read-out that is possible.

    Args:
        output: one task's forward pass.
        table: the task's clusters; None leaves only the classifiers.
        config: settings of the read-outs.
        training: embeddings of the training images, if the read-out knn is wanted.
        tau_logits: (N, C) of the linear head with evened norms (`TaskHead.tau_logits`), if wanted.

    Returns:
        read-out -> (N,) int64 predicted classes.
    """
    predictions: dict[str, np.ndarray] = {}
    queries = output.embedding.float().cpu().numpy()
    if table is not None:
        linear = output.logits if output.class_vectors is None else None
        predictions |= _by_table(queries, table, config, linear)
    if training is not None:
        predictions[NEAREST_IMAGES] = knn_predict(
            queries, training, num_neighbours=config.knn, scale=config.soft_scale
        )
    logits = {
        HEAD: output.logits,
        HEAD_TAU: tau_logits,
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
