"""What is left open follows from the class histogram; what is set stays."""

import re
from pathlib import Path

import numpy as np
import pytest

from data_shards.errors import ConfigError
from tests.helpers.tiny_data import PARITY, SHAPE, TRAIN_COUNTS
from trainer import train
from trainer.config.baselines import baseline_config
from trainer.config.builder import build_config, with_settings
from trainer.config.recipe import DERIVED_SETTINGS, derive, derived_settings
from trainer.config.tasks import resolve_tasks
from trainer.config.yaml_file import derive_open, load_config, load_with_recipe, to_yaml
from trainer.losses.registry import LOSSES
from trainer.run.claim import claim_folder
from trainer.run.folder import RunFolder

ROOT = Path(__file__).parents[3]
LONG_TAIL = ROOT / "configs" / "long_tail.yaml"


def values(*class_counts, **given):
    """What is derived for tasks of so many images a class; given settings with two underscores."""
    counts = [np.asarray(counts, np.int64) for counts in class_counts]
    dotted = {name.replace("__", "."): value for name, value in given.items()}
    return {item.setting: item.value for item in derive(counts, dotted)}


def resolved(*class_counts, **given):
    """The whole configuration of it."""
    dotted = {name.replace("__", "."): value for name, value in given.items()}
    return with_settings(build_config({}), dotted | values(*class_counts, **given))


def test_many_small_classes():
    assert values([30] * 150) == {
        "cluster.target_size": 20,
        "cluster.max_per_class": 0,
        "sampler.images_per_cluster": 3,
        "sampler.images_per_class": 3,
        "sampler.micro_batch_size": 120,
        "loss.candidates": "table",
        "sampler.sampling": "square_root",
        "loss.cluster_prior": 1.0,
        "loss.logit_adjustment": 1.0,
        "loss.warmup_share": 0.3,
        "sampler.warmup_sampling": "square_root",
        "loss.scale": 24.0,
        "loss.margin_between": 0.8,
        "loss.margin_within": 0.2,
        "loss.mean_momentum": 0.9,
        "loss.isda_strength": 1.0,
        "train.steps": 600,
        "refresh.every": 50,
        "refresh.lag": 10,
        "checkpoint.every": 60,
        "evaluation.every": 120,
        "model.embedding_dim": 64,
        "optim.weight_decay": 0.002,
    }


def test_two_large_classes():
    derived = values([29_000, 2_000])
    assert derived["train.steps"] == 20 * 31_000 / (2 * 20 * 5)
    assert (
        derived
        | {
            "cluster.target_size": 200,
            "cluster.max_per_class": 3,
            "sampler.images_per_cluster": 5,
            "sampler.images_per_class": 5,
            "sampler.micro_batch_size": 100,
            "sampler.sampling": "square_root",
            "sampler.warmup_sampling": "square_root",
            "loss.cluster_prior": 1.0,
            "loss.logit_adjustment": 1.0,
            "loss.scale": 8.0,
            "loss.margin_between": 0.2,
            "loss.margin_within": 0.05,
            "loss.mean_momentum": 0.5,
            "loss.isda_strength": 0.5,
            "refresh.every": 217,  # a tenth of 70 % of 3,100
            "refresh.lag": 78,  # half of 31,000 images, 200 a step
            "model.embedding_dim": 32,
        }
        == derived
    )


@pytest.mark.parametrize(
    ("counts", "settings"),
    [
        # The mean class decides over the clusters.
        ([200, 98, 1], {"cluster.target_size": 20}),
        ([200, 99, 1], {"cluster.target_size": 200}),
        # One image a class.
        ([1] * 30, {"cluster.target_size": 20, "train.steps": 600}),
        ([1] * 2, {"train.steps": 600}),
        # Where few classes end, and the embedding grows.
        ([9] * 20, {"loss.scale": 8.0, "model.embedding_dim": 32}),
        ([9] * 21, {"loss.scale": 24.0, "model.embedding_dim": 64}),
        ([9] * 1000, {"model.embedding_dim": 64}),
        ([9] * 1001, {"model.embedding_dim": 128}),
        ([50] * 100_000, {"model.embedding_dim": 256, "train.steps": 100_000}),
        ([1] * 100_001, {"model.embedding_dim": 512}),
        # Classes that only the test split has.
        ([99] * 20 + [0] * 9, {"loss.scale": 8.0}),
    ],
)
def test_what_the_counts_decide(counts, settings):
    derived = values(counts)
    assert derived | settings == derived
    assert resolved(counts).ignored_settings() == []


