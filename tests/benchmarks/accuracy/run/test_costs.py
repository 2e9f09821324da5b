from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.accuracy.run.costs import CostEstimate, in_words
from tests.helpers.benchmark_records import RECORD, trial


class TestCosts:
    @staticmethod
    def job(method: str, data: str = "digits"):
        class Job:
            num_images = 3000

        made = Job()
        made.method, made.data = method, data  # type: ignore[attr-defined]
        return made

    def test_the_same_method_on_the_same_data_is_the_best_estimate(self) -> None:
        slow = replace(RECORD, seconds=120.0)
        costs = CostEstimate([RECORD, slow, slow, trial(0.1)])
        assert costs.seconds(self.job("clmle")) == pytest.approx(60)

    def test_another_method_on_the_same_data_is_the_next_best(self) -> None:
        costs = CostEstimate([replace(RECORD, method="softmax")])
        assert costs.seconds(self.job("clmle")) == pytest.approx(6 * 1.4)
        assert costs.seconds(self.job("softmax", "lfw10")) > 0

    def test_the_longest_job_bounds_the_time(self) -> None:
        costs = CostEstimate([RECORD])
        assert costs.wall_seconds([self.job("clmle")] * 3, 2) == pytest.approx(9)
        assert costs.wall_seconds([self.job("clmle")], 2) == pytest.approx(6)
        assert costs.wall_seconds([], 2) == 0

    def test_a_slow_machine_makes_what_is_left_take_longer(self) -> None:
        costs = CostEstimate([RECORD])
        costs.add(replace(RECORD, seconds=18.0))
        assert costs.wall_seconds([self.job("clmle")], 2) == pytest.approx(9)
        costs.add(replace(RECORD, seconds=30.0))
        assert costs.wall_seconds([self.job("clmle")], 2) == pytest.approx(12)

    def test_durations_in_words(self) -> None:
        assert [in_words(s) for s in (45.4, 720, 12_240)] == ["45 s", "12 min", "3.4 h"]
