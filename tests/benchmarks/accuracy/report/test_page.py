from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.accuracy.report.ablation_table import summarise_ablations
from benchmarks.accuracy.report.claims import summarise_claims
from benchmarks.accuracy.report.markdown import markdown_tables
from benchmarks.accuracy.report.page import main, read_tables
from benchmarks.accuracy.report.significance import summarise
from benchmarks.accuracy.report.significance_table import score_table
from benchmarks.accuracy.run.rows import Row
from tests.benchmarks.accuracy.report.test_ablation_table import ours
from tests.helpers.benchmark_records import row

ROOT = Path(__file__).parents[4]
ROWS = [
    replace(row("lfw10", "softmax", 0.7, 0.3), many=0.9, seconds=10.0),
    replace(row("lfw10", "softmax", 0.8, 0.4, seed=1), many=0.9, seconds=14.0),
    row("lfw10", "clmle", 0.8),
    row("lfw10", "clmle", 0.9, seed=1),
    row("lfw10", "clmle", 0.9, seed=2),
    row("utk_age", "softmax", 0.6),
    row("utk_age", "clmle", None),
    row("lfw10", "clmle_no_margins", 0.79),
]


def results(rows: list[Row]) -> dict:
    return {
        "command": "",
        "machine": "two cores",
        "split": "test",
        "readouts": {},
        "results": [asdict(row) for row in rows],
        "significance": summarise(*score_table(rows, ["softmax", "clmle"])),
        "ablations": summarise_ablations(rows, ours(rows)),
        "claims": summarise_claims(rows, ["lfw10", "utk_age"]),
    }


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "full.json", tmp_path / "more.json"]
    paths[0].write_text(json.dumps(results(ROWS)))
    paths[1].write_text(json.dumps(results(ROWS[:2])))
    return list(map(str, paths))


def test_tables_in_markdown() -> None:
    lines = markdown_tables(results(ROWS)).splitlines()
    assert lines[0].endswith("over 1 to 3 seeds; the best of a data set is bold")
    assert lines[2:7] == [
        "| method | lfw10 | utk_age |",
        "| --- | ---: | ---: |",
        "| clmle | **0.8667 ± 0.0577** | diverged |",
        "| softmax | 0.7500 ± 0.0707 | **0.6000** |",
        "| clmle_no_margins | 0.7900 | - |",
    ]
    assert "| softmax | 0.900 / - / 0.350 | - |" in lines
    assert "| clmle | 1.00 |" in lines
    assert "| no margins | -1.00 | - | -1.00 | - |" in lines
    assert any(line.startswith("| average | 0.8667 |  | 0.7500 | +11.67 |") for line in lines)
    assert any(line.startswith("not trained on any of these: class_balanced") for line in lines)
    assert "| softmax | 12 | 1 |" in lines
    assert "### What each choice is worth on the test images" in lines
    few = markdown_tables(results(ROWS[:2]))
    assert "mean rank" not in few
    assert "What each choice is worth" not in few


def test_two_precisions_are_two_machines() -> None:
    assert "were computed in" not in markdown_tables(results(ROWS))
    other = replace(ROWS[1], precision="bf16")
    tables = markdown_tables(results([ROWS[0], other, *ROWS[2:]]))
    assert "| softmax | 14 (bf16), 10 (fp32) | 1 (fp32) |" in tables
    assert "1 of 8 training runs were computed in bf16 (softmax 1), the others in fp32" in tables


def test_headings_name_the_blocks() -> None:
    made = results(ROWS)
    assert "### Mean ranks over 2 pairs of data set and seed; those" in markdown_tables(made)
    faces = [row for row in ROWS if row.data == "lfw10"]
    made = results([replace(row, data=f"data {n}") for row in faces for n in range(6)])
    assert "### Mean ranks over 6 data sets; those" in markdown_tables(made)


def test_headings_name_the_images() -> None:
    made = results(ROWS)
    tables = markdown_tables(made)
    assert tables.count("on the test images") == 3
    assert markdown_tables({**made, "split": "validation"}) == tables.replace(
        "on the test images", "on the validation images"
    )


def test_the_results_in_the_repository_can_be_read() -> None:
    stored = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    tables = read_tables(stored)
    for path in stored:
        split = json.loads(path.read_text()).get("split", "test")
        assert tables[path.stem].startswith(f"### Balanced accuracy on the {split} images")


def test_only_what_stands_between_the_markers_changes(tmp_path: Path, files: list[str]) -> None:
    page = tmp_path / "page.md"
    before = (
        "# Results\r\n\nText.\n<!-- tables: full -->\nold\n<!-- end -->\nBetween.\n"
        "<!-- tables: more -->\n<!-- end -->\nNo new line at the end"
    )
    page.write_bytes(before.encode())
    assert main([*files, "--into", str(page)]) == 0
    filled = page.read_bytes().decode()
    full, more = (markdown_tables(json.loads(Path(path).read_text())) for path in files)
    assert filled == before.replace("old\n", f"\n{full}\n").replace(
        "more -->\n", f"more -->\n\n{more}\n"
    )
    assert main([*files, "--into", str(page)]) == 0
    assert page.read_bytes().decode() == filled


def test_places_of_files_that_are_not_given_stay(tmp_path: Path, files: list[str]) -> None:
    page = tmp_path / "page.md"
    more = "<!-- tables: more -->\nkept\n<!-- end -->\n"
    full = "<!-- tables: full -->\nold\n<!-- end -->\n"
    page.write_text(more + full + more)
    assert main([files[0], "--into", str(page)]) == 0
    tables = markdown_tables(json.loads(Path(files[0]).read_text()))
    assert page.read_text() == more + full.replace("old\n", f"\n{tables}\n") + more


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- tables: full -->\n", "<!-- tables: full --> has no <!-- end --> before the end of"),
        (
            "<!-- tables: full -->\n<!-- tables: more -->\n<!-- end -->\n",
            "<!-- tables: full --> has no <!-- end --> before line 2",
        ),
        ("<!-- end -->\n", "line 1 of the page: <!-- end -->, but nothing has begun"),
        (
            "<!-- tables: full -->\n<!-- end -->\n<!-- tables: moer -->\n<!-- end -->\n",
            "the page has no place for more, it has those for full, moer; add the lines",
        ),
    ],
)
def test_a_page_that_does_not_fit_is_left_alone(
    tmp_path: Path,
    files: list[str],
    text: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert main([*files, "--into", str(page)]) == 2
    assert message in capsys.readouterr().err
    assert page.read_text() == text


def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    assert main([*files, "--into", str(page)]) == 2
    assert "there is no such page" in capsys.readouterr().err
    page.write_text("")
    assert main([files[0], files[0], "--into", str(page)]) == 2
    assert "two results files are called full" in capsys.readouterr().err
    Path(files[0]).write_text('{"results": [{"accuracy": 1}]}')
    assert main([files[0], "--into", str(page)]) == 2
    assert "full.json holds no results of this benchmark" in capsys.readouterr().err
