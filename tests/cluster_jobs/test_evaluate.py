from __future__ import annotations

import dataclasses
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cluster_jobs import embed, evaluate
from cluster_jobs.ray_cluster.executor import RayExecutor
from cluster_jobs.service.counting import batch_groups, count_split, count_works
from cluster_jobs.service.embedding import embed_works
from cluster_jobs.service.executor import LocalExecutor
from cluster_jobs.service.work_items import embed_one_shard
from clustering.table import store
from data_shards.atomic import read_json, write_json
from data_shards.errors import DataError
from data_shards.features.embeddings import EmbeddingShards
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest
from tests.cluster_jobs.conftest import NUM_TEST, TinyRun
from tests.helpers.image_shards import COLUMN
from trainer.config.builder import with_settings
from trainer.config.tasks import resolve_tasks
from trainer.errors import TrainingError, UnusableSnapshot
from trainer.evaluation.evaluate import count_batches, evaluation_batches
from trainer.evaluation.report import summarise
from trainer.evaluation.training_embeddings import training_embeddings
from trainer.models.embed import embed_shard
from trainer.run.folder import step_name
from trainer.state.metrics import read_metrics
from trainer.state.served_snapshot import find_snapshot, served_snapshot
from trainer.state.snapshot import load_network

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cpus")]


@pytest.mark.parametrize("most", [1, 3, 100])
def test_groups_hold_every_batch_once(tiny: TinyRun, most: int) -> None:
    batches = evaluation_batches(tiny.manifest.split("test"), 5)
    assert batches == [(0, 5), (5, 7), (7, 12), (12, 14), (14, 17)]
    groups = batch_groups(batches, most)
    assert [batch for group in groups for batch in group] == batches
    assert all(groups)


@pytest.mark.parametrize(
    ("images", "cpus", "expected"), [(10, 2, 8), (16_000, 2, 8), (16_001, 2, 9), (10**6, 4, 500)]
)
def test_an_item_is_never_of_more_images_than_a_call_has_time_for(
    images: int, cpus: int, expected: int
) -> None:
    assert evaluate.num_items(images, cpus) == expected


@pytest.mark.parametrize("most", [1, 2, 5])
def test_the_sum_over_workers_is_the_count_of_one_process(
    served: TinyRun, ray_cpus: int, most: int
) -> None:
    snapshot = find_snapshot("5", served.run)
    by_images = {"evaluation.knn": 3, "evaluation.knn_balanced": 100}
    config = with_settings(served.config, by_images | {"evaluation.head_adjustment": 1.0})
    works = count_works(config, served.manifest, snapshot, most=most)
    assert len(works) == most
    distributed = count_split(works, RayExecutor(config, cpus=ray_cpus))
    here = count_split(works, LocalExecutor(config.cluster))
    tasks, tables = resolve_tasks(config, served.manifest), store.load(served.run.tables, 5)
    alone = count_batches(
        load_network(snapshot),
        SampleIndex(served.manifest, "test"),
        evaluation_batches(served.manifest.split("test"), served.config.evaluation.batch_size),
        tasks=tasks,
        tables=tables,
        config=config.evaluation,
        class_counts={COLUMN: served.manifest.class_counts("train", COLUMN)},
        training=training_embeddings(served.run.embeddings / step_name(5), tasks, tables),
    )
    assert distributed.keys() == here.keys() == alone.keys()
    assert {"knn", "knn_balanced", "head_adjusted"} <= {readout for _, readout in alone}
    for key, counts in alone.items():
        assert distributed[key].correct.tolist() == counts.correct.tolist()
        assert here[key].correct.tolist() == counts.correct.tolist()
        assert distributed[key].total.tolist() == [6, 5, 6]
    summaries = [
        summarise(counts, step=5, table_version=5, classes={}) for counts in (distributed, alone)
    ]
    assert summaries[0] == summaries[1]


