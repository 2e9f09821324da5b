"""The file of finished training runs: found again, added to, never damaged by a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.accuracy.run.datasets import import_data
from benchmarks.accuracy.run.jobs import Job, make_job
from benchmarks.accuracy.run.records import Records
from data_shards.errors import DataError
from tests.helpers.benchmark_records import RECORD


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    digits = import_data("digits", None, tmp_path_factory.mktemp("data"), validation=False)
    return make_job("digits", "clmle", seed=0, chosen={}, manifest=digits, split="test")


def test_a_record_is_found_by_its_job(job: Job, tmp_path: Path) -> None:
    path, other = tmp_path / "new" / "trainings.jsonl", replace(job, seed=1)
    records = Records(path)
    assert records.find(job) is None
    assert records.missing([job, other]) == [job, other]
    records.add(job, RECORD)
    for found in (records, Records(path)):
        assert found.find(job) == RECORD
        assert found.of([other, job]) == found.all() == [RECORD]
        assert found.missing([job, other]) == [other]


@pytest.mark.parametrize("left", [1, 20, -1])
def test_what_a_killed_writer_left_is_ignored(job: Job, tmp_path: Path, left: int) -> None:
    path, other = tmp_path / "trainings.jsonl", replace(job, seed=1)
    Records(path).add(job, RECORD)
    line = path.read_bytes()
    path.write_bytes(line + line[:left])
    records = Records(path)
    assert records.all() == [RECORD]
    records.add(other, replace(RECORD, seed=1))
    assert [record.seed for record in Records(path).all()] == [0, 1]


def test_two_benchmarks_add_to_one_file(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "trainings.jsonl"
    first, second = Records(path), Records(path)
    for seed, records in enumerate((first, second, first, second)):
        records.add(replace(job, seed=seed), replace(RECORD, seed=seed))
    assert [record.seed for record in Records(path).all()] == [0, 1, 2, 3]
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])  # another branch's file
    first.add(replace(job, seed=4), replace(RECORD, seed=4))
    assert [record.seed for record in Records(path).all()] == [0, 4]


@pytest.mark.parametrize("line", ["{}", "[]", "half", '{"name": "a", "accuracy": 1}'])
def test_a_line_that_is_no_record_is_named(job: Job, tmp_path: Path, line: str) -> None:
    path = tmp_path / "trainings.jsonl"
    Records(path).add(job, RECORD)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"line 2 of .*trainings.jsonl is no record"):
        Records(path)
