"""What a file of the product may be: its length, its name, and what it never contains."""

import ast
import sys

import pytest

from tests.policy.product_code import FILES, NAMES

LINES_OF_A_FILE = 350
LINES_OF_A_FUNCTION = 60


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_and_functions_stay_readable(path):
    text = path.read_text()
    length = text.count("\n")
    assert length <= LINES_OF_A_FILE, f"{path} has {length} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= LINES_OF_A_FUNCTION, f"{path}:{node.lineno} {node.name}: {length}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_is_unpickled_and_nothing_shadows_the_standard_library(path):
    assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names, path
    assert path.stem not in ("utils", "common", "helpers", "misc"), path
    text = path.read_text()
    for forbidden in ("import pickle", "allow_pickle=True", "torch.load(", "weights_only=False"):
        assert forbidden not in text, f"{path}: {forbidden}"
