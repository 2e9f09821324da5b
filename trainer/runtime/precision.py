"""Which precision is fast on a machine."""

from __future__ import annotations

import torch

_BF16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")  # Intel, Intel and AMD, Arm


def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 instructions; others emulate it, slower than fp32."""
    # Older versions of torch do not say.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in _BF16_UNITS)


def emulation_warning(precision: str, device: torch.device) -> str | None:
    """A warning if the precision is slow on the device; None otherwise."""
    if precision != "bf16":
        return None
    if device.type == "cpu":
        is_emulated, which = not cpu_has_bf16(), "CPU"
    else:
        is_emulated, which = not torch.cuda.is_bf16_supported(including_emulation=False), "GPU"
    if not is_emulated:
        return None
    return (
        f"train.precision=bf16 is emulated on this {which}, which lacks instructions for it, and "
        "takes about twice as long as fp32; set train.precision=fp32"
    )
