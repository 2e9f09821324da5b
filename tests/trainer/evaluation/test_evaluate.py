"""Evaluation in parts equals evaluation in one piece, to the last count."""

import dataclasses
import threading

import numpy as np
import pytest

from data_shards.errors import DataError
from data_shards.features.embeddings import EmbeddingShards
from data_shards.shards.index import SampleIndex
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.embedding_shards import labelled_rows, write_shards
from tests.helpers.tiny_data import spoil_image, write_tiny_data
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.evaluation.evaluate import count_batches, evaluation_batches
from trainer.evaluation.readout import TaskContext
from trainer.evaluation.registry import predict, predict_by_training_images
from trainer.models.embed import decode_batch, embed_images

TASKS = (TaskConfig(name="shape", label="shape"), TaskConfig(name="parity", label="parity"))
TABLES = {
    "shape": tiny_table(task="shape", clusters_per_class=(2, 1, 3, 1), dim=8),
    "parity": tiny_table(task="parity", clusters_per_class=(2, 2), dim=8),
}
COUNTS = {"shape": np.array([9, 5, 3, 1]), "parity": np.array([12, 6])}
BY_TABLE = ["knc_margin", "knc_soft", "knc_balanced", "ncm", "blend"]
WITHOUT_TABLE = ["knn", "knn_balanced", "head", "head_adjusted"]
READOUT_ORDER = [*BY_TABLE, *WITHOUT_TABLE]
CONFIG = EvaluationConfig(
    batch_size=4, num_neighbours=3, knn=3, knn_balanced=7, head_adjustment=1.0
)


@pytest.fixture(scope="module")
def test_index(tiny_data):
    return SampleIndex(tiny_data, "test")


@pytest.fixture(scope="module")
def batches(tiny_data):
    return evaluation_batches(tiny_data.split("test"), CONFIG.batch_size)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    return {
        task: EmbeddingShards.open(write_shards(folder / task, *labelled_rows(sizes, dim=8)))
        for task, sizes in COUNTS.items()
    }


@pytest.fixture
def count(tiny_network, test_index, training):
    def count(share, *, tables=TABLES, index=test_index, reader_threads=1):
        return count_batches(
            tiny_network,
            index,
            share,
            tasks=TASKS,
            tables=tables,
            config=CONFIG,
            class_counts=COUNTS,
            training=training,
            reader_threads=reader_threads,
        )

    return count


def as_lists(counts):
    return {key: (c.correct.tolist(), c.total.tolist()) for key, c in counts.items()}


def test_batches_cover_the_split_and_end_at_the_borders_of_shards(tiny_data):
    # 21 test images in shards of 13 and 8.
    split = tiny_data.split("test")
    assert evaluation_batches(split, 5) == [(0, 5), (5, 10), (10, 13), (13, 18), (18, 21)]
    assert evaluation_batches(split, 13) == [(0, 13), (13, 21)]
    assert evaluation_batches(split, 1000) == [(0, 13), (13, 21)]
    assert evaluation_batches(split, 1) == [(n, n + 1) for n in range(21)]


def test_an_empty_shard_gives_no_batch(tiny_data):
    split = tiny_data.split("test")
    empty = dataclasses.replace(split.shards[0], num_samples=0)
    shards = (empty, *split.shards, empty)
    with_empty = dataclasses.replace(split, shards=shards)
    assert evaluation_batches(with_empty, 5) == evaluation_batches(split, 5)


def test_every_image_is_counted_once_for_each_task_and_read_out(count, batches, tiny_data):
    counts = count(batches)
    assert list(counts) == [(task.name, readout) for task in TASKS for readout in READOUT_ORDER]
    for (task, _), found in counts.items():
        expected = tiny_data.class_counts("test", task)
        assert found.total.tolist() == expected.tolist()
        assert 0 < found.correct.sum() <= found.total.sum()


@pytest.mark.parametrize("num_workers", [2, 3, 4, 6, 11])
def test_any_split_of_the_batches_adds_up_to_one_process(count, batches, num_workers):
    assert len(batches) == 6
    total = count([])
    for worker in range(num_workers):
        share = count(batches[worker::num_workers])
        assert list(share) == list(total)
        total = {key: total[key] + share[key] for key in total}
    assert as_lists(total) == as_lists(count(batches))


def test_an_empty_share_has_all_keys_and_no_counts(count):
    counts = count([])
    assert list(counts) == [(task.name, readout) for task in TASKS for readout in READOUT_ORDER]
    assert {name: len(c.total) for (name, _), c in counts.items()} == {"shape": 4, "parity": 2}
    assert sum(c.total.sum() + c.correct.sum() for c in counts.values()) == 0


