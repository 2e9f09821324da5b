"""Reading the lines of a `metrics.jsonl`, without torch."""

from __future__ import annotations

import json
from typing import Any


def parse_rows(text: str) -> list[dict[str, Any]]:
    """The rows of complete lines; a line that a killed process left unfinished is skipped."""
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
