"""A run's folder belongs to one run."""

from pathlib import Path

import pytest

from clustering.settings import fixed_settings
from data_shards.errors import ConfigError
from trainer.config.builder import build_config
from trainer.config.run_config import RunConfig, as_dict
from trainer.config.yaml_file import load_config
from trainer.run.folder import RunFolder, step_name, step_of


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "runs" / "mine")


def config(**sections):
    return build_config(sections)


def claim(run, *, fresh=False, **sections):
    run.claim(config(**sections), fresh=fresh)


@pytest.mark.parametrize("step", [0, 200, 999_999, 1_234_567])
def test_names_of_steps_read_back(step):
    assert step_of(step_name(step)) == step


def test_names_of_steps_sort_as_steps_do():
    assert step_name(200) == "step_000200"
    assert step_name(200) < step_name(1000)


@pytest.mark.parametrize(
    "name", [".tmp-12-ab-step_000200", "step_", "step", "step_x", "epoch_000200", "000200"]
)
def test_other_names_are_of_no_step(name):
    assert step_of(name) is None


def test_asking_for_paths_creates_nothing(run):
    names = ["config", "snapshots", "embeddings", "tables", "checkpoints", "tensorboard"]
    names += ["metrics", "evaluation", "report", "logs"]
    paths = {getattr(run, name) for name in names}
    assert len(paths) == len(names)
    assert all(path.parent == run.path for path in paths)
    assert not run.path.exists()


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
    with pytest.raises(ConfigError, match=r"data\.shards"):
        claim(run, data={"shards": "data/others"})


def test_another_run_is_refused_and_left_alone(run):
    claim(run)
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
    names = ["manifest.json", "train-000000.idx", "train-000000.json", "train-000000.tar"]
    for name in names:
        (run.path / name).write_bytes(b"shards")
    with pytest.raises(ConfigError) as caught:
        claim(run)
    assert str(caught.value) == (
        f"{run.path} holds manifest.json, train-000000.idx, train-000000.json and 1 more but no "
        "config.yaml: expected a new or empty folder, or a run's; set run.folder to another folder"
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
    with pytest.raises(ConfigError, match=r"cannot write to the run folder .*set run\.folder"):
        claim(run)
    assert not run.config.exists()
