"""Windows of a history: the newest events, and sums of the older ones that decay exactly."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.interactions import Interactions
from shared.models.windows import half_lives, take_windows

N_ITEMS = 6
LIVES = half_lives(shortest=1.0, longest=4.0, count=2)


def table(histories: list[list[int]]) -> Interactions:
    return Interactions.from_histories(histories, n_items=N_ITEMS)


def decayed(history: list[int], half_life: float) -> np.ndarray:
    """The sum as a device would keep it: one event after the other."""
    total = np.zeros(N_ITEMS)
    for item in history:
        total *= 0.5 ** (1.0 / half_life)
        total[item] += 1.0
    return total


@given(
    histories=st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=9), min_size=1, max_size=4),
    size=st.integers(1, 5),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_windows_and_sums_are_the_whole_history(histories, size, data) -> None:
    ends = [data.draw(st.integers(0, len(h))) for h in histories]
    found = take_windows(table(histories), size=size, half_lives=LIVES, ends=np.array(ends))
    for user, (history, end) in enumerate(zip(histories, ends, strict=True)):
        known = history[:end]
        length = found.lengths[user]
        assert found.events[user, :length].tolist() == known[-size:]
        assert not found.events[user, length:].any()
        for slot, half_life in enumerate(LIVES):
            dense = np.zeros(N_ITEMS)
            dense[found.older] = found.weights[user, slot]
            expected = decayed(known[: len(known) - length], half_life)
            np.testing.assert_allclose(dense, expected, atol=1e-12)


def test_events_behind_the_end_have_no_effect() -> None:
    ends = np.array([4])
    one, two = (
        take_windows(table([[1, 2, 3, 4, *rest]]), size=2, half_lives=LIVES, ends=ends)
        for rest in ([], [5, 5, 0])
    )
    np.testing.assert_array_equal(one.events, two.events)
    np.testing.assert_array_equal(one.older, two.older)
    np.testing.assert_array_equal(one.weights, two.weights)


def test_memory_is_bounded_however_long_a_history_is() -> None:
    rng = np.random.default_rng(0)
    long = rng.integers(N_ITEMS, size=20_000).tolist()
    found = take_windows(table([long, [1]]), size=5, half_lives=LIVES)
    assert found.events.shape == (2, 5)
    assert found.weights.shape == (2, 2, len(found.older))
    assert len(found.older) <= N_ITEMS


def test_nobody_and_nothing() -> None:
    found = take_windows(table([[], []]), size=3, half_lives=LIVES)
    assert found.events.shape == (2, 0)
    assert found.weights.shape == (2, 2, 0)
    assert half_lives(shortest=1.0, longest=2.0, count=0).tolist() == []
