from __future__ import annotations

import io
import re
import time

from data_shards.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_say_share_rate_and_time_left() -> None:
    stream = io.StringIO()
    progress = Progress(2480, label="import", unit="images", stream=stream, every_seconds=0)
    progress.update(300)
    pattern = r"import: 300/2,480 images \(12 %\), [\d,]+ images/s, [\d,]+ s left\n"
    assert re.fullmatch(pattern, stream.getvalue())


def test_what_was_done_before_says_nothing_of_the_speed() -> None:
    stream = io.StringIO()
    with Progress(
        1000, label="go on", unit="steps", stream=stream, every_seconds=60, done=900
    ) as progress:
        assert progress.done == 900
        progress.update(50)
        time.sleep(0.1)
    said = re.fullmatch(
        r"go on: 950/1,000 steps \(95 %\), ([\d,]+) steps/s, .*\n", stream.getvalue()
    )
    assert said is not None
    assert int(said[1].replace(",", "")) <= 500


def test_there_is_always_a_last_line_and_only_one() -> None:
    stream = io.StringIO()
    with Progress(4, label="import", unit="images", stream=stream, every_seconds=60) as progress:
        for _ in range(4):
            progress.update(kept=1)
        assert stream.getvalue() == ""
    progress.close()
    assert re.fullmatch(
        r"import: 4/4 images \(100 %\), [\d,.]+ images/s, kept 1\n", stream.getvalue()
    )


def test_an_unknown_or_empty_total_needs_no_share() -> None:
    stream = io.StringIO()
    with Progress(None, label="walk", unit="files", stream=stream) as progress:
        progress.update(7)
    with Progress(0, label="walk", unit="files", stream=stream):
        pass
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"walk: 7 files, [\d,]+ files/s", first)
    assert re.fullmatch(r"walk: 0/0 files \(100 %\), 0.00 files/s", second)


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    with Progress(10, label="import", unit="images", stream=stream) as progress:
        progress.update(10, loss=0.5)
    assert "100%" in stream.getvalue()
    assert "10/10" in stream.getvalue()
    assert progress.done == 10
