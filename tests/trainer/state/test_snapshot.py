"""A snapshot is whole or not there, and damage is named."""

import json
import os
import signal
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from data_shards.errors import ConfigError
from tests.helpers.ranks import fresh_processes
from tests.helpers.training import NETWORK
from trainer.config.builder import build_config
from trainer.errors import TrainingError
from trainer.run.folder import RunFolder, snapshot_steps, step_name
from trainer.state.initial_weights import load_initial_weights
from trainer.state.snapshot import (
    NetworkDescription,
    copy_snapshot,
    load_network,
    read_snapshot,
    write_snapshot,
)

DESCRIPTION = replace(NETWORK, num_classes={"shape": 4, "parity": 2})


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def network():
    torch.manual_seed(3)
    return DESCRIPTION.build().eval()


def write(run, network, step=200):
    return write_snapshot(
        run, step, state=network.state_dict(), network=DESCRIPTION, data_checksum="of the data"
    )


def test_a_snapshot_reads_back_as_it_was_written(run, network):
    written = write(run, network)
    assert written.path == run.snapshots / "step_000200"
    assert read_snapshot(written.path) == written
    assert read_snapshot(str(written.path)).network == DESCRIPTION


def begun(from_path, **changes):
    """What `load_initial_weights` left alone in a network that differs, and the network."""
    torch.manual_seed(4)
    network = replace(DESCRIPTION, **changes).build()
    return load_initial_weights(network, from_path), network


def assert_same_tensors(network, other, prefix=""):
    for name, tensor in other.state_dict().items():
        if name.startswith(prefix):
            assert torch.equal(network.state_dict()[name], tensor), name


def test_another_training_begins_where_a_snapshot_ends(run, network):
    others, begun_there = begun(write(run, network).path)
    assert others == []
    assert_same_tensors(begun_there, network)


def test_heads_of_other_classes_begin_anew(run, network):
    classes = {"shape": 4, "age": 7}
    others, begun_there = begun(write(run, network).path, num_classes=classes)
    assert {name.split(".")[1] for name in others} == {"task_age"}
    assert_same_tensors(begun_there, network, "backbone.")
    assert_same_tensors(begun_there, network, "heads.task_shape.")


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_file_of_a_backbone_will_do(network, tmp_path, prefix):
    file = tmp_path / "backbone.safetensors"
    state = {
        prefix + name: tensor
        for name, tensor in network.backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")  # other libraries do not count
    }
    save_file(state, str(file))
    others, begun_there = begun(file)
    assert {name.split(".")[0] for name in others if "num_batches" not in name} == {"heads"}
    for name in state:
        name = f"backbone.{name.removeprefix('backbone.')}"
        assert torch.equal(begun_there.state_dict()[name], network.state_dict()[name]), name


def test_weights_that_do_not_fit_or_cannot_be_read_are_named(run, network, tmp_path):
    path = write(run, network).path
    with pytest.raises(
        ConfigError, match=r"no tensor of the right shape for backbone\..*set them back"
    ):
        begun(path, channels=3)
    (tmp_path / "text.safetensors").write_text("not weights")
    for name in ("text.safetensors", "nothing.safetensors"):
        with pytest.raises(ConfigError, match=f"model.weights .*{name} cannot be read"):
            begun(tmp_path / name)
    spoilt = bytearray((path / "weights.safetensors").read_bytes())
    spoilt[-1] ^= 1
    (path / "weights.safetensors").write_bytes(spoilt)
    with pytest.raises(TrainingError, match="is damaged"):
        begun(path)


def test_a_copy_is_written_now(run, network, tmp_path):
    """The request that was written last is the one that is served."""
    former = RunFolder(tmp_path / "former")
    original = write(former, network).path / "manifest.json"
    os.utime(original, (1, 1))
    copy_snapshot(former, run, 200)
    copied = read_snapshot(run.snapshots / "step_000200")
    assert copied.checksum == read_snapshot(original.parent).checksum
    assert (copied.path / "manifest.json").stat().st_mtime > 1


@pytest.mark.parametrize(
    ("loss", "vectors"),
    [
        ({"name": "subcenter_arcface", "vectors_per_class": 2}, 2),
        ({"name": "softtriple"}, 10),
        ({"name": "arcface"}, 1),
        ({"name": "ldam"}, 1),
    ],
)
def test_several_vectors_a_class_only_where_the_loss_has_them(loss, vectors):
    config = build_config({"loss": loss})
    assert NetworkDescription.of(config, {"shape": 4}).vectors_per_class == vectors


def test_the_network_comes_back_with_weights_and_statistics(run, network):
    network.train()(torch.rand(6, 1, 8, 8))  # moves BatchNorm's statistics
    network.eval()
    loaded = load_network(write(run, network))
    assert not loaded.training
    images = torch.rand(3, 1, 8, 8)
    for task, output in network(images).items():
        assert torch.equal(loaded(images)[task].embedding, output.embedding)
        assert torch.equal(loaded(images)[task].logits, output.logits)


