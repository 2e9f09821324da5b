"""An import accepts what training can decode, within its own limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from clmle.shard_images import read_shards
from data_shards.importer import main
from data_shards.shards.manifest import Manifest
from tests.helpers.image_files import encoded, files_of, noise
from tests.helpers.image_shards import write_image_folder


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "faces", {"ann": 3, "bo": 3})


def run(faces: Path, *options: str) -> int:
    out = faces.parent / "out"
    return main(["image-folder", str(faces), "--out", str(out), "--test-fraction", "0", *options])


def test_what_was_imported_is_read_at_both_channel_counts(
    faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for format_name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        for mode, data in files_of(format_name).items():
            suffix = {"JPEG": "jpg"}.get(format_name, format_name.lower())
            (faces / "ann" / f"{mode.replace(';', '')}.{suffix}").write_bytes(data)
    assert run(faces, "--on-error", "skip") == 0
    manifest = Manifest.load(faces.parent / "out")
    assert {Path(name).name for name in manifest.skipped} == {"F.tiff", "F.ppm"}
    for channels in (1, 3):
        images = read_shards(manifest.folder, size=6, channels=channels).images
        assert images.shape == (manifest.split("train").num_samples, 6, 6, channels)


def test_images_beyond_the_limits_stop_an_import_and_can_be_allowed(
    faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Image.fromarray(noise(40, 30))
    (faces / "ann" / "large.png").write_bytes(encoded(picture))
    (faces / "bo" / "other.png").write_bytes(encoded(picture, "AVIF"))
    assert run(faces, "--max-pixels", "1000") == 2
    shown = capsys.readouterr().err
    assert "large.png: more than --max-pixels 1,000 (" in shown
    assert "--on-error skip" in shown
    assert run(faces) == 2
    shown = capsys.readouterr().err
    assert "other.png: not an image that Pillow can read (" in shown
    assert "expected one of --formats JPEG,PNG," in shown
    assert run(faces, "--formats", "png,avif") == 0
    images = read_shards(faces.parent / "out", size=8, channels=1)
    assert len(images.images) == 8


def test_other_limits_with_the_same_outcome_leave_a_finished_import_as_it_is(faces: Path) -> None:
    assert run(faces) == 0
    manifest = Manifest.load(faces.parent / "out")
    assert run(faces, "--formats", "PNG", "--max-pixels", "100000000") == 0
    assert Manifest.load(faces.parent / "out") == manifest
