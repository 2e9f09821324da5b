"""Cut this process off from every network but its own loopback interface (Linux, as root).

Ray probes a cloud metadata address and a name server when it starts, whatever it is told; and a
test that can reach out may pass only because it did.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def isolate_network(*, always: bool = False) -> bool:
    """Move this process, and all that it starts from now on, to a namespace with loopback only.

    Call it before the process has threads: those that exist stay where they are.

    Args:
        always: to a new one, also where there is only loopback already.

    Returns:
        Whether only loopback is left. False where that is not possible (no Linux, not root).
    """
    if not sys.platform.startswith("linux"):
        return False
    if always or not only_loopback():
        if os.geteuid() != 0:
            return only_loopback()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            # A container may forbid it even to root.
            return only_loopback()
    _raise_loopback()
    return True


def only_loopback() -> bool:
    """Whether this process sees no network interface but `lo`."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh", b"lo", 0)
        (flags,) = struct.unpack("16xh", fcntl.ioctl(control, _SIOCGIFFLAGS, request)[:18])
        if not flags & _IFF_UP:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP))
