from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.run import datasets, jobs
from benchmarks.accuracy.run.datasets import DATASETS, import_data
from benchmarks.accuracy.run.jobs import SEARCH_SEED, Job, make_job
from benchmarks.accuracy.run.methods import METHODS
from benchmarks.accuracy.run.suites import SUITES
from data_shards.errors import DataError
from data_shards.shards.manifest import Manifest
from trainer.config.builder import with_settings


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return import_data("digits", None, tmp_path_factory.mktemp("data"), validation=True)


def job(manifest: Manifest, data: str = "digits", method: str = "clmle") -> Job:
    return make_job(
        data,
        method,
        seed=3,
        chosen={"optim.learning_rate": 0.05},
        manifest=manifest,
        split="validation",
    )


def test_validation_images_are_held_back_and_test_images_stay(digits: Manifest, tmp_path) -> None:
    whole = import_data("digits", None, tmp_path, validation=False)
    assert set(whole.splits) == {"train", "test"}
    assert digits.split("test").num_samples == whole.split("test").num_samples
    held, all_ = (m.class_counts("train", "digit") for m in (digits, whole))
    assert all_[0] - held[0] == digits.class_counts("validation", "digit")[0]
    assert import_data("digits", None, tmp_path, validation=False).checksum == whole.checksum


def test_shards_of_other_settings_are_not_taken_for_the_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_data("digits", None, tmp_path, validation=False)
    other = dataclasses.replace(DATASETS["digits"], options={"long_tail_ratio": 100})
    monkeypatch.setattr(datasets, "DATASETS", {"digits": other})
    told = r"digits was imported with long_tail_ratio 20.0 \(wanted: 100.0\); remove that folder"
    with pytest.raises(DataError, match=told):
        import_data("digits", None, tmp_path, validation=False)


def test_every_method_fits_every_data_set_and_sees_as_many_images(digits: Manifest) -> None:
    for data in DATASETS:
        jobs = [job(digits, data, method) for method in METHODS]
        assert len({made.num_images for made in jobs}) == 1
        for made in jobs:
            # Read-outs of a head, and how images are grouped, are stated for all methods alike.
            stated_for_all = ("evaluation.", "sampler.images_per_")
            ignored = made.config.ignored_settings()
            assert not [line for line in ignored if not line.startswith(stated_for_all)], made


def test_the_middle_of_a_grid_is_the_default_and_a_family_has_one_grid() -> None:
    for name, data in DATASETS.items():
        rates = data.learning_rates
        assert list(rates) == sorted(set(rates))
        assert len(rates) % 2
        assert data.trials == [{"optim.learning_rate": rate} for rate in rates]
        assert data.trials.index(data.default_trial) == len(rates) // 2
        assert DATASETS[data.family or name].learning_rates == rates


def test_beyond_an_end_of_the_grid_lies_one_more_trial() -> None:
    data = DATASETS["utk_race"]
    assert data.learning_rates == (0.01, 0.05, 0.2)
    beyond = [data.trial_beyond(trial) for trial in data.trials]
    assert beyond == [{"optim.learning_rate": 0.002}, None, {"optim.learning_rate": 0.8}]
    alone = dataclasses.replace(data, learning_rates=(0.1,))
    assert alone.trial_beyond(alone.default_trial) is None


def test_what_was_chosen_is_set_and_a_trial_is_known_by_it(digits: Manifest) -> None:
    made = job(digits)
    assert made.config.optim.learning_rate == 0.05
    assert str(made) == "digits, clmle, seed 3"
    assert str(dataclasses.replace(made, seed=SEARCH_SEED)) == (
        "digits, clmle, optim.learning_rate=0.05"
    )


def test_the_precision_is_the_machines_and_does_not_change_the_name(
    digits: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for has_bf16 in (True, False):
        monkeypatch.setattr(jobs, "cpu_has_bf16", lambda answer=has_bf16: answer)
        made[has_bf16] = job(digits)
    assert [made[known].config.train.precision for known in (True, False)] == ["bf16", "fp32"]
    assert made[True].name == made[False].name


def test_suites_name_what_there_is() -> None:
    for suite in SUITES.values():
        assert set(suite.datasets) <= set(DATASETS)
        assert set(suite.methods) <= set(METHODS)


def test_a_name_tells_settings_and_data_apart_but_not_folders(digits: Manifest) -> None:
    made = job(digits)
    assert made.name.startswith("digits-clmle-validation-3-")
    elsewhere = {"run.folder": "elsewhere", "data.shards": "moved"}
    assert dataclasses.replace(made, config=with_settings(made.config, elsewhere)).name == made.name
    other = dataclasses.replace(made, config=with_settings(made.config, {"loss.scale": 9.0}))
    names = {made.name, other.name, dataclasses.replace(made, data_checksum="x").name}
    assert len(names) == 3


def test_a_name_ignores_settings_at_their_defaults(digits: Manifest, monkeypatch) -> None:
    """So a setting that is new, and off, leaves old records valid."""
    made = job(digits)
    name = made.name
    without = jobs.as_dict

    def of_an_older_release(config: object) -> dict[str, Any]:
        settings = without(config)
        del settings["loss"]["class_weight_beta"], settings["data"]["cache_mib"]
        return settings

    monkeypatch.setattr(jobs, "as_dict", of_an_older_release)
    assert made.name == name


def test_data_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lfw10 needs --data DIR with lfw.tar.xz in it"):
        import_data("lfw10", None, tmp_path, validation=False)
    with pytest.raises(DataError, match="does not exist"):
        import_data("lfw10", tmp_path / "data", tmp_path, validation=False)
