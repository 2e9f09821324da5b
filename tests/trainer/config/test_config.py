"""A configuration is checked once, where it enters, and says what to do."""

import re
from pathlib import Path

import pytest

from data_shards.errors import ConfigError
from trainer.config.baselines import baseline_config
from trainer.config.builder import build_config
from trainer.config.reference import field_docs, reference
from trainer.config.renamed import RENAMED_SETTINGS
from trainer.config.run_config import RunConfig
from trainer.config.yaml_file import load_config, to_yaml
from trainer.losses.softmax import SoftmaxSettings

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_configuration_loads_and_survives_a_round_trip(path, tmp_path, tiny_data):
    # A recipe reads the shards.
    config = load_config(path, [f"data.shards={tiny_data.folder}"])
    assert load_config(write(tmp_path, to_yaml(config))) == config
    assert not config.ignored_settings()


def test_there_are_configurations():
    assert len(CONFIGS) >= 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss: {scale: 3}\nrun: {}\nloss: {spread: 1}", "'loss' stands twice.*\n.*line 3"),
        ("run: &x {seed: 1}\nloss: {<<: *x}", r"unknown setting loss\.seed"),
        ("loss: {scale: 3, scale: 4}", "'scale' stands twice"),
        ("lose: {}", r"unknown setting lose: did you mean loss\?"),
        ("loss: {margin_betwen: 1}", r"loss\.margin_betwen: did you mean loss\.margin_between\?"),
        ("loss: {qqq: 1}", "known here: name, class_weight"),
        ("train: {steps: 0}", r"train\.steps must be >= 1, got 0"),
        ("train: {steps: many}", r"train\.steps must be of type int, got 'many'"),
        ("train: {steps: true}", r"train\.steps must be of type int, got True"),
        ("train: {steps: 1.5}", r"train\.steps must be of type int"),
        ("train: [1]", "train must be a section"),
        ("run: {seed: 18446744073709551616}", r"run\.seed must be in \[0, 2\^64\), got 1844"),
        ("train: {deepspeed_extra: {optimizer: {}}}", "deepspeed_extra sets optimizer, which"),
        ("optim: {learning_rate: .inf}", r"optim\.learning_rate must be a finite number, got inf"),
        ("optim: {learning_rate: nan}", r"optim\.learning_rate must be a finite number"),
        ("loss: {name: arcfase}", r"loss\.name must be one of clmle \| softmax .*, got 'arcfase'"),
        ("loss: {name: ldam, margin: -0.1}", r"loss\.margin must be >= 0, got -0\.1"),
        ("loss: {margin: 0.1}", "loss.name clmle has no such setting, it is of ldam, arcface"),
        ("loss: {name: softmax, scale: 3}", "loss.name softmax has no such setting"),
        ("loss: {name: ldam, margin: null}", "got null; leave the setting out for its default"),
        ("{sampler: {micro_batch_size: 5}, loss: {name: triplet}}", ">= 2 classes"),
        ("baselines: {1: {loss.name: focal}}", "baselines: 1 becomes the name of a folder"),
        ("loss: {name: ldam, margin: wide}", r"loss\.margin must be of type float, got 'wide'"),
        ("loss: {warmup_share: 0.6}", r"loss\.warmup_share \+ loss\.margin_anneal must be <= 1"),
        (
            "loss: {warmup_share: 0.2, weight_softmax: 0}",
            "loss.weight_softmax is 0; set it above 0",
        ),
        (
            "{loss: {warmup_share: 0.6, margin_anneal: 0}, train: {steps: 1}}",
            "leaves no step for clmle among 1",
        ),
        ("train: {steps: 10, classifier_share: 0.01}", "leaves 0 for the classifier and 10 for"),
        ("train: {steps: 10, classifier_share: 0.99}", "leaves 10 for the classifier and 0 for"),
        ("sampler: {warmup_sampling: cluster}", r"sampler\.warmup_sampling must be one of"),
        ("loss: {margin_within: 0.5, margin_between: 0.2}", "0 <= margin_within <= margin_between"),
        ("cluster: {target_size: 0}", r"cluster\.target_size must be >= 1, got 0"),
        ("refresh: {every: 10, lag: 20}", r"refresh\.lag must be <= refresh\.every = 10"),
        ("sampler: {micro_batch_size: 5}", r"images_per_cluster must be >= 2 clusters"),
        ("sampler: {micro_batch_size: 1}", r"sampler\.micro_batch_size must be >= 2"),
        ("sampler: {micro_batch_size: 9}", r"a multiple of sampler\.images_per_cluster = 5"),
        (
            "{sampler: {micro_batch_size: 64}, loss: {name: triplet}}",
            r"a multiple of sampler\.images_per_class = 5 with sampling class_groups",
        ),
        ("sampler: {micro_batch_size: 20, siblings: 4}", r"sampler\.siblings must be in \[0"),
        ("sampler: {sampling: instance}", "an image is compared with the clusters of its batch"),
        (
            "sampler: {sampling: instance}",
            "cluster, or loss.candidates table and loss.mean_momentum",
        ),
        (
            "{sampler: {sampling: instance}, loss: {name: magnet}}",
            "similar clusters; set sampler.sampling cluster$",
        ),
        ("loss: {isda_strength: -1}", r"loss\.isda_strength must be >= 0, got -1"),
        ("loss: {mean_momentum: 1.1}", r"loss\.mean_momentum must be in \[0, 1\], got 1\.1"),
        ("loss: {cluster_prior: -1}", r"loss\.cluster_prior must be >= 0, got -1"),
        ("evaluation: {knn_balanced: -1}", r"evaluation\.knn_balanced must be >= 0, got -1"),
        ("evaluation: {head_adjustment: -1}", r"evaluation\.head_adjustment must be >= 0, got -1"),
        ("tasks: [{name: a}]", r"tasks\[0\]\.label is missing"),
        ("tasks: [{name: a, label: x}, {name: a, label: y}]", "names must differ"),
        ("tasks: {a: b}", "tasks must be a list"),
        ("tasks: [{name: _a, label: x}]", "must be a letter or digit, then letters"),
        ("tasks: [{name: âge, label: x}]", "must be a letter or digit, then letters"),
        ("tasks: [{name: manifest, label: x}]", "and not manifest"),
        ("model: {channels: 2}", r"model\.channels must be one of 1 \| 3, got 2"),
        ("model: {channels: 3.0}", r"model\.channels must be one of 1 \| 3, got 3\.0"),
        ("loss: {name: lmle, margin: 3}", r"loss\.margin of lmle must be in \[0, 1\]"),
        ("baselines: {..: {loss.name: focal}}", r"baselines: '\.\.' becomes the name of a folder"),
        ("baselines: {/tmp/a: {loss.name: focal}}", "becomes the name of a folder"),
        ("baselines: {a b: {loss.name: focal}, a_b: {loss.name: ldam}}", "share a folder"),
        ("baselines: {other: {loss.nam: softmax}}", r"baselines\.other: unknown setting loss\.nam"),
        ("baselines: {other: {train.steps: 5}}", "the same number"),
        ("- a list", "must hold sections"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text), ["recipe=none"])  # which needs no shards


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_overrides_are_yaml_values_and_are_checked_like_the_file(tmp_path):
    path = write(tmp_path, "recipe: none\ntrain: {steps: 5}\nloss:\n")
    config = load_config(path, ["train.steps=7", "optim.learning_rate=1e-3", "data.flip=true"])
    assert config.train.steps == 7
    assert config.optim.learning_rate == pytest.approx(0.001)
    assert config.data.flip is True
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        load_config(path, ["train.steps"])
    with pytest.raises(ConfigError, match=r"did you mean train\.steps"):
        load_config(path, ["train.stepz=1"])


