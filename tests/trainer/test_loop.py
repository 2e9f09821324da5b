"""What the loop writes during a training run, and what it refuses to write."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.helpers.ranks import run_ranks
from tests.helpers.training import NETWORK
from trainer.config.builder import build_config
from trainer.config.run_config import as_dict
from trainer.errors import NonFiniteLoss, Stopped
from trainer.loop import Loop
from trainer.losses.batch import ClusterComparison
from trainer.losses.objective import ObjectiveValue
from trainer.losses.outputs import TaskOutput
from trainer.run.folder import RunFolder, checkpoint_steps, snapshot_steps
from trainer.runtime.table_feed import FeedState
from trainer.runtime.world import World
from trainer.state import checkpoint
from trainer.step import StepRecord, TrainingStep

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
CONFIG = build_config(
    {
        "data": {"shards": "faces"},
        "loss": {"name": "softmax"},
        "sampler": {"micro_batches": 4},
        "train": {"steps": 5, "log_every": 2},
        "refresh": {"every": 0},
    }
)


class FakeNetwork(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)

    def freeze(self, *, frozen):
        pass


class FakeEngine:
    """A network that does not learn, in so many micro-batches a step."""

    num_micro_batches = 4

    def __init__(self, world=ALONE):
        self.network = FakeNetwork()
        self.world = world
        self.finite = True
        self.forwards = 0

    def forward(self, images):
        self.forwards += 1
        rows = torch.full((2, 4), float(self.forwards))
        return {"shape": TaskOutput(rows, rows, -rows, None)}

    def backward(self, loss):
        pass

    def micro_step(self):
        pass

    def set_learning_rate(self, learning_rate, *, retrained=False):
        pass

    def is_finite(self):
        return self.finite

    def evaluate(self):
        return nullcontext()

    def full_state(self):
        return self.network.state_dict()

    def save(self, folder, tag):
        (folder / tag).mkdir()


class FakeObjective:
    """Calls the n-th micro-batch's only candidate cluster n."""

    def __init__(self):
        self.calls = 0

    def __call__(self, outputs, sample_ids, step):
        self.calls += 1
        which = torch.tensor([self.calls])
        one = torch.ones(())
        comparison = ClusterComparison(one, which, which, None, 1.0, 0.0, 0.0, 0.0)
        return ObjectiveValue(one, {"loss": one}, {"shape": comparison})

    def follow_step(self, gather):
        pass

    def state(self):
        return {}

    def margin_factor(self, step):
        return 1.0


class FakeFeed:
    """A table feed whose last table arrives, or does not."""

    def __init__(self, *, comes=True):
        self.state = FeedState(version=None)
        self.tables = {}
        self.version = None
        self._comes = comes

    def request(self, version, checksum):
        self.requested = version, checksum

    def finish(self, step):
        self.state.stall_seconds = 7.0
        if self._comes:
            table = SimpleNamespace(stats={"clusters/count": 9, "seed": 3, "backend": "faiss"})
            self.tables, self.version = {"shape": table}, step
        return self._comes


class Rows:
    """A metric writer that keeps what it is given."""

    def __init__(self):
        self.values = {}

    def write(self, step, values):
        self.values |= {(step, name): value for name, value in values.items()}


class FakeEvaluator:
    """Records what was called."""

    def __init__(self):
        self.done = []

    def is_done(self, step):
        return step in self.done

    def run(self, network, step, tables, version):
        self.done.append(step)
        return {"step": step}, {}


def loop_at(step, folder, *, feed=None, world=ALONE, config=CONFIG, **told):
    parts = SimpleNamespace(
        config=config,
        world=world,
        run=RunFolder(folder),
        manifest=SimpleNamespace(checksum="of the data"),
        description=NETWORK,
        engine=FakeEngine(world),
        feed=feed or FakeFeed(),
        loader=SimpleNamespace(),
        objective=FakeObjective(),
        evaluator=None,
        metrics=Rows(),
    )
    loop = Loop(parts, stop_requested=lambda: False, **told)
    loop.step = step
    loop._read_ahead = lambda: None
    return loop, parts


def test_the_last_table_is_measured_too(tmp_path):
    loop, parts = loop_at(5, tmp_path)
    loop.run()
    assert parts.metrics.values == {
        (5, "clusters/shape/count"): 9.0,
        (5, "table/stall_seconds"): 7.0,
    }


