"""The loader serves what the plan says, in its order, however many threads read ahead."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_shards.errors import ConfigError, DataError
from data_shards.images.transforms import decode_image, to_float
from data_shards.shards.index import SampleIndex
from tests.helpers.image_files import files_of
from tests.helpers.tiny_data import spoil_image, write_tiny_data
from trainer.config.sections import DataConfig, ModelConfig
from trainer.sampling.batch_loader import BatchLoader, DecodedImages, PlannedBatch
from trainer.sampling.cluster_sampler import MicroBatchSamples

MODEL = ModelConfig(input_size=8, embedding_dim=8)
PLAIN = DataConfig(shift=0, reader_threads=0)


def planned(*sample_ids, seed=(0,)):
    ids = np.array(sample_ids)
    return PlannedBatch(MicroBatchSamples(ids, np.full(len(ids), -1), np.zeros_like(ids)), seed)


def plan(step):
    """Two micro-batches a step: of step 3, images 6, 7 and 7, 8."""
    first = 2 * step % 40
    return [
        planned(first, first + 1, seed=(step, 0)),
        planned(first + 1, first + 2, seed=(step, 1)),
    ]


def served(loader, count):
    try:
        return [loader.next() for _ in range(count)]
    finally:
        loader.close()


def ids(batches):
    return [batch.samples.sample_ids.tolist() for batch in batches]


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_batches_come_in_the_order_of_the_plan(train_index, threads):
    loader = BatchLoader(train_index, replace(PLAIN, reader_threads=threads), MODEL)
    loader.start(plan, first_step=3, end_step=6)
    assert ids(served(loader, 6)) == [[6, 7], [7, 8], [8, 9], [9, 10], [10, 11], [11, 12]]


def test_images_are_those_of_the_samples(train_index):
    loader = BatchLoader(train_index, PLAIN, MODEL)
    loader.start(plan, first_step=3, end_step=4)
    batch = served(loader, 1)[0]
    expected = [decode_image(train_index.read(i), size=8, channels=1) for i in (6, 7)]
    assert batch.images.dtype == torch.float32
    np.testing.assert_array_equal(batch.images.numpy(), to_float(np.stack(expected)))


def test_images_are_read_whatever_the_limits_of_their_import_were(train_index, monkeypatch):
    file = files_of("AVIF")["RGB"]
    monkeypatch.setattr(SampleIndex, "read", lambda *_: file)
    loader = BatchLoader(train_index, PLAIN, MODEL)
    loader.start(plan, first_step=3, end_step=4)
    assert served(loader, 1)[0].images.shape == (2, 1, 8, 8)


@pytest.mark.parametrize(("cached", "reads"), [(0, 8), (63, 8), (64, 7), (128, 6), (2**20, 4)])
def test_decoded_images_are_kept_as_far_as_there_is_room(train_index, monkeypatch, cached, reads):
    """Four images of 64 bytes, each wanted twice: what was kept at first is not read again."""
    read, asked = SampleIndex.read, []
    monkeypatch.setattr(SampleIndex, "read", lambda self, i: asked.append(i) or read(self, i))
    monkeypatch.setattr(
        "trainer.sampling.batch_loader.DecodedImages", lambda _: DecodedImages(cached)
    )
    loader = BatchLoader(train_index, PLAIN, MODEL)
    loader.start(lambda _: [planned(1, 2), planned(3, 4)], first_step=0, end_step=2)
    first, second, *again = served(loader, 4)
    assert len(asked) == reads
    for old, new in zip((first, second), again, strict=True):
        assert torch.equal(old.images, new.images)


def test_the_cache_is_set_in_mebibytes(train_index, monkeypatch):
    made = []
    monkeypatch.setattr("trainer.sampling.batch_loader.DecodedImages", made.append)
    BatchLoader(train_index, replace(PLAIN, cache_mib=3), MODEL).close()
    assert made == [3 * 2**20]
    with pytest.raises(ConfigError, match=r"data.cache_mib must be >= 0 MiB, got -1"):
        replace(PLAIN, cache_mib=-1)


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (8, 3)])
def test_images_have_the_shape_that_the_model_wants(train_index, size, channels):
    loader = BatchLoader(train_index, PLAIN, replace(MODEL, input_size=size, channels=channels))
    loader.start(plan, first_step=0, end_step=1)
    assert served(loader, 1)[0].images.shape == (2, channels, size, size)


def test_any_number_of_threads_gives_the_same_images(train_index):
    varied = DataConfig(shift=2, flip=True, prefetch_batches=3)
    of_threads = []
    for threads in (0, 1, 3):
        loader = BatchLoader(train_index, replace(varied, reader_threads=threads), MODEL)
        loader.start(plan, first_step=0, end_step=10)
        of_threads.append([batch.images for batch in served(loader, 20)])
    for images in of_threads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(of_threads[0], images, strict=True))


def test_all_that_is_random_follows_the_seed_of_the_batch(train_index):
    loader = BatchLoader(train_index, replace(PLAIN, shift=2), MODEL)
    batches = [planned(*range(12), seed=seed) for seed in ((1, 0), (1, 0), (1, 1))]
    loader.start(lambda step: batches, first_step=0, end_step=1)
    batches = served(loader, 3)
    first, same, other = (batch.images for batch in batches)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert batches[0].torch_seed == batches[1].torch_seed != batches[2].torch_seed


class GatedIndex:
    """An index that lets so many reads through, and notes what was asked for."""

    def __init__(self, index, *, permits):
        self._index = index
        self._gate = threading.Semaphore(permits)
        self.read_ids = []

    def open(self):
        self._gate.release(1000)

    def read(self, sample_id):
        self.read_ids.append(sample_id)
        assert self._gate.acquire(timeout=20)
        return self._index.read(sample_id)


def test_a_new_plan_drops_what_was_read_ahead(train_index):
    index = GatedIndex(train_index, permits=2)
    loader = BatchLoader(index, replace(PLAIN, reader_threads=1, prefetch_batches=3), MODEL)
    loader.start(plan, first_step=0, end_step=10)
    assert ids([loader.next()]) == [[0, 1]]
    loader.start(plan, first_step=10, end_step=11)
    index.open()
    assert ids(served(loader, 2)) == [[20, 21], [21, 22]]
    # The second batch may have been begun; the third and fourth were on their way too.
    assert set(index.read_ids) - {20, 21, 22} <= {0, 1, 2}


def test_only_so_many_batches_are_read_ahead(train_index):
    asked = []

    def noting_plan(step):
        asked.append(step)
        return plan(step)

    loader = BatchLoader(train_index, replace(PLAIN, reader_threads=1, prefetch_batches=3), MODEL)
    loader.start(noting_plan, first_step=0, end_step=100)
    assert asked == []
    loader.next()
    assert asked == [0, 1], "one batch served and three on the way, two a step"
    loader.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_a_missing_image_is_an_error_that_names_it(train_index, threads):
    loader = BatchLoader(train_index, replace(PLAIN, reader_threads=threads), MODEL)
    loader.start(lambda step: [planned(1, 999)], first_step=0, end_step=1)
    with pytest.raises(DataError, match="no sample 999"):
        served(loader, 1)


def test_an_image_that_is_none_is_named(tmp_path):
    manifest = write_tiny_data(tmp_path)
    spoil_image(manifest, "train", 7)
    loader = BatchLoader(SampleIndex(manifest, "train"), PLAIN, MODEL)
    loader.start(lambda step: [planned(6), planned(6, 7)], first_step=0, end_step=1)
    assert ids([loader.next()]) == [[6]]
    with pytest.raises(DataError, match=r"sample 7: not an image .*import again"):
        loader.next()


def test_an_error_concerns_only_the_batch_at_its_turn(train_index):
    loader = BatchLoader(train_index, replace(PLAIN, reader_threads=2), MODEL)
    loader.start(lambda step: [planned(1, 2), planned(999)], first_step=0, end_step=1)
    assert ids([loader.next()]) == [[1, 2]]
    with pytest.raises(DataError):
        served(loader, 1)


def test_closing_ends_the_threads(train_index):
    loader = BatchLoader(train_index, replace(PLAIN, reader_threads=2), MODEL)
    loader.start(plan, first_step=0, end_step=10)
    loader.next()
    assert any(t.name.startswith("batches") for t in threading.enumerate())
    loader.close()
    assert not any(t.name.startswith("batches") for t in threading.enumerate())