def test_baselines_differ_only_where_they_say_and_have_a_folder_of_their_own():
    config = build_config(
        {"run": {"folder": "r"}, "baselines": {"plain softmax": {"loss.name": "softmax"}}}
    )
    baseline = baseline_config(config, "plain softmax")
    assert baseline.run.folder == "r/baselines/plain_softmax"
    assert baseline.sampling == "instance"
    assert baseline.train == config.train
    assert list(baseline.refresh_steps()) == []


def test_a_baseline_of_another_loss_starts_from_the_defaults_of_what_is_fitted_to_the_loss():
    fitted = {
        "loss": {"scale": 24, "candidates": "table", "logit_adjustment": 1, "warmup_share": 0.2},
        "sampler": {"sampling": "square_root", "warmup_sampling": "under", "micro_batch_size": 30},
        "optim": {"learning_rate": 0.03},
    }
    own = {"loss.name": "softmax", "loss.class_weight": "inverse"}
    baselines = {
        "costs": own,
        "balanced": {**own, "sampler.sampling": "class_balanced"},
        "one cluster": {"loss.name": "clmle", "cluster.max_per_class": 1},
        "sharper": {"loss.scale": 48},
    }
    run = build_config({**fitted, "baselines": baselines})
    costs, balanced, one, sharper = (baseline_config(run, name) for name in baselines)
    assert costs.loss == build_config({"loss": {"name": "softmax", "class_weight": "inverse"}}).loss
    assert (costs.sampling, costs.sampler.warmup_sampling) == ("instance", "instance")
    assert balanced.sampling == "class_balanced"
    for other in (costs, balanced):
        assert (other.model, other.optim, other.train) == (run.model, run.optim, run.train)
        assert other.images_per_step == run.images_per_step
        assert other.ignored_settings() == []
    assert (one.loss, one.sampler) == (run.loss, run.sampler)
    assert sharper.loss == build_config({"loss": {**fitted["loss"], "scale": 48}}).loss
    assert sharper.sampler == run.sampler


