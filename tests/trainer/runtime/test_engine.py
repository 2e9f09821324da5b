"""DeepSpeed's JSON comes from our few fields; what they decide cannot be said twice."""

import copy
import json

import pytest
import torch

from data_shards.errors import ConfigError
from trainer.config.builder import build_config
from trainer.config.deepspeed_extra import DECIDED_ELSEWHERE
from trainer.runtime.engine import deepspeed_config, is_finite, make_optimizer

SAMPLER = {"micro_batches": 4, "micro_batch_size": 15, "images_per_cluster": 3}


def generated(num_ranks=1, **train):
    return deepspeed_config(build_config({"sampler": SAMPLER, "train": train}), num_ranks)


@pytest.mark.parametrize(("num_ranks", "micro_batches"), [(1, 4), (2, 2), (4, 1)])
def test_the_global_batch_is_the_same_for_any_number_of_ranks(num_ranks, micro_batches):
    settings = generated(num_ranks)
    assert settings["train_micro_batch_size_per_gpu"] == 15
    assert settings["gradient_accumulation_steps"] == micro_batches
    assert 15 * micro_batches * num_ranks == build_config({"sampler": SAMPLER}).images_per_step


@pytest.mark.parametrize("num_ranks", [3, 8])
def test_neighbourhoods_must_divide_among_the_ranks(num_ranks):
    with pytest.raises(ConfigError, match=rf"micro_batches = 4 does not divide .* {num_ranks}"):
        generated(num_ranks)


def test_our_fields_become_its_keys():
    settings = generated(zero_stage=2, precision="bf16", gradient_clipping=0.5)
    assert settings["zero_optimization"] == {"stage": 2}
    assert settings["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert settings["gradient_clipping"] == 0.5
    assert generated()["torch_autocast"]["enabled"] is False
    json.dumps(settings)


def test_further_keys_are_passed_on():
    extra = {"wall_clock_breakdown": True, "zero_optimization": {"overlap_comm": False}}
    settings = generated(zero_stage=1, deepspeed_extra=extra)
    assert settings["wall_clock_breakdown"] is True
    assert settings["zero_optimization"] == {"stage": 1, "overlap_comm": False}
    assert settings["gradient_accumulation_steps"] == 4
    assert extra == {"wall_clock_breakdown": True, "zero_optimization": {"overlap_comm": False}}


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps"),
        ({"train_batch_size": 8}, "train_batch_size"),
        ({"steps_per_print": 1, "gradient_clipping": 1}, "gradient_clipping, steps_per_print"),
        ({"zero_optimization": {"stage": 3}}, r"zero_optimization\.stage"),
        ({"optimizer": {"type": "Adam"}}, "optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler"),
        ({"bf16": {"enabled": True}}, "bf16"),
    ],
)
def test_what_is_decided_elsewhere_is_refused(extra, named):
    with pytest.raises(ConfigError, match=f"deepspeed_extra sets {named}, which"):
        generated(deepspeed_extra=extra)


def test_all_that_is_generated_counts_as_decided():
    assert set(generated()) - {"zero_optimization"} <= DECIDED_ELSEWHERE


def test_a_zero_section_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="zero_optimization must map names .* train.zero_stage"):
        generated(deepspeed_extra={"zero_optimization": 2})


@pytest.mark.parametrize(
    ("optim", "kind"), [({"name": "sgd"}, torch.optim.SGD), ({"name": "adamw"}, torch.optim.AdamW)]
)
def test_only_matrices_are_decayed(tiny_network, optim, kind):
    config = build_config({"optim": {**optim, "weight_decay": 0.25, "learning_rate": 0.125}})
    optimizer = make_optimizer(tiny_network, config)
    assert type(optimizer) is kind
    decay_of = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in tiny_network.named_parameters():
        assert decay_of.pop(id(parameter)) == (0.25 if parameter.ndim > 1 else 0.0), name
    assert decay_of == {}
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_momentum_is_nesterovs(tiny_network, momentum):
    config = build_config({"optim": {"momentum": momentum}})
    for group in make_optimizer(tiny_network, config).param_groups:
        assert group["momentum"] == momentum
        assert group["nesterov"] is (momentum > 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["weight", "statistic", "part of ZeRO 3"])
def test_one_number_that_is_not_finite_is_found(tiny_network, value, part):
    network = copy.deepcopy(tiny_network)
    weight = next(p for p in network.parameters() if p.ndim > 1)
    held = weight
    if part == "statistic":
        held = dict(network.named_buffers())["heads.task_shape.norm.running_var"]
    if part == "part of ZeRO 3":
        weight.ds_tensor = held = weight.detach().flatten().clone()
        weight.data = torch.empty(0)
    assert is_finite(network)
    held.data.view(-1)[-1] = value
    assert not is_finite(network)
