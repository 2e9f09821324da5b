"""ZeRO partitions the training state over ranks; the results stay the same."""

import time
from itertools import product

import numpy as np
import pytest
import torch
import torch.distributed as dist

from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest
from tests.helpers.plain_engine import PlainEngine
from tests.helpers.ranks import run_ranks
from tests.helpers.training import tiny_config
from trainer.config.builder import with_settings
from trainer.config.tasks import resolve_tasks
from trainer.losses.objective import Objective, TaskTarget
from trainer.models.embed import decode_batch, embed_images
from trainer.run.folder import RunFolder
from trainer.runtime.engine import Engine, start_distributed
from trainer.runtime.world import World
from trainer.sampling.batch_loader import BatchLoader
from trainer.sampling.batch_plan import BatchPlan
from trainer.state.snapshot import NetworkDescription, load_network, write_snapshot
from trainer.step import StepRecord, TrainingStep

pytestmark = pytest.mark.slow

STAGES, PRECISIONS = (0, 1, 2, 3), ("fp32", "bf16")
# Class vectors, which are weights of the loss, and from the third step on a frozen network.
IN_PARTS = {"loss.name": "arcface", "train.classifier_share": 0.9}
# So that a step does nothing but shrink the matrices.
OTHER = {"train.gradient_clipping": 1e-9, "optim.momentum": 0.0, "optim.weight_decay": 0.25}
# What plain PyTorch on one process trains, too.
PLAIN = {
    "fp32": {},
    "bf16": {"train.precision": "bf16"},
    "adamw": {"optim.name": "adamw", "train.gradient_clipping": 0.05},
}
STEPS = 4
NUM_RANKS = 2


def train_everything(rank, num_ranks, folder, shards):
    """Train with each stage and precision, one after the other, in the same ranks."""
    torch.set_num_threads(1)
    base = tiny_config(folder / "run", shards, loss__name="softmax", sampler__micro_batches=4)
    world = start_distributed(base)
    results = {}
    for variant, settings in PLAIN.items():
        results["plain", variant] = _plain_weights(with_settings(base, settings))
    for stage in STAGES:
        settings = PLAIN["adamw"] | {"train.zero_stage": stage}
        results[stage, "adamw"] = _Trained(with_settings(base, settings), world).weights()
    results["time-outs"] = sorted(_time_outs(world))
    for stage, precision in product(STAGES, PRECISIONS):
        settings = {"train.zero_stage": stage, "train.precision": precision}
        trained = _Trained(with_settings(base, settings), world)
        run = RunFolder(folder / f"{stage}_{precision}")
        results[stage, precision] = trained.look_at_everything(run)
        world.barrier()
    for stage in STAGES:
        trained = _Trained(with_settings(base, IN_PARTS | {"train.zero_stage": stage}), world)
        run = RunFolder(folder / f"{stage}_in_parts")
        results[stage, "in parts"] = trained.look_at_everything(run)
        world.barrier()
    for stage in STAGES:
        trained = _Trained(with_settings(base, OTHER | {"train.zero_stage": stage}), world)
        checkpoints = RunFolder(folder / f"{stage}_fp32").checkpoints
        results[stage, "other settings"] = trained.shrinkage_after(checkpoints)
        world.barrier()
    dist.destroy_process_group()
    return results


def save_slowly(rank, num_ranks, folder, shards):
    """On a disk that takes longer to write a checkpoint than ranks wait for each other."""
    config = tiny_config(
        folder / "run",
        shards,
        loss__name="softmax",
        sampler__micro_batches=4,
        train__zero_stage=1,
        train__communication_timeout_seconds=4.0,
    )
    trained = _Trained(config, start_distributed(config))
    trained.run_steps(0, 2)
    state = {name: tensor.cpu().clone() for name, tensor in trained.engine.full_state().items()}
    save, written = torch.save, []

    def slow(*arguments, **settings):
        time.sleep(0 if rank else 3)
        written.append(arguments[1])
        save(*arguments, **settings)

    torch.save = slow
    trained.engine.save(folder / "checkpoints", "tag")
    torch.save = save
    trained.run_steps(2, STEPS)
    trained.engine.load(folder / "checkpoints", "tag")
    now = trained.engine.full_state()
    dist.destroy_process_group()
    return len(written), all(torch.equal(now[name], state[name]) for name in state)