def test_a_baseline_in_sections_is_the_same_as_a_dotted_one(tmp_path):
    run = """
recipe: none
loss: {candidates: table, scale: 24}
sampler: {sampling: square_root, micro_batch_size: 30}
baselines:
  dotted: {loss.name: focal, loss.gamma: 1, sampler.siblings: 2}
  nested: {loss: {name: focal, gamma: 1}, sampler: {siblings: 2}}
  own loss: {loss: {mean_momentum: 0.5}}
"""
    config = load_config(write(tmp_path, run), ["baselines.dotted.loss.class_weight=inverse"])
    dotted, nested, own = (baseline_config(config, name) for name in config.baselines)
    assert (dotted.loss.name, dotted.loss.gamma) == ("focal", 1)
    assert dotted.loss.class_weight == "inverse"
    assert nested.loss == build_config({"loss": {"name": "focal", "gamma": 1}}).loss
    assert nested.sampler == dotted.sampler
    assert (nested.sampling, nested.sampler.micro_batch_size) == ("instance", 30)
    assert (own.loss.scale, own.loss.mean_momentum, own.sampling) == (24, 0.5, "square_root")


def test_settings_without_effect_are_reported():
    config = build_config(
        {"loss": {"reweight_from": 0.5}, "optim": {"name": "adamw", "momentum": 0.5}}
    )
    told = " ".join(config.ignored_settings())
    assert "loss.reweight_from is ignored: loss.class_weight is none" in told
    assert "optim.momentum" in told


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"loss": {"name": "softmax"}}, ""),
        ({"loss": {"name": "softmax"}, "refresh": {"every": 0}}, ""),
        ({"loss": {"name": "softmax"}, "refresh": {"every": 70}}, "refresh.every"),
        ({"loss": {"name": "softmax"}, "refresh": {"lag": 1}}, "refresh.lag"),
        ({"loss": {"name": "softmax"}, "refresh": {"every": 0, "lag": 1}}, ""),
        ({"refresh": {"lag": 1}}, ""),
        ({"loss": {"name": "arcface"}, "evaluation": {"tau": 0.7}}, "evaluation.tau"),
        ({"loss": {"name": "softmax"}, "evaluation": {"tau": 0.7, "head_adjustment": 1.0}}, ""),
        (
            {"loss": {"weight_softmax": 0}, "evaluation": {"head_adjustment": 1.0}},
            "evaluation.head_adjustment",
        ),
        ({"loss": {"weight_softmax": 0, "class_weight": "inverse"}}, "loss.class_weight"),
        ({"loss": {"name": "softmax", "class_weight": "inverse"}}, ""),
        ({"loss": {"weight_softmax": 0, "logit_adjustment": 1}}, "loss.logit_adjustment"),
        ({"loss": {"weight_softmax": 0, "isda_strength": 1.0}}, "loss.isda_strength"),
        ({"sampler": {"images_per_class": 2}}, ""),  # of a baseline, perhaps
        ({"loss": {"reweight_from": 0.8}}, "loss.reweight_from"),
        ({"loss": {"name": "ldam", "class_weight_beta": 0.5}}, "loss.class_weight_beta"),
        ({"sampler": {"warmup_sampling": "under"}}, "sampler.warmup_sampling"),
        ({"sampler": {"warmup_sampling": "under"}, "loss": {"warmup_share": 0.2}}, ""),
        (
            {"loss": {"name": "arcface"}, "model": {"classifier_input": "embedding"}},
            "model.classifier_input",
        ),
        (
            {
                "loss": {"candidates": "table"},
                "sampler": {"sampling": "instance"},
                "refresh": {"every": 7, "lag": 1},
            },
            "",
        ),
        (
            {"loss": {"name": "focal"}, "sampler": {"max_clusters_per_class": 2}},
            "sampler.max_clusters_per_class",
        ),
        ({"loss": {"name": "focal"}, "sampler": {"siblings": 2}}, "sampler.siblings"),
        ({"loss": {"name": "focal"}, "sampler": {"seed_by": "class"}}, "sampler.seed_by"),
        ({"sampler": {"seed_by": "class", "siblings": 2}}, ""),
        ({"sampler": {"siblings": 9}}, "sampler.siblings"),
        ({"sampler": {"siblings": 9}, "cluster": {"listed_siblings": 9}}, ""),
        ({"loss": {"class_weight_beta": 0.9}}, "loss.class_weight_beta"),
        ({"loss": {"name": "supcon"}, "evaluation": {"every": 5}}, "evaluation.every"),
        ({"loss": {"name": "softmax"}, "evaluation": {"every": 5}}, ""),
        ({"loss": {"class_weight_beta": 0.9, "class_weight": "effective_number"}}, ""),
    ],
)
def test_only_what_was_set_and_has_no_effect_is_told(sections, told):
    ignored = build_config(sections).ignored_settings()
    assert [line.split()[0] for line in ignored] == ([told] if told else [])


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("sampling", ["auto", "square_root", "class_groups"])
def test_lone_images_that_are_their_own_centroids_are_warned_of(sampling, momentum):
    loss = {"candidates": "table", "mean_momentum": momentum}
    config = build_config({"loss": loss, "sampler": {"sampling": sampling}})
    assert config.ignored_settings() == []
    told = [line.split()[0] for line in config.warnings()]
    assert told == (["loss.candidates"] if sampling != "auto" and not momentum else [])
    other = build_config({"loss": {"name": "softmax"}, "sampler": {"sampling": "square_root"}})
    assert other.warnings() == other.ignored_settings()


