"""A process of its own builds the networks: this one imports no torch for it."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_jobs.errors import JobError
from cluster_jobs.preflight import networks
from cluster_jobs.preflight.networks import check_networks
from data_shards.errors import ConfigError
from tests.cluster_jobs.conftest import TinyRun
from trainer.config.builder import with_settings


def check(tiny: TinyRun, **settings: Any) -> networks.Networks:
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return check_networks([with_settings(tiny.config, dotted)], tiny.manifest)


def test_a_network_is_built_and_its_weights_are_compared(tiny: TinyRun) -> None:
    """The snapshot's checksum is not checked: only its header is read."""
    snapshot = tiny.snapshot(5)
    found = check(tiny, model__weights=str(snapshot.path))
    sizes = [t.numel() for t in snapshot.network.build().parameters()]
    (count,) = found.num_parameters
    assert 0.9 * sum(sizes) < count <= sum(sizes)
    assert check_networks([], tiny.manifest).num_parameters == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__backbone": "tny"}, "unknown model.backbone 'tny': did you mean tiny?"),
        ({"model__backbone": "iresnet18"}, "needs model.input_size to be a multiple of 16, got 8"),
        ({"model__channels": 3, "model__weights": "SNAPSHOT"}, "no tensor of the right shape for"),
    ],
)
def test_what_cannot_be_built_is_said_as_the_ranks_would(
    tiny: TinyRun, settings: dict[str, Any], message: str
) -> None:
    if "model__weights" in settings:
        settings = {**settings, "model__weights": str(tiny.snapshot(5).path)}
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        check(tiny, **settings)


def test_a_torch_that_does_not_load_is_shown(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_PROGRAM", "trainer.state.nothing_of_this_name")
    with pytest.raises(JobError, match=r"cannot build the network.*doctor.*\n.*No module named"):
        check(tiny)
