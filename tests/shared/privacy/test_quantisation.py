"""Rounding to the grid: the norm bound holds for any input, the sum comes back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from summing import SeededWords

from shared.errors import ConfigError
from shared.privacy import quantisation
from shared.privacy.quantisation import Grid, bits_needed, quantise, signed, wrap

values = st.one_of(
    st.floats(-5.0, 5.0),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1e308, -1e308, 5e-324, 0.3, 1.0]),
)


@settings(deadline=None, max_examples=80)
@given(
    vector=st.integers(1, 60).flatmap(lambda size: arrays(np.float64, size, elements=values)),
    resolution=st.sampled_from([0.1, 0.5, 1.0, 3.7, 50.0, 1e4]),
    clip_norm=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**32 - 1),
)
def test_quantise_bounds_the_norm(
    vector: np.ndarray, resolution: float, clip_norm: float, seed: int
) -> None:
    grid = Grid(dimension=len(vector), clip_norm=clip_norm, resolution=resolution)
    integers = quantise(vector, grid=grid, source=SeededWords(seed))
    norm = sum(int(i) ** 2 for i in integers)
    assert norm <= grid.squared_sensitivity
    assert math.sqrt(norm) <= grid.sensitivity


@pytest.mark.parametrize("dimension", [1, 16, 4000])
@pytest.mark.parametrize("resolution", [0.1, 1.0, 50.0])
def test_bound_is_the_published_one(dimension: int, resolution: float) -> None:
    grid = Grid(dimension=dimension, clip_norm=2.0, resolution=resolution)
    reach, side = resolution * dimension**0.5, dimension**0.5
    worst = (reach + side) ** 2
    likely = reach**2 + dimension / 4 + math.sqrt(2 * math.log(math.exp(0.5))) * (reach + side / 2)
    assert grid.squared_sensitivity == pytest.approx(min(worst, likely), abs=1.0)
    assert grid.squared_sensitivity <= min(worst, likely) * (1 + 1e-12)
    assert grid.step == pytest.approx(2.0 / reach)


def test_rounding_costs_little_at_the_usual_resolution() -> None:
    for dimension in (2_000, 54_400, 100_000):
        grid = Grid(dimension=dimension, clip_norm=0.3)
        assert 1.0 < grid.sensitivity / grid.reach < 1.00035


def test_norm_is_refused_without_the_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    # All fractions just below one half and a uniform that always rounds up: every attempt is over.
    class Up(SeededWords):
        def words(self, size: int) -> np.ndarray:
            return np.zeros(size, dtype=np.uint64)

    grid = Grid(dimension=400, clip_norm=1.0, resolution=0.4)
    vector = np.full(400, 0.05)
    rounded = quantise(vector, grid=grid, source=Up(0))
    assert not rounded.any()  # Towards zero: the last resort.
    monkeypatch.setattr(Grid, "squared_sensitivity", property(lambda self: 10**9))
    assert quantise(vector, grid=grid, source=Up(0)).sum() == 400


def test_quantise_zeroes_non_finite() -> None:
    grid = Grid(dimension=3, clip_norm=1.0)
    for bad in (math.nan, math.inf, -math.inf):
        integers = quantise(np.array([1.0, bad, 0.2]), grid=grid, source=SeededWords(0))
        assert integers.tolist() == [0, 0, 0]


@pytest.mark.statistical
def test_quantise_is_unbiased() -> None:
    # Seeded; with fresh words each of 8 means would be 6 sd off with chance 2e-9.
    grid = Grid(dimension=8, clip_norm=10.0, resolution=2.0)
    vector = np.array([0.1, -0.3, 1.234, 2.0, -2.71, 0.0, 3.3, -0.01])
    source = SeededWords(4)
    draws = np.array([quantise(vector, grid=grid, source=source) for _ in range(2000)])
    error = draws.mean(axis=0) * grid.step - vector
    assert np.abs(error).max() < 6 * 0.5 * grid.step / 2000**0.5
    assert draws.std(axis=0).max() > 0.1


def test_clipping_keeps_the_direction() -> None:
    grid = Grid(dimension=2, clip_norm=1.0, resolution=1e4)
    integers = quantise(np.array([30.0, 40.0]), grid=grid, source=SeededWords(0))
    assert np.allclose(integers * grid.step, [0.6, 0.8], atol=1e-3)


@settings(deadline=None, max_examples=50)
@given(rows=arrays(np.int64, (7, 5), elements=st.integers(-(2**28), 2**28)))
def test_sums_come_back_from_the_modulus(rows: np.ndarray) -> None:
    total = np.zeros(5, dtype=np.uint32)
    for row in rows:
        total += wrap(row)
    assert np.array_equal(signed(total), rows.sum(axis=0))


def test_width_rule_matches_its_published_cases() -> None:
    # sigma 6.22 of the clip norm: 21, 24, 25 and 27 bits.
    for devices, dimension, bits in ((100, 12_800, 21), (1000, 12_800, 24), (1000, 80_000, 25)):
        grid = Grid(dimension=dimension, clip_norm=1.0)
        assert bits_needed(devices=devices, grid=grid, deviation=6.22 * grid.reach) == bits


@pytest.mark.parametrize(
    "terms",
    [
        {"dimension": 0},
        {"clip_norm": math.nan},
        {"clip_norm": 0.0},
        {"resolution": math.inf},
        {"resolution": 0.0},
        {"resolution": math.nan},
        {"dimension": 10**9, "resolution": 1e6},
    ],
)
def test_impossible_grid_is_refused(terms: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Grid(**{"dimension": 5, "clip_norm": 1.0, **terms})  # type: ignore[arg-type]


def test_other_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 coordinates"):
        quantise(np.zeros(4), grid=Grid(dimension=5, clip_norm=1.0), source=SeededWords(0))


def test_every_attempt_draws_anew() -> None:
    assert quantisation.ATTEMPTS >= 32
    grid = Grid(dimension=50, clip_norm=1.0)
    vector = np.linspace(-0.1, 0.1, 50)
    source = SeededWords(0)
    first, second = (quantise(vector, grid=grid, source=source) for _ in range(2))
    assert not np.array_equal(first, second)
