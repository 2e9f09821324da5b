"""What a name in the product's sources stands for: constants, assignments, loops, arguments."""

import ast
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache, cached_property

from tests.policy.product_code import MODULES

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Module:
    """A file of the product, and the links between its parts."""

    def __init__(self, name, path):
        self.name = name
        self.path = path
        self.tree = ast.parse(path.read_text())
        self.parent = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }

    def around(self, node, kind):
        """The nodes of a kind that contain another, the nearest first."""
        while (node := self.parent.get(node)) is not None:
            if isinstance(node, kind):
                yield node

    def scope_of(self, node):
        """The scope of an expression: the function that it is in."""
        return Scope(self, next(self.around(node, FUNCTIONS), None))

    @cached_property
    def names(self):
        """Name -> (module that has it, its value or function); of an import, its name there."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                found |= {a.asname or a.name: (node.module, a.name) for a in node.names}
        for node in self.tree.body:
            if isinstance(node, FUNCTIONS):
                found[node.name] = (self.name, node)
            found |= {name: (self.name, value) for name, value in _assignments(node)}
        return found


@cache
def modules():
    """Name -> module, of the whole product but its benchmarks."""
    return {
        name: Module(name, path)
        for name, path in MODULES.items()
        if name.split(".")[0] != "benchmarks"
    }


@dataclass(frozen=True)
class Scope:
    """Where an expression stands: in a function, of which one call alone counts if it is given."""

    module: Module
    function: ast.AST | None = None
    call: ast.Call | None = None
    caller: "Scope | None" = None

    @cached_property
    def owner(self):
        """The class whose method the function is; None of any other."""
        parent = self.module.parent.get(self.function)
        return parent if isinstance(parent, ast.ClassDef) else None

    @cached_property
    def parameters(self):
        """Names of the parameters without `self`, those by position first; then of `*rest`."""
        if self.function is None:
            return [], [], None
        of = self.function.args
        names = [argument.arg for argument in (*of.posonlyargs, *of.args)]
        rest = None if of.vararg is None else of.vararg.arg
        return names[self.owner is not None :], [a.arg for a in of.kwonlyargs], rest

    def argument(self, name):
        """What the call gives for a parameter, one for `*rest` may have several; none if open."""
        if self.call is None:
            return []
        by_position, _, rest = self.parameters
        if name == rest:
            return self.call.args[len(by_position) :]
        given = dict(zip(by_position, self.call.args, strict=False))
        given |= {keyword.arg: keyword.value for keyword in self.call.keywords}
        return [given[name]] if name in given else []

    def calls(self):
        """This scope once for each call of its function."""
        return _calls_of(self)


@dataclass(frozen=True)
class Variable:
    """A name at its place: the scope, and the loop that it is the variable of."""

    name: str
    scope: Scope
    loop: ast.For | None = None

    @property
    def needs_call(self):
        """Whether its value depends on the call of its function, and no call is chosen."""
        if self.scope.call is not None or self.name.startswith("self."):
            return False
        by_position, by_name, rest = self.scope.parameters
        if self.loop is not None:
            return rest is not None and ast.unparse(self.loop.iter) == rest
        return self.name in (*by_position, *by_name)

    def values(self):
        """(expression, its scope) of all that it may stand for."""
        scope = self.scope
        if self.name.startswith("self."):
            return _attribute_values(self)
        if self.loop is not None:
            return _loop_values(self)
        if self.name in (*scope.parameters[0], *scope.parameters[1]):
            return [(value, scope.caller) for value in scope.argument(self.name)]
        if scope.function is not None and (local := _assigned(scope.function, self.name)):
            return [(value, scope) for value in local]
        return _constant(self.name, scope.module)


def variable(node, scope):
    """The variable that a name in the code is."""
    loops = scope.module.around(node, ast.For)
    return Variable(node.id, scope, next((a for a in loops if node.id in _targets(a)), None))


def _assignments(node):
    """(name, value) of what a statement or `:=` assigns; "self.name" for an attribute."""
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
            pairs = zip(targets, values, strict=False)
        case ast.Assign(targets=[target], value=value):
            pairs = [(target, value)]
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            pairs = [(target, value)]
        case ast.NamedExpr(target=target, value=value):
            pairs = [(target, value)]
        case _:
            pairs = []
    return [(ast.unparse(target), value) for target, value in pairs]


def _assigned(function, name):
    return [
        value
        for node in ast.walk(function)
        for target, value in _assignments(node)
        if target == name
    ]


def appended(name, scope):
    """What a function appends to a list."""
    return [
        node.args[0]
        for node in ast.walk(scope.function or ast.Module([]))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"{name}.append"
    ]


def _attribute_values(of):
    """What the methods of a class assign to `self.name`, unless it is merely an argument."""
    module = of.scope.module
    owner = next(module.around(of.scope.function, ast.ClassDef), None)
    return [
        (value, Scope(module, function))
        for function in ast.walk(owner or ast.Module([]))
        if isinstance(function, FUNCTIONS)
        for value in _assigned(function, of.name)
        if not isinstance(value, ast.Name)
    ]


def _constant(name, module):
    """The value of a name at the top of a module, or of the one that it is imported from."""
    home, value = module.names.get(name, (module.name, None))
    while isinstance(value, str) and home in modules():
        module = modules()[home]
        home, value = module.names.get(value, (module.name, None))
    return [(value, Scope(module))] if isinstance(value, ast.expr) else []


def _targets(loop):
    names = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
    return [name.id if isinstance(name, ast.Name) else "" for name in names]


def _loop_values(of):
    """The elements of a loop over something that is written out."""
    place = _targets(of.loop).index(of.name)
    found = elements(of.loop.iter, of.scope)
    if not isinstance(of.loop.target, ast.Tuple):
        return found
    return [(node.elts[place], scope) for node, scope in found if isinstance(node, ast.Tuple)]


def elements(node, scope):
    """(expression, its scope) of each element of a collection that is written out."""
    match node:
        case ast.Tuple(elts=inner) | ast.List(elts=inner):
            return [pair for element in inner for pair in _element(element, scope)]
        case ast.Dict(keys=keys):
            return [(key, scope) for key in keys if key is not None]
        case ast.Call(func=ast.Attribute(value=inner, attr="items")):
            return [
                (ast.Tuple([key, value]), where)
                for found, where in _written_out(inner, scope)
                if isinstance(found, ast.Dict)
                for key, value in zip(found.keys, found.values, strict=True)
            ]
        case ast.Name(id=name) if name == scope.parameters[2]:
            return [(value, scope.caller) for value in scope.argument(name)]
        case ast.Name():
            found = _written_out(node, scope)
            return [pair for value, where in found for pair in elements(value, where)]
    return []


def _element(node, scope):
    if isinstance(node, ast.Starred):
        return elements(node.value, scope)
    return [(node, scope)]


def _written_out(node, scope):
    return variable(node, scope).values() if isinstance(node, ast.Name) else [(node, scope)]


def called(call):
    """The name of what is called, without its owner; None of anything else."""
    return getattr(call.func, "id", None) or getattr(call.func, "attr", None)


@cache
def _all_calls():
    """Name of a function -> (module, call) of everything with that name, also as imported."""
    found = defaultdict(list)
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                name = called(node)
                known = module.names.get(name, (None, name))[1]
                found[known if isinstance(known, str) else name].append((module, node))
    return found


@cache
def _calls_of(scope):
    name, method = scope.function.name, scope.owner is not None
    if name == "__init__":
        name, method = scope.owner.name, False
    found = []
    for module, call in _all_calls()[name]:
        home = module.names.get(getattr(call.func, "id", None), (None, None))[0]
        is_here = module is scope.module
        if method:
            of_self = ast.unparse(call.func) == f"self.{name}" and not functions_named(name, module)
            may_be = is_here or name[0] != "_" or of_self  # of_self: in a class that inherits it
            fits = isinstance(call.func, ast.Attribute) and may_be
        else:
            fits = is_here or home == scope.module.name
        if fits:
            found.append(replace(scope, call=call, caller=module.scope_of(call)))
    return tuple(found)


def functions_named(name, module):
    """The functions and methods of a module with a name."""
    return [n for n in ast.walk(module.tree) if isinstance(n, FUNCTIONS) and n.name == name]


@cache
def error_classes():
    """Name of each error that a user may meet -> its exit code: all that derive from ClmleError."""
    classes = {
        node.name: node
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    codes, waiting = {}, ["ClmleError"]
    while waiting:
        node = classes[waiting.pop()]
        bases = [codes[b.id] for b in node.bases if getattr(b, "id", None) in codes]
        own = _assigned(node, "exit_code")
        codes[node.name] = _number_of(own[0]) if own else bases[0]
        waiting += [
            name
            for name, other in classes.items()
            if node.name in [getattr(base, "id", None) for base in other.bases]
        ]
    return codes


def _number_of(name):
    """The value of FAILED, MISTAKE and the like."""
    ((value, _),) = _constant(name.id, modules()["data_shards.errors"])
    return value.value
