"""Who counts as silent: numbers alone, no clock."""

import pytest

from trainer.runtime.silence import AwakeClock, Sign, Silence


def signs(*numbers):
    return [Sign(number, f"h{rank}", "step 1") for rank, number in enumerate(numbers)]


def test_a_sign_survives_its_way():
    sign = Sign(7, "höst", 'the "start"')
    assert Sign.from_text(sign.to_text().encode()) == sign


def test_a_rank_is_silent_from_its_last_new_sign_on():
    silence = Silence(signs(1, 1, 1), 10.0)
    assert silence.seconds(10.0) == [0, 0, 0]
    silence.hear(signs(2, 1, 2), 11.0)
    silence.hear(signs(3, 1, 2), 14.0)
    assert silence.seconds(14.0) == [0, 4, 3]
    silence.hear(signs(3, 2, 2), 15.0)
    assert silence.seconds(15.0) == [1, 0, 4]


def test_while_the_store_does_not_answer_only_its_keeper_is_silent():
    silence = Silence(signs(1, 1, 1), 0.0)
    silence.hear(signs(2, 2, 1), 5.0)
    assert silence.seconds(100.0) == [95, 0, 5]
    silence.hear(signs(3, 2, 1), 101.0)
    assert silence.seconds(101.0) == [0, 96, 101]


def test_what_a_rank_is_at_comes_with_its_sign():
    silence = Silence(signs(1, 1), 0.0)
    silence.hear([Sign(2, "h0", "step 1"), Sign(2, "h1", "step 2")], 1.0)
    assert [sign.place for sign in silence.signs] == ["step 1", "step 2"]


def test_time_in_which_this_process_stood_still_does_not_count():
    clock = AwakeClock(50.0, longest_tick=2.0)
    for now in (51.0, 52.5, 500.0, 501.0):
        clock.tick(now)
    assert clock.seconds == pytest.approx(1 + 1.5 + 2 + 1)
