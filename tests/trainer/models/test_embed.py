"""Embedding a shard is embedding its images, whoever does it and however they are grouped."""

import copy

import numpy as np
import pytest
import torch

from data_shards.shards.reader import read_shard
from tests.helpers.image_files import files_of
from trainer.models import embed
from trainer.models.embed import decode_batch, embed_images, embed_shard

LABELS = {"shape": "shape", "parity": "parity"}


def shard(network, manifest, number=0, *, split="train", batch_size=4, labels=LABELS):
    return embed_shard(network, manifest, number, split=split, batch_size=batch_size, labels=labels)


def one_at_a_time(network, manifest, number, task, split="train"):
    rows = []
    for sample in read_shard(manifest, split, number):
        outputs = embed_images(network, decode_batch([sample.image], network))
        rows.append(outputs[task].embedding.numpy()[0])
    return np.stack(rows)


def test_images_are_read_whatever_the_limits_of_their_import_were(tiny_network):
    assert decode_batch([files_of("AVIF")["RGB"]], tiny_network).shape[0] == 1


@pytest.mark.parametrize(("split", "number"), [("train", 0), ("train", 3), ("test", 1)])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_shard_equals_its_images_one_at_a_time(
    tiny_network, tiny_data, split, number, batch_size
):
    result = shard(tiny_network, tiny_data, number, split=split, batch_size=batch_size)
    for task in LABELS:
        expected = one_at_a_time(tiny_network, tiny_data, number, task, split)
        np.testing.assert_allclose(result[task].embeddings, expected, atol=1e-6)
        assert result[task].embeddings.dtype == np.float32
        lengths = np.linalg.norm(result[task].embeddings, axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_ids_and_labels_are_those_of_the_samples(tiny_network, tiny_data):
    result = shard(tiny_network, tiny_data, 1)
    samples = list(read_shard(tiny_data, "train", 1))
    for task, column in LABELS.items():
        assert result[task].ids.dtype == result[task].labels.dtype == np.int64
        assert result[task].ids.tolist() == [sample.id for sample in samples]
        assert result[task].labels.tolist() == [sample.labels[column] for sample in samples]


def test_tasks_have_embeddings_of_their_own(tiny_network, tiny_data):
    result = shard(tiny_network, tiny_data)
    assert not np.allclose(result["shape"].embeddings, result["parity"].embeddings)
    only = shard(tiny_network, tiny_data, labels={"parity": "parity"})
    assert list(only) == ["parity"]
    np.testing.assert_array_equal(only["parity"].embeddings, result["parity"].embeddings)


def test_batches_start_anew_with_each_shard(tiny_network, tiny_data, monkeypatch):
    sizes = []

    def noting(network, images):
        sizes.append(len(images))
        return embed_images(network, images)

    monkeypatch.setattr(embed, "embed_images", noting)
    for number, info in enumerate(tiny_data.split("train").shards):
        sizes.clear()
        shard(tiny_network, tiny_data, number, batch_size=5)
        full, rest = divmod(info.num_samples, 5)
        assert sizes == [5] * full + [rest] * (rest > 0)


def test_embedding_twice_gives_the_same_bytes(tiny_network, tiny_data):
    first, again = (shard(tiny_network, tiny_data, 2)["shape"].embeddings for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_embedding_leaves_the_network_alone(tiny_network, tiny_data):
    before = {name: tensor.clone() for name, tensor in tiny_network.state_dict().items()}
    result = shard(tiny_network, tiny_data)["shape"].embeddings
    assert isinstance(result, np.ndarray)
    for name, tensor in tiny_network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_network_of_half_precision_gives_floats(tiny_network, tiny_data):
    half = copy.deepcopy(tiny_network).bfloat16()
    result = shard(half, tiny_data)["shape"].embeddings
    assert result.dtype == np.float32
    cosines = (result * shard(tiny_network, tiny_data)["shape"].embeddings).sum(axis=1)
    assert cosines.min() > 0.99
