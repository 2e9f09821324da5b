"""Two hosts on this machine and a cable between them, each with its own network and name.

Needs root on Linux. Files and process numbers are shared. What runs on a host ends with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CAN_MAKE = (
    sys.platform.startswith("linux")
    and os.geteuid() == 0
    and all(shutil.which(tool) for tool in ("ip", "nsenter", "unshare"))
)


class Host:
    """One of them; its network card is eth0."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self._processes: list[subprocess.Popen[bytes]] = []
        script = f"hostname {name} && ip link set lo up && echo up && exec sleep infinity"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--", "sh", "-c", script], stdout=subprocess.PIPE
        )
        assert self._holder.stdout.readline() == b"up\n"
        self.pid = self._holder.pid

    def start(self, command: Sequence[str | Path], **settings: Any) -> subprocess.Popen[bytes]:
        """Start a command there; settings as for Popen."""
        process = subprocess.Popen(self._inside(command), start_new_session=True, **settings)
        self._processes.append(process)
        return process

    def plug_in(self) -> None:
        for command in (f"addr add {self.address}/24 dev eth0", "link set eth0 up"):
            subprocess.run(self._inside(["ip", *command.split()]), check=True)

    def power_off(self) -> None:
        """Nobody hears of it: first the cable, then all processes."""
        subprocess.run(self._inside(["ip", "link", "set", "eth0", "down"]), check=True)
        self.end()

    def end(self) -> None:
        for process in (*self._processes, self._holder):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        self._holder.stdout.close()

    def _inside(self, command: Sequence[str | Path]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", "-u", "--", *map(str, command)]


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """host1 at 10.77.1.1 and host2 at 10.77.1.2."""
    hosts = Host("host1", "10.77.1.1"), Host("host2", "10.77.1.2")
    first, second = hosts
    try:
        cable = f"link add eth0 netns {first.pid} type veth peer name eth0 netns {second.pid}"
        subprocess.run(["ip", *cable.split()], check=True)
        for host in hosts:
            host.plug_in()
        yield hosts
    finally:
        for host in hosts:
            host.end()
