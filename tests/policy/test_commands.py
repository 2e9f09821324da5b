"""The commands that documents and configurations show can be typed; none of them is run."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

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
CODE = re.compile(r"^```$(.*?)^```$|`([^`\n]+)`|^(?: {4}|#)([^\n]+)$", re.MULTILINE | re.DOTALL)
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
    """All that the module's help page names."""
    command = [sys.executable, "-m", module, "--help"]
    page = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert page.returncode == 0, page.stderr
    return set(OPTION.findall(page.stdout))


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
