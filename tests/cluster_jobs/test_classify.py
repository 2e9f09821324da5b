"""`clmle classify` says of image files what the evaluation counts of the same images."""

from __future__ import annotations

import csv
import os
import re
import shutil
from pathlib import Path

import pytest

from cluster_jobs.classify import HEADER, main
from clustering.table import store
from data_shards.errors import ConfigError, DataError
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import MANIFEST_NAME
from tests.cluster_jobs.conftest import NUM_TEST, TinyRun
from tests.helpers.image_files import files_of
from tests.helpers.image_shards import COLUMN
from trainer.config.readout_names import READOUT_ORDER
from trainer.config.tasks import resolve_tasks
from trainer.errors import UnusableSnapshot
from trainer.evaluation.evaluate import count_batches, evaluation_batches
from trainer.models.embed import decode_batch, embed_images
from trainer.run.folder import step_name
from trainer.state.snapshot import load_network, read_snapshot


@pytest.fixture
def photos(served: TinyRun, tmp_path: Path) -> Path:
    """The test images as files, named by their number; beside them what is no image."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    index = SampleIndex(served.manifest, "test")
    for place, sample_id in enumerate(index.ids):
        inside = folder / "more" if place % 2 else folder
        (inside / f"{place:03d}.png").write_bytes(index.read(int(sample_id)))
    (folder / ".hidden").write_text("passed over")
    return folder


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_get_the_classes_that_the_evaluation_counts(
    served: TinyRun, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, index = served.manifest, SampleIndex(served.manifest, "test")
    network = load_network(read_snapshot(served.run.snapshots / step_name(5)))
    tables = store.load(served.run.tables, 5)
    tasks = resolve_tasks(served.config, manifest)
    counts = count_batches(
        network,
        index,
        evaluation_batches(manifest.split("test"), 100),
        tasks=tasks,
        tables=tables,
        config=served.config.evaluation,
        class_counts={task.name: manifest.class_counts("train", task.label) for task in tasks},
    )
    embeddings = embed_images(
        network, decode_batch((index.read(int(i)) for i in index.ids), network)
    )[COLUMN].embedding.numpy()
    names, labels = manifest.label_names[COLUMN], index.labels(COLUMN)
    out = tmp_path / "classes.csv"
    for _, readout in counts:
        command = ["--config", str(served.config_file), "--readout", readout, str(photos)]
        assert main([*command, "--out", str(out)]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        lines = lines_of(out)
        assert list(lines[0]) == list(HEADER)
        assert [line["task"] for line in lines] == [COLUMN] * NUM_TEST
        places = [int(Path(line["image"]).stem) for line in lines]
        assert sorted(places) == list(range(NUM_TEST))
        right = [line["class"] == names[labels[p]] for line, p in zip(lines, places, strict=True)]
        assert sum(right) == counts[COLUMN, readout].correct.sum()
        table = tables[COLUMN]
        for line, place in zip(lines, places, strict=True):
            own = table.centroids[table.class_of == names.index(line["class"])]
            nearest = max(float(embeddings[place] @ centroid) for centroid in own)
            assert float(line["similarity"]) == pytest.approx(nearest, abs=1e-4)


def test_of_the_training_images_only_the_manifest_is_read(
    served: TinyRun, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(served.config_file), str(photos)]
    assert main(command) == 0
    whole = capsys.readouterr().out
    (tmp_path / "kept").mkdir()
    shutil.copy(served.manifest.folder / MANIFEST_NAME, tmp_path / "kept")
    assert main([*command, "--set", f"data.shards={tmp_path / 'kept'}"]) == 0
    assert capsys.readouterr().out == whole
    with pytest.raises(DataError, match="holds no imported images"):
        main([*command, "--set", f"data.shards={tmp_path}"])


def test_a_file_may_be_named_twice_and_goes_to_the_screen(
    served: TinyRun, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(photos / "000.png")
    assert main(["--config", str(served.config_file), file, file]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header == ",".join(HEADER)
    assert first == second
    assert first.startswith(f"{file},{COLUMN},")


def test_what_is_no_image_is_named_or_skipped(
    served: TinyRun, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "classes.csv"
    command = ["--config", str(served.config_file), str(photos), "--out", str(out)]
    assert main(command) == 0
    whole = lines_of(out)
    # More than a batch of them, so that one is left empty.
    for number in range(12):
        (photos / f"000.{number:02d}.txt").write_text("no image")
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"000\.00\.txt: not an image .*; to skip it, use --on-err"):
        main(command)
    assert set(tmp_path.iterdir()) == before
    assert lines_of(out) == whole  # of the run before
    capsys.readouterr()
    assert main([*command, "--on-error", "skip"]) == 0
    shown = capsys.readouterr().err
    assert len(re.findall(r"warning: skipped \S+\.txt: not an image", shown)) == 12
    assert lines_of(out) == whole


def test_images_beyond_the_limits_are_named_or_skipped(
    served: TinyRun, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(served.config_file), str(photos / "000.png")]
    assert main([*command, "--max-pixels", "64"]) == 0
    for limit in (["--max-pixels", "63"], ["--formats", "JPEG"]):
        with pytest.raises(DataError, match=rf"000\.png: .*{limit[0]} {limit[1]}.*--on-error skip"):
            main([*command, *limit])
        capsys.readouterr()
        assert main([*command, *limit, "--on-error", "skip"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1
    lab = files_of("TIFF")["LAB"]
    (photos / "000.png").write_bytes(lab)
    assert main(command) == 0


def test_a_file_that_cannot_be_read_is_named_or_skipped(
    served: TinyRun, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, link = tmp_path / "classes.csv", photos / "000.lost.png"
    command = ["--config", str(served.config_file), "--out", str(out), str(photos)]
    assert main(command) == 0
    whole = lines_of(out)
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"lost\.png: No such file or directory; to skip it"):
        main(command)
    capsys.readouterr()
    # Found in its folder, and named as by a pattern of the shell.
    assert main([*command, str(link), "--on-error", "skip"]) == 0
    assert capsys.readouterr().err.count(f"skipped {link}: No such file or directory") == 2
    assert lines_of(out) == whole


def test_a_file_name_that_is_not_utf_8_is_written_as_it_is(
    served: TinyRun, photos: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    name = os.fsencode(photos) + b"/b\xe9a.png"
    os.rename(photos / "000.png", name)
    out = tmp_path / "classes.csv"
    command = ["--config", str(served.config_file), os.fsdecode(name)]
    assert main(command) == 0
    shown = capsysbinary.readouterr().out
    assert shown.splitlines()[1].startswith(name + b",")
    assert main([*command, "--out", str(out)]) == 0
    assert out.read_bytes() == shown


def test_the_help_names_files_and_the_read_outs_that_can_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "IMAGE|FOLDER image files, or folders whose files" in shown
    assert all(f" {name}," in shown for name in READOUT_ORDER if "knn" not in name)
    assert "knn" not in shown


def test_mistakes_are_named(served: TinyRun, photos: Path, tmp_path: Path) -> None:
    config = ["--config", str(served.config_file)]
    with pytest.raises(DataError, match="nowhere is not there; name image files or folders"):
        main([*config, str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no file; name a folder that holds images"):
        main([*config, str(tmp_path / "empty")])
    for readout in ("knn", "knn_balanced"):
        needs = "it needs the embeddings of the training images, which are not read here"
        has = "choose one that this run has: knc_margin, knc_soft, "
        with pytest.raises(
            ConfigError, match=f"read-out {readout} is not available: {needs}; {has}"
        ):
            main([*config, str(photos), "--readout", readout])
    with pytest.raises(
        ConfigError,
        match="read-out knc is not available; choose one that this run has: knc_margin, ",
    ):
        main([*config, str(photos), "--readout", "knc"])
    with pytest.raises(
        UnusableSnapshot, match="tables of .* are not published .* that have tables: 5$"
    ):
        main([*config, str(photos), "--checkpoint", "10"])


def test_out_is_written_to_where_a_renamed_file_would_replace_it(
    served: TinyRun, photos: Path, tmp_path: Path
) -> None:
    command = ["--config", str(served.config_file), str(photos), "--out"]
    real, link, pipe = tmp_path / "real.csv", tmp_path / "link.csv", tmp_path / "pipe"
    real.touch()
    link.symlink_to(real)
    assert main([*command, str(link)]) == 0
    assert link.is_symlink()
    assert lines_of(real)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main([*command, str(pipe)]) == 0
        assert os.read(reader, 1_000_000) == real.read_bytes()
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_an_out_that_cannot_be_is_refused_first(
    served: TinyRun, photos: Path, tmp_path: Path
) -> None:
    command = ["--config", str(served.config_file), str(photos), "--out"]
    with pytest.raises(DataError, match=r"missing is not a folder; make it"):
        main([*command, str(tmp_path / "missing" / "classes.csv")])
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        main([*command, str(tmp_path)])
