"""docs/errors.md: every message that an error of ours may have, made from where it is raised.

python -m tests.policy.errors_page > docs/errors.md
"""

import ast
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from tests.policy.product_code import room_of
from tests.policy.syntax import called, error_classes, modules
from tests.policy.templates import ANOTHER, templates

RANGE_CHECK = "data_shards.errors"
"""The module of `require`, whose messages have a table of their own."""

HEADINGS = {
    "Importing images": (
        "data_shards/importer data_shards/importing data_shards/sources data_shards/images"
    ),
    "Reading images, embeddings and other files": "data_shards",
    "Settings": "trainer/config trainer/losses trainer/models clustering/config",
    "Starting and resuming a run": "trainer/run trainer/state cluster_jobs",
    "Training": "trainer",
    "Clustering and Ray": (
        "clustering cluster_jobs/recluster cluster_jobs/service cluster_jobs/ray_cluster"
    ),
    "Evaluating, classifying, embedding": (
        "trainer/evaluation cluster_jobs/evaluate cluster_jobs/classify cluster_jobs/embed"
    ),
    "In notebooks (`import clmle`)": "clmle clustering/arrays",
}
"""What the user is doing -> the rooms whose errors then come; a package: its other rooms."""

TOP = """# Errors

A command that fails ends with `error: ` and one message: what was found; what to do. These are all,
made from the sources by `python -m tests.policy.errors_page > docs/errors.md`; do not edit by hand.

‹Words in such brackets› stand for your files, names and numbers: search for some of the others.
‹another message› is one of this page. The last column is the exit code: 2 is a mistake that you can
correct, 1 a failure on the way.
"""

OTHERS = (
    ("stopped", "nothing: it was Ctrl-C. The same command goes on where it stopped", 130),
    (
        "‹path›: No space left on device, Permission denied, or what else the system says",
        "make room, or give access to the file; then the same command again",
        1,
    ),
    (
        "usage: ... error: unknown option ..., arguments that are required or not recognised",
        "`--help` after the command lists its options",
        2,
    ),
    (
        "ImportError: ‹path› hides clmle's own package ‹name›",
        "rename your file or folder, or start Python in another folder",
        1,
    ),
    (
        "Traceback (most recent call last), and another error than this",
        "it is a fault of the program: report it, with the whole text",
        1,
    ),
)
"""Messages that are no errors of ours: (message, what to do, exit code)."""

# A remedy follows the first of these that is not in brackets.
_REMEDY = re.compile(r"; |\. (?=To )|: (?=did you mean|known|clmle import)|\n")
_EXPECTATION = re.compile(r"\b(?:must|needs?|expected) .*?(?=, got|; |$)")


@dataclass(frozen=True)
class Message:
    """One message, as a template."""

    module: str
    heading: str
    exit_code: int
    text: str

    @property
    def _split(self):
        for found in _REMEDY.finditer(self.text):
            before = self.text[: found.start()]
            if before.count("(") == before.count(")"):
                return found
        return None

    @property
    def cause(self):
        """What was found."""
        return self.text[: self._split.start()] if self._split else self.text

    @property
    def remedy(self):
        """What to do, or else what is expected; empty if the message says neither."""
        if self._split:
            return self.text[self._split.end() :].replace("\n", " ")
        if self.text.endswith(ANOTHER):
            return "what that message says"
        expectation = _EXPECTATION.search(self.text)
        return expectation[0] if expectation else ""


@cache
def raised():
    """(module, text, exit code) of every error of ours that is made, wherever that is."""
    return [
        (module, node.args[0], error_classes()[name])
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and (name := called(node)) in error_classes() and node.args
    ]


@cache
def messages():
    """All messages that have words."""
    return list(
        dict.fromkeys(
            Message(module.name, _heading(module), exit_code, text)
            for module, node, exit_code in raised()
            for text in templates(node, module.scope_of(node))
            if _words_of(text)
        )
    )


def wordless():
    """Module -> the errors in it of which no words are known, as they stand there."""
    found = defaultdict(list)
    for module, node, _ in raised():
        if not any(map(_words_of, templates(node, module.scope_of(node)))):
            found[module.name].append(ast.unparse(node))
    return found


def _heading(module):
    """Where the errors of a module are listed; nowhere for those about ranges."""
    if module.name == RANGE_CHECK:
        return None
    package = module.name.split(".")[0]
    places = {place: heading for heading, rooms in HEADINGS.items() for place in rooms.split()}
    return places.get(f"{package}/{room_of(module.path)}") or places[package]


def _words_of(text):
    """A template without its placeholders."""
    return re.sub(r"‹[^›]*›|\W", "", text)


def page():
    """The page, in Markdown."""
    lines = [TOP]
    for heading in HEADINGS:
        rows = _rows([message for message in messages() if message.heading == heading])
        lines += [f"## {heading}", "", *_table(rows), ""]
    lines += ["## A setting out of range", ""]
    lines += ["‹setting› must be ‹what stands here›, got ‹value›. Exit code 2.", ""]
    lines += ["| must be | settings |", "|---|---|", *_ranges(), ""]
    lines += ["## From Python and the system", "", *_table(OTHERS)]
    return "\n".join(lines) + "\n"


def _table(rows):
    yield from ("| message | what to do | exit |", "|---|---|---|")
    yield from (f"| {_escaped(cause)} | {_escaped(then)} | {code} |" for cause, then, code in rows)


def _rows(found):
    """A row for each cause, with all remedies that it may have."""
    remedies = defaultdict(list)
    for message in found:
        remedies[message.cause, message.exit_code].append(message.remedy)
    return [
        (cause, " / ".join(dict.fromkeys(filter(None, texts))), code)
        for (cause, code), texts in sorted(_merged(remedies).items(), key=_by_words)
    ]


def _by_words(row):
    (cause, code), _ = row
    return _words_of(cause).lower(), cause, code


def _merged(remedies):
    """Causes that differ in one word only become one: "embeddings / labels must be ..."."""
    for place in range(max(len(cause.split(" ")) for cause, _ in remedies)):
        groups = defaultdict(list)
        for (cause, code), texts in remedies.items():
            words = cause.split(" ")
            around = (*words[:place], None, *words[place + 1 :])
            groups[around, code, tuple(texts)].append(words[place] if place < len(words) else "")
        remedies = {
            (_filled_in(around, words), code): list(texts)
            for (around, code, texts), words in groups.items()
        }
    return remedies


def _filled_in(around, words):
    return " ".join(" / ".join(words) if word is None else word for word in around).rstrip()


def _ranges():
    settings = defaultdict(list)
    for message in messages():
        if message.module == RANGE_CHECK:
            name, _, expected = message.text.removesuffix(", got ‹value›").partition(" must be ")
            settings[expected].append(name)
    for expected, names in sorted(settings.items()):
        listed = ", ".join(f"`{name}`" for name in dict.fromkeys(sorted(names)))
        yield f"| {_escaped(expected)} | {listed} |"


def _escaped(text):
    return re.sub(r"([|*]|<(?=\w))", r"\\\1", text.strip())


if __name__ == "__main__":
    sys.stdout.write(page())
