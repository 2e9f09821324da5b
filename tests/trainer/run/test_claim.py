"""A run's folder belongs to one run."""

from pathlib import Path

import pytest

from clustering.settings import fixed_settings
from clustering.table.store import publish
from data_shards.atomic import write_json
from data_shards.errors import ConfigError
from data_shards.folder_lock import FolderLock
from tests.helpers.cluster_tables import tiny_table
from trainer.config.builder import build_config
from trainer.config.run_config import RunConfig, as_dict
from trainer.config.yaml_file import load_config
from trainer.run.claim import check_claim, claim_folder
from trainer.run.folder import CHECKPOINT_MANIFEST, RunFolder, step_name
from trainer.run.lock import LAUNCHER, SERVICE, TRAINER


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "runs" / "mine")


def config(**sections):
    return build_config(sections)


def claim(run, *, fresh=False, holding=None, **sections):
    claim_folder(run, config(**sections), fresh=fresh, holding=holding)


def make_something(run, step=5):
    """A checkpoint, as far as a claim looks at it."""
    (run.checkpoints / step_name(step)).mkdir(parents=True)
    write_json(run.checkpoints / step_name(step) / CHECKPOINT_MANIFEST, {})


def test_claiming_writes_the_resolved_configuration(run):
    claim(run, train={"steps": 7})
    assert load_config(run.config) == config(train={"steps": 7})


def test_the_parts_of_a_run_may_all_claim_its_folder(run):
    claim(run)
    claim(run)
    claim(run, fresh=True)


def test_exactly_these_settings_may_change_when_a_run_goes_on():
    whole = as_dict(RunConfig())
    every = {
        f"{section}.{name}" if isinstance(values, dict) and values else section
        for section, values in whole.items()
        for name in (values if isinstance(values, dict) and values else [""])
    }
    sections = {name for name in every if name.split(".")[0] in ("launch", "checkpoint")}
    assert len(sections) > 5
    assert every - set(fixed_settings(RunConfig())) == sections | {
        "baselines",
        "recipe",
        "run.folder",
        "model.weights",
        "train.log_every",
        "train.communication_timeout_seconds",
        "data.reader_threads",
        "data.prefetch_batches",
        "data.cache_mib",
        "refresh.timeout_seconds",
        "refresh.on_late",
        "cluster.num_workers",
        "cluster.memory_mib_per_worker",
        "cluster.transport",
        "cluster.call_timeout_seconds",
        "cluster.max_retries",
        "evaluation.every",
        "evaluation.split",
    }


@pytest.mark.parametrize(
    "sections",
    [
        {"launch": {"num_ranks": 1}},
        {"checkpoint": {"every": 5, "keep": 1}},
        {"train": {"log_every": 3}},
        {"data": {"reader_threads": 0}},
        {"refresh": {"on_late": "continue"}},
        {"baselines": {"softmax": {"loss.name": "softmax"}}},
    ],
)
def test_going_on_may_change_what_does_not_change_the_results(run, sections):
    claim(run)
    claim(run, **sections)
    assert load_config(run.config) == config(**sections)