def test_a_slow_disk_does_not_make_ranks_time_out(tmp_path, tiny_shards):
    """Rank 0 writes the weights and its part of the optimiser's state, rank 1 its part."""
    found = run_ranks(save_slowly, NUM_RANKS, tmp_path, tiny_shards, timeout=120)
    assert found == [(2, True), (1, True)]


def _plain_weights(config):
    alone = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    trained = _Trained(config, alone, make_engine=PlainEngine)
    before = {name: tensor.numpy().copy() for name, tensor in trained.engine.full_state().items()}
    return before, trained.weights()


def _time_outs(world):
    """Of every group that there is, ours and DeepSpeed's own, in seconds."""
    for group in dist.distributed_c10d._world.pg_map:
        yield group._get_backend(world.device).options._timeout.total_seconds()


class _Trained:
    def __init__(self, config, world, make_engine=Engine):
        torch.manual_seed(0)
        manifest = Manifest.load(config.data.shards)
        tasks = resolve_tasks(config, manifest)
        self.world = world
        self.description = NetworkDescription.of(config, {"shape": 4})
        self.engine = make_engine(self.description.build(), config, world)
        self.index = SampleIndex(manifest, "train")
        objective = Objective(
            config.loss,
            {
                "shape": TaskTarget(
                    labels=self.index.labels("shape"),
                    class_counts=manifest.class_counts("train", "shape"),
                )
            },
            self.index.ids,
            num_steps=config.classifier_start,
            device=world.device,
        )
        self.plan = BatchPlan(config, tasks, self.index, world, {})
        self.loader = BatchLoader(self.index, config.data, config.model)
        self.frozen = config.classifier_start < STEPS
        self.step = TrainingStep(config, self.engine, objective, self.loader)

    def run_steps(self, first, end):
        """The loss of each step."""
        self.loader.start(self.plan, first_step=first, end_step=end)
        return [self._run_step(step) for step in range(first, end)]

    def _run_step(self, step):
        record = StepRecord()
        assert not self.step.run(step, record, stop=False)
        assert record.counts["loss"] == 4 // self.world.size
        return float(self.world.mean(record.parts["loss"] / record.counts["loss"]))

    def weights(self):
        """After all steps."""
        self.run_steps(0, STEPS)
        self.loader.close()
        return {name: tensor.numpy() for name, tensor in self.engine.full_state().items()}

    def look_at_everything(self, run):
        losses = self.run_steps(0, 2)
        early = {name: tensor.cpu().clone() for name, tensor in self.engine.full_state().items()}
        losses += self.run_steps(2, STEPS)
        state = {name: tensor.cpu().clone() for name, tensor in self.engine.full_state().items()}
        embeddings = self.embed()
        match = None
        if self.world.is_first:
            snapshot = write_snapshot(
                run, STEPS, state=state, network=self.description, data_checksum=""
            )
            expected = embed(load_network(snapshot), self.index, 20)
            match = bool(torch.allclose(embeddings, expected, atol=1e-5))
        self.engine.save(run.checkpoints, "tag")
        later = self.run_steps(STEPS, STEPS + 3)
        self.engine.load(run.checkpoints, "tag")
        restored = all(
            torch.equal(tensor, state[name]) for name, tensor in self.engine.full_state().items()
        )
        again = self.run_steps(STEPS, STEPS + 3)
        self.loader.close()
        return {
            "losses": [*losses, *later],
            "changed": sorted(name for name in state if not torch.equal(state[name], early[name])),
            "snapshot gives the same embeddings": match,
            "checkpoint gives the same weights": restored,
            "losses after the checkpoint": (later, again),
            "dtypes": sorted({str(tensor.dtype) for tensor in state.values()}),
            "state": {name: tensor.numpy() for name, tensor in state.items()},
            "training again": self.engine.network.training != self.frozen,
        }

    def shrinkage_after(self, checkpoints):
        """A matrix after one step against before, and what weight decay alone makes of it."""
        self.engine.load(checkpoints, "tag")
        name = "heads.task_shape.classifier.weight"
        before = self.engine.full_state()[name].clone()
        self.run_steps(STEPS, STEPS + 1)
        after = self.engine.full_state()[name]
        self.loader.close()
        ratio = float(after.norm() / before.norm())
        return ratio, 1 - 0.25 * self.step.learning_rate

    def embed(self):
        """In evaluation mode, with more batches on one rank than on the other."""
        with self.engine.evaluate():
            assert not self.engine.network.training
            if self.world.is_first:
                embed(self.engine.network, self.index, 7)
            return embed(self.engine.network, self.index, 20)


