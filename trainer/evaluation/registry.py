"""All read-outs. A new one is a function, in a file of its own, and an entry in `READ_OUTS`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from trainer.config import readout_names as names
from trainer.config.sections import EvaluationConfig
from trainer.evaluation.cluster_readouts import blend, nearest_class_mean, nearest_clusters
from trainer.evaluation.head_readouts import head, head_adjusted, head_retrained, head_tau
from trainer.evaluation.knn import nearest_images_balanced_vote, nearest_images_vote
from trainer.evaluation.readout import (
    FloatArray,
    IntArray,
    Need,
    Queries,
    ReadOut,
    TaskContext,
)
from trainer.losses.outputs import TaskOutput

_TABLE = frozenset({Need.TABLE})
_LINEAR = frozenset({Need.LINEAR_CLASSIFIER})
_TRAINING = frozenset({Need.TRAINING_EMBEDDINGS})

READ_OUTS: dict[str, ReadOut] = {
    readout.name: readout
    for readout in (
        ReadOut(name=names.KNC_MARGIN, needs=_TABLE, predict=nearest_clusters(names.KNC_MARGIN)),
        ReadOut(name=names.KNC_SOFT, needs=_TABLE, predict=nearest_clusters(names.KNC_SOFT)),
        ReadOut(
            name=names.KNC_BALANCED, needs=_TABLE, predict=nearest_clusters(names.KNC_BALANCED)
        ),
        ReadOut(name=names.NEAREST_CLASS_MEAN, needs=_TABLE, predict=nearest_class_mean),
        ReadOut(name=names.BLEND, needs=_TABLE | _LINEAR, predict=blend),
        ReadOut(
            name=names.NEAREST_IMAGES,
            needs=_TRAINING,
            predict=nearest_images_vote,
            is_enabled=lambda config: config.knn > 0,
        ),
        ReadOut(
            name=names.NEAREST_IMAGES_BALANCED,
            needs=_TRAINING,
            predict=nearest_images_balanced_vote,
            is_enabled=lambda config: config.knn_balanced > 0,
        ),
        ReadOut(name=names.HEAD, needs=frozenset({Need.CLASSIFIER}), predict=head),
        ReadOut(
            name=names.HEAD_TAU,
            needs=_LINEAR,
            predict=head_tau,
            is_enabled=lambda config: config.tau > 0,
        ),
        ReadOut(
            name=names.HEAD_ADJUSTED,
            needs=_LINEAR,
            predict=head_adjusted,
            is_enabled=lambda config: config.head_adjustment > 0,
        ),
        ReadOut(
            name=names.HEAD_RETRAINED,
            needs=frozenset({Need.RETRAINED_CLASSIFIER}),
            predict=head_retrained,
        ),
    )
}
"""Name -> read-out, in the order in which an evaluation shows them."""


def available_readouts(context: TaskContext) -> list[str]:
    """Names of the read-outs that a task has."""
    return [name for name, readout in READ_OUTS.items() if readout.is_available(context)]


def neighbour_readouts(config: EvaluationConfig) -> list[str]:
    """Names of the read-outs by training images that a configuration asks for."""
    return [n for n, r in READ_OUTS.items() if by_training_images(n) and r.is_enabled(config)]


def by_training_images(name: str) -> bool:
    """Whether a read-out needs the embeddings of the training images; False for unknown names."""
    return name in READ_OUTS and Need.TRAINING_EMBEDDINGS in READ_OUTS[name].needs


def predict(
    context: TaskContext, output: TaskOutput, wanted: Collection[str] | None = None
) -> dict[str, IntArray]:
    """Classify images by all read-outs but those by training images.

    Args:
        context: of the task.
        output: the task's forward pass of N images.
        wanted: nothing is computed for other read-outs; None = all that the task has.

    Returns:
        Read-out -> (N,) int64 predicted classes.
    """
    chosen = [n for n in available_readouts(context) if not by_training_images(n)]
    if wanted is not None:
        chosen = [name for name in chosen if name in wanted]
    rows = output.embedding.float().cpu().numpy()
    queries = Queries(context=context, wanted=chosen, batches=[rows], output=output)
    return {name: READ_OUTS[name].predict(queries) for name in chosen}


def predict_by_training_images(
    context: TaskContext, batches: Sequence[FloatArray]
) -> dict[str, IntArray]:
    """Classify images by the read-outs by training images; reads these once.

    A batch gets the same classes, and the same votes to the last bit, whatever other batches there
    are: so any split of the images over workers gives the same counts.

    Args:
        context: of the task.
        batches: (n, D) float32 unit rows each, n <= `config.batch_size`; N rows in all.

    Returns:
        Read-out -> (N,) int64 predicted classes.
    """
    chosen = [name for name in available_readouts(context) if by_training_images(name)]
    queries = Queries(context=context, wanted=chosen, batches=batches, output=None)
    return {name: READ_OUTS[name].predict(queries) for name in chosen}