def test_the_same_shards_may_be_named_from_the_root_or_from_here(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim(run, data={"shards": "data/faces"})
    claim(run, data={"shards": str(tmp_path / "data" / "faces")})
    make_something(run)
    with pytest.raises(ConfigError, match=r"data\.shards"):
        claim(run, data={"shards": "data/others"})


def test_another_run_is_refused_and_left_alone(run):
    claim(run)
    make_something(run)
    before = run.config.read_bytes()
    with pytest.raises(ConfigError) as caught:
        claim(run, train={"steps": 7}, model={"embedding_dim": 8})
    message = str(caught.value)
    assert "already holds another run" in message
    assert "model.embedding_dim (32 there, 8 here)" in message
    assert "train.steps (600 there, 7 here)" in message
    assert "set run.folder" in message
    assert run.config.read_bytes() == before


def test_tasks_belong_to_what_makes_a_run(run):
    claim(run, tasks=[{"name": "a", "label": "x"}])
    make_something(run)
    with pytest.raises(ConfigError, match="tasks"):
        claim(run, tasks=[{"name": "a", "label": "y"}])


def test_a_fresh_start_wants_no_checkpoints(run):
    claim(run)
    run.checkpoints.mkdir()
    claim(run)
    with pytest.raises(ConfigError, match="already holds checkpoints.*--resume auto"):
        claim(run, fresh=True)


def test_a_folder_of_something_else_is_refused_and_left_alone(run):
    run.path.mkdir(parents=True)
    names = [f"train-{number:06d}.tar" for number in range(6)]
    for name in names:
        (run.path / name).write_bytes(b"shards")
    with pytest.raises(ConfigError) as caught:
        claim(run)
    assert str(caught.value) == (
        f"{run.path} holds {', '.join(names[:5])} and 1 more, but no config.yaml: expected a new "
        "or empty folder, or a run's; set run.folder to another folder"
    )
    assert sorted(path.name for path in run.path.iterdir()) == names


def test_what_the_launcher_makes_before_the_claim_is_no_obstacle(run):
    for folder in ("logs", "baselines", ".tmp-1-2-config.yaml"):
        (run.path / folder).mkdir(parents=True)
    for file in ("run.lock", "service.lock", "service.json", ".DS_Store"):
        (run.path / file).touch()
    claim(run)
    assert run.config.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    run = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match=r"cannot create the run folder .*file/run.*run\.folder"):
        claim(run)


def test_a_folder_that_cannot_be_written_is_named(run, monkeypatch):
    run.path.mkdir(parents=True)
    # Root may write everywhere, so a mode would not do.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != run.path)
    message = r"cannot write to the run folder .*: no permission to write\); set run\.folder"
    with pytest.raises(ConfigError, match=message):
        claim(run)
    assert not run.config.exists()


LEFT_BY_A_DEAD_RUN = ("snapshots/step_000000", "embeddings/step_000000", "checkpoints/step_000005")


@pytest.mark.parametrize("fresh", [True, False])
def test_a_folder_in_which_nothing_was_made_may_be_claimed_again(run, fresh):
    claim(run, model={"backbone": "tny"})
    for name in LEFT_BY_A_DEAD_RUN:
        (run.path / name).mkdir(parents=True)
    run.metrics.write_text("{}")
    run.logs.mkdir()
    run.service.touch()
    claim(run, fresh=fresh)
    assert load_config(run.config) == config()
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "logs"]


@pytest.mark.parametrize("made", ["checkpoints/step_000005", "tables/000005", "report.json"])
def test_a_folder_in_which_something_was_made_may_not(run, made):
    claim(run, train={"steps": 7})
    if made.startswith("tables"):
        publish(run.tables, 5, {"a": tiny_table(version=5, task="a")})
    elif made.startswith("checkpoints"):
        make_something(run)
    else:
        (run.path / made).touch()
    with pytest.raises(ConfigError, match="already holds another run"):
        claim(run)
    assert (run.path / made).exists()


@pytest.mark.parametrize("lock", [LAUNCHER, SERVICE, TRAINER])
@pytest.mark.parametrize("holding", [None, LAUNCHER, TRAINER])
def test_another_run_that_is_at_work_keeps_its_folder(run, lock, holding):
    claim(run, train={"steps": 7})
    with FolderLock(run.path / lock).claimed(lambda: None, busy=AssertionError()):
        if lock == holding:  # the caller's own
            claim(run, holding=holding)
        else:
            with pytest.raises(ConfigError, match=rf"at work there \({lock} is held\); stop it"):
                claim(run, holding=holding)
    claim(run)


def test_a_service_takes_over_no_folder(run):
    claim(run, train={"steps": 7})
    with pytest.raises(ConfigError, match=r"already holds another run.*; set run\.folder"):
        claim(run, holding=SERVICE)
    assert load_config(run.config) == config(train={"steps": 7})


def test_checking_a_claim_writes_nothing(run):
    check_claim(run, config(), fresh=True)
    assert not run.path.exists()
    claim(run, train={"steps": 7})
    check_claim(run, config(), fresh=True)
    assert load_config(run.config) == config(train={"steps": 7})
