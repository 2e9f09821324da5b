"""Tables are switched to when they are due, by all ranks, and only if they are the right ones."""

import logging
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist

from clustering.table import store
from data_shards.atomic import write_json
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.ranks import run_ranks
from trainer.config.sections import RefreshConfig
from trainer.config.tasks import check_tables
from trainer.errors import LateTable, Stopped, TrainingError
from trainer.run.folder import GIVEN_UP, RunFolder, is_service_given_up
from trainer.runtime import table_feed
from trainer.runtime.table_feed import FeedState, TableFeed
from trainer.runtime.world import World

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
CHECK = partial(check_tables, embedding_dim=4, num_classes={"identity": 3})


@pytest.fixture(autouse=True)
def no_idling(monkeypatch):
    monkeypatch.setattr(table_feed, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(table_feed, "ROUND_SECONDS", 0.01)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tables"


def publish(folder, version, checksum, **table):
    made = tiny_table(version=version, **table)
    made = replace(made, stats={"snapshot_checksum": checksum, "clusters/churn": 0.5})
    store.publish(folder, version, {"identity": made})
    return made


def make_feed(folder, *, on_late="wait", timeout=0.05, lag=3, world=ALONE, **asked):
    refresh = RefreshConfig(every=10, lag=lag, on_late=on_late, timeout_seconds=timeout)
    asked = {"stop_requested": lambda: False} | asked
    return TableFeed(folder, refresh, world, check=CHECK, **asked)


def feed_with_table_0(folder, **settings):
    publish(folder, 0, "first")
    feed = make_feed(folder, **settings)
    feed.request(0, "first")
    assert feed.advance(0)
    return feed


def test_before_anything_was_asked_for_nothing_happens(folder):
    feed = make_feed(folder)
    assert not feed.advance(0)
    assert feed.version is None
    assert feed.tables == {}


def test_the_first_table_is_used_at_once(folder):
    expected = publish(folder, 0, "first")
    feed = make_feed(folder)
    feed.request(0, "first")
    assert feed.advance(0)
    assert feed.version == 0
    assert feed.state.switches == [[0, 0]]
    assert feed.state.requested == {}
    got = feed.tables["identity"]
    assert (got.version, got.task, got.stats) == (
        0,
        "identity",
        {"snapshot_checksum": "first", "clusters/churn": 0.5},
    )
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(got.arrays()[name], array, strict=True)


@pytest.mark.parametrize("on_late", ["wait", "continue"])
def test_a_table_is_switched_to_after_the_lag_and_not_before(folder, on_late):
    feed = feed_with_table_0(folder, on_late=on_late)
    feed.request(10, "second")
    publish(folder, 10, "second")
    assert [feed.advance(step) for step in (10, 11, 12, 13, 14)] == [
        *(False, False, False),
        True,
        False,
    ]
    assert feed.version == 10
    assert feed.state.switches == [[0, 0], [13, 10]]


def test_the_active_table_is_not_switched_to_again(folder):
    feed = feed_with_table_0(folder)
    feed.request(0, "first")
    assert not feed.advance(3)
    assert feed.next_switch(3) is None
    assert feed.state.switches == [[0, 0]]


def test_without_a_lag_training_stands_still(folder):
    feed = feed_with_table_0(folder, lag=0)
    feed.request(10, "second")
    publish(folder, 10, "second")
    assert feed.advance(10)
    assert feed.version == 10


def test_a_late_table_is_waited_for(folder, monkeypatch):
    feed = feed_with_table_0(folder, timeout=20)
    feed.request(10, "second")
    stalled = feed.state.stall_seconds
    late = threading.Timer(0.1, publish, (folder, 10, "second"))
    late.start()
    assert feed.advance(13)
    late.join()
    assert feed.version == 10
    assert 0.05 < feed.state.stall_seconds - stalled < 10


def test_a_table_that_never_comes_is_an_error_that_says_what_to_start(folder):
    feed = feed_with_table_0(folder)
    feed.request(10, "second")
    with pytest.raises(TrainingError) as caught:
        feed.advance(13)
    message = str(caught.value)
    assert "step 13: no cluster table 10" in message
    assert "after 0.05 s (refresh.timeout_seconds)" in message
    assert "cluster_jobs.recluster" in message
    assert feed.version == 0


def test_a_table_of_other_weights_is_no_answer(folder):
    feed = feed_with_table_0(folder)
    publish(folder, 10, "of an earlier attempt")
    feed.request(10, "second")
    with pytest.raises(TrainingError, match="no cluster table 10"):
        feed.advance(13)
    publish(folder, 10, "second")
    assert feed.advance(13)


def test_a_published_table_that_nobody_asked_for_is_left_alone(folder):
    feed = feed_with_table_0(folder)
    publish(folder, 10, "second")
    assert not feed.advance(20)
    assert feed.version == 0


def test_a_half_written_version_is_no_answer(folder):
    feed = feed_with_table_0(folder)
    feed.request(10, "second")
    publish(folder, 10, "second")
    (folder / "000010" / "manifest.json").unlink()
    with pytest.raises(TrainingError, match="no cluster table 10"):
        feed.advance(13)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"dim": 5}, "embedding dimension 5, the model has 4.*model.embedding_dim"),
        ({"clusters_per_class": (2, 2)}, "has 2 classes, the shards have 3"),
    ],
)
def test_a_table_that_does_not_fit_says_why(folder, made, message):
    feed = feed_with_table_0(folder)
    feed.request(10, "second")
    publish(folder, 10, "second", **made)
    with pytest.raises(TrainingError, match=message):
        feed.advance(13)


