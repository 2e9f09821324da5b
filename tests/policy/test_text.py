"""Text goes to files in an encoding that is named, and paths of options know `~`."""

import ast

import pytest

from tests.policy.product_code import FILES, NAMES

NOT_OF_TEXT = ("os", "tarfile", "Image", "gzip", "EmbeddingShards")
"""Whose `open` opens no text, or takes no encoding."""


def calls(path):
    """(the call, the name of what is called, what it belongs to: "" for a plain function)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                yield node, function.attr, ast.unparse(function.value)
            elif isinstance(function, ast.Name):
                yield node, function.id, ""


def is_binary(call, place):
    modes = [k.value for k in call.keywords if k.arg == "mode"] + call.args[place : place + 1]
    return any("b" in mode.value for mode in modes if isinstance(mode, ast.Constant))


def lacks_encoding(call, name, owner):
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name in ("read_text", "write_text"):
        return True
    if name == "fdopen" or (name == "open" and not owner):
        return not is_binary(call, 1)
    return name == "open" and owner not in NOT_OF_TEXT and not is_binary(call, 0)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_text_file_has_a_named_encoding(path):
    for call, name, owner in calls(path):
        assert not lacks_encoding(call, name, owner), (
            f'{path}:{call.lineno}: {ast.unparse(call)} depends on the locale; say encoding="utf-8"'
        )


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_option_that_is_a_path_knows_the_home_folder(path):
    for call, _, _ in calls(path):
        for keyword in call.keywords:
            is_path = keyword.arg == "type" and ast.unparse(keyword.value) == "Path"
            assert not is_path, f"{path}:{call.lineno}: type=Path; use data_shards.paths"


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("open(p)", True),
        ("open(p, 'wb')", False),
        ("open(p, mode='rb')", False),
        ("open(p, encoding='utf-8')", False),
        ("p.open()", True),
        ("p.open('wb')", False),
        ("os.fdopen(d, 'w')", True),
        ("os.open(p, flags)", False),
        ("p.write_text(t)", True),
        ("p.read_text(encoding='ascii')", False),
    ],
)
def test_the_rule_tells_them_apart(text, lacking, tmp_path):
    (tmp_path / "code.py").write_text(text, encoding="utf-8")
    found = list(calls(tmp_path / "code.py"))
    assert any(lacks_encoding(*call) for call in found) == lacking