def test_tables_are_asked_for_at_the_start_and_then_periodically():
    config = build_config({"train": {"steps": 250}, "refresh": {"every": 100, "lag": 5}})
    assert list(config.refresh_steps()) == [0, 100, 200]
    once = build_config({"train": {"steps": 250}, "refresh": {"every": 0}})
    assert list(once.refresh_steps()) == [0]


def test_clmle_on_batches_by_label_asks_for_tables_as_ever():
    sections = {"train": {"steps": 250}, "refresh": {"every": 100, "lag": 5}}
    by_label = {"loss": {"candidates": "table"}, "sampler": {"sampling": "square_root"}}
    config = build_config(sections | by_label)
    assert config.needs_tables
    assert config.sampling_at(0) == "square_root"
    assert config.refresh_steps() == build_config(sections).refresh_steps()
    softmax = build_config(sections | {"loss": {"name": "softmax"}})
    assert not softmax.needs_tables


def test_a_warm_up_puts_off_the_first_table_and_draws_by_label():
    config = build_config(
        {
            "loss": {"warmup_share": 0.3},
            "sampler": {"warmup_sampling": "square_root"},
            "train": {"steps": 250},
            "refresh": {"every": 100, "lag": 5},
        }
    )
    assert list(config.refresh_steps()) == [75, 175]
    drawn = [config.sampling_at(step) for step in (0, 74, 75, 249)]
    assert drawn == ["square_root", "square_root", "cluster", "cluster"]


