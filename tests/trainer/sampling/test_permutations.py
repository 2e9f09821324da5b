"""Series of permutations: pure, each image once a pass, long ones made once a pass."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.sampling import permutations
from trainer.sampling.permutations import permutation, permuted

LONG = 1001


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Streams for which a permutation was made, with room for five long ones."""
    streams = []
    new = permutations._new_permutation

    def recorded(stream, size):
        streams.append(stream)
        return new(stream, size)

    monkeypatch.setattr(permutations, "_new_permutation", recorded)
    monkeypatch.setattr(permutations, "_kept", permutations._Kept(5 * LONG))
    return streams


@pytest.mark.parametrize("size", [1, 7, LONG])
def test_a_series_is_one_permutation_after_the_other(size):
    series = [np.random.default_rng((3, 5, n)).permutation(size) for n in range(4)]
    expected = np.concatenate(series)
    positions = np.random.default_rng(0).permutation(4 * size)
    np.testing.assert_array_equal(permuted(positions, size, (3, 5)), expected[positions])
    with pytest.raises(ValueError, match="read-only"):
        permutation((3, 5, 0), size)[0] = 1


def test_steps_along_a_series_for_each_class_make_each_permutation_once(made):
    for step in range(100):
        for class_ in range(5):
            permuted(np.arange(50 * step, 50 * step + 50), LONG, (0, class_))
    assert sorted(made) == [(0, class_, n) for class_ in range(5) for n in range(5)]


def test_of_too_many_series_those_used_last_are_kept(made):
    for class_ in (0, 1, 2, 3, 4, 0, 5):  # room is made for the last by dropping 1
        permutation((class_, 0), LONG)
    assert made == [(class_, 0) for class_ in range(6)]
    for class_ in (0, 2, 3, 4, 5):
        permutation((class_, 0), LONG)
    assert len(made) == 6
    permutation((1, 0), LONG)
    assert made[6:] == [(1, 0)]


def test_series_of_other_lengths_and_one_that_exceeds_all_room_are_made_as_well(made):
    assert len(permutation((0, 0), LONG)) == LONG
    assert len(permutation((0, 0), LONG + 1)) == LONG + 1
    assert len(permutation((0, 0), 6 * LONG)) == 6 * LONG
    assert len(permutation((0, 0), 6 * LONG)) == 6 * LONG
    assert len(made) == 3
