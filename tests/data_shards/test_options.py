"""An unknown option is answered with the one that was meant."""

from __future__ import annotations

import sys

import pytest

from data_shards.options import OptionParser


def parser(*, takes_settings: bool = False) -> OptionParser:
    made = OptionParser(prog="clmle verb")
    made.takes_settings = takes_settings
    made.add_argument("--config", required=True)
    made.add_argument("--resume", default="auto")
    made.add_argument("images", nargs="*")
    return made


def error(arguments: list[str], capsys: pytest.CaptureFixture[str], **kind: bool) -> str:
    with pytest.raises(SystemExit) as caught:
        parser(**kind).parse_args(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confg", "a"], "unknown option --confg; did you mean --config?"),
        (["--confg=a"], "unknown option --confg; did you mean --config?"),
        (["--config", "a", "--resuume"], "unknown option --resuume; did you mean --resume?"),
        (["--config", "a", "--qqq"], "unknown option --qqq; see clmle verb --help"),
        (["--train.steps", "5"], "unknown option --train.steps; see clmle verb --help"),
        ([], "the following arguments are required: --config"),
    ],
)
def test_the_nearest_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert f"clmle verb: error: {message}" in error(arguments, capsys)


def test_a_setting_is_set_with_set(capsys: pytest.CaptureFixture[str]) -> None:
    said = error(["--train.steps=5"], capsys, takes_settings=True)
    assert said.endswith("unknown option --train.steps; did you mean --set train.steps=VALUE?")


def test_what_argparse_takes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parser().parse_args(["--conf", "a"]).config == "a"
    assert parser().parse_args(["--config", "a", "--", "--odd"]).images == ["--odd"]
    monkeypatch.setattr(sys, "argv", ["clmle", "--config", "b"])
    assert parser().parse_args().config == "b"
