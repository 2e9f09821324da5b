"""Templates of texts equal what a reader of the sources would write down."""

import ast
from textwrap import dedent

import pytest

from tests.policy import syntax
from tests.policy.templates import ANOTHER, templates

ERRORS = """
FAILED, MISTAKE = 1, 2
class ClmleError(Exception):
    exit_code = FAILED
class DataError(ClmleError, ValueError):
    exit_code = MISTAKE
class LostData(DataError):
    pass
def refuse(name: str, expected: str, got: object) -> None:
    raise DataError(f"{name} must be {expected}, got {got!r}")
"""
REMEDIES = """
REMEDY = "embed again"
"""
CASES = {
    'f"{path} is {len(rows):,} rows" " long"': ["‹path› is ‹number› rows long"],
    'f"{self.folder / name} has {config.data.shards}"': ["‹path› has ‹data.shards›"],
    'f"{path}: {error.strerror}; {remedy}"': ["‹path›: ‹reason›; embed again"],
    'f"{SIZE} {what!r} of {REMEDY!r}"': ["40 ‹name› of embed again"],
    '"old" if path else f"new {path}"': ["old", "new ‹path›"],
    'f"lost{more}"': ["lost and ‹number› more"],
    'f"{kind} images, {kind} labels"': ["no images, no labels", "few images, few labels"],
    'f"{first} is {state}"': ["--a must be 1 is ‹state›", "--b must be 2 is ‹state›"],
    '_why(path, "cannot be read")': ["‹path› is empty", "‹path› cannot be read"],
    'self.where + ": gone"': ["split ‹split› of ‹path›: gone"],
    'f"{path}: {problem}"': [f"‹path›: {ANOTHER}"],
    'f"{path}: {trouble}"': ["‹path›: ‹reason›"],
    '"; ".join([f"no {path}", *lines])': ["no ‹path›; ‹lines›"],
    '", ".join(troubles)': ["‹path› is gone", "none of ‹rows›"],
    "len(path)": [],
}
SAMPLE = """
from errors import DataError, LostData, refuse as _refuse
from remedies import REMEDY

SIZE = 40

class Sample:
    def __init__(self, split):
        self.where = f"split {split!r} of {path}"

    def check(self, path, rows, what):
        more = f" and {len(path)} more" if path else ""
        remedy = REMEDY
        troubles = []
        troubles.append(f"{path} is gone")
        troubles.append(f"none of {rows}")
        kind = "few"
        if path:
            kind = "no"
        for first, state in {"--a must be 1": path, "--b must be 2": rows}.items():
            try:
                pass
            except (KeyError, LostData) as problem:
                try:
                    pass
                except KeyError as trouble:
                    found(EXPRESSION)

def _why(path, problem):
    if not path:
        return f"{path} is empty"
    return f"{path} {problem}"
"""
CALLERS = """
from errors import refuse

LEAST = ("rows", "seed")

class Section:
    def __init__(self, size):
        for name in LEAST:
            _check(name, ">= 1", size)
        self._at_least(3, "steps")
        refuse("size", "a number", size)

    def _at_least(self, least, *names):
        for name in names:
            refuse(f"b.{name}", f">= {least}", getattr(self, name))

def _check(name, expected, got):
    refuse(f"a.{name}", expected, got)
"""
RECURSIVE = """
def read(text):
    walk(text, "the file")

def walk(text, where):
    reason = f"{text} is long"
    if text:
        reason = f"{reason}, or empty"
    found(f"{where}: {reason}")
    inner(text, f"{where} in brackets")

def inner(text, where):
    walk(text, where)
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Makes modules of texts, which stand in for the product's."""
    known = {}
    caches = (syntax._all_calls, syntax._calls_of, syntax.error_classes)
    monkeypatch.setattr(syntax, "modules", lambda: known)

    def make(texts):
        for name, text in texts.items():
            (tmp_path / name).write_text(dedent(text))
            known[name] = syntax.Module(name, tmp_path / name)
        for cached in caches:
            cached.cache_clear()
        return known

    yield make
    for cached in caches:
        cached.cache_clear()


def texts_of(module, name):
    """Templates of the argument of the only call of a function or class in a module."""
    (call,) = [
        node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name
    ]
    return templates(call.args[0], module.scope_of(call))


@pytest.mark.parametrize(("expression", "expected"), CASES.items(), ids=CASES)
def test_an_expression_becomes_what_it_may_say(modules, expression, expected):
    texts = {"data_shards.errors": ERRORS, "errors": ERRORS, "remedies": REMEDIES}
    known = modules({**texts, "sample": SAMPLE.replace("EXPRESSION", expression)})
    assert sorted(texts_of(known["sample"], "found")) == sorted(expected)


def test_a_parameter_becomes_what_each_call_gives(modules):
    known = modules({"errors": ERRORS, "callers": CALLERS})
    assert sorted(texts_of(known["errors"], "DataError")) == [
        "a.rows must be >= 1, got ‹value›",
        "a.seed must be >= 1, got ‹value›",
        "b.steps must be >= 3, got ‹value›",
        "size must be a number, got ‹value›",
    ]


def test_what_leads_back_to_itself_is_followed_once(modules):
    known = modules({"data_shards.errors": ERRORS, "recursive": RECURSIVE})
    texts = texts_of(known["recursive"], "found")
    assert {"the file: ‹text› is long", "‹setting› in brackets: ‹text› is long"} <= set(texts)
    assert len(texts) == 4


def test_errors_are_found_by_inheritance_and_have_their_exit_code(modules):
    modules({"data_shards.errors": ERRORS})
    assert syntax.error_classes() == {"ClmleError": 1, "DataError": 2, "LostData": 2}
