"""Read-outs: the ways to turn an embedding into a class.

Legend: N queries, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clustering.knc import Rule, knc_predict, nearest_class_mean_scores
from clustering.table import ClusterTable
from trainer.models.network import TaskOutput
from trainer.sections import EvaluationConfig

KNC_MARGIN = "knc_margin"
KNC_SOFT = "knc_soft"
KNC_BALANCED = "knc_balanced"
NEAREST_CLASS_MEAN = "ncm"
HEAD = "head"

_RULES: Mapping[str, Rule] = {KNC_MARGIN: "margin", KNC_SOFT: "soft", KNC_BALANCED: "balanced"}


def readouts(table: ClusterTable | None, *, has_head: bool) -> list[str]:
    """Names of the read-outs that `predict` gives for this table and network."""
    by_table = [*_RULES, NEAREST_CLASS_MEAN] if table is not None else []
    return by_table + ([HEAD] if has_head else [])


def predict(
    output: TaskOutput, table: ClusterTable | None, config: EvaluationConfig
) -> Mapping[str, np.ndarray]:
    """Predict the class of each query by every read-out that is possible.

    Args:
        output: one task's forward pass.
        table: the task's clusters; None leaves only the head.
        config: k and scale of the kNC rules.

    Returns:
        read-out -> (N,) int64 predicted classes.
    """
    predictions: dict[str, np.ndarray] = {}
    if table is not None:
        queries = output.embedding.float().cpu().numpy()
        for readout, rule in _RULES.items():
            predictions[readout] = knc_predict(
                queries,
                table.centroids,
                table.class_of,
                num_classes=table.num_classes,
                rule=rule,
                num_neighbours=config.num_neighbours,
                scale=config.soft_scale,
            )
        scores = nearest_class_mean_scores(queries, table.class_means())
        predictions[NEAREST_CLASS_MEAN] = scores.argmax(axis=1)
    if output.logits is not None:
        predictions[HEAD] = output.logits.argmax(dim=1).cpu().numpy()
    return predictions
