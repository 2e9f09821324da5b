"""Runs of a few steps: any number of ranks, stopped and resumed or not, gives the same result."""

import os
import signal
import time

import pytest
import torch

from data_shards.atomic import read_json
from tests.helpers.local_service import LocalService
from tests.helpers.tiny_data import spoil_image, write_tiny_data
from tests.helpers.training import (
    series,
    succeeded,
    tiny_config,
    train_ranks,
    weights,
    weights_file,
)
from trainer import train
from trainer.losses.objective import Objective
from trainer.models.tiny import Tiny
from trainer.run.folder import RunFolder, checkpoint_steps
from trainer.run.lock import TRAINER, claimed_alone
from trainer.runtime.engine import Engine

pytestmark = pytest.mark.slow

SWITCHES = [[0, 0], [10, 8], [18, 16], [20, 20]]
EVALUATED = ("balanced_accuracy", "per_class_recall", "num_images", "table_version")


def report_of(config):
    return read_json(RunFolder(config.run_path).report)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_shards):
    """One rank, 20 steps without a break; four tables."""
    config = tiny_config(tmp_path_factory.mktemp("alone") / "run", tiny_shards)
    with LocalService(config) as service:
        succeeded(train_ranks(config))
    assert service.served == [0, 8, 16, 20]
    return config


def assert_same_training(config, expected, *, tolerance=1e-5):
    """Losses, weights and evaluations of two runs agree."""
    losses, expected_losses = series(config), series(expected)
    assert list(losses) == list(expected_losses) == list(range(1, 21))
    assert losses == pytest.approx(expected_losses, rel=tolerance)
    for step in (8, 16, 20):
        theirs = weights(expected, step)
        for name, tensor in weights(config, step).items():
            torch.testing.assert_close(
                tensor, theirs[name], rtol=tolerance, atol=tolerance, msg=f"{name} of step {step}"
            )
    report, expected_report = report_of(config), report_of(expected)
    assert report["table_switches"] == expected_report["table_switches"] == SWITCHES
    for key in EVALUATED:
        assert report[key] == expected_report[key]


def test_it_learns(alone):
    losses = list(series(alone, "train/shape/softmax").values())
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    report = report_of(alone)
    assert report["num_images"] == 21
    by_table = ["knc_margin", "knc_soft", "knc_balanced", "ncm"]
    assert set(report["balanced_accuracy"]) == {*by_table, "blend", "head"}
    # 20 steps are too few for the head; the clusters follow the embeddings at once.
    assert min(report["balanced_accuracy"][name] for name in by_table) > 0.5, "chance is 0.25"
    assert report["images_seen"] == 20 * 2 * 12


def test_metrics_tell_which_table_was_in_use(alone):
    assert series(alone, "table/version") == {
        step: 0 if step <= 10 else 8 if step <= 18 else 16 for step in range(1, 21)
    }
    ages = series(alone, "table/age_steps")
    assert [ages[step] for step in (1, 10, 11, 18, 19)] == [1, 10, 3, 10, 3]
    assert list(series(alone, "clusters/shape/count")) == [0, 10, 18, 20]
    margins = series(alone, "train/margin_factor")
    assert [margins[step] for step in (1, 6, 11, 20)] == [0.0, 0.5, 1.0, 1.0]


def test_two_ranks_train_as_one(alone, tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards)
    with LocalService(config) as service:
        first, second = succeeded(train_ranks(config, 2))
    assert service.served == [0, 8, 16, 20]
    assert "20/20 steps" in first
    assert second == "", "one rank speaks"
    assert report_of(config)["world_size"] == 2
    assert_same_training(config, alone)


def inside_mpi(rank):
    os.environ.update(OMPI_COMM_WORLD_SIZE="8", OMPI_COMM_WORLD_LOCAL_RANK=str(7 - rank))


