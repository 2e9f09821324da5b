"""The commands that documents and configurations show can be typed; none of them is run."""

import contextlib
import io
import os
import re
import runpy
import sys
import warnings
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

from cluster_jobs.cli import VERBS

ROOT = Path(__file__).parents[2]
FILES = sorted(
    [
        *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "configs").glob("*.yaml"),
    ]
)
CODE = re.compile(
    r"^ *```\w*$(.*?)^ *```$|`([^`\n]+)`|^(?: {4}|#)([^\n]+)$", re.MULTILINE | re.DOTALL
)
# At the start of a line, in a folder, or handed to `ray job submit`.
COMMAND = re.compile(
    r"(?:^\W*|/|-- )(clmle|python -m|deepspeed .*--module|make) ([\w.]+)([^#\n]*)", re.MULTILINE
)
OPTION = re.compile(r"--[a-z][\w-]*")


def commands(path):
    """(program, its verb, module or target, the rest) of each command that a file shows."""
    text = re.sub(r"\\\n[ #]*", "", path.read_text())
    for name, value in re.findall(r'^(\w+)="(.*)"$', text, re.MULTILINE):
        text = text.replace(f"${name}", value)
    return COMMAND.findall("\n".join("".join(groups) for groups in CODE.findall(text)))


@cache
def options_of(module):
    """All that `python -m MODULE --help` names.

    It runs in this process: one of its own for each module would import torch each time.
    """
    with (
        mock.patch.dict(os.environ),  # some modules set variables before they import others
        mock.patch.object(sys, "argv", [module, "--help"]),
        contextlib.redirect_stdout(io.StringIO()) as page,
        warnings.catch_warnings(action="ignore", category=RuntimeWarning),  # imported before
    ):
        code = 0
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
    assert not code, module
    return set(OPTION.findall(page.getvalue()))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_commands_can_be_typed(path):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for program, name, rest in commands(path):
        assert program != "clmle" or name in VERBS, f"{path.name}: clmle {name}"
        assert program != "make" or name in targets, f"{path.name}: make {name}"
        if program != "make":
            module = VERBS[name][0] if program == "clmle" else name
            unknown = set(OPTION.findall(rest)) - options_of(module)
            assert not unknown, f"{path.name}: {program} {name} has no {', '.join(unknown)}"


def test_there_is_something_to_check():
    shown = [command for path in FILES for command in commands(path)]
    assert {name for _, name, _ in shown} >= {"import", "run", "classify", "trainer.train", "test"}
    assert sum("--" in rest for _, _, rest in shown) > 20