def test_the_order_of_the_tasks_survives(run, network):
    assert list(load_network(write(run, network)).num_classes) == ["shape", "parity"]


def test_a_network_of_half_precision_is_loaded_in_full(run, network):
    loaded = load_network(write(run, network.bfloat16()))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_the_same_weights_have_the_same_checksum(run, network):
    first = write(run, network, step=1)
    again = write(run, network, step=2)
    assert first.checksum == again.checksum
    with torch.no_grad():
        next(network.parameters()).add_(1e-6)
    assert write(run, network, step=3).checksum != first.checksum


def test_tied_and_sliced_weights_can_be_written(run):
    whole = torch.arange(6.0)
    state = {"a": whole[:3], "b": whole[3:], "tied": whole[:3]}
    write_snapshot(run, 1, state=state, network=DESCRIPTION, data_checksum="")
    assert snapshot_steps(run) == [1]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_other_users_may_read_the_weights_where_the_umask_lets_them(run, network, umask, mode):
    former = os.umask(umask)
    try:
        path = write(run, network).path
    finally:
        os.umask(former)
    for name in ("weights.safetensors", "manifest.json"):
        assert (path / name).stat().st_mode & 0o777 == mode


def test_a_second_attempt_at_a_step_replaces_the_first(run, network):
    first = write(run, network)
    with torch.no_grad():
        next(network.parameters()).add_(1)
    second = write(run, network)
    assert read_snapshot(first.path).checksum == second.checksum != first.checksum


def test_damaged_weights_are_named(run, network):
    weights = write(run, network).path / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(TrainingError, match=r"weights\.safetensors is damaged"):
        read_snapshot(weights.parent)


@pytest.mark.parametrize("missing", ["weights.safetensors", "manifest.json"])
def test_an_incomplete_folder_is_named(run, network, missing):
    path = write(run, network).path
    (path / missing).unlink()
    with pytest.raises(TrainingError, match=r"step_000200 is not a complete snapshot"):
        read_snapshot(path)


@pytest.mark.parametrize(
    "change", [{"network": {"backbone": "tiny"}}, {"network": None}, {"step": None}]
)
def test_a_manifest_that_lacks_something_is_named(run, network, change):
    manifest = write(run, network).path / "manifest.json"
    content = json.loads(manifest.read_text()) | change
    manifest.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(TrainingError, match="not a complete snapshot"):
        read_snapshot(manifest.parent)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(TrainingError, match="nothing is not a complete snapshot"):
        read_snapshot(tmp_path / "nothing")


def test_only_complete_snapshots_are_listed(run, network):
    assert snapshot_steps(run) == []
    for step in (1000, 20, 300):
        write(run, network, step)
    (run.snapshots / "step_000300" / "manifest.json").unlink()
    (run.snapshots / "step_000400").mkdir()
    (run.snapshots / "notes").mkdir()
    leftover = run.snapshots / ".tmp-1-2-step_000500"
    (run.snapshots / "step_000020").rename(run.snapshots / "step_000025")
    leftover.mkdir()
    (leftover / "manifest.json").write_text("{}")
    assert snapshot_steps(run) == [25, 1000]


KILLED_IN = {
    "after the weights": ("trainer.state.snapshot", "sha256_of"),
    "after the manifest": ("data_shards.atomic", "flush_tree"),
    "before the rename": ("data_shards.atomic", "put_in_place"),
}


def write_and_be_killed(run, where):
    """Write a snapshot, and die of SIGKILL where a function would be called."""
    module, function = KILLED_IN[where]
    setattr(sys.modules[module], function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    torch.set_num_threads(1)
    write(run, DESCRIPTION.build())


@pytest.mark.parametrize("where", KILLED_IN)
@pytest.mark.parametrize("replacing", [False, True])
def test_a_killed_writer_leaves_nothing_taken_for_real(run, network, where, replacing):
    earlier = write(run, network) if replacing else None
    process = fresh_processes().Process(target=write_and_be_killed, args=(run, where))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    if earlier is not None:
        assert snapshot_steps(run) == [200]
        assert read_snapshot(earlier.path) == earlier
    else:
        assert snapshot_steps(run) == []
        with pytest.raises(TrainingError):
            read_snapshot(run.snapshots / step_name(200))
    again = write(run, network)
    assert read_snapshot(again.path) == again


@pytest.mark.parametrize(
    ("loss", "classifier"),
    [
        ({"name": "softmax"}, "features"),
        ({"name": "clmle"}, "features"),
        ({"name": "clmle", "weight_softmax": 0}, None),
        ({"name": "focal"}, "features"),
        ({"name": "ldam"}, "cosine"),
    ],
)
def test_a_classifier_is_there_when_the_loss_uses_it(loss, classifier):
    config = build_config({"loss": loss, "model": {"input_size": 8, "embedding_dim": 8}})
    described = NetworkDescription.of(config, {"shape": 4, "parity": 2})
    assert described == replace(DESCRIPTION, classifier_input=classifier)
    assert described.build().has_classifier == (classifier is not None)