def test_counts_are_those_of_the_images_one_at_a_time(
    count, batches, tiny_network, test_index, training
):
    correct = {(task.name, readout): 0 for task in TASKS for readout in READOUT_ORDER}
    for position, sample_id in enumerate(test_index.ids):
        image = decode_batch([test_index.read(int(sample_id))], tiny_network)
        outputs = embed_images(tiny_network, image)
        for task in TASKS:
            label = test_index.labels(task.label)[position]
            context = TaskContext(
                head=tiny_network.head(task.name),
                config=CONFIG,
                class_counts=COUNTS[task.name],
                table=TABLES[task.name],
                training=training[task.name],
            )
            predictions = predict(context, outputs[task.name]) | predict_by_training_images(
                context, [outputs[task.name].embedding.numpy()]
            )
            for name, found in predictions.items():
                correct[task.name, name] += int(found[0] == label)
    assert {key: c.correct.sum() for key, c in count(batches).items()} == correct


@pytest.mark.parametrize(
    ("most", "searches"),
    [(1000, [21]), (9, [8, 9, 4]), (4, [4, 4, 4, 1, 4, 4]), (1, [4, 4, 4, 1, 4, 4])],
)
def test_one_search_is_for_as_many_images_as_may_wait(count, batches, monkeypatch, most, searches):
    expected, rows = count(batches), []

    def search(context, queries):
        rows.append(sum(map(len, queries)))
        return predict_by_training_images(context, queries)

    monkeypatch.setattr("trainer.evaluation.evaluate.predict_by_training_images", search)
    # An image has an embedding for each task, and 7 neighbours with their classes.
    monkeypatch.setattr("trainer.evaluation.knn._HELD_ENTRIES", most * (len(TASKS) * 8 + 3 * 7))
    assert as_lists(count(batches)) == as_lists(expected)
    assert rows == [number for number in searches for _ in TASKS]


def test_a_task_without_a_table_is_read_out_by_its_head(count, batches):
    counts = count(batches, tables={"shape": TABLES["shape"]})
    assert [readout for task, readout in counts if task == "shape"] == READOUT_ORDER
    assert [readout for task, readout in counts if task == "parity"] == WITHOUT_TABLE


class NotedReads:
    """An index that notes what is read and wakes those who wait for it."""

    def __init__(self, index):
        self.ids, self.labels, self._index = index.ids, index.labels, index
        self.read_ids, self._changed = [], threading.Condition()

    def read(self, sample_id):
        with self._changed:
            self.read_ids.append(sample_id)
            self._changed.notify_all()
        return self._index.read(sample_id)

    def wait_for(self, sample_ids):
        wanted = set(sample_ids.tolist())
        with self._changed:
            assert self._changed.wait_for(lambda: wanted <= set(self.read_ids), timeout=20)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_next_batches_are_read_while_the_network_works(
    count, batches, test_index, monkeypatch, threads
):
    index, done = NotedReads(test_index), []

    def embed(network, images):
        done.append(len(images))
        ahead = batches[: len(done) + threads]
        index.wait_for(test_index.ids[: ahead[-1][1]])
        assert len(index.read_ids) == ahead[-1][1], "and no more than that"
        return embed_images(network, images)

    monkeypatch.setattr("trainer.evaluation.evaluate.embed_images", embed)
    read_ahead = count(batches, index=index, reader_threads=threads)
    assert done == [stop - start for start, stop in batches]
    monkeypatch.undo()
    assert as_lists(read_ahead) == as_lists(count(batches, reader_threads=0))


@pytest.mark.parametrize("threads", [0, 2])
def test_a_failure_of_the_network_ends_the_threads(count, batches, monkeypatch, threads):
    def embed(network, images):
        names = [thread.name for thread in threading.enumerate()]
        assert sum(name.startswith("evaluation") for name in names) == threads
        raise MemoryError

    monkeypatch.setattr("trainer.evaluation.evaluate.embed_images", embed)
    with pytest.raises(MemoryError):
        count(batches, reader_threads=threads)
    assert not any(thread.name.startswith("evaluation") for thread in threading.enumerate())


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_image_that_cannot_be_read_is_found_by_its_neighbours(tmp_path, tiny_network, threads):
    manifest = write_tiny_data(tmp_path, train=(1, 1, 1, 1), test=(3, 2, 2, 2))
    spoil_image(manifest, "test", 9)
    spoil_image(manifest, "test", 12)  # the first of them is named
    with pytest.raises(DataError, match="among samples 8 to 11: not an image"):
        count_batches(
            tiny_network,
            SampleIndex(manifest, "test"),
            evaluation_batches(manifest.split("test"), 4),
            tasks=TASKS,
            tables={},
            config=CONFIG,
            class_counts=COUNTS,
            reader_threads=threads,
        )


def test_one_image_is_a_split(tmp_path, tiny_network):
    manifest = write_tiny_data(tmp_path, train=(1, 1, 1, 1), test=(0, 1, 0, 0))
    counts = count_batches(
        tiny_network,
        SampleIndex(manifest, "test"),
        evaluation_batches(manifest.split("test"), 256),
        tasks=TASKS,
        tables=TABLES,
        config=CONFIG,
        class_counts=COUNTS,
    )
    assert counts["shape", "head"].total.tolist() == [0, 1, 0, 0]
    assert np.isnan(counts["shape", "head"].per_class_recall).tolist() == [True, False, True, True]
