"""A readable word for a value that a message shows."""

import ast

_COUNTS = ("len", "sum", "min", "max", "count_nonzero", "argmin", "argmax")
_WORDS = {
    "strerror": "reason",
    "cause": "reason",
    "error": "reason",
    "parent": "folder",
    "out": "folder",
    "root": "folder",
    "named": "name",
    "cwd": "current folder",
    "got": "value",
    "raw": "value",
    "dotted": "setting",
    "full": "setting",
    "where": "setting",
    "near": "nearest name",
    "poll": "exit code",
    "code": "exit code",
    "shown": "details",
    "what": "name",
}
_SECTIONS_OF = ("config", "options", "arguments")


def placeholder(node, *, is_number=False):
    """‹word› for an expression."""
    if is_number and isinstance(node, (ast.Call, ast.BinOp, ast.Subscript)):
        return "‹number›"
    return f"‹{_word(node)}›"


def _word(node):
    match node:
        case ast.Name(id=name):
            return _plain(name)
        case ast.Attribute():
            return _word_of_attribute(node)
        case ast.Call():
            return _word_of_call(node)
        case ast.Subscript(value=inner, slice=place):
            word = _word(inner)
            return word if isinstance(place, ast.Slice) else word.removesuffix("s")
        case ast.BinOp(op=operation):
            return "path" if isinstance(operation, ast.Div) else "number"
        case ast.BoolOp(values=[inner, *_]) | ast.IfExp(body=inner) | ast.Starred(value=inner):
            return _word(inner)
        case ast.GeneratorExp(elt=inner) | ast.ListComp(elt=inner) | ast.List(elts=[inner, *_]):
            return _word(inner)
    return "value"


def _word_of_attribute(node):
    match node:
        case ast.Attribute(attr="__name__"):
            return "type"
        case ast.Attribute(value=ast.Attribute(value=root, attr=section), attr=name) if (
            ast.unparse(root).removeprefix("self.").strip("_") in _SECTIONS_OF
        ):
            return f"{section}.{name}"
        case ast.Attribute(attr=name):
            return _plain(name)


def _word_of_call(node):
    match node:
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(key)), *_]):
            return _plain(key)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in _COUNTS:
            return "number"
        case ast.Call(func=ast.Name(id="getattr")):
            return "value"
        case ast.Call(args=[*_, inner]):
            return _word(inner)
        case ast.Call(func=inner):
            return _word(inner)


def _plain(name):
    word = name.strip("_").lower().replace("_", " ")
    return _WORDS.get(word, word.removeprefix("num ").removeprefix("other "))
