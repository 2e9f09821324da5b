"""Read-outs: the ways to turn an embedding into a class.

Legend: N queries, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clustering.table.knc import Rule, knc_predict, nearest_class_mean_scores
from clustering.table.table import ClusterTable
from trainer.config.readout_names import (
    BLEND,
    HEAD,
    HEAD_ADJUSTED,
    HEAD_RETRAINED,
    HEAD_TAU,
    KNC_BALANCED,
    KNC_MARGIN,
    KNC_SOFT,
    NEAREST_CLASS_MEAN,
    READOUTS,
)
from trainer.config.sections import EvaluationConfig
from trainer.evaluation.knn import neighbour_readouts
from trainer.losses.outputs import TaskOutput
from trainer.losses.softmax import log_priors
from trainer.models.network import Network

_RULES: Mapping[str, Rule] = {KNC_MARGIN: "margin", KNC_SOFT: "soft", KNC_BALANCED: "balanced"}


def readouts(
    table: ClusterTable | None,
    config: EvaluationConfig,
    network: Network,
    *,
    has_training: bool = False,
) -> list[str]:
    """Names of the read-outs that are possible: those of `predict` and of `predict_by_images`.

    Args:
        table: the task's clusters, or None.
        config: settings of the read-outs.
        network: its classifiers count.
        has_training: whether the training images' embeddings are at hand.
    """
    names = [*_RULES, NEAREST_CLASS_MEAN] if table is not None else []
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
    tau_logits: Tensor | None = None,
    wanted: Collection[str] = READOUTS,
) -> Mapping[str, np.ndarray]:
    """Predict the class of each query by the read-outs that are possible without training images.

    Args:
        output: one task's forward pass.
        table: the task's clusters; None leaves only the classifiers.
        config: settings of the read-outs.
        class_counts: (C,) training images of each class.
        tau_logits: (N, C) of the linear head with evened norms (`TaskHead.tau_logits`), if wanted.
        wanted: nothing is computed for others.

    Returns:
        read-out -> (N,) int64 predicted classes.
    """
    predictions: dict[str, np.ndarray] = {}
    linear = output.logits if output.class_vectors is None else None
    if table is not None:
        queries = output.embedding.float().cpu().numpy()
        predictions |= _by_table(queries, table, config, linear, wanted)
    adjusted = None
    if linear is not None and config.head_adjustment > 0 and HEAD_ADJUSTED in wanted:
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
        if scores is not None and readout in wanted
    }


def _by_table(
    queries: npt.NDArray[np.float32],
    table: ClusterTable,
    config: EvaluationConfig,
    linear: Tensor | None,
    wanted: Collection[str],
) -> dict[str, np.ndarray]:
    """Read-outs by a table; with (N, C) logits of a linear head, also the blend of both."""
    rules = {rule: readout for readout, rule in _RULES.items() if readout in wanted}
    scores: dict[Rule, npt.NDArray[np.float32]] = {}
    if linear is not None and BLEND in wanted:
        rules["balanced"] = KNC_BALANCED
        scores["balanced"] = np.empty((len(queries), table.num_classes), np.float32)
    predictions: dict[str, np.ndarray] = {}
    if rules:
        found = knc_predict(
            queries,
            table.centroids,
            table.class_of,
            num_classes=table.num_classes,
            rules=rules,
            num_neighbours=config.num_neighbours,
            scale=config.soft_scale,
            scores=scores,
        )
        predictions = {rules[rule]: by_rule for rule, by_rule in found.items()}
    if NEAREST_CLASS_MEAN in wanted:
        by_mean = nearest_class_mean_scores(queries, table.class_means())
        predictions[NEAREST_CLASS_MEAN] = by_mean.argmax(axis=1)
    if linear is not None and scores:
        blended = blended_scores(linear.float().cpu(), torch.from_numpy(scores["balanced"]))
        predictions[BLEND] = blended.argmax(dim=1).numpy()
    return {readout: found for readout, found in predictions.items() if readout in wanted}


def blended_scores(logits: Tensor, votes: Tensor) -> Tensor:
    """Log of the product of two classifiers' probabilities: each has a veto, neither the last word.

    Args:
        logits: (N, C) floating point, of the linear head.
        votes: (N, C) floating point log-densities of the classes (`clustering.table.knc`), -inf
            for a class without clusters.

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
