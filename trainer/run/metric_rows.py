"""The lines of a `metrics.jsonl`, for whoever reads one. No torch."""

from __future__ import annotations

import json
from typing import Any


def parse_rows(text: str) -> list[dict[str, Any]]:
    """The rows of whole lines; what a kill left of a line counts for nothing."""
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
