"""Images -> embeddings, for clustering and for evaluation.

Legend: N images, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from data_shards.images.limits import SHARD_LIMITS
from data_shards.images.transforms import decode_image, to_float
from data_shards.shards.manifest import Manifest
from data_shards.shards.reader import read_shard
from data_shards.shards.sample import Sample
from trainer.losses.outputs import TaskOutput
from trainer.models.network import Network


@dataclass(frozen=True)
class ShardEmbeddings:
    """One task's embeddings of one shard."""

    embeddings: np.ndarray
    """(N, D) float32 unit rows."""
    ids: np.ndarray
    """(N,) int64 sample ids."""
    labels: np.ndarray
    """(N,) int64 classes in this task."""


def decode_batch(images: Iterable[bytes], network: Network) -> np.ndarray:
    """Image files of shards -> (N, size, size, channels) uint8, as the network takes them."""
    size, channels = network.input_size, network.channels
    return np.stack(
        [decode_image(i, size=size, channels=channels, limits=SHARD_LIMITS) for i in images]
    )


@torch.inference_mode()
def embed_images(network: Network, images: np.ndarray) -> dict[str, TaskOutput]:
    """One forward pass in evaluation mode.

    Args:
        network: in evaluation mode, on any device, in float32 or bfloat16.
        images: (N, size, size, channels) uint8.

    Returns:
        Each task's output, on the network's device.
    """
    parameter = next(network.parameters())
    batch = torch.from_numpy(to_float(images)).to(parameter.device, parameter.dtype)
    outputs: dict[str, TaskOutput] = network(batch)
    return outputs


def embed_shard(
    network: Network,
    manifest: Manifest,
    shard_number: int,
    *,
    split: str,
    batch_size: int,
    labels: Mapping[str, str],
) -> dict[str, ShardEmbeddings]:
    """Embed one shard, read in order.

    No batch crosses shards, so the result does not depend on which worker embeds which shard.

    Args:
        network: in evaluation mode.
        manifest: the shards.
        shard_number: which of the split's shards.
        split: of the data.
        batch_size: images per forward pass.
        labels: task -> its label column.
    """
    ids: list[int] = []
    classes: dict[str, list[int]] = {task: [] for task in labels}
    parts: dict[str, list[np.ndarray]] = {task: [] for task in labels}
    for batch in _batched(read_shard(manifest, split, shard_number), batch_size):
        outputs = embed_images(network, decode_batch((s.image for s in batch), network))
        ids += [sample.id for sample in batch]
        for task, column in labels.items():
            parts[task].append(outputs[task].embedding.float().cpu().numpy())
            classes[task] += [sample.labels[column] for sample in batch]
    empty = np.empty((0, network.embedding_dim), np.float32)
    return {
        task: ShardEmbeddings(
            embeddings=np.concatenate([empty, *parts[task]]),
            ids=np.array(ids, np.int64),
            labels=np.array(classes[task], np.int64),
        )
        for task in labels
    }


def _batched(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    iterator = iter(samples)
    while batch := list(islice(iterator, size)):
        yield batch
