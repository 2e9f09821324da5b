"""What the documents point to exists."""

import re
from textwrap import dedent
from typing import get_args

import pytest

from tests.policy.product_code import PACKAGES, ROOT
from trainer.config.readout_names import READOUT_ORDER
from trainer.config.yaml_file import load_config
from trainer.losses.registry import LOSSES
from trainer.losses.spec import Sampling

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_map_names_what_is_there():
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)/` \|.*\| (.*) \|$", text, re.MULTILINE)
    assert {"data_shards", "clustering", "trainer", "cluster_jobs"} <= {name for name, _ in rows}
    for name, first in rows:
        for file in re.findall(r"`([^`]+\.(?:py|md|yaml))`", first):
            assert list((ROOT / name).glob(file)), f"{name}/{file}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_files_that_are_named_exist(path):
    for name in re.findall(
        rf"`((?:{'|'.join([*PACKAGES, 'tests', 'docs'])})/[^` ]*)`", path.read_text()
    ):
        if "NAME" not in name:
            assert list(ROOT.glob(name)), f"{path.name} names {name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_configurations_that_are_named_exist(path):
    for name in re.findall(r"configs/(\w+\.yaml)", path.read_text()):
        assert (ROOT / "configs" / name).exists(), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_settings_that_are_shown_can_be_written(path, tmp_path):
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```$", path.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks or path.name != "README.md"
    for block in blocks:
        (tmp_path / "shown.yaml").write_text(f"recipe: none\n{dedent(block)}")
        load_config(tmp_path / "shown.yaml")


def test_every_loss_sampling_and_readout_has_its_line():
    text = (ROOT / "docs" / "methods.md").read_text()
    for name in (*LOSSES, *get_args(Sampling), *READOUT_ORDER):
        assert re.search(rf"^\|.*`{name}`", text, re.MULTILINE), name