def embed(network, index, count):
    images = decode_batch((index.read(int(i)) for i in index.ids[:count]), network)
    return embed_images(network, images)["shape"].embedding.clone()


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_shards):
    folder = tmp_path_factory.mktemp("zero")
    first, second = run_ranks(train_everything, NUM_RANKS, folder, tiny_shards, timeout=150)
    for key in product(STAGES, [*PRECISIONS, "in parts"]):
        assert first[key]["losses"] == second[key]["losses"]
    return first


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("variant", "tolerance"), [("fp32", 1e-4), ("adamw", 1e-3), ("bf16", 1e-1)]
)
def test_every_stage_takes_the_steps_of_plain_pytorch(results, stage, variant, tolerance):
    """So its gradient, of two micro-batches on each of two ranks, is that of all four."""
    before, expected = results["plain", variant]
    found = results[stage, variant]
    after = found["state"] if variant in PRECISIONS else found
    assert after.keys() == expected.keys()
    for name, weight in expected.items():
        step, error = weight - before[name], after[name] - weight
        assert np.linalg.norm(error) <= tolerance * np.linalg.norm(step), name


def test_every_group_has_the_limit_of_communication(results):
    """DeepSpeed makes groups of its own, which would wait for half an hour."""
    assert len(results["time-outs"]) > 1
    assert set(results["time-outs"]) == {37.5}


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_every_stage_has_the_losses_of_stage_0(results, stage, precision, tolerance):
    expected = results[0, precision]["losses"]
    assert results[stage, precision]["losses"] == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("stage", STAGES)
def test_a_classifier_stage_changes_the_second_classifier_alone(results, stage):
    result, expected = results[stage, "in parts"], results[0, "in parts"]
    assert result["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    second = [f"heads.task_shape.retrained.{part}" for part in ("bias", "weight")]
    assert result["changed"] == second
    whole = results[stage, "fp32"]
    assert whole["changed"] == sorted(whole["state"])


@pytest.mark.parametrize("stage", STAGES)
def test_after_a_checkpoint_of_other_settings_those_of_this_run_hold(results, stage):
    ratio, expected = results[stage, "other settings"]
    assert expected < 0.999
    assert ratio == pytest.approx(expected, rel=1e-5)


def test_half_precision_is_near_but_not_the_same(results):
    for stage in STAGES:
        full, half = results[stage, "fp32"]["losses"], results[stage, "bf16"]["losses"]
        assert half == pytest.approx(full, rel=5e-2)
        assert half != full


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("precision", [*PRECISIONS, "in parts"])
class TestState:
    def test_the_full_state_is_whole_and_of_full_precision(self, results, stage, precision):
        state, expected = results[stage, precision]["state"], results[0, precision]["state"]
        assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in expected.items()}
        assert results[stage, precision]["dtypes"] == ["torch.float32", "torch.int64"]
        tolerance = 2e-2 if precision == "bf16" else 1e-4
        for name, array in state.items():
            np.testing.assert_allclose(
                array, expected[name], rtol=tolerance, atol=tolerance, err_msg=name
            )

    def test_a_snapshot_loads_and_embeds_as_the_ranks_do(self, results, stage, precision):
        assert results[stage, precision]["snapshot gives the same embeddings"]

    def test_a_checkpoint_restores_weights_and_optimiser(self, results, stage, precision):
        assert results[stage, precision]["checkpoint gives the same weights"]
        later, again = results[stage, precision]["losses after the checkpoint"]
        assert again == later, "the optimiser continues as it was"

    def test_evaluation_leaves_the_network_in_training_mode(self, results, stage, precision):
        assert results[stage, precision]["training again"]
