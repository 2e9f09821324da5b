from __future__ import annotations

import pytest
import torch

from trainer.runtime.precision import cpu_has_bf16, emulation_warning

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"avx512_bf16": True}, True),
        ({"bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_vnni": True}, False),
        ({}, False),
    ],
)
def test_bf16_is_fast_where_the_cpu_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert cpu_has_bf16() is expected
    assert (emulation_warning("bf16", CPU) is None) is expected
    assert emulation_warning("fp32", CPU) is None


def test_a_torch_that_does_not_tell_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not cpu_has_bf16()


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_and_a_cpu_without_bf16(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    warning = emulation_warning("bf16", torch.device("cuda", 0))
    assert (warning is None) is supported
    assert supported or "on this GPU" in str(warning)
    assert "on this CPU, which lacks" in str(emulation_warning("bf16", CPU))
    assert "set train.precision=fp32" in str(emulation_warning("bf16", CPU))
