"""What holds for every test: no network, quiet libraries, no GPU test without a GPU."""

from __future__ import annotations

import os

import pytest

from tests.helpers.isolation import isolate_network

_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "NO_COLOR": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Without it Ray writes a token into the home folder of whoever runs the tests.
    "RAY_AUTH_MODE": "disabled",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

_isolated = False


def pytest_configure() -> None:
    global _isolated
    # Of several workers each by itself: some tests look at all processes of their network.
    _isolated = isolate_network(always="PYTEST_XDIST_WORKER" in os.environ)


def pytest_report_header() -> str:
    return f"network: {'loopback only' if _isolated else 'not isolated (needs root on Linux)'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
