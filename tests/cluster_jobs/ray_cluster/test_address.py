from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster_jobs import evaluate
from cluster_jobs.errors import JobError, run_job
from cluster_jobs.ray_cluster import address
from cluster_jobs.ray_cluster.address import check_ray_address, ray_address
from cluster_jobs.ray_cluster.local_ray import ray_session
from tests.cluster_jobs.conftest import TinyRun

SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


@contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """What listens on a port, and sends something or, for None, nothing to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(ConnectionResetError):
                if answer is not None:
                    connection.sendall(answer)
                while connection.recv(1024):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(timeout=10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), ("", None), ("local", None), ("a:1", "a:1")]
)
def test_no_address_and_local_mean_a_ray_of_our_own(
    monkeypatch: pytest.MonkeyPatch, value: str | None, expected: str | None
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if value is not None:
        monkeypatch.setenv("RAY_ADDRESS", value)
    assert ray_address() == expected
    if expected is None:
        check_ray_address()


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
def test_what_answers_like_ray_is_accepted(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    with server(SETTINGS) as port:
        monkeypatch.setenv("RAY_ADDRESS", form.format(port))
        check_ray_address()


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::1]:{}"])
def test_an_old_address_is_named_in_seconds(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    old = form.format(free_port())
    monkeypatch.setenv("RAY_ADDRESS", old)
    started = time.monotonic()
    with pytest.raises(JobError) as caught:
        check_ray_address()
    assert time.monotonic() - started < 10
    assert str(caught.value).startswith(f"RAY_ADDRESS is {old}, where no Ray answers: ")
    assert "unset RAY_ADDRESS" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"-ERR unknown command 'PRI'\r\n", "another service"), (None, "says nothing")],
)
def test_another_service_on_the_port_is_not_taken_for_ray(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, reason: str
) -> None:
    """Redis has the port that Ray's head has, too."""
    monkeypatch.setattr(address, "_SECONDS", 0.5)
    with server(answer) as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(JobError, match=reason):
            check_ray_address()


@pytest.mark.parametrize("value", ["head", "head:", "head:port", "head:99999", "http://head:8265"])
def test_what_is_no_address_is_refused_with_what_would_be(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    with pytest.raises(JobError, match=r"expected HOST:PORT, ray://HOST:PORT, auto, or local"):
        check_ray_address()


@pytest.mark.ray
def test_auto_without_a_ray_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found(value: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", none_found)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(JobError, match="RAY_ADDRESS is auto, but no Ray runs here"):
        check_ray_address()


@pytest.mark.ray
def test_auto_names_a_head_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray finds it in a file that a killed head leaves behind."""
    old = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", lambda value: old)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(JobError, match=rf"RAY_ADDRESS is auto \({old}\), where no Ray answers"):
        check_ray_address()


def test_every_session_checks_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(JobError, match="no Ray answers"), ray_session():
        pass


def test_a_job_that_uses_ray_ends_with_the_one_line(
    served: TinyRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    assert run_job(evaluate.main, ["--config", str(served.config_file)]) == 2
    assert "RAY_ADDRESS is 127.0.0.1:" in capsys.readouterr().err
