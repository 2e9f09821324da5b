"""Whatever cannot be written to a full disk: one message says what, where, how much room there is.

Nothing half-written counts, and the same again succeeds once there is room.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from clustering.config import ClusterConfig
from clustering.coordinator import cluster_embeddings
from clustering.execution.bundle_store import BundleStore, KeptWorkers
from clustering.execution.workers import LocalWorker
from clustering.table import store
from data_shards import importer
from data_shards.errors import DiskError
from data_shards.features.embedding_shard import finished_shard, write_embedding_shard
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.embedding_shards import labelled_rows, write_shards
from tests.helpers.local_service import LocalService
from tests.helpers.small_disk import content, fill, make_room, small_disk
from tests.helpers.training import NETWORK, tiny_config
from trainer.config.run_config import RunConfig
from trainer.config.yaml_file import to_yaml
from trainer.evaluation.report import write_evaluation
from trainer.run.folder import RunFolder, checkpoint_steps
from trainer.state.metrics import MetricWriter, read_metrics, write_projection
from trainer.state.snapshot import snapshot_steps, write_snapshot

ROOM = r"No space left on device \(0 B of [\d.]+ MiB free there\); make room there, then run the"
KINDS: dict[str, Callable[[Path], object]] = {}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


def kind(what: str) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Adds a writer, and how its message begins."""

    def add(write: Callable[[Path], object]) -> Callable[[Path], object]:
        KINDS[what] = write
        return write

    return add


@kind("the snapshot {disk}/run/snapshots/step_000200")
def _snapshot(disk: Path) -> object:
    run = RunFolder(disk / "run")
    state = NETWORK.build().state_dict()
    return write_snapshot(run, 200, state=state, network=NETWORK, data_checksum="of the data")


@kind("the cluster tables {disk}/tables/000200")
def _tables(disk: Path) -> object:
    return store.publish(disk / "tables", 200, {"identity": tiny_table()})


@kind("{disk}/embeddings/shard-000000.npy")
def _embeddings(disk: Path) -> object:
    rows, ids, labels = labelled_rows((20, 9))
    return write_embedding_shard(
        disk / "embeddings",
        "shard-000000",
        embeddings=rows,
        ids=ids,
        labels=labels,
        origin="weights and data",
    )


@kind("finished classes to {disk}/bundles/")
def _bundles(disk: Path) -> object:
    config = ClusterConfig(target_size=5)
    folder = disk.with_name("embeddings")  # on another disk
    if not folder.exists():
        write_shards(folder, *labelled_rows((20, 9)))
    bundles = BundleStore(disk / "bundles", embeddings="checksum")
    workers = KeptWorkers(LocalWorker(config), bundles)
    return cluster_embeddings(
        folder, task="t", version=0, num_classes=2, config=config, seed=1, workers=workers
    )


@kind("{disk}/run/evaluation/step_000200.json")
def _evaluation(disk: Path) -> object:
    return write_evaluation(RunFolder(disk / "run"), {"step": 200, "split": "test"})


@kind("the projector's files to {disk}/run/tensorboard/projector/t-test")
def _projection(disk: Path) -> object:
    rows, ids, labels = labelled_rows((20, 9))
    names = [str(label) for label in labels]
    run = RunFolder(disk / "run")
    return write_projection(run, "t-test", 200, embeddings=rows, classes=names, ids=ids)


@pytest.mark.parametrize("what", KINDS)
def test_a_full_disk_is_named_and_nothing_half_written_is_left(disk: Path, what: str) -> None:
    fill(disk)
    with pytest.raises(DiskError) as caught:
        KINDS[what](disk)
    assert re.match(f"cannot write {what.format(disk=disk)}.*: {ROOM}", str(caught.value))
    if "projector" not in what:
        assert not any((disk / name).is_file() for name in content(disk))
    make_room(disk)
    KINDS[what](disk)
    assert any((disk / name).is_file() for name in content(disk))