def test_ranks_train_inside_an_mpi_job(tmp_path, tiny_shards):
    """DeepSpeed fails where MPI and the launcher of the ranks number them differently."""
    config = tiny_config(tmp_path / "run", tiny_shards, loss__name="softmax", train__steps=2)
    with LocalService(config):
        succeeded(train_ranks(config, 2, prepare=inside_mpi))
    assert report_of(config)["world_size"] == 2


def test_zero_3_trains_as_plain_data_parallelism(alone, tmp_path, tiny_shards):
    config = tiny_config(
        tmp_path / "run", tiny_shards, train__zero_stage=3, evaluation__batch_size=5
    )
    with LocalService(config):
        succeeded(train_ranks(config, 2))
    assert_same_training(config, alone)


def test_half_precision_starts_alike_and_trains(alone, tmp_path, tiny_shards):
    config = tiny_config(
        tmp_path / "run", tiny_shards, train__precision="bf16", train__zero_stage=1
    )
    with LocalService(config):
        succeeded(train_ranks(config, 2))
    full, half = series(alone), series(config)
    assert half[1] == pytest.approx(full[1], rel=3e-2)
    assert half[1] != full[1]
    head = list(series(config, "train/shape/softmax").values())
    assert sum(head[-5:]) < 0.75 * sum(head[:5])


def with_dropout(rank):
    """Give the backbone a random layer."""
    compute = Tiny.forward

    def dropping(self, images):
        return torch.nn.functional.dropout(compute(self, images), 0.5, self.training)

    Tiny.forward = dropping


def test_random_layers_draw_the_same_on_any_number_of_ranks(tmp_path, tiny_shards):
    losses = []
    for num_ranks in (1, 2):
        config = tiny_config(
            tmp_path / str(num_ranks), tiny_shards, loss__name="softmax", train__steps=4
        )
        with LocalService(config):
            succeeded(train_ranks(config, num_ranks, prepare=with_dropout))
        losses.append(series(config))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def raise_at(rank, at_step):
    """Let a rank fail in a step, as a bug or a lost device would."""
    compute = Objective.__call__

    def failing(self, outputs, sample_ids, step):
        if step == at_step:
            raise MemoryError("no more memory")
        return compute(self, outputs, sample_ids, step)

    Objective.__call__ = failing


def test_a_resumed_run_is_the_same_to_the_last_bit(alone, tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards, checkpoint__every=10)
    run = RunFolder(config.run_path)
    with LocalService(config):
        ((code, text),) = train_ranks(config, prepare=raise_at, arguments=(13,))
        assert code == 1
        assert "rank 0: Traceback" in text
        assert "MemoryError: no more memory" in text
        assert checkpoint_steps(run) == [10]
        assert max(series(config)) == 13, "rows that the resumed training writes again"
        assert not run.report.exists()
        killed_while_writing = run.snapshots / ".tmp-1-0-step_000012"
        killed_while_writing.mkdir()
        succeeded(train_ranks(config))
    assert not killed_while_writing.exists()
    assert series(config) == series(alone)
    for step in (8, 16, 20):
        expected = weights_file(alone, step).read_bytes()
        assert weights_file(config, step).read_bytes() == expected, f"step {step}"
    assert_same_training(config, alone, tolerance=0)
    assert checkpoint_steps(run) == [10, 20]


def test_a_checkpoint_resumes_in_another_folder_with_its_tables(tmp_path, tiny_shards):
    """At step 10 the tables of step 8 are being made; the new folder must request them again."""
    settings = {"checkpoint__every": 10, "checkpoint__keep": 3, "refresh__lag": 4}
    earlier = tiny_config(tmp_path / "earlier", tiny_shards, **settings)
    with LocalService(earlier):
        succeeded(train_ranks(earlier))
    config = tiny_config(tmp_path / "later", tiny_shards, **settings)
    with LocalService(config) as service:
        start = RunFolder(earlier.run_path).checkpoints / "step_000010"
        succeeded(train_ranks(config, options=("--resume", str(start))))
    assert service.served == [8, 16, 20]
    rest = {step: loss for step, loss in series(earlier).items() if step > 10}
    assert series(config) == rest
    assert report_of(config)["table_switches"] == report_of(earlier)["table_switches"]


