"""The data sets of the comparison: their images, and the settings that all methods share.

Training images, their number in a step, steps and augmentation are a data set's, so that all
methods see the same number of images. Test images are the source's own or a fixed quarter of each
class. Validation images (a fifth of each class of the rest) are for choices alone: runs that
are measured on test images train on them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.accuracy.run.mnist_control import control_images
from data_shards.errors import DataError
from data_shards.importer import import_source
from data_shards.importing.plan import ImportOptions
from data_shards.shards.manifest import Manifest
from data_shards.sources.base import Source
from data_shards.sources.registry import read_source

VALIDATION_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Images, and the settings of every training run on them."""

    source: str
    """As in `clmle import SOURCE`."""
    path: str | None = None
    """Below the folder that `--data` names; None where the source needs no files."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `ImportOptions`."""
    prepare: Callable[[Source], Source] | None = None
    """Applied to the source's images before they are imported; None: nothing."""
    settings: Mapping[str, Any]
    """Of the run, dotted; a method's own settings come on top."""
    table_settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the methods that train on cluster tables alone."""
    steps: int
    family: str = ""
    """The data set on which its settings are searched: one with similar settings. "" = itself."""
    learning_rates: tuple[float, ...] = (0.01, 0.05, 0.2)
    """What a search tries of every method, ascending; the middle one where nothing was searched.
    Where an end of them is best, one more beyond it."""

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Dotted settings of each trial of a search."""
        return [{"optim.learning_rate": rate} for rate in self.learning_rates]

    def trial_beyond(self, best: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a search tries last: a step as large beyond the end of the grid.

        Args:
            best: of `trials`.

        Returns:
            None where the best is inside the grid, or the grid is a single trial.
        """
        rates = self.learning_rates
        place = self.trials.index(dict(best))
        if len(rates) == 1 or 0 < place < len(rates) - 1:
            return None
        end, before = (rates[0], rates[1]) if place == 0 else (rates[-1], rates[-2])
        return {"optim.learning_rate": float(f"{end * end / before:.3g}")}

    @property
    def default_trial(self) -> dict[str, Any]:
        """Where no recipe has chosen."""
        return self.trials[len(self.trials) // 2]


def _batch(*, groups: int, images_per_group: int) -> dict[str, Any]:
    """One size for every sampling; images of a cluster or class together where it draws so."""
    return {
        "sampler.micro_batch_size": groups * images_per_group,
        "sampler.images_per_cluster": images_per_group,
        "sampler.images_per_class": images_per_group,
    }


_GREY_28 = {
    "model.input_size": 28,
    **_batch(groups=20, images_per_group=5),
    "cluster.target_size": 200,
    "data.shift": 2,
}
_FACES = {
    "model.input_size": 32,
    "model.embedding_dim": 64,
    "data.shift": 3,
    "data.flip": True,
}
_UTK = {
    **_FACES,
    "model.channels": 3,
    **_batch(groups=20, images_per_group=5),
    "cluster.target_size": 200,
}


def _idx(folder: str, ratio: int) -> DataSet:
    return DataSet(
        source="idx",
        path=folder,
        options={"long_tail_ratio": ratio, "max_per_class": 1000},
        settings=_GREY_28,
        steps=600,
        family="fashion_lt_100",
    )


def _mnist_control(removed: float) -> DataSet:
    return DataSet(
        source="idx",
        path="mnist",
        family="mnist_control_20",
        prepare=partial(control_images, removed=removed),
        settings=_GREY_28,
        steps=1200,
    )


def _utkface(label: str, *, family: str, ratio: int = 1) -> DataSet:
    return DataSet(
        source="utkface",
        path="utkface.tar.xz",
        # A few images of the published set have no race in their name.
        options={"label": label, "long_tail_ratio": ratio, "on_error": "skip"},
        settings=_UTK,
        steps=1200,
        family=family,
    )


DATASETS: Mapping[str, DataSet] = MappingProxyType(
    {
        "fashion_lt_10": _idx("fashion_mnist", 10),
        "fashion_lt_50": _idx("fashion_mnist", 50),
        "fashion_lt_100": _idx("fashion_mnist", 100),
        "fashion_lt_200": _idx("fashion_mnist", 200),
        "mnist_lt_100": _idx("mnist", 100),
        "mnist_control_0": _mnist_control(0.0),
        "mnist_control_20": _mnist_control(0.2),
        "mnist_control_40": _mnist_control(0.4),
        "lfw10": DataSet(
            source="lfw",
            path="lfw.tar.xz",
            options={"min_images": 10},
            settings={
                **_FACES,
                **_batch(groups=40, images_per_group=3),
                "cluster.target_size": 20,
            },
            steps=1500,
            learning_rates=(0.05, 0.2, 0.8),
        ),
        "utk_race": _utkface("race", family="utk_race"),
        "utk_age": _utkface("age_decade", family="utk_race"),
        "utk_gender10": _utkface("gender", family="utk_gender10", ratio=10),
        "utk_age60": _utkface("age60", family="utk_gender10"),
        "digits": DataSet(
            source="digits",
            options={"long_tail_ratio": 20},
            settings={
                "model.input_size": 16,
                **_batch(groups=20, images_per_group=5),
                "cluster.target_size": 20,
                "data.shift": 1,
            },
            table_settings={"refresh.every": 20},
            steps=60,
            learning_rates=(0.03, 0.1, 0.3),
        ),
    }
)


def import_data(name: str, data: Path | None, out: Path, *, validation: bool) -> Manifest:
    """Import a data set, or find it imported.

    Args:
        name: one of `DATASETS`.
        data: the folder with the sources' files; not needed by digits.
        out: receives the shards in a folder of the data set's name.
        validation: hold validation images back from the training images.

    Raises:
        DataError: the files are not there or not what the source needs, or other settings made the
            shards that are there.
    """
    dataset = DATASETS[name]
    folder = out / (f"{name}-validation" if validation else name)
    options = ImportOptions(
        out=folder,
        duplicates="keep",  # the published sets, as others have measured on them
        validation_fraction=VALIDATION_FRACTION if validation else 0.0,
        **dataset.options,
    )
    if (folder / "manifest.json").exists():
        return _imported_with(options)
    path = None
    if dataset.path is not None:
        if data is None:
            raise DataError(f"{name} needs --data DIR with {dataset.path} in it")
        path = data / dataset.path
    source = read_source(dataset.source, path)
    return import_source(dataset.prepare(source) if dataset.prepare else source, options)


def _imported_with(options: ImportOptions) -> Manifest:
    manifest = Manifest.load(options.out)
    wanted = options.settings()
    differing = sorted(name for name in wanted if manifest.settings.get(name) != wanted[name])
    if differing:
        shown = ", ".join(
            f"{name} {manifest.settings.get(name)} (wanted: {wanted[name]})" for name in differing
        )
        raise DataError(
            f"{options.out} was imported with {shown}; remove that folder to import it again, or "
            "name a file in another folder by --out"
        )
    return manifest
