"""What a run starts from is checked before anything is written."""

import shlex
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from data_shards.atomic import write_json
from data_shards.errors import ConfigError
from trainer.run.folder import RunFolder, step_name
from trainer.run.start import check_weights, find_checkpoint

TENSORS = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.zeros(2)}


@pytest.mark.parametrize("whole", [TENSORS, {"epoch": 3, "state_dict": TENSORS}])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_save_is_refused_with_a_command_that_converts_it(tmp_path, whole, zipped):
    file = tmp_path / "resnet.pth"
    torch.save(whole, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=r"only a snapshot's folder or a \.safetensors file") as e:
        check_weights(file)
    python, *arguments = shlex.split(str(e.value).split("convert it: ")[1])
    assert python == "python"
    subprocess.run([sys.executable, *arguments], check=True)
    check_weights(tmp_path / "resnet.safetensors")
    with safe_open(str(tmp_path / "resnet.safetensors"), framework="np") as converted:
        assert set(converted.keys()) == set(TENSORS)


def test_the_folder_of_a_run_as_weights_names_its_newest_snapshot(tmp_path):
    run = RunFolder(tmp_path / "run")
    for step in (10, 20):
        (run.snapshots / step_name(step)).mkdir(parents=True)
        write_json(run.snapshots / step_name(step) / "manifest.json", {})
    with pytest.raises(ConfigError, match=f"such as {run.snapshots}/step_000020, or"):
        check_weights(run.path)


def test_a_snapshot_is_no_checkpoint(tmp_path):
    """Both have a manifest.json."""
    snapshot = tmp_path / "former" / "snapshots" / "step_000010"
    snapshot.mkdir(parents=True)
    for name in ("manifest.json", "weights.safetensors"):
        (snapshot / name).touch()
    with pytest.raises(ConfigError, match=f"start from them with model.weights={snapshot}"):
        find_checkpoint(str(snapshot), RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_a_run_in_the_place_of_its_checkpoint_names_the_newest(tmp_path, inside):
    former = RunFolder(tmp_path / "former")
    (former.checkpoints / "step_000010").mkdir(parents=True)
    write_json(former.checkpoints / "step_000010" / "manifest.json", {})
    with pytest.raises(ConfigError, match=f"such as {former.checkpoints}/step_000010"):
        find_checkpoint(str(former.path / inside), RunFolder(tmp_path / "run"))