def test_a_shard_that_a_full_disk_cut_off_does_not_count(disk: Path) -> None:
    fill(disk, left_kib=8)
    with pytest.raises(DiskError):
        _embeddings(disk)
    folder = disk / "embeddings"
    assert finished_shard(folder, "shard-000000", "weights and data") is None


@pytest.mark.parametrize("to_board", [False, True], ids=["rows", "TensorBoard"])
def test_metrics_on_a_full_disk(disk: Path, tmp_path: Path, to_board: bool) -> None:
    """TensorBoard's thread fails, and its next write or close says so."""
    run = RunFolder(tmp_path / "run" if to_board else disk / "run")
    run.path.mkdir()
    if to_board:
        run.tensorboard.symlink_to(disk)
    writer = MetricWriter(run)
    writer.write(1, {"train/loss": 4.0})
    fill(disk)
    named = f"TensorBoard's scalars to {run.tensorboard}" if to_board else "the metrics "
    with pytest.raises(DiskError, match=f"cannot write {named}.*{ROOM}"):
        write_often(writer)
    with suppress(DiskError):
        writer.close()
    make_room(disk)
    again = MetricWriter(run, purge_step=1)
    again.write(2, {"train/loss": 3.0})
    again.close()
    rows = [(row["step"], row["value"]) for row in read_metrics(run.metrics, ["train/loss"])]
    assert rows == [(1, 4.0), (2, 3.0)]


def write_often(writer: MetricWriter) -> None:
    for _ in range(20):
        writer.write(2, {f"loss/{number}": number for number in range(200)})


def test_an_import_goes_on_once_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", kib=8192) as disk:
        out = disk / "digits"
        command = ["digits", "--out", str(out), "--samples-per-shard", "400"]
        fill(disk, left_kib=2048)
        assert importer.main(command) == 1
        said = capsys.readouterr().err
        assert re.search(
            rf"^clmle import: error: cannot write the shard {out}/train-00000\d.tar: {ROOM}",
            said,
            re.MULTILINE,
        )
        assert "Traceback" not in said
        shards = [path.stem for path in out.glob("*.tar")]
        assert shards, "those that fitted are kept"
        assert not list(out.glob(".tmp-*"))
        make_room(disk)
        written = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
        assert importer.main(command) == 0
        assert written == {path: path.stat().st_mtime_ns for path in written}
        assert importer.main(["--verify", str(out)]) == 0


def train(config: RunConfig) -> tuple[int, str]:
    """Exit code and messages of a rank; a process that was there before would not see the disk."""
    file = config.run_path.parent.with_suffix(".yaml")
    file.write_text(to_yaml(config))
    command = [sys.executable, "-m", "trainer.train", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("left_kib", "what"),
    [(0, "{run}/config.yaml"), (64, "the checkpoint {run}/checkpoints/step_000005")],
)
def test_a_training_goes_on_once_there_is_room(
    tmp_path: Path, tiny_shards: Path, left_kib: int, what: str
) -> None:
    with small_disk(tmp_path / "disk", kib=4096) as disk:
        config = tiny_config(
            disk / "run", tiny_shards, loss__name="softmax", refresh__every=0, checkpoint__every=5
        )
        run = RunFolder(config.run_path)
        fill(disk, left_kib=left_kib)
        code, said = train(config)
        assert code == 1, said
        named = what.format(run=run.path)
        assert re.search(f"^rank 0: error: cannot write {named}: {ROOM}", said, re.MULTILINE), said
        assert "Traceback" not in said
        assert not checkpoint_steps(run)
        assert not snapshot_steps(run)
        assert not content(run.checkpoints), "it takes no room that others may need"
        make_room(disk)
        with LocalService(config):
            code, said = train(config)
        assert code == 0, said
        assert checkpoint_steps(run)[-1] == config.train.steps
        assert run.report.exists()
