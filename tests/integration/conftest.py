"""Data that several tests read, and none changes."""

import pytest

from tests.helpers.tiny_data import write_tiny_data


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory):
    """The folder of 45 training and 21 test images."""
    return write_tiny_data(tmp_path_factory.mktemp("tiny_data")).folder
