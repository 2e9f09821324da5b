"""SIGTERM and SIGINT ask for a polite end."""

import os
import signal
import subprocess
import sys

import pytest

from trainer.runtime import stop
from trainer.runtime.stop import StopFlag


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_not_obeyed_at_once(number):
    with StopFlag() as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), number)
        assert stop_requested()
        assert stop_requested()


def test_a_second_signal_interrupts_unless_it_is_of_the_same_request(monkeypatch):
    with StopFlag() as stop_requested:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_requested()
        monkeypatch.setattr(stop, "_SAME_REQUEST_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_former_handlers_come_back():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(ValueError, match="any"), StopFlag():
        raise ValueError("any")
    assert [signal.getsignal(number) for number in numbers] == before


def test_without_the_flag_sigterm_ends_a_process():
    code = (
        "import os, signal\n"
        "from trainer.runtime.stop import StopFlag\n"
        "with StopFlag():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('went on', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('never', flush=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert result.returncode == -signal.SIGTERM
    assert result.stdout == b"went on\n"