# Only large data need more than the default.
OF_FEW_IMAGES = tuple(name for name in DERIVED_SETTINGS if name != "refresh.timeout_seconds")


def test_all_that_may_be_derived_is():
    assert tuple(values([5, 3])) == OF_FEW_IMAGES
    of_many = [name for name in DERIVED_SETTINGS if name != "optim.weight_decay"]
    assert list(values([100_000, 3])) == of_many


@pytest.mark.parametrize("loss", ["clmle", "softmax"])
@pytest.mark.parametrize(
    ("num_images", "seconds"),
    [(20_000, None), (20_001, 1201), (120_000, 11_200), (5_000_000, 499_200)],
)
def test_ranks_wait_longer_for_the_tables_of_more_images(loss, num_images, seconds):
    derived = values([num_images - 10, 10], loss__name=loss)
    assert derived.get("refresh.timeout_seconds") == seconds
    given = values([num_images - 10, 10], loss__name=loss, refresh__timeout_seconds=60.0)
    assert "refresh.timeout_seconds" not in given


@pytest.mark.parametrize("loss", ["triplet", "supcon", "magnet", "lmle"])
def test_baselines_group_their_images_as_the_recipe_says(loss):
    run = resolved([200] * 44, baselines={"other": {"loss.name": loss}})
    baseline = baseline_config(run, "other").sampler
    assert (baseline.micro_batch_size, baseline.images_per_class) == (120, 3)
    assert (baseline.clusters, baseline.images_per_cluster) == (40, 3)


def test_many_images_keep_the_default_weight_decay():
    assert values([50_000, 49_999])["optim.weight_decay"] == 0.002
    assert "optim.weight_decay" not in values([50_000, 50_000])


def test_a_reason_names_what_decided():
    def why(counts):
        derived = derive([np.array(counts)])
        return {item.setting: item.reason for item in derived}["loss.scale"]

    assert why([9] * 21) == "21 classes"


def test_the_task_with_the_most_classes_decides():
    identity, gender = [3] * 200, [500, 100]
    assert values(gender, identity) == values(identity) == values(identity, gender)
    assert values(gender, [3, 4]) == values(gender)


@pytest.mark.parametrize("counts", [[], [[0, 0]], [[3, 4], []]])
def test_a_task_without_images_is_refused(counts):
    with pytest.raises(ConfigError, match="needs training images of each task"):
        values(*counts)


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        # Fewer images a step, more steps; fewer steps, tables closer together.
        ({"sampler__micro_batches": 1}, {"train.steps": 5000}),
        ({"train__steps": 10_000}, {"refresh.every": 700, "checkpoint.every": 1000}),
        ({"train__steps": 10_000, "loss__warmup_share": 0.0}, {"refresh.every": 1000}),
        ({"train__classifier_share": 0.5, "train__steps": 10_000}, {"refresh.every": 350}),
        ({"train__steps": 40, "refresh__lag": 60}, {"refresh.every": 60}),
        ({"train__steps": 40}, {"refresh.every": 50, "refresh.lag": 50}),  # 63 would be too many
        ({"refresh__every": 20}, {"refresh.lag": 20}),
        ({"refresh__every": 0}, {"refresh.lag": 63}),
        # Priors and warm-up belong to the sampling that is in force.
        (
            {"sampler__sampling": "class_balanced"},
            {"loss.cluster_prior": 0.0, "sampler.warmup_sampling": "class_balanced"},
        ),
        (
            {"sampler__sampling": "instance"},
            {"loss.logit_adjustment": 1.0, "sampler.warmup_sampling": "instance"},
        ),
        (
            {"sampler__sampling": "cluster"},
            {
                "loss.cluster_prior": 0.0,
                "sampler.warmup_sampling": "class_balanced",
                "sampler.images_per_cluster": 3,
                "sampler.images_per_class": 3,
                "sampler.micro_batch_size": 120,
            },
        ),
        (
            {"sampler__sampling": "cluster", "sampler__images_per_cluster": 7},
            {"sampler.micro_batch_size": 280},
        ),
        ({"sampler__sampling": "class_groups"}, {"sampler.images_per_class": 3}),
        # What the user sets, they divide.
        (
            {"sampler__sampling": "cluster", "sampler__micro_batch_size": 100},
            {"sampler.images_per_cluster": 2},
        ),
        ({"sampler__micro_batch_size": 97}, {"sampler.images_per_class": 1}),
        ({"loss__candidates": "batch"}, {"sampler.warmup_sampling": "class_balanced"}),
        # Margins keep their order, growth and warm-up fit into the training.
        ({"loss__margin_between": 0.02}, {"loss.margin_within": 0.02}),
        ({"loss__margin_within": 0.9}, {"loss.margin_between": 0.9}),
        ({"loss__margin_anneal": 0.9}, {"loss.warmup_share": pytest.approx(0.1)}),
    ],
)
def test_what_is_given_counts_in_the_rest(given, settings):
    derived = values([200] * 150, **given)
    assert not {name.replace("__", ".") for name in given} & set(derived)
    assert derived | settings == derived
    assert resolved([200] * 150, **given).ignored_settings() == []


