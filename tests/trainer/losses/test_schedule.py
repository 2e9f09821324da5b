"""Margins grow, the learning rate warms up and falls."""

from __future__ import annotations

import pytest

from trainer.losses.schedule import learning_rate_factor, margin_factor


def test_margins_grow_linearly_over_their_share() -> None:
    factors = [margin_factor(s, num_steps=100, anneal_share=0.5) for s in (0, 10, 25, 50, 99)]
    assert factors == pytest.approx([0, 0.2, 0.5, 1, 1])


@pytest.mark.parametrize("step", [0, 1, 99])
def test_without_annealing_margins_are_full_from_the_start(step: int) -> None:
    assert margin_factor(step, num_steps=100, anneal_share=0) == 1


def test_learning_rate_warms_up_to_its_peak_and_the_first_step_learns() -> None:
    settings = {"num_steps": 100, "warmup_steps": 4, "schedule": "cosine"}
    factors = [learning_rate_factor(s, **settings) for s in range(6)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert factors[5] < 1


def test_cosine_falls_to_nearly_zero_and_constant_stays() -> None:
    settings = {"num_steps": 100, "warmup_steps": 10}
    cosine = [learning_rate_factor(s, schedule="cosine", **settings) for s in range(10, 100)]
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[45] == pytest.approx(0.5)
    assert 0 < cosine[-1] < 0.001
    assert {learning_rate_factor(s, schedule="constant", **settings) for s in range(10, 100)} == {1}


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize(("num_steps", "warmup_steps"), [(1, 0), (1, 1), (5, 20), (20, 20)])
def test_factors_stay_in_range_for_short_trainings(
    num_steps: int, warmup_steps: int, schedule: str
) -> None:
    for step in range(num_steps + 1):
        factor = learning_rate_factor(
            step, num_steps=num_steps, warmup_steps=warmup_steps, schedule=schedule
        )
        assert 0 <= factor <= 1
