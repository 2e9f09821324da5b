from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_shards import importer
from data_shards.errors import named
from data_shards.shards.manifest import Manifest
from data_shards.sources.registry import SOURCES
from tests.helpers.image_shards import png, write_image_folder


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "faces", {"ann": 8, "bo": 8})


def test_digits_become_a_long_tail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "digits"
    code = importer.main(
        ["digits", "--out", str(out), "--long-tail-ratio", "20", "--max-per-class", "100"]
    )
    assert code == 0
    manifest = Manifest.load(out)
    counts = manifest.class_counts("train", "digit")
    assert counts.tolist() == [100, 71, 51, 36, 26, 18, 13, 9, 6, 5]
    assert manifest.class_counts("test", "digit").min() >= 43
    printed = capsys.readouterr()
    assert f"{out}: digits, 10 classes\n" in printed.out
    assert (
        "  train: 335 images, 1 shard(s), 5 to 100 a class, imbalance ratio 20.0\n" in printed.out
    )
    assert "(100 %)" in printed.err


def test_the_summary_says_what_the_long_tail_lacks_and_what_was_skipped(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (faces / "bo" / "README.txt").write_text("no image")
    arguments = ["image-folder", str(faces), "--out", str(tmp_path / "out"), "--on-error", "skip"]
    tail = ["--long-tail-ratio", "2", "--max-per-class", "20", "--test-fraction", "0"]
    assert importer.main(arguments + tail) == 0
    printed = capsys.readouterr().out
    assert "fewer images than the long tail asked for: 'ann' 8 of 20, 'bo' 8 of 10\n" in printed
    assert "skipped 1 image(s) that cannot be used: bo/README.txt\n" in printed


def test_the_summary_counts_what_was_left_out_and_names_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = write_image_folder(tmp_path / "faces", {"ann": 8, "bo": 8, "cy": 2, "di": 1})
    for number in range(7):
        (faces / "bo" / f"note{number}.txt").write_text("no image")
    arguments = ["image-folder", str(faces), "--out", str(tmp_path / "out"), "--on-error", "skip"]
    assert importer.main([*arguments, "--min-images", "3", "--test-fraction", "0"]) == 0
    printed = capsys.readouterr().out
    assert "left out 2 class(es) with fewer than 3 images: cy, di\n" in printed
    names = ", ".join(f"bo/note{number}.txt" for number in range(5))
    assert f"skipped 7 image(s) that cannot be used: {names} and 2 more\n" in printed


def test_one_import_of_several_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    for number in range(60):
        name = f"{20 + number // 30 * 50}_{number % 2}_{number % 3}_{number:017d}.jpg"
        (faces / name).write_bytes(png(number))
    (faces / "39_1_20170116174525125.jpg").write_bytes(png(0))
    arguments = ["utkface", str(faces), "--out", str(tmp_path / "out"), "--label", "gender"]
    assert importer.main(arguments) == 2
    assert "the first is 39_1_20170116174525125.jpg" in capsys.readouterr().err
    arguments += ["--on-error", "skip", "--validation-fraction", "0.25", "--long-tail-ratio", "4"]
    assert importer.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "2 classes of gender (also labelled: race, age_decade, age60)\n" in printed
    assert "skipped 1 image(s) that cannot be used: 39_1_20170116174525125.jpg\n" in printed
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.class_counts("train", "gender").tolist() == [16, 4]
    assert manifest.class_counts("validation", "gender").tolist() == [6, 6]
    assert manifest.class_counts("test", "gender").tolist() == [8, 8]
    assert manifest.class_counts("train", "age60").sum() == 20


def test_the_summary_names_classes_without_a_test_image_and_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = write_image_folder(tmp_path / "faces", {"ann": 8, "bo": 8, "cy": 1, "di": 0})
    shutil.copyfile(faces / "bo" / "001.png", faces / "bo" / "copy.png")
    command = ["image-folder", str(faces), "--out", str(tmp_path / "out")]
    assert importer.main(command) == 2
    assert "1 class(es) of 'class' (di) hold no image; add some, " in capsys.readouterr().err
    command += ["--on-error", "skip", "--duplicates"]
    assert importer.main([*command, "stop", "--seed", "4"]) == 2
    said = capsys.readouterr().err
    assert "images occur several times, 1 in more than one split: bo/" in said
    assert not (tmp_path / "out").exists()
    assert importer.main([*command, "drop", "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    assert "1 class(es) have no test image, so nothing is measured of them: cy\n" in printed
    assert "left out 1 class(es) without a training image that can be used: di\n" in printed
    assert "  dropped 1 of these; manifest.json names them\n" in printed
    assert "skipped" not in printed
    assert Manifest.load(tmp_path / "out").skipped in (("bo/001.png",), ("bo/copy.png",))


def test_the_level_of_class_folders_is_for_folders_of_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for year in ("2019", "2020"):
        write_image_folder(tmp_path / "faces" / year, {"ann": 4, "bo": 4})
    options = ["--out", str(tmp_path / "out"), "--duplicates", "drop"]
    command = ["image-folder", str(tmp_path / "faces"), *options]
    assert importer.main(command) == 2
    assert "--class-depth 2" in capsys.readouterr().err
    assert importer.main([*command, "--class-depth", "2"]) == 0
    assert Manifest.load(tmp_path / "out").label_names == {"class": ("ann", "bo")}
    capsys.readouterr()
    assert importer.main([*command, "--class-depth", "0"]) == 2
    assert "--class-depth must be >= 1, got 0" in capsys.readouterr().err
    assert importer.main(["digits", *options, "--class-depth", "2"]) == 2
    assert "digits takes no --class-depth" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_refused_before_images_are_read(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(importer, "prepare_import", None)
    assert importer.main(["image-folder", str(faces), "--out", str(tmp_path / "file/out")]) == 2
    assert "file/out; choose another --out" in capsys.readouterr().err


def test_paths_may_begin_with_the_home_folder(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert importer.main(["image-folder", "~/faces", "--out=~/out"]) == 0
    assert importer.main(["--verify", "~/out"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"faces", "out"}


def test_long_lists_are_cut() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named([str(n) for n in range(8)]) == "0, 1, 2, 3, 4 and 3 more"


def test_verify_finds_a_changed_byte(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    importer.main(["image-folder", str(faces), "--out", str(out)])
    assert importer.main(["--verify", str(out)]) == 0
    assert f"{out} is intact: 16 images in 2 shard(s)" in capsys.readouterr().out
    tar = out / "test-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    assert importer.main(["--verify", str(out)]) == 2
    assert "test-000000.tar is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to import, and where to"),
        (["digits"], "say what to import, and where to"),
        (["idx", "--out", "x"], "idx needs a path"),
        (["lfw", "nowhere", "--out", "x"], "nowhere does not exist"),
        (["digits", "--out", "x", "--long-tail-ratio", "0.1"], "--long-tail-ratio must be >= 1"),
        (["digits", "--out", "x", "--min-images", "5000"], "at least two classes, got 0"),
        (["--verify", "nowhere"], "nowhere is not a folder"),
        (["digits", "--verify", "x"], "--verify takes neither SOURCE nor --out"),
        (["--out", "x", "--verify", "x"], "--verify takes neither SOURCE nor --out"),
    ],
)
def test_errors_are_one_clear_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert importer.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("clmle import: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importer, "write_import", interrupted)
    assert importer.main(["digits", "--out", str(tmp_path / "out")]) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_help_teaches_by_examples_that_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importer.main(["--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    examples = [line.split()[2:] for line in lines if line.startswith("    clmle import ")]
    assert len(examples) >= 5
    for example in examples:
        importer._parser().parse_args(example)
    shown = {word for example in examples for word in example}
    assert shown >= {"--long-tail-ratio", "--max-per-class", "--min-images", "--on-error"}
    assert shown >= {"--test-fraction", "--verify", *SOURCES}
