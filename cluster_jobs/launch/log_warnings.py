"""Warnings in the logs of a run's parts, shown on the screen too."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from cluster_jobs.launch.screen_warnings import ScreenWarnings

_MARK = " WARNING "
_MOST_SHOWN = 20


class LogWarnings:
    """Follows log files and shows the first twenty distinct warnings, each once."""

    def __init__(
        self, logs: Iterable[Path], screen: ScreenWarnings, *, known: Iterable[str] = ()
    ) -> None:
        """Start to follow; what the files hold already belongs to an earlier attempt.

        Args:
            logs: there or not yet.
            screen: where they are shown.
            known: warnings that need not be shown.
        """
        self._offsets = {log: log.stat().st_size if log.exists() else 0 for log in logs}
        self._screen = screen
        self._known = set(known)
        self._num_shown = 0

    def poll(self) -> None:
        """Show the warnings since the last call."""
        for log in self._offsets:
            for line in self._new_lines(log):
                _, mark, text = line.partition(_MARK)
                text = text.strip()
                if mark and text not in self._known:
                    self._known.add(text)
                    self._show(text, log)

    def _show(self, text: str, log: Path) -> None:
        if self._num_shown < _MOST_SHOWN:
            self._num_shown += self._screen.show(text)
        elif self._num_shown == _MOST_SHOWN:
            self._num_shown += 1
            tqdm.write(f"more warnings are in {log.parent}", file=sys.stderr)

    def _new_lines(self, log: Path) -> list[str]:
        if not log.exists():
            return []
        with log.open("rb") as file:
            file.seek(self._offsets[log])
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # the last line may be half written
        self._offsets[log] += len(whole)
        return whole.decode("utf-8", errors="replace").splitlines()
