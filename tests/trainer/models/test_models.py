"""Networks: shapes, gradients, initial weights, and what the errors say."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor, nn

from data_shards.errors import ConfigError
from trainer.config.builder import build_config
from trainer.models import backbones, build_network
from trainer.models.backbone import Backbone
from trainer.models.iresnet import IResNet
from trainer.models.network import Network
from trainer.models.tiny import Tiny
from trainer.run.network import ClassifierInput
from trainer.state.snapshot import NetworkDescription


def tiny_network(classifier_input: ClassifierInput | None = "features") -> Network:
    return build_network(
        "tiny",
        channels=1,
        input_size=12,
        embedding_dim=6,
        num_classes={"identity": 5, "type": 2},
        classifier_input=classifier_input,
    )


def images(num: int = 4, channels: int = 1, size: int = 12) -> Tensor:
    return torch.rand(num, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


# -- backbones -------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 28, 40, 64])
def test_tiny_takes_small_images(size: int, channels: int) -> None:
    backbone = Tiny(channels, size)
    assert backbone(images(2, channels, size)).shape == (2, backbone.num_features)


def test_tiny_knows_where_things_are() -> None:
    """Two images that differ only in the place of a spot must differ in their features."""
    backbone = Tiny(1, 28).eval()
    spots = torch.zeros(2, 1, 28, 28)
    spots[0, 0, 5, 5] = spots[1, 0, 20, 20] = 1
    first, second = backbone(spots)
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("size", [16, 48])
def test_iresnet_takes_multiples_of_16(size: int) -> None:
    backbone = IResNet(18, channels=3, input_size=size)
    features = backbone(images(2, 3, size))
    assert features.shape == (2, backbone.num_features)
    assert backbone.num_features == 512 * (size // 16) ** 2


@pytest.mark.parametrize(
    ("depth", "millions"), [(18, 11.18), (34, 21.29), (50, 30.74), (100, 52.31)]
)
def test_iresnet_has_the_size_of_the_published_one(depth: int, millions: float) -> None:
    """Published sizes count a 25,088 x 512 layer and its norm as well; those are in our head."""
    with torch.device("meta"):
        backbone = IResNet(depth, channels=3, input_size=112)
    assert backbone.num_features == 25_088
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(millions * 1e6, rel=1e-3)


def test_iresnet_refuses_other_sizes_and_depths() -> None:
    with pytest.raises(ConfigError, match="multiple of 16, got 40; set it to 32 or 48"):
        IResNet(18, channels=1, input_size=40)
    with pytest.raises(ConfigError, match="multiple of 16, got 8; set it to 16 or 32"):
        IResNet(18, channels=1, input_size=8)
    with pytest.raises(ConfigError, match="one of"):
        IResNet(19, channels=1, input_size=112)


# -- outputs ---------------------------------------------------------------------------


@pytest.mark.parametrize("classifier_input", ["features", "embedding"])
def test_every_task_has_unit_embeddings_and_logits(classifier_input: ClassifierInput) -> None:
    outputs = tiny_network(classifier_input)(images())
    assert {task: tuple(o.logits.shape) for task, o in outputs.items()} == {
        "identity": (4, 5),
        "type": (4, 2),
    }
    for output in outputs.values():
        assert output.embedding.shape == output.features.shape == (4, 6)
        torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(4))
        expected = output.features / output.features.norm(dim=1, keepdim=True)
        torch.testing.assert_close(output.embedding, expected)


def test_the_classifier_sees_what_was_chosen() -> None:
    """Twice the features give other logits only if the classifier sees their length."""
    for classifier_input, length_counts in (("features", True), ("embedding", False)):
        network = tiny_network(classifier_input).eval()
        before = network(images())["type"].logits
        with torch.no_grad():
            network.heads["task_type"].norm.weight *= 2
        after = network(images())["type"].logits
        assert torch.allclose(before, after, atol=1e-5) != length_counts


def test_without_classifier_there_are_no_logits_and_no_idle_weights() -> None:
    network = tiny_network(None)
    assert all(output.logits is None for output in network(images()).values())
    assert not [name for name in network.state_dict() if "classifier" in name]


def test_every_weight_gets_a_gradient() -> None:
    network = tiny_network()
    outputs = network(images())
    sum(o.embedding[:, 0].sum() + o.logits.square().sum() for o in outputs.values()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("whole_network", [False, True], ids=["autocast", "bfloat16 weights"])
def test_bfloat16_arithmetic_still_gives_float32_unit_rows(whole_network: bool) -> None:
    network, batch = tiny_network("embedding"), images()
    if whole_network:
        network, batch = network.bfloat16(), batch.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=not whole_network):
        outputs = network(batch)
    for output in outputs.values():
        assert all(tensor.dtype == torch.float32 for tensor in output[:3])
        torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(4))


# -- building --------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(tiny_network().state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_a_network_describes_the_images_it_takes() -> None:
    network = tiny_network()
    assert (network.channels, network.input_size, network.embedding_dim) == (1, 12, 6)
    assert network.num_classes == {"identity": 5, "type": 2}
    assert network.has_classifier
    assert not tiny_network(None).has_classifier


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tinny", "did you mean tiny"),
        ("iresnet5", "did you mean iresnet50"),
        ("iresnet-100", "did you mean iresnet100"),
        ("vgg", "known: tiny, iresnet18"),
    ],
)
def test_an_unknown_backbone_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        build(name)


def build(name: str) -> Network:
    return build_network(name, channels=1, input_size=16, embedding_dim=4, num_classes={"a": 2})


def test_a_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[timm\]'"):
        build("timm:resnet18")


class TimmStandIn(nn.Module):
    """Behaves as timm's models do: flat features, images of one size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 7, 16)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layer(images).flatten(1)
        return features


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("timm")
    module.__dict__.update(
        __version__="1.0",
        is_model=lambda name: name == "resnet18",
        list_models=lambda: ["resnet18"],
        create_model=lambda name, *, pretrained, in_chans, num_classes: TimmStandIn(in_chans),
    )
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


@pytest.mark.usefixtures("timm")
def test_timm_models_serve_as_backbones() -> None:
    network = build("timm:resnet18")
    assert network.backbone.num_features == 7
    assert network.training
    assert network(images(3, 1, 16))["a"].embedding.shape == (3, 4)


@pytest.mark.usefixtures("timm")
def test_timm_errors_are_explained() -> None:
    with pytest.raises(ConfigError, match="did you mean timm:resnet18"):
        build("timm:resnet81")
    with pytest.raises(ConfigError, match="set model.input_size"):
        build_network(
            "timm:resnet18", channels=1, input_size=8, embedding_dim=4, num_classes={"a": 2}
        )


class Flat(Backbone):
    """A toy: the pixels as they are."""

    def __init__(self, *, channels: int, input_size: int) -> None:
        super().__init__()
        self.num_features = channels * input_size**2

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_a_backbone_is_a_class_and_a_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backbones.BACKBONES, "flat", Flat)
    network = build("flat")
    assert isinstance(network.backbone, Flat)
    assert network(images(3, 1, 16))["a"].embedding.shape == (3, 4)
    description = NetworkDescription.of(build_config({"model": {"backbone": "flat"}}), {"a": 2})
    assert isinstance(description.build().backbone, Flat)
    with pytest.raises(ConfigError, match="did you mean flat"):
        build("flatt")
