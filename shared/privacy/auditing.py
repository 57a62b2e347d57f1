r"""What an attack's scores say of epsilon: estimates, and lower bounds that hold with confidence.

A canary is a privacy unit that an auditor put in or left out by a fair coin; its score is larger
where it was probably in. Everything here is a function of the two groups of scores alone, so it
serves any attack. Three lower bounds, from the safest to the sharpest:

- `one_run_bound`: guesses under (epsilon, delta)-DP (Steinke, Nasr & Jagielski 2023). Valid for any
  mechanism, however the canaries interact; with m canaries it cannot exceed about ln(m).
- `f_dp_bound`: the same guesses under Gaussian DP (Mahloujifar, Melis & Chaudhuri 2024). Valid
  where the mechanism is a Gaussian one.
- `threshold_bound`: Clopper & Pearson 1934 bounds of both error rates at thresholds chosen before
  the scores were seen, turned into the parameter mu of Gaussian DP. Valid where the scores are
  independent: directions of canaries orthogonal, noise of coordinates independent.

The estimate fits a Gaussian to each group. It is no bound.

A negative mu says that the attack guessed worse than a coin; it is 0 here, never its absolute
value, which would turn a useless attack into an alarm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.privacy.accounting import gaussian_epsilon

__all__ = [
    "CEILING",
    "METHODS",
    "Scores",
    "epsilon_estimate",
    "epsilon_refuted",
    "f_dp_bound",
    "lower_bounds",
    "mu_estimate",
    "mu_refuted",
    "one_run_bound",
    "threshold_bound",
]

Array = NDArray[np.float64]

CEILING: Final = 50.0
"""The largest epsilon that is ever reported: larger ones say no more."""

MU_CEILING: Final = 1e3

GUESSES: Final = (0.03, 0.1, 0.25, 0.5, 1.0)
"""Shares of the canaries that are guessed; each is a test of its own and pays its part of risk."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scores:
    """Scores of the canaries of one attack.

    Attributes:
        inside: float64 [any], of canaries that were in.
        outside: float64 [any], of those that were left out.
    """

    inside: Array = field(repr=False)
    outside: Array = field(repr=False)

    @property
    def size(self) -> int:
        """Number of canaries."""
        return len(self.inside) + len(self.outside)

    def correct(self, guesses: int) -> int:
        """Return how many of the boldest guesses are right, half of them "in" and half "out".

        A tie counts against the auditor.
        """
        scores = np.concatenate([self.inside, self.outside])
        was_in = np.repeat([True, False], [len(self.inside), len(self.outside)])
        top, bottom = (guesses + 1) // 2, guesses // 2
        highest = np.lexsort((was_in, -scores))[:top]
        lowest = np.lexsort((~was_in, scores))[:bottom]
        return int(was_in[highest].sum() + (~was_in[lowest]).sum())


def mu_estimate(scores: Scores) -> float:
    """Return the distance of the two groups in standard deviations; 0 where "in" scores less.

    Both groups need two scores. Without any spread, a distance is infinitely many deviations: the
    result is then 1000.
    """
    if min(len(scores.inside), len(scores.outside)) < 2:
        return 0.0
    apart = float(scores.inside.mean() - scores.outside.mean())
    spread = float(np.sqrt((scores.inside.var(ddof=1) + scores.outside.var(ddof=1)) / 2.0))
    if apart <= 0.0:
        return 0.0
    return min(apart / spread, MU_CEILING) if spread > 0.0 else MU_CEILING


def epsilon_estimate(scores: Scores, *, delta: float) -> float:
    """Return epsilon at delta of the estimated mu, at most `CEILING`."""
    return _epsilon(mu_estimate(scores), delta)


def one_run_bound(scores: Scores, *, delta: float, risk: float) -> float:
    """Return the lower bound on epsilon from the guesses of one run.

    Args:
        scores: Of the canaries, each in by a fair coin of its own.
        delta: Failure probability of the claim.
        risk: Chance that the bound exceeds the true epsilon, 0 < risk < 1.
    """
    return _best_guess(
        scores,
        lambda guesses, correct: epsilon_refuted(
            scores.size, guesses, correct, delta=delta, risk=risk / len(GUESSES)
        ),
    )


def epsilon_refuted(size: int, guesses: int, correct: int, *, delta: float, risk: float) -> float:
    """Return the largest epsilon under which so many right guesses have a chance below `risk`.

    Args:
        size: Number of canaries.
        guesses: How many of them were guessed.
        correct: How many guesses were right.
        delta: Failure probability.
        risk: The chance.

    Source: Steinke, Nasr & Jagielski 2023, theorem 5.2 and appendix D.

    >>> round(epsilon_refuted(1000, 100, 75, delta=1e-4, risk=0.05), 3)
    0.673
    """
    return _largest(lambda e: _guess_chance(size, guesses, correct, e, delta) < risk, CEILING)