def test_a_classifier_stage_ends_tables_and_draws_class_balanced():
    config = build_config(
        {
            "train": {"steps": 250, "classifier_share": 0.2},
            "loss": {"warmup_share": 0.3},
            "refresh": {"every": 100, "lag": 5},
        }
    )
    assert config.classifier_start == 200
    assert list(config.refresh_steps()) == [60, 160]
    drawn = [config.sampling_at(step) for step in (59, 60, 199, 200, 249)]
    assert drawn == ["instance", "cluster", "cluster", "class_balanced", "class_balanced"]


@pytest.mark.parametrize(
    ("sections", "readout"),
    [
        ({}, "blend"),
        ({"loss": {"weight_softmax": 0.0}}, "knc_margin"),
        ({"loss": {"name": "supcon"}}, "ncm"),
        ({"loss": {"name": "softmax"}}, "head"),
        ({"loss": {"name": "softmax"}, "train": {"classifier_share": 0.1}}, "head_crt"),
    ],
)
def test_a_run_has_a_readout_that_its_method_is_meant_for(sections, readout):
    assert build_config(sections).readout == readout


def test_a_baseline_of_a_run_with_a_warm_up_has_none():
    main = {"loss": {"warmup_share": 0.4}, "refresh": {"every": 10, "lag": 1}}
    for name in ("magnet", "arcface"):
        baselines = {"other": {"loss.name": name}}
        config = baseline_config(build_config({**main, "baselines": baselines}), "other")
        assert config.warmup_end == 0
        assert config.sampling_at(0) == config.sampling


def test_a_loss_has_its_own_settings_with_its_own_defaults():
    def loss(**settings):
        return build_config({"loss": settings}).loss

    assert loss().weight_softmax == 1
    assert loss(name="ldam").margin == 0.5
    assert loss(name="ldam", margin=0.2).margin == 0.2
    assert loss(name="balanced_softmax").logit_adjustment == 1
    assert loss(name="balanced_softmax", logit_adjustment=0).logit_adjustment == 0
    assert loss(name="softmax").logit_adjustment == 0
    assert not hasattr(loss(name="softmax"), "margin")


@pytest.mark.parametrize(("old", "new"), RENAMED_SETTINGS.items())
def test_a_setting_of_an_earlier_release_is_refused_with_its_new_name(old, new):
    section, name = old.split(".")
    with pytest.raises(ConfigError, match=f"unknown setting {old}; {re.escape(new)}"):
        build_config({section: {name: 1}})
    named = re.findall(r"(?:loss|sampler|cluster)\.\w+", new)
    assert named
    for setting in (name for name in named if name not in ("loss.name", "loss.gamma")):
        in_section, field = setting.split(".")
        assert hasattr(getattr(RunConfig(), in_section), field), setting


def test_all_names_of_an_earlier_release_are_refused_at_once():
    sections = {"sampler": {"clusters": 4, "neighbourhoods": 2}, "loss": {"spread": 1}}
    with pytest.raises(ConfigError) as refused:
        build_config(sections)
    for name in ("sampler.clusters", "sampler.neighbourhoods", "loss.spread"):
        assert f"  {name}: {RENAMED_SETTINGS[name]}" in str(refused.value)


def test_a_loss_section_has_the_settings_of_its_name():
    with pytest.raises(ConfigError, match="loss.name clmle has the settings ClmleSettings, got So"):
        RunConfig(loss=SoftmaxSettings(name="clmle"))


def test_every_setting_is_documented():
    hints = RunConfig.__dataclass_fields__
    default = RunConfig()
    for section in hints:
        kind = type(getattr(default, section))
        if hasattr(kind, "__dataclass_fields__"):
            missing = set(kind.__dataclass_fields__) - set(field_docs(kind))
            assert not missing, f"{section}: {missing}"


def test_the_reference_page_is_up_to_date():
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text() == reference(), (
        "run: python -m trainer.config.reference > docs/configuration.md"
    )
