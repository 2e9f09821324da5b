"""All that a text in the sources can say, with ‹words› in the place of values.

An expression has alternatives, each a tuple of strings and of holes: names that are still to be
followed. A hole whose values are no text in the end becomes a ‹word›.
"""

import ast
import itertools
import re
from dataclasses import dataclass, replace

from tests.policy.placeholders import placeholder
from tests.policy.syntax import (
    Scope,
    Variable,
    appended,
    error_classes,
    functions_named,
    variable,
)

ANOTHER = "‹another message›"
"""Stands for the message of an error that was caught, one of ours."""
_NOTHING = ("", "none")  # left out where the other alternative says more


@dataclass(frozen=True)
class Hole:
    """A variable in a template, and what stands there if it is no text."""

    variable: Variable
    word: str


def templates(node, scope):
    """The alternatives of a text, as strings; none if it is no text."""
    parts = _parts(node, scope) or []
    texts = [text for template in parts for text in _filled(template)]
    return list(dict.fromkeys(re.sub("(‹[^›]*›)+(?=‹)", "", text) for text in texts))


def _filled(template, followed=()):
    """A template's texts; a variable that leads back to itself stays a ‹word›."""
    holes = [part for part in template if isinstance(part, Hole)]
    if not holes:
        return ["".join(template)]
    hole = next((hole for hole in holes if not hole.variable.needs_call), holes[0])
    if hole.variable in followed or not _is_text(hole.variable):
        number = _number(hole.variable) if hole.variable.scope.call is not None else None
        choices = [_replaced(template, hole.variable, (number or hole.word,))]
    elif hole.variable.needs_call:
        scopes = hole.variable.scope.calls()
        choices = [_called(template, s) for s in scopes if _is_text(_bound(hole.variable, s))]
    else:
        values = [
            value
            for node, scope in hole.variable.values()
            for value in _parts(node, scope) or [(hole.word,)]
            if not isinstance(node, ast.Constant) or node.value is not None
        ]
        choices = [_replaced(template, hole.variable, value) for value in _telling(values)]
    followed = (*followed, hole.variable)
    return [text for choice in choices for text in _filled(choice, followed)]


def _replaced(template, name, value):
    """A template with a value in the place of a variable."""
    return tuple(
        inner
        for part in template
        for inner in (value if isinstance(part, Hole) and part.variable == name else (part,))
    )


def _called(template, scope):
    """A template with all holes of a function bound to one call of it."""
    is_open = replace(scope, call=None, caller=None)
    return tuple(
        replace(part, variable=_bound(part.variable, scope))
        if isinstance(part, Hole) and part.variable.scope == is_open
        else part
        for part in template
    )


def _bound(name, scope):
    return replace(name, scope=scope)


def _is_text(name, seen=()):
    """Whether any value of a variable has words or figures of its own."""
    if name in seen:
        return False
    if name.needs_call:
        return any(_is_text(_bound(name, s), (*seen, name)) for s in name.scope.calls())
    return any(
        _is_text(part.variable, (*seen, name))
        if isinstance(part, Hole)
        else re.search(r"[\w>]", part) and not part.startswith("‹")
        for node, scope in name.values()
        for template in _parts(node, scope) or []
        for part in template
    )


def _telling(alternatives):
    """Alternatives without those that say nothing, if others do."""
    return [a for a in alternatives if a and a != ("",) and a[0] not in _NOTHING] or alternatives


def _parts(node, scope):
    """The alternatives of an expression; None if it is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return [(text,)]
        case ast.JoinedStr(values=values):
            return _product([_parts(value, scope) for value in values])
        case ast.FormattedValue():
            return _formatted(node, scope)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            sides = [_parts(left, scope), _parts(right, scope)]
            return None if None in sides else _product(sides)
        case ast.IfExp(body=body, orelse=other):
            return _union([_parts(body, scope), _parts(other, scope)])
        case ast.Name():
            return _named(node, scope)
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return [(Hole(Variable(f"self.{name}", scope), placeholder(node)),)]
        case ast.Call():
            return _made(node, scope)
    return None


def _product(sides):
    return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*sides)]


def _union(sides):
    found = [template for side in sides for template in side or []]
    return _telling(found) if found else None


def _number(name, how=""):
    """A constant, or the argument of a chosen call, as text if it is a number; else None."""
    for node, _ in name.values():
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return format(node.value, how or "g")
    return None


def _formatted(node, scope):
    """What braces show: `{name!r}` and `{number:,}` are values, and followed to constants only."""
    is_value = node.conversion == ord("r") or node.format_spec is not None
    is_constant = isinstance(node.value, ast.Name) and node.value.id.isupper()
    how = "".join(part.value for part in node.format_spec.values) if node.format_spec else "d"
    if is_constant and (number := _number(variable(node.value, scope), how)) is not None:
        return [(number,)]
    word = placeholder(node.value, is_number=node.format_spec is not None)
    found = _parts(node.value, scope) if is_constant or not is_value else None
    return found or [(word,)]


def _made(call, scope):
    """What a call makes: of a function of the same module, or of the text that it is given."""
    match call:
        case ast.Call(func=ast.Name(id="str"), args=[inner]):
            return _parts(inner, scope)
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=between), attr="join")):
            return _joined(between, call.args[0], scope)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            functions = functions_named(name, scope.module) if name.startswith("_") else []
            if len(functions) == 1:
                return _returned(functions[0], Scope(scope.module, functions[0], call, scope))
            if [type(argument) for argument in call.args] == [ast.Call]:  # handed on
                return _made(call.args[0], scope)
    return None


def _joined(between, texts, scope):
    if isinstance(texts, ast.Name):  # each alone
        return _union([_parts(text, scope) for text in appended(texts.id, scope)])
    if not isinstance(texts, (ast.List, ast.Tuple)):
        return None
    sides = [_parts(text, scope) or [(placeholder(text),)] for text in texts.elts]
    return _product([side for text in sides for side in ([(between,)], text)][1:])


def _returned(function, scope):
    returns = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    return _union([_parts(value, scope) for value in returns if value is not None])


def _named(node, scope):
    for handler in scope.module.around(node, ast.ExceptHandler):
        if handler.name == node.id:
            caught = {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)}
            return [(ANOTHER if caught & set(error_classes()) else "‹reason›",)]
    return [(Hole(variable(node, scope), placeholder(node)),)]
