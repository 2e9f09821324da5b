import pytest
import torch

from trainer.runtime import threads


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 2), (64, 3)])
def test_torch_uses_no_more_threads_than_cores(monkeypatch, cores, expected):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(threads, "num_cores", lambda: cores)
    try:
        threads.limit_threads()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
