"""The discrete Gaussian: its exact law, both too little and too much noise caught, exact ties."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from summing import GivenWords, SeededWords

from shared.errors import ConfigError
from shared.privacy import discrete_gaussian as sampler
from shared.privacy.discrete_gaussian import discrete_gaussian
from shared.privacy.keystream import OSWords

FALSE_ALARM = 1e-6


def masses(sigma: float, reach: int) -> NDArray[np.float64]:
    """Probabilities of -reach .. reach; what lies beyond is below 1e-20 at 10 sigma."""
    places = np.arange(-reach, reach + 1)
    weights = np.exp(-(places**2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum())


def shape_p(samples: NDArray[np.int64], sigma: float, bins: int = 40) -> float:
    """P-value of chi-square on counts, neighbours pooled into bins of like probability."""
    reach = math.ceil(10 * sigma) + 1
    law = masses(sigma, reach)
    labels = np.minimum((np.cumsum(law) - law / 2) * bins, bins - 1).astype(np.int64)
    expected = np.bincount(labels, weights=law, minlength=bins) * len(samples)
    counts = np.bincount(labels[samples + reach], minlength=bins)
    used = expected > 0
    assert counts[~used].sum() == 0
    statistic = float(((counts - expected)[used] ** 2 / expected[used]).sum())
    return float(stats.chi2.sf(statistic, int(used.sum()) - 1))


def scale_p(samples: NDArray[np.int64], sigma: float) -> float:
    """Two-sided p-value of the sum of squares."""
    places = np.arange(-math.ceil(10 * sigma) - 1, math.ceil(10 * sigma) + 2)
    law = masses(sigma, int(places[-1]))
    second, fourth = float(law @ places**2), float(law @ places.astype(float) ** 4)
    spread = math.sqrt(len(samples) * (fourth - second**2))
    away = (float(np.sum(samples.astype(float) ** 2)) - len(samples) * second) / spread
    return 2 * float(stats.norm.sf(abs(away)))


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.0, 3.3, 40.0, 1000.5])
def test_discrete_gaussian_has_the_exact_law(sigma: float) -> None:
    # Seeded: it cannot flicker. With fresh words it would alarm once in a million times a line.
    samples = discrete_gaussian(size=200_000, sigma=sigma, source=SeededWords(3))
    assert shape_p(samples, sigma) > FALSE_ALARM
    assert scale_p(samples, sigma) > FALSE_ALARM


@pytest.mark.statistical
@pytest.mark.parametrize("seed", range(20))
def test_five_percent_of_scale_is_caught_both_ways(seed: int) -> None:
    # 20,000 samples, 20 trials: the right scale is refused with chance 2e-5 over all trials.
    samples = discrete_gaussian(size=20_000, sigma=60.0, source=SeededWords(seed))
    assert scale_p(samples, 60.0) > FALSE_ALARM
    assert scale_p(samples, 60.0 * 1.05) < FALSE_ALARM
    assert scale_p(samples, 60.0 / 1.05) < FALSE_ALARM


@pytest.mark.statistical
@pytest.mark.parametrize("wrong", [2.4, 1 / 0.4])
def test_shape_test_catches_a_rounded_laplace_and_a_shifted_scale(wrong: float) -> None:
    samples = discrete_gaussian(size=200_000, sigma=wrong, source=SeededWords(1))
    assert shape_p(samples, 2.45) < FALSE_ALARM
    laplace = np.rint(np.random.default_rng(0).laplace(scale=2.45 / 2**0.5, size=200_000))
    assert shape_p(np.clip(laplace, -24, 24).astype(np.int64), 2.45) < FALSE_ALARM


@pytest.mark.statistical
def test_system_words_give_the_law_and_its_tail() -> None:
    # Fresh words: false alarm 3e-6. 4 sd or more occurs 63 times in a million, half on each side.
    samples = discrete_gaussian(size=1_000_000, sigma=20.0, source=OSWords())
    assert shape_p(samples, 20.0) > FALSE_ALARM
    beyond = 1.0 - float(masses(20.0, 300)[300 - 79 : 300 + 80].sum())
    for side in (samples >= 80, samples <= -80):
        seen = int(side.sum())
        p = stats.binomtest(seen, 1_000_000, beyond / 2).pvalue
        assert p > FALSE_ALARM


def test_largest_sigma_reaches_its_tails() -> None:
    samples = discrete_gaussian(size=100_000, sigma=1e6, source=SeededWords(5))
    assert abs(float(samples.std()) / 1e6 - 1.0) < 0.02
    assert samples.min() < -3e6
    assert samples.max() > 3e6
    assert len(np.unique(samples % 2)) == 2


@pytest.mark.parametrize("sigma", [0.05, 0.7, 12.3])
def test_float_comparison_agrees_with_exact_one(
    monkeypatch: pytest.MonkeyPatch, sigma: float
) -> None:
    fast = discrete_gaussian(size=1500, sigma=sigma, source=SeededWords(9))
    monkeypatch.setattr(sampler, "DOUBT", 2.0)  # Every comparison is settled on integers.
    words = SeededWords(9)
    monkeypatch.setattr(sampler, "_longer", lambda strip, zeros, size, width: (strip, size))
    assert np.array_equal(fast, discrete_gaussian(size=1500, sigma=sigma, source=words))


def proposal(place: int, width: int) -> int:
    """The word that proposes +place from the first strip."""
    low = -(-((2 * place + 1) << 31) // width)
    return (1 << 62) | low  # Sign bit clear, the next one set: strip 0.


def boundary(place: int, sigma: int) -> int:
    """First 64 bits of exp(-place^2/2sigma^2)."""
    with localcontext() as context:
        context.prec = 60
        return int((Decimal(-place * place) / Decimal(2 * sigma * sigma)).exp() * 2**64)


@pytest.mark.parametrize(
    ("offset", "more", "kept"),
    [(-1, [], True), (0, [0], True), (0, [2**64 - 1], False), (1, [], False)],
)
def test_doubtful_comparison_is_settled_bit_by_bit(
    monkeypatch: pytest.MonkeyPatch, offset: int, more: list[int], kept: bool
) -> None:
    monkeypatch.setattr(sampler, "BLOCK", 1)
    first, other, width = proposal(5, 12), proposal(3, 12), 12
    assert sampler._Strips(10.0).width == width
    words = [first, boundary(5, 10) + offset, *more, other, 0]
    samples = discrete_gaussian(size=1, sigma=10.0, source=GivenWords(words))
    assert samples.tolist() == [5 if kept else 3]


def test_zero_has_one_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "BLOCK", 1)
    words = [(1 << 63) | proposal(0, 12), 0, proposal(7, 12), 0]
    assert discrete_gaussian(size=1, sigma=10.0, source=GivenWords(words)).tolist() == [7]


def test_places_are_drawn_fairly(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2^32 is 4 more than a multiple of 12: the word whose product leaves a rest below 4 is surplus.
    monkeypatch.setattr(sampler, "BLOCK", 1)
    words = [(1 << 62) | 0, 0, proposal(7, 12), 0]
    assert discrete_gaussian(size=1, sigma=10.0, source=GivenWords(words)).tolist() == [7]
    words = [(1 << 62) | 1, 0]
    assert discrete_gaussian(size=1, sigma=10.0, source=GivenWords(words)).tolist() == [0]


def test_a_run_of_zeros_goes_on() -> None:
    # Strip "31 or more", then 64 zeros and 10 more in the words that follow.
    words = GivenWords([0, 1 << 53, 2**63])
    size, kept = sampler._Strips(10.0)._settle(4, 31, 2**63, words)
    assert (size, kept) == (4 + (64 + 10) * 12, False)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 1e7, 1e-3])
def test_impossible_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(ConfigError, match="sigma"):
        discrete_gaussian(size=3, sigma=sigma, source=SeededWords(0))


def test_no_samples_are_no_samples() -> None:
    assert discrete_gaussian(size=0, sigma=3.0, source=SeededWords(0)).shape == (0,)