@pytest.mark.parametrize(
    ("given", "left_alone"),
    [
        ({"loss__candidates": "batch"}, {"sampler.sampling"}),
        ({"loss__warmup_share": 0.0}, {"sampler.warmup_sampling"}),
        (
            {"loss__weight_softmax": 0.0},
            {
                "loss.logit_adjustment",
                "loss.warmup_share",
                "loss.isda_strength",
                "sampler.warmup_sampling",
            },
        ),
    ],
)
def test_nothing_without_effect_is_derived(given, left_alone):
    dotted = {name.replace("__", ".") for name in given}
    assert set(values([9] * 30, **given)) == set(OF_FEW_IMAGES) - left_alone - dotted
    assert resolved([9] * 30, **given).ignored_settings() == []


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"clmle"}))
def test_other_losses_get_what_is_not_fitted_to_clmle(loss):
    derived = values([9] * 30, loss__name=loss)
    assert not [name for name in derived if name.startswith("loss.") or name.endswith("sampling")]
    assert ("refresh.every" in derived) == LOSSES[loss].needs_table
    nothing_to_read = loss in ("triplet", "supcon")
    assert ("evaluation.every" in derived) == (not nothing_to_read)
    assert {"train.steps", "model.embedding_dim", "sampler.micro_batch_size"} <= set(derived)
    assert resolved([9] * 30, loss__name=loss).ignored_settings() == []


def test_a_program_without_a_file_gets_the_same(tiny_data):
    tasks = resolve_tasks(build_config({}), tiny_data)
    settings = derived_settings(tiny_data, tasks, {"loss.scale": 7.0})
    assert settings == values(TRAIN_COUNTS, loss__scale=7.0)


@pytest.fixture
def overrides(tiny_data, tmp_path):
    return [f"data.shards={tiny_data.folder}", f"run.folder={tmp_path / 'run'}"]


def documented_values():
    """Setting -> what docs/methods.md says of its value."""
    section = (ROOT / "docs" / "methods.md").read_text().split("## The recipe")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {name: row[1] for row in rows for name in re.findall(r"`([a-z_.]+)`", row[0])}


@pytest.mark.parametrize(("counts", "side"), [([500] * 10, 0), ([30] * 150, -1)])
def test_the_documented_values_are_those_that_are_derived(counts, side):
    told = documented_values()
    documented = {name: said for name, said in told.items() if "not derived" not in said}
    assert set(documented) == set(DERIVED_SETTINGS)
    for setting, value in values(counts).items():
        if not setting.startswith("refresh.") and not setting.endswith(".every"):  # steps
            said = documented[setting].split(" for C <= 20")[side].replace("no limit", "0")
            number = value if isinstance(value, str) else f"{value:g}"
            assert number in re.findall(r"[a-z_]+|[\d.]+\d|\d", said.replace(",", "")), setting


