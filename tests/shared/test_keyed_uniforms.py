"""Reproducible draws named by columns of whole numbers; every p below has its alarm at 1e-6."""

import numpy as np
import pytest
from scipy.stats import chi2, norm

from shared.randomness import keyed_uniforms

LIMIT = 1e-6
BINS = 64


def uniform_p(x: np.ndarray, bins: int = BINS) -> float:
    """Chi-square p of equal counts; both too uneven and too even count as wrong."""
    counts = np.bincount((x * bins).astype(int), minlength=bins)
    expected = len(x) / bins
    found = float(np.sum((counts - expected) ** 2 / expected))
    return 2 * min(float(chi2.sf(found, bins - 1)), float(chi2.cdf(found, bins - 1)))


def correlation_p(a: np.ndarray, b: np.ndarray) -> float:
    found = float(np.corrcoef(a, b)[0, 1]) * np.sqrt(len(a))
    return 2 * float(norm.sf(abs(found)))


@pytest.mark.statistical
@pytest.mark.parametrize("start", [0, -30_000, 2**62])
def test_draws_are_uniform_over_consecutive_numbers(start: int) -> None:
    """Deterministic draws: the rate is that of a wrong verdict on a good mixer (1e-6 each)."""
    x = keyed_uniforms(3, "test", np.arange(start, start + 60_000))
    assert x.min() >= 0.0
    assert x.max() < 1.0
    assert uniform_p(x) > LIMIT
    assert uniform_p(x**1.05) < LIMIT
    assert uniform_p((np.arange(60_000) + 0.5) / 60_000) < LIMIT


@pytest.mark.statistical
def test_columns_seeds_and_purposes_are_independent() -> None:
    rows = np.arange(40_000)
    base = keyed_uniforms(1, "a", rows, 5)
    others = [
        keyed_uniforms(1, "a", rows, 6),
        keyed_uniforms(1, "a", rows + 1, 5),
        keyed_uniforms(1, "a", rows, -5),
        keyed_uniforms(1, "a", 5, rows),
        keyed_uniforms(2, "a", rows, 5),
        keyed_uniforms(1, "b", rows, 5),
        keyed_uniforms(1, "a", rows),
    ]
    for other in others:
        assert correlation_p(base, other) > LIMIT
        joint = (base * 8).astype(int) * 8 + (other * 8).astype(int)
        assert uniform_p(joint / 64 + 1 / 128) > LIMIT
    assert correlation_p(base, base + 0.1 * others[0]) < LIMIT


def test_a_draw_does_not_depend_on_the_other_rows() -> None:
    users, items = np.array([4, -7, 2**40, 4]), np.array([0, 9, -1, 1])
    whole = keyed_uniforms(8, "p", users, items)
    for row in range(4):
        assert keyed_uniforms(8, "p", int(users[row]), int(items[row]))[0] == whole[row]
    turned = keyed_uniforms(8, "p", users[::-1], items[::-1])
    assert turned.tolist() == whole[::-1].tolist()


def test_columns_broadcast() -> None:
    grid = keyed_uniforms(8, "p", np.arange(3)[:, None], np.arange(4)[None, :])
    assert grid.shape == (3, 4)
    assert grid[2, 1] == keyed_uniforms(8, "p", 2, 1)[0]
    assert len(np.unique(grid)) == 12


def test_only_whole_numbers_that_fit_are_taken() -> None:
    extremes = [-(2**63), -1, 0, 1, 2**63 - 1]
    assert len({keyed_uniforms(0, "p", number)[0] for number in extremes}) == len(extremes)
    with pytest.raises(OverflowError):
        keyed_uniforms(0, "p", 2**63)
    with pytest.raises(TypeError):
        keyed_uniforms(0.5, "p", 1)  # type: ignore[arg-type]
