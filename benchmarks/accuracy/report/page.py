"""Put the tables of finished comparisons into a page.

    python -m benchmarks.accuracy.report.page runs/full.json --into docs/results.md

The page has a pair of lines for each file, named by the file's name without its suffix; the text
between them is replaced. The rest of the page stays, as do the tables of files that are not given:

    <!-- tables: full -->
    <!-- end -->
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy.report.markdown import markdown_tables
from data_shards.atomic import atomic_file, read_json
from data_shards.errors import DataError
from data_shards.paths import path_option

_BEGIN = re.compile(r"\s*<!-- tables: (.+?) -->\s*")
_END = "<!-- end -->"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.report.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=path_option, metavar="RESULTS.json")
    parser.add_argument(
        "--into", required=True, type=path_option, metavar="PAGE", help="is changed"
    )
    options = parser.parse_args(argv)
    try:
        tables = read_tables(options.results)
        if not options.into.is_file():
            raise DataError(f"--into {options.into}: there is no such page")
        # As bytes: line ends stay as they are.
        page = filled(options.into.read_bytes().decode(), tables)
    except DataError as error:
        sys.stderr.write(f"benchmarks.accuracy.report.page: error: {error}\n")
        return 2
    with atomic_file(options.into) as temporary:
        temporary.write_bytes(page.encode())
    return 0


def read_tables(paths: Sequence[Path]) -> dict[str, str]:
    """Tables of each results file, by its stem.

    Raises:
        DataError: a file holds no results, or two have the same stem.
    """
    tables: dict[str, str] = {}
    for path in paths:
        if path.stem in tables:
            raise DataError(f"two results files are called {path.stem}; rename one")
        try:
            tables[path.stem] = markdown_tables(read_json(path))
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} holds no results of this benchmark ({error!r}); write them again with "
                "python -m benchmarks.accuracy, which does not repeat finished training runs"
            ) from error
    return tables


def filled(page: str, tables: Mapping[str, str]) -> str:
    """The page with new tables between its markers.

    Args:
        page: its text.
        tables: name -> Markdown.

    Raises:
        DataError: a marker has no end or nothing to end, or a table has no marker.
    """
    lines = page.splitlines(keepends=True)
    made: list[str] = []
    done = 0
    places = _places(lines)
    for begin, end, name in places:
        if name in tables:
            made += [*lines[done : begin + 1], f"\n{tables[name]}\n"]
            done = end
    for name in tables.keys() - {name for _, _, name in places}:
        raise DataError(
            f"the page has no place for {name}, it has those for "
            f"{', '.join(name for _, _, name in places) or '(none)'}; add the lines "
            f"<!-- tables: {name} --> and {_END}"
        )
    return "".join([*made, *lines[done:]])


def _places(lines: Sequence[str]) -> list[tuple[int, int, str]]:
    """(index of the line that begins it, of the line that ends it, name) of each place."""
    places = []
    begun: tuple[int, str] | None = None
    for index, line in enumerate(lines):
        begin = _BEGIN.fullmatch(line)
        if begin:
            if begun is not None:
                raise DataError(_no_end(begun[1], f"before line {index + 1}"))
            begun = index, begin[1]
        elif line.strip() == _END:
            if begun is None:
                raise DataError(f"line {index + 1} of the page: {_END}, but nothing has begun")
            places.append((begun[0], index, begun[1]))
            begun = None
    if begun is not None:
        raise DataError(_no_end(begun[1], "before the end of the page"))
    return places


def _no_end(name: str, where: str) -> str:
    return f"the page's marker <!-- tables: {name} --> has no {_END} {where}; add it"


if __name__ == "__main__":
    sys.exit(main())