def test_a_checkpoint_without_tables_requests_those_that_are_due(tmp_path, tiny_shards):
    earlier = tiny_config(
        tmp_path / "earlier",
        tiny_shards,
        loss__warmup_share=0.8,
        loss__margin_anneal=0.1,
        checkpoint__every=10,
        checkpoint__keep=3,
    )
    with LocalService(earlier):
        succeeded(train_ranks(earlier))
    config = tiny_config(tmp_path / "later", tiny_shards, loss__warmup_share=0.2)
    assert list(config.refresh_steps()) == [4, 12]
    start = RunFolder(earlier.run_path).checkpoints / "step_000010"
    with LocalService(config) as service:
        succeeded(train_ranks(config, options=("--resume", str(start))))
    assert service.served == [10, 12, 20]
    assert report_of(config)["table_switches"] == [[10, 10], [14, 12], [20, 20]]


def test_a_run_can_start_from_the_weights_of_another(alone, tmp_path, tiny_shards):
    """On another number of ranks, with another stage of ZeRO, too."""
    start = RunFolder(alone.run_path).snapshots / "step_000020"
    config = tiny_config(
        tmp_path / "run",
        tiny_shards,
        model__weights=str(start),
        train__zero_stage=3,
        train__steps=2,
    )
    with LocalService(config):
        for text in succeeded(train_ranks(config, 2)):
            assert ("loaded; at random: nothing" in text) == ("rank 0" in text)
    for name, tensor in weights(alone, 20).items():
        assert torch.equal(weights(config, 0)[name], tensor), name
    start_missing = tiny_config(tmp_path / "other", tiny_shards, model__weights="nowhere")
    for code, text in train_ranks(start_missing):
        assert code == 2
        assert "model.weights nowhere cannot be read" in text


def sigkill_at(rank, at_rank, at_step):
    """Kill one rank in the middle of a step, as the kernel does when memory runs out."""
    compute = Objective.__call__

    def killed(self, outputs, sample_ids, step):
        if (rank, step) == (at_rank, at_step):
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(self, outputs, sample_ids, step)

    Objective.__call__ = killed


@pytest.mark.parametrize("at_rank", [0, 1])
def test_a_killed_rank_ends_the_other_and_both_resume(alone, tmp_path, tiny_shards, at_rank):
    config = tiny_config(tmp_path / "run", tiny_shards, checkpoint__every=10)
    with LocalService(config):
        started = time.monotonic()
        results = train_ranks(config, 2, prepare=sigkill_at, arguments=(at_rank, 13))
        assert time.monotonic() - started < 30 + config.train.communication_timeout_seconds
        assert results[at_rank] == (-signal.SIGKILL, "")
        code, text = results[1 - at_rank]
        assert code == 1, text
        assert f"rank {1 - at_rank}: error: during step 13, a collective failed (" in text
        assert f"last signs of life: rank {at_rank} on " in text
        assert checkpoint_steps(RunFolder(config.run_path)) == [10]
        succeeded(train_ranks(config, 2))
    assert_same_training(config, alone)


def sigterm_at(rank, at_rank, at_step):
    """Send SIGTERM to one rank in the middle of a step."""
    compute = Objective.__call__

    def told(self, outputs, sample_ids, step):
        if (rank, step) == (at_rank, at_step):
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, outputs, sample_ids, step)

    Objective.__call__ = told