def test_what_the_file_and_the_command_line_set_stays(overrides, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("recipe: long_tail\nloss: {scale: 9}\ntrain:\n")
    config, derived = load_with_recipe(file, [*overrides, "loss.margin_between=2e-1"])
    assert (config.loss.scale, config.loss.margin_between) == (9, 0.2)
    assert config.loss.margin_within == 0.05
    assert config.checkpoint.every == 60  # of the 600 steps
    names = [item.setting for item in derived]
    assert names == [
        name for name in OF_FEW_IMAGES if name not in ("loss.scale", "loss.margin_between")
    ]


def test_a_default_that_is_set_is_a_choice(tiny_data):
    raw = {
        "recipe": "long_tail",
        "data": {"shards": str(tiny_data.folder)},
        "loss": {"logit_adjustment": 0.0},
    }
    derived = {item.setting: item.value for item in derive_open(raw)}
    assert "loss.logit_adjustment" not in derived
    assert build_config(raw, derived).loss.logit_adjustment == 0


def test_a_resolved_configuration_has_nothing_open(overrides, tmp_path):
    config, derived = load_with_recipe(LONG_TAIL, overrides)
    assert config.recipe == "long_tail"
    assert derived
    assert config.ignored_settings() == []
    file = tmp_path / "resolved.yaml"
    file.write_text(to_yaml(config, derived))
    assert load_with_recipe(file) == (config, [])
    # The images may have gone or grown since: a run stays what it was.
    elsewhere, again = load_with_recipe(file, ["data.shards=moved"])
    assert elsewhere.loss == config.loss
    assert again == []


def test_a_run_folder_knows_its_run_by_the_values(overrides):
    config, _ = load_with_recipe(LONG_TAIL, overrides)
    run = RunFolder(config.run_path)
    claim_folder(run, config, fresh=False)
    claim_folder(run, with_settings(config, {"recipe": "none"}), fresh=False)
    run.report.touch()  # something was made, so no other run may take the folder over
    with pytest.raises(ConfigError, match=r"another run: loss\.scale"):
        claim_folder(run, load_config(LONG_TAIL, [*overrides, "loss.scale=5"]), fresh=False)


def whys(path, overrides):
    return {item.setting: item.reason for item in load_with_recipe(path, overrides)[1]}


def test_each_task_has_its_counts(tiny_data, overrides):
    tasks = f"tasks=[{{name: p, label: {PARITY}}}]"
    assert whys(LONG_TAIL, [*overrides, tasks])["loss.scale"] == "2 classes"
    both = f"tasks=[{{name: p, label: {PARITY}}}, {{name: s, label: {SHAPE}}}]"
    assert whys(LONG_TAIL, [*overrides, both])["loss.scale"] == "4 classes"
    with pytest.raises(ConfigError, match="have no label 'age'"):
        load_config(LONG_TAIL, [*overrides, "tasks=[{name: a, label: age}]"])


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (
            "",
            r"data\.shards is not set; set it to the folder that `clmle import",
        ),
        ("nowhere", r"recipe long_tail needs data\.shards: .*nowhere is not a folder; make it"),
    ],
)
def test_shards_that_cannot_be_read_are_named(shards, message):
    with pytest.raises(ConfigError, match=message):
        load_config(LONG_TAIL, [f"data.shards={shards}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=many", r"train\.steps must be of type int, got 'many'"),
        ("sampler.micro_batches=0", r"sampler\.micro_batches must be >= 1, got 0"),
        ("loss.scal=3", r"did you mean loss\.scale"),
        ("loss=3", "loss has no settings inside it"),
        ("recipe=long", r"recipe must be one of long_tail \| none, got 'long'"),
    ],
)
def test_a_mistake_is_named_as_without_a_recipe(overrides, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(LONG_TAIL, [*overrides, override])


def test_a_dry_run_says_why_in_comments(overrides, capsys, tmp_path):
    options = [word for override in overrides for word in ("--set", override)]
    assert train.main(["--config", str(LONG_TAIL), *options, "--dry-run"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    comments = [line for line in printed.read_text().splitlines() if line.startswith("#")]
    assert "# recipe long_tail: loss.scale = 8.0: 4 classes" in comments
    assert len(comments) == len(OF_FEW_IMAGES)
    assert load_config(printed) == load_config(LONG_TAIL, overrides)


@pytest.mark.parametrize(("rank", "times"), [("0", 1), ("1", 0)])
def test_the_first_rank_alone_says_what_was_derived(overrides, capsys, monkeypatch, rank, times):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(train, "train", lambda *arguments, **keywords: {})
    options = [word for override in overrides for word in ("--set", override)]
    assert train.main(["--config", str(LONG_TAIL), *options]) == 0
    told = capsys.readouterr().err
    assert told.count("recipe long_tail: loss.scale = 8.0: 4 classes") == times
