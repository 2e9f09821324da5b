from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace

import pytest

from cluster_jobs import cli


def clmle(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster_jobs.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_help_comes_at_once_and_shows_commands() -> None:
    started = time.monotonic()
    result = clmle("--help")
    seconds = time.monotonic() - started
    assert result.returncode == 0
    for verb in cli.VERBS:
        assert f"\n  {verb} " in result.stdout
    assert "clmle run --config digits" in result.stdout
    assert seconds < 2  # 0.1 on an idle machine; torch or ray alone would take longer


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from cluster_jobs import cli; cli.main(['--help']);"
        "sys.exit(bool({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_a_help_page(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    assert f"usage: clmle {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "usage: clmle VERB"),
        (["evalute"], 2, "did you mean `clmle evaluate`?"),
        (["train"], 2, "did you mean `clmle run`?"),
        (["imagefolder"], 2, "did you mean `clmle import image-folder`?"),
        (["xyz"], 2, "verbs: import, run"),
        (["run"], 2, "--config"),
        (["run", "--config", "/nowhere.yaml"], 2, "cannot read the configuration /nowhere.yaml"),
        (["import", "digits"], 2, "--out"),
        (["evaluate", "--config", "/nowhere.yaml"], 2, "error: cannot read the configuration"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    arguments: list[str], code: int, said: str
) -> None:
    result = clmle(*arguments)
    assert result.returncode == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_verb_gets_the_rest_and_gives_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def job(argv: Sequence[str] | None) -> int:
        assert argv == ["--config", "x"]
        return 5

    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(main=job))
    assert cli.main(["run", "--config", "x"]) == 5


def test_a_verb_is_one_module_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = ModuleType("toy_verb")
    toy.main = lambda argv: len(argv)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    monkeypatch.setitem(cli.VERBS, "toy", (toy.__name__, "count the arguments"))
    assert cli.main(["toy", "one", "two"]) == 2
    assert cli.main(["--help"]) == 0
    assert "  toy        count the arguments\n" in capsys.readouterr().out
    assert cli.main(["toi"]) == 2
    assert "did you mean `clmle toy`?" in capsys.readouterr().err


@pytest.mark.parametrize("meant", sorted(set(cli._ALIASES.values())))
def test_every_alias_stands_for_a_verb(meant: str) -> None:
    assert meant in cli.VERBS