def test_it_tells_what_it_is_at(tmp_path):
    places = []
    loop, parts = loop_at(4, tmp_path, now_at=places.append)
    parts.evaluator = FakeEvaluator()
    loop._follow_tables = lambda: None
    loop._step = SimpleNamespace(run=lambda *_, stop: False, check_weights=lambda step: None)
    loop._log = lambda: None
    loop.run()
    assert places == [
        "step 4",
        "the checkpoint of step 5",
        "the wait for the last tables",
        "the evaluation after step 5",
    ]


def test_without_the_last_table_it_is_not_reported(tmp_path):
    loop, parts = loop_at(5, tmp_path, feed=FakeFeed(comes=False))
    loop.run()
    assert parts.metrics.values == {}


def test_a_run_that_is_asked_to_stop_saves_first_and_evaluates_after_resuming(tmp_path):
    config = build_config({**as_dict(CONFIG), "evaluation": {"every": 2}})
    loop, parts = loop_at(2, tmp_path, config=config)
    parts.evaluator = FakeEvaluator()
    loop._log = lambda: None
    with pytest.raises(Stopped):
        loop._after_step(stopping=True)
    assert (checkpoint_steps(parts.run), parts.evaluator.done) == ([2], [])
    loop, again = loop_at(2, tmp_path, config=config)
    again.evaluator = parts.evaluator
    loop._follow_tables = lambda: None
    loop._step = SimpleNamespace(run=lambda *_, stop: False, check_weights=lambda step: None)
    loop._log = lambda: None
    loop.run()
    assert again.evaluator.done == [2, 4, 5]
    for step in (3, 4):  # not due, or done
        loop, _ = loop_at(step, tmp_path, config=config)
        loop._parts.evaluator = again.evaluator
        assert not loop._lacks_evaluation()


def test_tables_are_requested_where_a_checkpoint_of_another_run_has_none(tmp_path):
    config = build_config(
        {
            "data": {"shards": "faces"},
            "recipe": "none",
            "loss": {"warmup_share": 0.2},
            "train": {"steps": 20},
            "refresh": {"every": 6, "lag": 2},
        }
    )
    assert list(config.refresh_steps()) == [4, 10, 16]
    for step, lacks in ((3, False), (5, True)):
        loop, parts = loop_at(step, tmp_path, config=config)
        assert loop._lacks_tables() == lacks
    parts.feed.state = FeedState(requested={"4": "soon"})
    assert not loop._lacks_tables()
    parts.feed.version = 4
    parts.feed.state = FeedState(version=4)
    assert not loop._lacks_tables()


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    loop, parts = loop_at(2, tmp_path)
    loop._save()
    loop._ask_for_tables()
    assert checkpoint_steps(parts.run) == snapshot_steps(parts.run) == [2]
    loop.step, parts.engine.finite = 4, False
    for write in (loop._save, loop._ask_for_tables):
        with pytest.raises(NonFiniteLoss, match="weights are not after step 4.*learning_rate"):
            write()
    assert checkpoint_steps(parts.run) == snapshot_steps(parts.run) == [2]
    assert checkpoint.find_intact("auto", parts.run) == parts.run.checkpoints / "step_000002"


def test_the_first_micro_batch_of_a_step_is_recorded():
    engine, objective, record = FakeEngine(), FakeObjective(), StepRecord()
    batch = SimpleNamespace(
        images=torch.zeros(2, 1),
        samples=SimpleNamespace(sample_ids=np.arange(2)),
        torch_seed=0,
    )
    step = TrainingStep(CONFIG, engine, objective, SimpleNamespace(next=lambda: batch))
    for number in range(2):
        step.run(number, record, stop=False)
        first = 1 + 4 * number
        assert record.observed["shape"].embedding.unique().tolist() == [first]
        assert record.observed["shape"].projection.unique().tolist() == [-first]
        assert record.comparisons["shape"].rows.tolist() == [first]
    assert record.images == 2 * 4 * 2


def log_waits(rank, num_ranks, folder):
    """Rank 1 waits long for its images."""
    dist.init_process_group("gloo")
    loop, parts = loop_at(4, folder, world=World.from_environment())
    record = loop._record
    record.add({"loss": torch.tensor(float(rank))})
    record.seconds, record.waiting_seconds = 10.0, 1.0 + 7 * rank
    loop._log()
    dist.destroy_process_group()
    return parts.metrics.values


def test_a_rank_that_waits_is_not_hidden_by_the_others(tmp_path):
    for values in run_ranks(log_waits, 2, tmp_path, timeout=60):
        assert values[4, "train/data_wait_share"] == pytest.approx(0.8)
        assert values[4, "train/loss"] == 0.5
