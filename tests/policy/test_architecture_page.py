"""docs/architecture.md names every room, in order, and only what is there."""

import re

import pytest

from tests.policy.product_code import PACKAGES, ROOMS, ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
LINES_OF_A_PAGE = 130


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_has_one_line_from_the_top_down(package):
    (section,) = re.findall(rf"^### `{package}/`(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    named = re.findall(r"^- `([\w/]+)`: .", section, re.MULTILINE)
    assert len(named) == section.count("\n- ")
    rooms = " ".join(ROOMS[package]).split()
    assert named == [room for room in reversed(rooms) if not room.endswith("__init__")]


def test_packages_come_in_the_order_of_imports():
    sections = re.findall(r"^### `(\w+)/`", PAGE, re.MULTILINE)
    assert sections[-1] == "benchmarks"
    assert [*reversed(sections[:-1]), "benchmarks"] == list(PACKAGES)


def test_every_file_and_folder_that_it_names_exists():
    named = re.findall(rf"\b(?:{'|'.join(PACKAGES)}|tests)/[\w/.]*\w/?", PAGE)
    assert len(set(named)) > 25
    for name in named:
        assert (ROOT / name).exists(), name


def test_it_stays_one_page():
    assert PAGE.count("\n") <= LINES_OF_A_PAGE
