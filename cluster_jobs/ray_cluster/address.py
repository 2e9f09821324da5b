"""The Ray cluster that RAY_ADDRESS names; whether it answers is known in seconds.

Ray itself looks for it for minutes.
"""

from __future__ import annotations

import os
import socket
from urllib.parse import SplitResult, urlsplit

from cluster_jobs.errors import JobError

ADDRESS = "RAY_ADDRESS"

_AUTO, _LOCAL = "auto", "local"
_SECONDS = 5.0
_FORMS = f"HOST:PORT, ray://HOST:PORT, {_AUTO}, or {_LOCAL} for a Ray of its own"
_REMEDY = (
    f"start its head (`ray start --head`), or unset {ADDRESS}: each job then starts its own Ray"
)
# Ray speaks HTTP/2: each side begins with a frame of settings, the client after a fixed text.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
_HEADER_BYTES = 9
_TYPE, _SETTINGS = slice(3, 4), b"\x04"  # of a frame


def ray_address() -> str | None:
    """Address of the Ray cluster that the environment names; None for a Ray of our own."""
    address = os.environ.get(ADDRESS, "")
    return address if address not in ("", _LOCAL) else None


def check_ray_address() -> None:
    """Check that a Ray answers where the environment says that there is one.

    Raises:
        JobError: none answers in a few seconds, or the address is not one; names both.
    """
    address = ray_address()
    if address is None:
        return
    where = _find_running() if address == _AUTO else address
    url = _parsed(where)
    try:
        with socket.create_connection((url.hostname or "", url.port or 0), _SECONDS) as connection:
            problem = None if os.environ.get("RAY_USE_TLS") == "1" else _not_ray(connection)
    except OSError as error:
        problem = error.strerror or str(error)
    if problem is not None:
        found = f" ({where})" if where != address else ""
        raise JobError(f"{ADDRESS} is {address}{found}, where no Ray answers: {problem}; {_REMEDY}")


def _parsed(address: str) -> SplitResult:
    try:
        url = urlsplit(address if "://" in address else f"//{address}")
        if url.hostname and url.port and url.scheme in ("", "ray"):
            return url
    except ValueError:  # the port is not a number
        pass
    raise JobError(f"{ADDRESS} is {address!r}; expected {_FORMS}")


def _find_running() -> str:
    """The Ray that `auto` stands for."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return str(canonicalize_bootstrap_address(_AUTO))
    except ConnectionError:
        raise JobError(f"{ADDRESS} is {_AUTO}, but no Ray runs here; {_REMEDY}") from None


def _not_ray(connection: socket.socket) -> str | None:
    """Why what answers cannot be Ray; None if it can."""
    connection.sendall(_HELLO)
    try:
        answer = connection.recv(_HEADER_BYTES)
    except TimeoutError:
        return f"what accepts connections there says nothing for {_SECONDS:g} s"
    return None if answer[_TYPE] == _SETTINGS else "another service uses this port"
