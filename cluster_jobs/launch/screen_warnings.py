"""Warnings of a command: each is shown once when it comes, and all again at the end."""

from __future__ import annotations

import sys

from tqdm import tqdm


class ScreenWarnings:
    """What was shown so far; a run's output would hide it from who looks at the end alone."""

    def __init__(self) -> None:
        self._shown: list[str] = []

    def show(self, text: str) -> bool:
        """Show a warning unless it was shown before; whether it was new."""
        is_new = text not in self._shown
        if is_new:
            self._shown.append(text)
            tqdm.write(f"warning: {text}", file=sys.stderr)  # beside a progress bar, not through it
        return is_new

    def repeat(self) -> None:
        """Show all again, in one list."""
        if self._shown:
            lines = "".join(f"- {text}\n" for text in self._shown)
            sys.stdout.flush()  # the table stands above
            sys.stderr.write(f"\nwarnings of this run:\n{lines}")
