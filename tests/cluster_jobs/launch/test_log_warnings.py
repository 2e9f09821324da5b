from __future__ import annotations

from pathlib import Path

import pytest

from cluster_jobs.launch.log_warnings import LogWarnings
from cluster_jobs.launch.screen_warnings import ScreenWarnings


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_each_warning_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, service = tmp_path / "trainer.log", tmp_path / "service.log"
    append(trainer, "10:00:00 rank 0 WARNING of an earlier attempt\n")
    warnings = LogWarnings([trainer, service], ScreenWarnings(), known=["said at the start"])
    append(trainer, "10:00:01 rank 0 INFO going on\n10:00:01 rank 0 WARNING said at the start\n")
    append(trainer, "10:00:02 rank 0 WARNING small clusters\n10:00:02 rank 1 WARNING small clus")
    warnings.poll()
    assert capsys.readouterr().err == "warning: small clusters\n"
    append(trainer, "ters\n")
    append(service, "10:00:03 WARNING shard 3: no result in 5 s; trying again\n")
    warnings.poll()
    assert capsys.readouterr().err == "warning: shard 3: no result in 5 s; trying again\n"


def test_a_flood_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "trainer.log"
    warnings = LogWarnings([log], ScreenWarnings())
    append(log, "".join(f"10:00:00 rank 0 WARNING number {i}\n" for i in range(50)))
    warnings.poll()
    said = capsys.readouterr().err.splitlines()
    assert said[:20] == [f"warning: number {i}" for i in range(20)]
    assert said[20:] == [f"more warnings are in {tmp_path}"]


def test_what_was_shown_is_shown_again_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen, log = ScreenWarnings(), tmp_path / "trainer.log"
    screen.repeat()
    assert screen.show("no GPU")
    assert not screen.show("no GPU")
    warnings = LogWarnings([log], screen)
    append(log, "10:00:00 rank 0 WARNING no GPU\n10:00:00 rank 0 WARNING small clusters\n")
    warnings.poll()
    assert capsys.readouterr().err == "warning: no GPU\nwarning: small clusters\n"
    screen.repeat()
    assert capsys.readouterr().err == "\nwarnings of this run:\n- no GPU\n- small clusters\n"
