"""Data and a network that several tests read, and none changes."""

import pytest
import torch

from data_shards.shards.index import SampleIndex
from tests.helpers.tiny_data import write_tiny_data
from trainer.models import build_network


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """45 training and 21 test images in shards of 13; the manifest."""
    return write_tiny_data(tmp_path_factory.mktemp("tiny_data"))


@pytest.fixture(scope="session")
def train_index(tiny_data):
    return SampleIndex(tiny_data, "train")


@pytest.fixture(scope="session")
def tiny_network():
    torch.manual_seed(0)
    network = build_network(
        "tiny",
        channels=1,
        input_size=8,
        embedding_dim=8,
        num_classes={"shape": 4, "parity": 2},
    )
    return network.eval()