def test_tables_of_other_tasks_are_refused(folder):
    table = tiny_table(version=0, task="smiling")
    store.publish(folder, 0, {"smiling": replace(table, stats={"snapshot_checksum": "first"})})
    feed = make_feed(folder)
    feed.request(0, "first")
    with pytest.raises(TrainingError, match="of tasks smiling, this run has identity"):
        feed.advance(0)


def test_a_damaged_table_is_named(folder):
    feed = feed_with_table_0(folder)
    feed.request(10, "second")
    publish(folder, 10, "second")
    arrays = folder / "000010" / "identity.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1])
    with pytest.raises(TrainingError, match=r"identity\.safetensors is damaged"):
        feed.advance(13)


def test_going_on_without_a_late_table_warns_once_and_switches_later(folder, caplog):
    feed = feed_with_table_0(folder, on_late="continue")
    feed.request(10, "second")
    with caplog.at_level(logging.WARNING):
        assert not any(feed.advance(step) for step in range(10, 18))
    assert [r.getMessage() for r in caplog.records] == [
        "step 13: table 10 is late; training continues with table 0 (refresh.on_late: continue). "
        "Is the clustering service running?"
    ]
    publish(folder, 10, "second")
    assert feed.advance(18)
    assert feed.state.switches[-1] == [18, 10]


def test_going_on_catches_up_with_the_newest(folder, caplog):
    feed = feed_with_table_0(folder, on_late="continue")
    for version in (10, 20, 30):
        feed.request(version, f"weights {version}")
    assert not feed.advance(25)
    publish(folder, 20, "weights 20")
    publish(folder, 10, "weights 10")
    assert feed.advance(25)
    assert feed.version == 20
    assert feed.state.requested == {"30": "weights 30"}
    assert not feed.advance(26)
    publish(folder, 30, "weights 30")
    assert feed.advance(33)
    assert feed.state.switches == [[0, 0], [25, 20], [33, 30]]


def test_also_who_goes_on_waits_for_the_first_table(folder):
    feed = make_feed(folder, on_late="continue")
    feed.request(0, "first")
    with pytest.raises(TrainingError, match="no cluster table 0"):
        feed.advance(0)


def test_the_next_switch_is_known_only_to_who_waits(folder):
    feed = feed_with_table_0(folder)
    assert feed.next_switch(5) is None
    feed.request(10, "second")
    assert feed.next_switch(10) == 13
    assert feed.next_switch(12) == 13
    going_on = feed_with_table_0(folder, on_late="continue")
    going_on.request(10, "second")
    assert going_on.next_switch(10) is None


def test_the_end_waits_for_the_table_of_the_last_weights(folder):
    feed = feed_with_table_0(folder)
    feed.request(20, "last")
    publish(folder, 20, "last")
    assert feed.finish(20)
    assert feed.version == 20
    assert feed.state.switches[-1] == [20, 20]


def test_the_end_without_its_table_is_an_error_or_a_warning(folder, caplog):
    waiting = feed_with_table_0(folder)
    waiting.request(20, "last")
    with pytest.raises(TrainingError, match="no cluster table 20"):
        waiting.finish(20)
    going_on = feed_with_table_0(folder, on_late="continue")
    going_on.request(20, "last")
    assert not going_on.finish(20)
    assert going_on.version == 0
    assert "evaluating with table 0" in caplog.text


