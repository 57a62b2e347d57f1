"""Bounds from scores: published values, their stated risk kept exactly, and power to refute."""

import math

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from shared.privacy.accounting import gaussian_epsilon
from shared.privacy.auditing import (
    CEILING,
    METHODS,
    Scores,
    epsilon_estimate,
    epsilon_refuted,
    f_dp_bound,
    lower_bounds,
    mu_estimate,
    mu_refuted,
    one_run_bound,
    threshold_bound,
)

DELTA = 1e-5
MU = 0.7191
"""Gaussian DP with epsilon 3 at delta 1e-5."""
THRESHOLDS = np.linspace(-1.5, MU + 1.5, 20).tolist()


def gaussian(mu: float, seed: int, *, size: int = 1000) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(inside=rng.normal(mu, 1.0, size // 2), outside=rng.normal(0.0, 1.0, size // 2))


@pytest.mark.parametrize(
    ("size", "guesses", "correct", "delta", "published"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
)
def test_one_run_bound_has_the_published_values(
    size: int, guesses: int, correct: int, delta: float, published: float
) -> None:
    """Steinke, Nasr & Jagielski 2023, appendix D and section 7."""
    found = epsilon_refuted(size, guesses, correct, delta=delta, risk=0.05)
    assert found == pytest.approx(published, abs=1e-3)
    without = epsilon_refuted(size, guesses, correct, delta=0.0, risk=0.05)
    assert without > found + 1e-3


def test_one_run_bound_has_a_closed_form_without_delta() -> None:
    expected = -math.log(0.05 ** (-1 / 16) - 1)
    assert epsilon_refuted(16, 16, 16, delta=0.0, risk=0.05) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
@pytest.mark.parametrize("risk", [0.05, 1e-3])
def test_one_run_bound_keeps_its_risk_exactly(epsilon: float, risk: float) -> None:
    """Randomised response reaches the bound: the chance to overshoot is nearly the risk."""
    right = 1.0 / (1.0 + math.exp(-epsilon))
    over = [c for c in range(201) if epsilon_refuted(200, 200, c, delta=0.0, risk=risk) > epsilon]
    chance = float(binom.pmf(over, 200, right).sum())
    assert risk / 4 < chance <= risk


@pytest.mark.parametrize("mu", [0.3, MU, 1.2])
@pytest.mark.parametrize("risk", [0.05, 1e-3])
def test_f_dp_bound_keeps_its_risk_exactly(mu: float, risk: float) -> None:
    """The best guess of every canary is right with probability Phi(mu / 2)."""
    over = [c for c in range(100, 201) if mu_refuted(200, 200, c, risk=risk) > mu]
    assert float(binom.pmf(over, 200, ndtr(mu / 2)).sum()) <= risk
    assert over


def test_f_dp_bound_is_sharper_than_one_run_on_a_gaussian_mechanism() -> None:
    scores = gaussian(3.0, 1)
    safe = one_run_bound(scores, delta=DELTA, risk=0.05)
    sharp = f_dp_bound(scores, delta=DELTA, risk=0.05)
    assert 0.0 < safe < sharp < gaussian_epsilon(3.0, DELTA)


@pytest.mark.statistical
def test_bounds_rarely_exceed_the_truth() -> None:
    """At most 5 % each: 13 or more of 100 happen once in 680 such tests at most.

    The seeds are fixed, so this test never flickers.
    """
    truth = gaussian_epsilon(MU, DELTA)
    over = dict.fromkeys(METHODS, 0)
    for seed in range(100):
        scores = gaussian(MU, seed, size=300)
        found = lower_bounds([scores], thresholds=THRESHOLDS, delta=DELTA, risk=0.05)
        for name, value in found.items():
            over[name] += value > truth
    assert max(over.values()) < 13


@pytest.mark.parametrize("seed", range(3))
def test_bounds_refute_a_false_claim(seed: int) -> None:
    """A mechanism with a sixth of its noise: every method proves more than the claim."""
    found = lower_bounds(
        [gaussian(6.0 * MU, seed)],
        thresholds=np.linspace(-1.5, 6.0 * MU + 1.5, 20).tolist(),
        delta=DELTA,
        risk=0.05,
    )
    assert min(found.values()) > 3.0


def test_bounds_without_any_noise_reach_their_ceilings() -> None:
    bare = Scores(inside=np.ones(500), outside=np.zeros(500))
    found = lower_bounds([bare], thresholds=[0.5], delta=DELTA, risk=0.05)
    assert 4.0 < found["one-run"] < math.log(1000)
    assert found["one-run"] < found["f-DP"] < found["Clopper-Pearson GDP"]
    assert mu_estimate(bare) == 1000.0
    assert epsilon_estimate(bare, delta=DELTA) == CEILING


def test_trap_23_a_negative_mu_is_no_alarm() -> None:
    """An attack that guesses worse than a coin proves nothing."""
    wrong = Scores(inside=np.random.default_rng(1).normal(-2, 1, 400), outside=np.zeros(400))
    found = lower_bounds([wrong], thresholds=[-1.0, 0.0, 1.0], delta=DELTA, risk=0.05)
    assert set(found.values()) == {0.0}
    assert mu_estimate(wrong) == 0.0
    assert epsilon_estimate(wrong, delta=DELTA) == 0.0


def test_ties_count_against_the_auditor() -> None:
    same = Scores(inside=np.zeros(50), outside=np.zeros(50))
    assert same.correct(10) == 0
    assert same.correct(100) == 0
    apart = Scores(inside=np.ones(50), outside=np.zeros(50))
    assert apart.correct(100) == 100


@pytest.mark.statistical
def test_the_estimate_is_near_the_truth_in_both_directions() -> None:
    """20,000 canaries: mu within 6 standard errors (2e-9) of the truth, and of no other."""
    found = mu_estimate(gaussian(MU, 3, size=20_000))
    error = math.sqrt(2 / 10_000 + MU**2 / 40_000)
    assert abs(found - MU) < 6 * error
    assert abs(found - 1.2 * MU) > 6 * error
    assert abs(found - MU / 1.2) > 6 * error


@pytest.mark.parametrize("size", [0, 1])
def test_too_few_scores_prove_nothing(size: int) -> None:
    few = Scores(inside=np.ones(size), outside=np.zeros(0))
    assert mu_estimate(few) == 0.0
    assert threshold_bound(few, thresholds=[0.5], delta=DELTA, risk=0.05) == 0.0
    assert one_run_bound(few, delta=DELTA, risk=0.05) == 0.0
    assert lower_bounds([], thresholds=[0.5], delta=DELTA, risk=0.05) == dict.fromkeys(METHODS, 0.0)


def test_a_smaller_risk_proves_less() -> None:
    scores = gaussian(2.0, 5)
    many = lower_bounds([scores], thresholds=THRESHOLDS, delta=DELTA, risk=0.05)
    sure = lower_bounds([scores], thresholds=THRESHOLDS, delta=DELTA, risk=1e-6)
    shared = lower_bounds([scores] * 3, thresholds=THRESHOLDS, delta=DELTA, risk=0.05)
    assert all(sure[name] < shared[name] < many[name] for name in METHODS)