def _guess_chance(size: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bound the chance of at least `correct` right guesses under (epsilon, delta)-DP."""
    from scipy.special import bdtr, bdtrc

    if not correct:
        return 1.0
    right = 1.0 / (1.0 + np.exp(-epsilon))
    beyond = float(bdtrc(correct - 1, guesses, right))
    lags = np.arange(1, correct + 1)
    below = bdtr(np.maximum(correct - lags - 1, 0), guesses, right) * (lags < correct)
    slack = float(((float(bdtr(correct - 1, guesses, right)) - below) / lags).max())
    return min(1.0, beyond + 2.0 * size * delta * slack)


def f_dp_bound(scores: Scores, *, delta: float, risk: float) -> float:
    """Return the lower bound on epsilon from the same guesses, for a Gaussian mechanism.

    Args and risk are those of `one_run_bound`.
    """
    mu = _best_guess(
        scores,
        lambda guesses, correct: mu_refuted(
            scores.size, guesses, correct, risk=risk / len(GUESSES)
        ),
    )
    return _epsilon(mu, delta)


def mu_refuted(size: int, guesses: int, correct: int, *, risk: float) -> float:
    """Return the largest mu of Gaussian DP that so many right guesses refute.

    Args:
        size: Number of canaries.
        guesses: How many of them were guessed.
        correct: How many guesses were right.
        risk: Chance of so many right guesses or more that is still believed.

    Source: Mahloujifar, Melis & Chaudhuri 2024, algorithm 3 (two options a guess).
    """
    if not correct:
        return 0.0
    return _largest(lambda mu: _impossible(size, guesses, correct, mu, risk), 40.0)


def _impossible(size: int, guesses: int, correct: int, mu: float, risk: float) -> bool:
    """Whether a chance of `risk` for so many right guesses contradicts mu-GDP.

    Probabilities of every number of right guesses follow from the one below by the trade-off
    curve; if they must add up to more than there is, the chance is smaller than `risk`.
    """
    from scipy.special import ndtr, ndtri

    right, wrong = risk * correct / size, risk * (guesses - correct) / size
    whole = guesses / size
    for i in range(correct - 1, -1, -1):
        least = max(wrong, float(ndtr(ndtri(min(right, 1.0)) - mu)))
        right += i / (guesses - i) * (least - wrong)
        wrong = least
        if right + wrong > whole:
            return True
    return False


def threshold_bound(
    scores: Scores, *, thresholds: Sequence[float], delta: float, risk: float
) -> float:
    """Return the lower bound on epsilon from the error rates at fixed thresholds.

    Args:
        scores: Of the canaries; independent of one another.
        thresholds: Chosen before the scores were seen.
        delta: Failure probability of the claim.
        risk: Chance that the bound exceeds the true epsilon.
    """
    from scipy.special import ndtri

    if not len(scores.inside) or not len(scores.outside):
        return 0.0
    each = risk / (2 * len(thresholds))
    mu = 0.0
    for threshold in thresholds:
        alarms = int((scores.outside > threshold).sum())
        misses = int((scores.inside <= threshold).sum())
        false = _most(alarms, len(scores.outside), each)
        missed = _most(misses, len(scores.inside), each)
        if max(false, missed) < 1.0:
            mu = max(mu, float(-ndtri(false) - ndtri(missed)))
    return _epsilon(mu, delta)


def _most(seen: int, of: int, risk: float) -> float:
    """Return the Clopper-Pearson upper bound of a rate."""
    from scipy.special import betaincinv

    return 1.0 if seen == of else float(betaincinv(seen + 1, of - seen, 1.0 - risk))


def lower_bounds(
    sets: Sequence[Scores], *, thresholds: Sequence[float], delta: float, risk: float
) -> dict[str, float]:
    """Return each method's best lower bound over several score sets, which share its risk."""
    part = risk / max(1, len(sets))
    found = {
        "one-run": [one_run_bound(s, delta=delta, risk=part) for s in sets],
        "f-DP": [f_dp_bound(s, delta=delta, risk=part) for s in sets],
        "Clopper-Pearson GDP": [
            threshold_bound(s, thresholds=thresholds, delta=delta, risk=part) for s in sets
        ],
    }
    return {name: max(values, default=0.0) for name, values in found.items()}


METHODS: Final = ("one-run", "f-DP", "Clopper-Pearson GDP")
"""Names of the lower bounds, the safest first."""


def _best_guess(scores: Scores, refuted: Callable[[int, int], float]) -> float:
    counts = {max(1, round(share * scores.size)) for share in GUESSES} if scores.size else set()
    return max((refuted(count, scores.correct(count)) for count in counts), default=0.0)


def _largest(refuted: Callable[[float], bool], most: float) -> float:
    """Return the largest value that is refuted, by bisection from the safe side; 0 if none is."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, most
    while high - low > 5e-4:
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _epsilon(mu: float, delta: float) -> float:
    return min(CEILING, gaussian_epsilon(mu, delta)) if mu > 0.0 else 0.0
