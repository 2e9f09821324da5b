"""One rule says how a command ends, whichever it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pytest

from cluster_jobs.errors import JobError, PartFailed, run_job
from clustering.errors import ClusterError, FaissMissingError
from data_shards import importer
from data_shards.errors import ClmleError, ConfigError, DataError
from trainer import train
from trainer.errors import TrainingError, UnusableSnapshot

MISTAKES = (ConfigError, DataError, JobError, FaissMissingError, UnusableSnapshot)
"""What the user can correct ends with 2; everything else has failed on the way."""


def subclasses(parent: type[ClmleError]) -> Iterator[type[ClmleError]]:
    for child in parent.__subclasses__():
        yield child
        yield from subclasses(child)


def expected_code(error: type[BaseException]) -> int:
    if error is KeyboardInterrupt:
        return 130
    return 2 if issubclass(error, MISTAKES) else 1


ENDS = [*subclasses(ClmleError), OSError, KeyboardInterrupt]


@pytest.mark.parametrize("error", ENDS)
def test_every_command_ends_with_the_code_of_the_error(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **others: object) -> int:
        raise error("what happened")

    assert run_job(fail, []) == expected_code(error)
    monkeypatch.setattr(importer, "prepare_import", fail)
    assert importer.main(["digits", "--out", "nowhere"]) == expected_code(error)


# A rank meets no error of the jobs above it, and takes Ctrl-C as a request to stop.
RANK_ENDS = [e for e in ENDS if issubclass(e, Exception) and "cluster_jobs" not in e.__module__]


@pytest.mark.parametrize("error", RANK_ENDS)
def test_a_rank_ends_with_the_code_of_the_error(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **others: object) -> int:
        raise error("what happened")

    monkeypatch.setattr(train, "resolved", fail)
    monkeypatch.setattr(logging, "basicConfig", lambda **settings: None)
    assert train.main(["--config", "any.yaml"]) == expected_code(error)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("shard cut off"), 2, "error: shard cut off\n"),
        (ClusterError("no table"), 1, "error: no table\n"),
        (ConfigError("unknown setting"), 2, "error: unknown setting\n"),
        (TrainingError("damaged"), 1, "error: damaged\n"),
        (JobError("port taken"), 2, "error: port taken\n"),
        (PartFailed("the trainer failed"), 1, "error: the trainer failed\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied\n"),
        (OSError("strange"), 1, "error: strange\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_known_errors_become_one_message(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(argv: Sequence[str] | None) -> int:
        raise error

    assert run_job(job, []) == code
    assert capsys.readouterr().err == said


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    def job(argv: Sequence[str] | None) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_job(job, [])


def test_a_name_that_the_locale_lacks_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: Sequence[str] | None) -> int:
        return len("日本".encode("ascii"))

    with pytest.raises(UnicodeEncodeError):
        run_job(fail)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ANSI_X3.4-1968")
    assert run_job(fail) == 2
    shown = capsys.readouterr().err
    assert r"'\u65e5\u672c' cannot be the name of a file in this locale" in shown
    assert "set LC_ALL=C.UTF-8" in shown