def test_nobody_waits_for_a_service_that_was_given_up(folder, caplog):
    run = RunFolder(folder.parent)
    asked = {"timeout": 600, "given_up": lambda: is_service_given_up(run)}
    going_on = feed_with_table_0(folder, on_late="continue", **asked)
    write_json(run.service, {"state": "waiting"})
    going_on.request(10, "second")
    publish(folder, 10, "second")
    assert going_on.finish(10)
    write_json(run.service, {"state": GIVEN_UP})
    going_on.request(20, "last")
    assert not going_on.finish(20)
    assert "none will come: the clustering service was given up" in caplog.text
    assert "evaluating with table 10" in caplog.text
    without_any = make_feed(folder, on_late="continue", **asked)
    without_any.request(0, "of other weights")
    with pytest.raises(LateTable, match="no cluster table 0 .* was given up"):
        without_any.advance(0)


def test_a_checkpoint_brings_back_tables_and_requests(folder):
    feed = feed_with_table_0(folder)
    feed.request(10, "second")
    state = FeedState(**vars(feed.state))
    again = make_feed(folder)
    again.restore(state, folder)
    assert again.version == 0
    np.testing.assert_array_equal(
        again.tables["identity"].member_ids, feed.tables["identity"].member_ids
    )
    assert again.next_switch(12) == 13
    publish(folder, 10, "second")
    assert again.advance(13)
    assert again.state.switches == [[0, 0], [13, 10]]


def test_who_waits_now_and_did_not_before_waits_for_the_newest_alone(folder):
    """The service may have passed over the others."""
    state = FeedState(version=0, requested={"10": "second", "20": "third"})
    publish(folder, 0, "first")
    feed = make_feed(folder, lag=10)
    feed.restore(state, folder)
    assert not feed.advance(20)
    publish(folder, 20, "third")
    assert feed.advance(30)
    assert feed.version == 20


def test_a_checkpoint_whose_table_is_gone_says_so(folder):
    feed = make_feed(folder)
    with pytest.raises(TrainingError, match="no cluster tables of version 7"):
        feed.restore(FeedState(version=7), folder)


def test_a_checkpoint_without_a_table_needs_none(folder):
    feed = make_feed(folder)
    feed.restore(FeedState(), folder)
    assert feed.tables == {}


def test_who_waits_can_be_stop_requested(folder):
    feed = feed_with_table_0(folder, timeout=60, stop_requested=lambda: True)
    feed.request(10, "second")
    with pytest.raises(Stopped, match="step 13, while waiting for cluster table 10"):
        feed.advance(13)
    publish(folder, 10, "second")
    assert feed.advance(13), "a table that is there is taken"


def follow(rank, num_ranks, folder):
    """What each of several ranks sees of a switch, of a damaged table and of a stop."""
    dist.init_process_group("gloo")
    world = World.from_environment()
    table_feed.ROUND_SECONDS = 0.01
    seen = {}
    # Rank 0 alone reads the store.
    folder = folder if world.is_first else folder / "not mounted here"
    feed = make_feed(folder, world=world, timeout=30)
    feed.request(0, "first")
    seen["switched"] = feed.advance(0), feed.version
    table = feed.tables["identity"]
    seen["table"] = (table.stats, {n: a.tolist() for n, a in table.arrays().items()})
    feed.request(10, "second")
    seen["damaged"] = _message_of(lambda: feed.advance(13))
    told = make_feed(folder, world=world, timeout=30, stop_requested=lambda: rank == 1)
    told.request(20, "never")
    seen["stopped"] = _message_of(lambda: told.advance(20))
    dist.destroy_process_group()
    return seen


def _message_of(call):
    try:
        call()
    except (TrainingError, Stopped) as error:
        return type(error).__name__, str(error)


def test_ranks_see_the_same_and_fail_together(folder):
    expected = publish(folder, 0, "first")
    publish(folder, 10, "second", dim=5)
    first, second = run_ranks(follow, 2, folder, timeout=60)
    assert first == second
    assert first["switched"] == (True, 0)
    stats, arrays = first["table"]
    assert stats["snapshot_checksum"] == "first"
    assert arrays == {name: array.tolist() for name, array in expected.arrays().items()}
    assert first["damaged"][0] == "TrainingError"
    assert "embedding dimension 5" in first["damaged"][1]
    assert first["stopped"][0] == "Stopped", "rank 1 alone was told"