def test_the_newest_snapshot_that_has_tables_is_evaluated(
    served: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--config", str(served.config_file)]) == 0
    written = read_json(served.run.evaluation / "step_000005.json")
    assert written["num_images"] == NUM_TEST
    assert written["classes"][COLUMN]["names"] == ["a", "b", "c"]
    assert written["classes"][COLUMN]["images"] == [6, 5, 6]
    printed = capsys.readouterr().out
    for readout, value in written["balanced_accuracy"].items():
        assert readout in printed
        assert f"{value:.4f}" in printed
    assert "training images" in printed
    names = {row["name"] for row in read_metrics(served.run.metrics)}
    assert "evaluation/balanced_accuracy/knc_margin" in names


def test_the_shards_of_other_splits_may_be_gone(served: TinyRun, tmp_path: Path) -> None:
    shards = shutil.copytree(served.manifest.folder, tmp_path / "shards")
    for file in shards.glob("train-*"):
        file.unlink()
    command = ["--config", str(served.config_file), "--set", f"data.shards={shards}"]
    assert evaluate.main(command) == 0
    assert embed.main([*command, "--out", str(tmp_path / "vectors")]) == 0
    with pytest.raises(DataError, match=r"train-000000\.tar is missing"):
        embed.main([*command, "--split", "train", "--out", str(tmp_path / "others")])


def test_the_nearest_training_images_vote_as_long_as_their_embeddings_are_there(
    served: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(served.config_file), "--set", "evaluation.knn_balanced=3"]
    assert evaluate.main(command) == 0
    written = read_json(served.run.evaluation / "step_000005.json")
    assert "knn_balanced" in written["balanced_accuracy"]
    assert "knn_balanced" in capsys.readouterr().out
    shutil.rmtree(served.run.embeddings)
    assert evaluate.main(command) == 0
    warning = capsys.readouterr().err
    assert "warning: no read-out knn_balanced: the embeddings" in warning
    without = read_json(served.run.evaluation / "step_000005.json")
    assert "knn_balanced" not in without["balanced_accuracy"]
    remedy = warning.split("`clmle embed ")[1].split("`")[0]
    assert embed.main(["--config", str(served.config_file), *remedy.split()]) == 0
    assert evaluate.main(command) == 0
    assert read_json(served.run.evaluation / "step_000005.json") == written


def test_a_checkpoint_is_a_step_or_a_folder(served: TinyRun) -> None:
    command = ["--config", str(served.config_file), "--checkpoint"]
    assert evaluate.main([*command, "5"]) == 0
    assert evaluate.main([*command, str(served.run.snapshots / "step_000005")]) == 0
    with pytest.raises(UnusableSnapshot, match="tables of .*step_000010 are not published"):
        evaluate.main([*command, "10"])
    with pytest.raises(
        UnusableSnapshot, match="no snapshot of step 7; name one that it has: 5, 10"
    ):
        evaluate.main([*command, "7"])
    with pytest.raises(TrainingError, match="not a complete snapshot"):
        evaluate.main([*command, "/nowhere"])


def test_a_checkpoints_folder_stands_for_the_snapshot_of_its_step(served: TinyRun) -> None:
    command = ["--config", str(served.config_file), "--checkpoint"]
    for step in (5, 10, 15):
        folder = served.run.checkpoints / step_name(step)
        folder.mkdir(parents=True)
        write_json(folder / "manifest.json", {"state": {"step": step}})
    assert evaluate.main([*command, str(served.run.checkpoints / step_name(5))]) == 0
    with pytest.raises(UnusableSnapshot, match="tables of .*; steps that have tables: 5$"):
        evaluate.main([*command, str(served.run.checkpoints / step_name(10))])
    with pytest.raises(UnusableSnapshot, match="no snapshot of its .*; steps that have tables: 5$"):
        evaluate.main([*command, str(served.run.checkpoints / step_name(15))])


def test_without_tables_the_newest_snapshot_is_no_answer(served: TinyRun) -> None:
    shutil.rmtree(served.run.tables)
    with pytest.raises(UnusableSnapshot, match="step_000010 are not published.*tables: .none yet"):
        served_snapshot(None, served.run)


def test_a_run_without_snapshots_says_so(tiny: TinyRun) -> None:
    with pytest.raises(UnusableSnapshot, match="has no snapshot yet; train first"):
        evaluate.main(["--config", str(tiny.config_file)])


def test_data_without_a_test_split_says_so(served: TinyRun) -> None:
    splits = {"train": served.manifest.split("train")}
    manifest = dataclasses.replace(served.manifest, splits=splits)
    snapshot = find_snapshot("5", served.run)
    with pytest.raises(DataError, match="no split 'test'"):
        count_works(served.config, manifest, snapshot, most=1)


def test_embed_writes_what_one_process_computes(
    served: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "vectors"
    command = ["--config", str(served.config_file), "--snapshot", "5", "--out", str(out)]
    assert embed.main(command) == 0
    assert f"{NUM_TEST} embeddings of step 5" in capsys.readouterr().out
    written = EmbeddingShards.open(out / COLUMN)
    manifest: Manifest = served.manifest
    network = load_network(find_snapshot("5", served.run))
    alone = embed_shard(network, manifest, 1, split="test", batch_size=5, labels={COLUMN: COLUMN})
    at = [written.ids.tolist().index(i) for i in alone[COLUMN].ids]
    assert (written.rows(at) == alone[COLUMN].embeddings).all()
    assert (written.labels[at] == alone[COLUMN].labels).all()


def test_embed_shows_a_few_of_each_class_in_the_projector(served: TinyRun, tmp_path: Path) -> None:
    command = ["--config", str(served.config_file), "--snapshot", "5", "--out", str(tmp_path)]
    for wanted in ("90", "4"):  # the second in the place of the first
        assert embed.main([*command, "--projector", wanted]) == 0
    board = served.run.tensorboard / "projector" / f"{COLUMN}-test"
    (config,) = board.glob("*.pbtxt")
    (metadata, tensors) = re.findall(r'_path: "(.*)"', config.read_text())
    header, *lines = [line.split("\t") for line in (board / metadata).read_text().splitlines()]
    assert header == ["class", "sample"]
    names = served.manifest.label_names[COLUMN]
    assert sorted(Counter(name for name, _ in lines).values()) == [1, 1, 2]
    written = EmbeddingShards.open(tmp_path / COLUMN)
    rows = np.loadtxt(board / tensors, delimiter="\t")
    for row, (name, sample) in zip(rows, lines, strict=True):
        at = [written.ids.tolist().index(int(sample))]
        assert names[written.labels[at][0]] == name
        np.testing.assert_allclose(row, written.rows(np.array(at))[0], rtol=1e-6)


def test_shards_with_the_labels_of_another_column_are_not_taken_for_done(tiny: TinyRun) -> None:
    (work, *_) = embed_works(
        tiny.config, tiny.manifest, tiny.snapshot(5), split="test", out=tiny.run.path / "out"
    )
    assert not embed_one_shard(work).reused
    assert embed_one_shard(work).reused
    other = tuple(dataclasses.replace(task, label="another") for task in work.tasks)
    with pytest.raises(KeyError, match="another"):  # it does embed again, but there is no such one
        embed_one_shard(dataclasses.replace(work, tasks=other))


def test_embed_refuses_an_unknown_split(served: TinyRun, tmp_path: Path) -> None:
    command = ["--config", str(served.config_file), "--split", "dev", "--out", str(tmp_path)]
    with pytest.raises(DataError, match="no split 'dev'"):
        embed.main(command)
