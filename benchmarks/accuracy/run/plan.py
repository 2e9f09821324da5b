"""What was asked for on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.run.datasets import import_data
from benchmarks.accuracy.run.jobs import Split
from data_shards.shards.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for on the command line."""

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    num_seeds: int
    """Of every method."""
    top_seeds: int
    """Of the best methods of each data set, `num_seeds` or more."""
    data: Path | None
    out: Path
    records: Path
    """The file of finished training runs."""
    recipes: Path
    split: Split
    """On whose images a comparison measures; a search always takes validation."""
    search: bool
    """Choose settings and read-outs instead of comparing."""
    at_once: int
    dry_run: bool
    command: str

    @property
    def folder(self) -> Path:
        """The folder of the results; shards and unfinished runs lie there too."""
        return self.out.absolute().parent

    @property
    def work(self) -> Path:
        """The folder of unfinished runs, and of the logs of failed ones."""
        return self.folder / "work"

    def import_data(self, datasets: Iterable[str], *, validation: bool) -> dict[str, Manifest]:
        """Import data sets, or find them imported.

        Args:
            datasets: their names.
            validation: hold validation images back from the training images.

        Raises:
            DataError: the files are missing or not what the source needs.
        """
        out = self.folder / "data"
        return {d: import_data(d, self.data, out, validation=validation) for d in datasets}
