"""How long the other ranks have given no sign of life; plain numbers, no clock and no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sign:
    """What a rank tells the others, again and again."""

    number: int
    """Grows with every sign."""
    host: str
    place: str
    """What the rank is at, such as "step 13"."""

    def to_text(self) -> str:
        """As the others get it."""
        return json.dumps([self.number, self.host, self.place])

    @classmethod
    def from_text(cls, text: str | bytes) -> Sign:
        """The sign that `to_text` gave."""
        return cls(*json.loads(text))


class AwakeClock:
    """Seconds in which this process ran: while it was stopped (Ctrl-Z), it could hear of nobody."""

    def __init__(self, now: float, longest_tick: float) -> None:
        """Start at 0.

        Args:
            now: seconds of any steady clock.
            longest_tick: between two ticks, more than this was no time awake.
        """
        self.seconds = 0.0
        self._last = now
        self._longest_tick = longest_tick

    def tick(self, now: float) -> None:
        """Add the time since the last tick."""
        self.seconds += min(now - self._last, self._longest_tick)
        self._last = now


class Silence:
    """Which ranks are silent, as one of them hears it through a store that rank 0 keeps."""

    def __init__(self, signs: Sequence[Sign], now: float) -> None:
        """Start with a sign of every rank, in their order, just heard.

        Args:
            signs: one of each rank.
            now: seconds awake, as in the other methods.
        """
        self.signs = list(signs)
        self._changed = [now] * len(signs)
        self._heard = now

    def hear(self, signs: Sequence[Sign], now: float) -> None:
        """Note what the store holds; a rank that gives signs has a new one there."""
        for rank, sign in enumerate(signs):
            if sign != self.signs[rank]:
                self._changed[rank] = now
        self.signs = list(signs)
        self._heard = now

    def seconds(self, now: float) -> list[float]:
        """How long each rank has been silent.

        While the store itself does not answer, that is rank 0's silence: nothing is known of the
        others.
        """
        silent = [self._heard - changed for changed in self._changed]
        silent[0] = max(silent[0], now - self._heard)
        return silent
