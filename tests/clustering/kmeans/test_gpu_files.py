"""A GPU is looked for where its driver leaves a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustering.kmeans.gpu_files import has_gpu_file


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["null", "nvidiactl", "nvidia0"], True),
        (["null", "nvidia11"], True),
        (["null", "dxg"], True),
        (["null", "nvidia-modeset"], False),
    ],
)
def test_its_file_tells_of_a_gpu(tmp_path: Path, files: list[str], expected: bool) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert has_gpu_file(tmp_path) == expected
