"""The reference page of all settings, made from the dataclasses.

python -m trainer.config.reference > docs/configuration.md
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from trainer.config.run_config import RunConfig
from trainer.losses.registry import LOSSES
from trainer.losses.spec import LossSettings


def reference() -> str:
    """The page, in Markdown."""
    lines = [
        "# Configuration",
        "",
        "One YAML file per run; every setting has a default. Made from the dataclasses by",
        "`python -m trainer.config.reference > docs/configuration.md`; do not edit by hand.",
        "`clmle run --config FILE --dry-run` prints a run's resolved settings.",
        "",
        "In `--set NAME=VALUE` a text (type str) is taken as it is written, without quotes; any",
        "other value is YAML. A path may begin with `~`.",
    ]
    hints = typing.get_type_hints(RunConfig)
    top = field_docs(RunConfig)
    for section in dataclasses.fields(RunConfig):
        kind, text = hints[section.name], top.get(section.name, "")
        if typing.get_origin(kind) is tuple:
            kind = typing.get_args(kind)[0]
        lines += ["", f"## `{section.name}`", ""]
        if kind is LossSettings:
            lines += [text, "", *_loss_rows()]
        elif dataclasses.is_dataclass(kind):
            lines += [" ".join(filter(None, [_first_paragraph(kind), text])), ""]
            lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
            lines += list(_rows(kind, section.name))
        else:
            lines.append(text)
    return "\n".join(lines) + "\n"


def _first_paragraph(kind: Any) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__).split("\n\n")[0].split())


def _rows(kind: Any, section: str) -> Iterator[str]:
    docs, hints = field_docs(kind), typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        default: Any = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        elif default is dataclasses.MISSING:
            default = "(required)"
        shown = "null" if default is None else str(default)
        shown = shown.lower() if isinstance(default, bool) else shown
        text, name = _escaped(docs.get(item.name, "")), _escaped(_type_name(hints[item.name]))
        yield f"| `{section}.{item.name}` | {name} | `{shown}` | {text} |"


def _loss_rows() -> Iterator[str]:
    """Each setting of the loss section once, with the losses that have it."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, spec in LOSSES.items():
        hints, docs = typing.get_type_hints(spec.settings), field_docs(spec.settings)
        for item in dataclasses.fields(spec.settings):
            if item.name != "name":
                kind = _escaped(_type_name(hints[item.name]))
                row = rows.setdefault((f"`loss.{item.name}` | {kind}", docs[item.name]), {})
                row.setdefault(f"`{item.default}`", []).append(name)
    yield "| setting | type | default of each loss that has it | meaning |"
    yield "|---|---|---|---|"
    yield f"| `loss.name` | {_escaped(' | '.join(LOSSES))} | `{RunConfig().loss.name}` | Which. |"
    for (setting, text), defaults in rows.items():
        by_loss = "; ".join(f"{value}: {', '.join(names)}" for value, names in defaults.items())
        yield f"| {setting} | {by_loss} | {_escaped(text)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    if isinstance(kind, types.UnionType):
        return " | ".join("null" if k is types.NoneType else k.__name__ for k in kind.__args__)
    if isinstance(kind, types.GenericAlias):
        return "mapping"
    return str(kind.__name__)


def field_docs(kind: Any) -> dict[str, str]:
    """The string literal under each field of a dataclass, on one line; also of inherited ones."""
    docs: dict[str, str] = {}
    for base in kind.__mro__[1:-1]:
        docs = field_docs(base) | docs
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    for statement, following in zip(body, body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


if __name__ == "__main__":
    sys.stdout.write(reference())
