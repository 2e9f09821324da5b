"""What is where in a run's folder."""

import pytest

from trainer.run.folder import RunFolder, step_name, step_of


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


def test_asking_for_paths_creates_nothing(tmp_path):
    run = RunFolder(tmp_path / "runs" / "mine")
    names = ["config", "snapshots", "embeddings", "tables", "checkpoints", "tensorboard"]
    names += ["metrics", "evaluation", "report", "logs"]
    paths = {getattr(run, name) for name in names}
    assert len(paths) == len(names)
    assert all(path.parent == run.path for path in paths)
    assert not run.path.exists()
