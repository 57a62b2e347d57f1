"""Noise added by many: the realised amount, the argument's two steps, and two accountants."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray
from scipy import stats
from summing import SeededWords

from shared.errors import ConfigError, RunError
from shared.privacy.accounting import Spend, epsilon_of, gaussian_epsilon
from shared.privacy.noise_shares import SMOOTHING, NoiseShares, smoothing_slack, sum_slack
from shared.privacy.quantisation import Grid, signed

GRID = Grid(dimension=2000, clip_norm=0.3)
DELTA = 1e-5


def plan(**changes: float) -> NoiseShares:
    terms = {"noise_multiplier": 5.0, "minimum": 20, "devices": 30, **changes}
    return NoiseShares(grid=GRID, **terms)  # type: ignore[arg-type]


def law(sigma: float, reach: int) -> NDArray[np.float64]:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("sigma", [1.42, 1.0, 0.8, 0.6])
@pytest.mark.parametrize("shares", [2, 3, 6])
def test_sum_of_shares_is_nearly_one_discrete_gaussian(sigma: float, shares: int) -> None:
    # Below sqrt(2) the bound's constant 2.1 has to be helped a little; it still holds here.
    reach = 40
    total = law(sigma, reach)
    for _ in range(shares - 1):
        total = np.convolve(total, law(sigma, reach))
    middle = len(total) // 2
    near = slice(middle - 8, middle + 9)
    single = law(sigma * shares**0.5, 400)[400 - 8 : 400 + 9]
    worst = float(np.abs(np.log(total[near] / single)).max())
    bound = sum_slack(sigma, shares)
    assert worst <= bound + 1e-12
    if shares == 2 and bound > 1e-6:
        assert worst > bound / 20  # The bound says something: it is not much too large.


@pytest.mark.parametrize("width", [1.0, 0.8, 0.6])
def test_discrete_gaussian_is_nearly_a_rounded_continuous_one(width: float) -> None:
    total = 3.0
    steps = np.linspace(-40.0, 40.0, 160_001)
    density = stats.norm.pdf(steps, scale=(total**2 - width**2) ** 0.5)
    places = np.arange(-60, 61)
    inner = np.exp(-((places[:, None] - steps[None, ::20]) ** 2) / (2 * width**2))
    rounded = (inner / inner.sum(axis=0)) @ density[::20] * (steps[20] - steps[0])
    ratio = np.log(rounded / law(total, 60))[60 - 9 : 60 + 10]
    assert np.abs(ratio).max() <= smoothing_slack(width) + 1e-9


@pytest.mark.parametrize("width", [1.0, 0.8, 0.6])
def test_sum_over_integers_hardly_depends_on_the_centre(width: float) -> None:
    # Poisson summation, on which both steps stand: the bound holds and is nearly reached.
    centres = np.linspace(0.0, 1.0, 101)
    places = np.arange(-40, 41)[:, None]
    sums = np.exp(-((places - centres) ** 2) / (2 * width**2)).sum(axis=0)
    worst = float(np.abs(sums / (width * (2 * np.pi) ** 0.5) - 1.0).max())
    bound = smoothing_slack(width) / 2  # log((1+e)/(1-e)) is 2e and a little.
    assert 0.9 * bound < worst < bound


def test_slack_is_nothing_at_the_smallest_share() -> None:
    assert sum_slack(SMOOTHING, 100_000) * 1e7 < 1e-50
    assert smoothing_slack(SMOOTHING) * 1e7 < 1e-50
    assert plan().slack(30) < 1e-50


@pytest.mark.parametrize(("sigma", "shift"), [(50.0, 10), (200.0, 30), (30.0, 20)])
def test_epsilon_agrees_with_discrete_gaussian_pld(sigma: float, shift: int) -> None:
    loss = pld.from_discrete_gaussian_mechanism(
        sigma, sensitivity=shift, value_discretization_interval=1e-4
    )
    ours = gaussian_epsilon(shift / (sigma**2 - SMOOTHING**2) ** 0.5, DELTA)
    theirs = float(loss.get_epsilon_for_delta(DELTA))
    assert ours >= theirs - 1e-3
    assert ours <= theirs * (1 + 2 * (SMOOTHING / sigma) ** 2) + 1e-3


def test_epsilon_is_below_concentrated_privacy() -> None:
    shares = plan()
    ours = epsilon_of([Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=20)], delta=DELTA)
    rho = 20 * GRID.squared_sensitivity / (2 * 20 * shares.deviation**2)
    accountant = dp_accounting.rdp.RdpAccountant(orders=np.linspace(1.1, 30, 400).tolist())
    accountant.compose(dp_accounting.ZCDpEvent(rho=rho))
    loose = float(accountant.get_epsilon(DELTA))
    assert ours == pytest.approx(3.849, abs=1e-3)
    assert ours < loose < ours * 1.12


def test_realised_noise_counts_the_shares() -> None:
    shares = plan()
    assert shares.realised(20) == pytest.approx(5.0, rel=1e-9)
    assert shares.realised(20) >= 5.0
    assert shares.realised(30) == pytest.approx(5.0 * 1.5**0.5, rel=1e-4)
    with pytest.raises(RunError, match="at least 20 honest devices"):
        shares.realised(19)


def test_share_divides_by_the_root_of_the_minimum() -> None:
    shares = plan()
    assert shares.deviation == pytest.approx(5.0 * GRID.sensitivity / 20**0.5, rel=1e-4)


@pytest.mark.statistical
def test_released_sum_has_the_variance_of_its_shares() -> None:
    # Seeded; with fresh words the right scale would be refused once in a million.
    shares, source = plan(), SeededWords(8)
    rng = np.random.default_rng(0)
    total, plain = np.zeros(2000, dtype=np.uint32), np.zeros(2000)
    for _ in range(30):
        values = rng.normal(size=2000) * 0.001
        plain += values
        total += shares.contribution(values, source=source)
    error = shares.estimate(total) - plain
    # Rounding adds at most a quarter of a squared step a device: nothing beside the noise.
    deviation = shares.realised(30) * GRID.sensitivity * GRID.step
    for factor, accepted in ((1.0, True), (1.12, False), (1 / 1.12, False)):
        squares = float(np.sum((error / (deviation * factor)) ** 2))
        p = 2 * min(stats.chi2.cdf(squares, 2000), stats.chi2.sf(squares, 2000))
        assert bool(p > 1e-6) is accepted


def test_contribution_noises_every_coordinate() -> None:
    # A coordinate keeps its value with chance 1 / (sd * sqrt(2 pi)), about 1 in 6,000.
    shares = plan()
    noised = signed(shares.contribution(np.zeros(2000), source=SeededWords(2)))
    assert np.count_nonzero(noised) > 1980
    assert noised.std() == pytest.approx(shares.deviation, rel=0.1)


def test_non_finite_contribution_is_noise_of_the_same_shape() -> None:
    shares = plan()
    bad = shares.contribution(np.full(2000, np.nan), source=SeededWords(2))
    zero = shares.contribution(np.zeros(2000), source=SeededWords(2))
    assert bad.dtype == zero.dtype == np.uint32
    assert bad.shape == zero.shape
    assert abs(float(signed(bad).mean())) < shares.deviation


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")},
        {"noise_multiplier": float("inf")},
        {"noise_multiplier": 1e-4},
        {"noise_multiplier": 1e7},
        {"minimum": 0},
        {"minimum": 31},
        {"devices": 10**7},
    ],
)
def test_impossible_shares_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        plan(**changes)