def test_sigterm_to_one_rank_saves_on_all_and_fewer_ranks_resume(alone, tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards)
    with LocalService(config):
        results = train_ranks(config, 2, prepare=sigterm_at, arguments=(1, 8))
        assert [code for code, _ in results] == [1, 1]
        for rank, (_, text) in enumerate(results):
            assert f"rank {rank} WARNING stopped after step 10" in text, text
            assert "--resume auto (the default) resumes there" in text
        run = RunFolder(config.run_path)
        assert checkpoint_steps(run) == [10]
        assert not run.report.exists()
        succeeded(train_ranks(config, 1))
    assert_same_training(config, alone)


def not_a_number_at(rank, at_rank, at_step):
    """Make the loss of one rank NaN in one step, and fail if weights are updated in that step."""
    compute = Objective.__call__
    update = Engine.micro_step
    steps = []

    def poisoned(self, outputs, sample_ids, step):
        steps.append(step)
        value = compute(self, outputs, sample_ids, step)
        if (rank, step) != (at_rank, at_step):
            return value
        loss = value.loss * float("nan")
        return value._replace(loss=loss, parts={**value.parts, "loss": loss.detach()})

    def counted(self):
        assert steps[-1] < at_step, "updated with a loss that is not finite"
        update(self)

    Objective.__call__ = poisoned
    Engine.micro_step = counted


def test_a_loss_that_is_not_finite_stops_all_ranks_before_the_update(tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards)
    with LocalService(config):
        results = train_ranks(config, 2, prepare=not_a_number_at, arguments=(1, 5))
    assert [code for code, _ in results] == [1, 1]
    for rank, (_, text) in enumerate(results):
        assert f"rank {rank}: error: the loss is not finite at step 5 on rank 1;" in text
        assert "optim.learning_rate" in text
        assert "Traceback" not in text
    assert not RunFolder(config.run_path).report.exists()


def test_an_absurd_learning_rate_ends_in_that_error(tmp_path, tiny_shards):
    config = tiny_config(
        tmp_path / "run", tiny_shards, optim__learning_rate=1e30, loss__name="softmax"
    )
    ((code, text),) = train_ranks(config)
    assert code == 1
    assert "the loss is not finite at step" in text


def test_an_image_that_cannot_be_read_ends_all_ranks(tmp_path):
    manifest = write_tiny_data(tmp_path / "data")
    spoil_image(manifest, "train", 7)
    config = tiny_config(tmp_path / "run", manifest.folder, loss__name="softmax")
    results = train_ranks(config, 2)
    reader = next(text for code, text in results if code == 2)
    assert "error: sample 7: not an image that Pillow can read" in reader
    assert "Traceback" not in reader
    assert all(code in (1, 2) for code, _ in results), "the other lost its neighbour, or read too"


def test_a_finished_run_is_only_evaluated_again(tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards, train__steps=4)
    with LocalService(config) as service:
        succeeded(train_ranks(config))
        first, losses = report_of(config), series(config)
        succeeded(train_ranks(config))
    again = report_of(config)
    assert {key: again[key] for key in (*EVALUATED, "table_switches")} == {
        key: first[key] for key in (*EVALUATED, "table_switches")
    }
    assert service.served == [0, 4]
    assert series(config) == losses


def at_once(rank):
    """Do not wait for one that is about to end."""
    train._PREDECESSOR_SECONDS = 0.0


def test_a_second_run_in_the_same_folder_is_refused_and_changes_nothing(tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards, loss__name="softmax", train__steps=2)
    run = RunFolder(config.run_path)
    with LocalService(config):
        succeeded(train_ranks(config))
    before = run.report.read_text()
    with claimed_alone(run, TRAINER, lambda: None, busy="not in this test"):
        for code, text in train_ranks(config, prepare=at_once):
            assert code == 2
            assert "error: another training run is using" in text
    assert run.report.read_text() == before


def test_ranks_that_do_not_divide_the_batch_are_an_error_on_each(tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards, sampler__micro_batches=3)
    for code, text in train_ranks(config, 2):
        assert code == 2
        assert "sampler.micro_batches = 3 does not divide among 2 ranks" in text
        assert "Traceback" not in text
