"""Read-outs: the ways to turn an embedding into a class.

Legend: N queries, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from clustering.knc import Rule, knc_predict, nearest_class_mean_scores
from clustering.table import ClusterTable
from data_shards.embeddings import EmbeddingShards
from trainer.evaluation.neighbours import knn_predict
from trainer.models.network import Network, TaskOutput
from trainer.sections import EvaluationConfig

KNC_MARGIN = "knc_margin"
KNC_SOFT = "knc_soft"
KNC_BALANCED = "knc_balanced"
NEAREST_CLASS_MEAN = "ncm"
NEAREST_IMAGES = "knn"
HEAD = "head"
HEAD_TAU = "head_tau"
HEAD_RETRAINED = "head_crt"

_RULES: Mapping[str, Rule] = {KNC_MARGIN: "margin", KNC_SOFT: "soft", KNC_BALANCED: "balanced"}


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
    names = [*_RULES, NEAREST_CLASS_MEAN] if table is not None else []
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
        predictions |= _by_table(queries, table, config)
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
    queries: np.ndarray, table: ClusterTable, config: EvaluationConfig
) -> dict[str, np.ndarray]:
    predictions: dict[str, np.ndarray] = {
        readout: knc_predict(
            queries,
            table.centroids,
            table.class_of,
            num_classes=table.num_classes,
            rule=rule,
            num_neighbours=config.num_neighbours,
            scale=config.soft_scale,
        )
        for readout, rule in _RULES.items()
    }
    scores = nearest_class_mean_scores(queries, table.class_means())
    predictions[NEAREST_CLASS_MEAN] = scores.argmax(axis=1)
    return predictions
