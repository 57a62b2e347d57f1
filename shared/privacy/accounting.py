r"""What was spent: epsilon from noised steps, by two accountants that must agree.

All numbers are for the add-or-remove relation: two populations are neighbours when one has one
privacy unit more than the other. Noise is Gaussian with standard deviation
`noise_multiplier * clip_norm` on a sum whose terms have norm at most `clip_norm`.

- Where every unit enters every step (sampling rate 1) a sequence of Gaussian releases is exactly
  mu-GDP with \(\mu^2 = \sum_t \sigma_t^{-2}\), and delta of epsilon has a closed form (Dong, Roth
  & Su 2019; Balle & Wang 2018).
- Where units enter by their own coin, epsilon comes from the privacy loss distribution (PLD) of
  dp-accounting, rounded pessimistically (Doroshenko et al. 2022).
- The second opinion is the PRV accountant of Opacus (Gopi, Lee & Wutschitz 2021).

Central-limit ("GDP") approximations under sampling are not bounds, and are not used.

Golden values, delta 1e-5 (`tests/golden/epsilons.json`):

    sampling rate  noise multiplier  steps  epsilon
    0.01           1                 100      0.718
    0.1            1                  20      3.591
    0.1            1                 100      7.047
    0.1            2                 100      2.337
    1              5                  20      3.849

>>> round(epsilon(noise_multiplier=5.0, sampling_rate=1.0, steps=20, delta=1e-5), 3)
3.849
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Final

from shared.errors import VerificationError
from shared.privacy.bounds import count, number

__all__ = [
    "TOLERANCE",
    "Agreement",
    "Spend",
    "agree",
    "epsilon",
    "epsilon_of",
    "gaussian_epsilon",
    "second_opinion",
]

TOLERANCE: Final = 0.02
"""Largest difference between the two accountants that still counts as agreement."""

PRV_ERROR: Final = 0.005
"""Slack of the PRV upper bound: what remains of `TOLERANCE` is for real differences."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Spend:
    """Equal noised steps of one privacy unit.

    Attributes:
        noise_multiplier: Noise standard deviation divided by the clip norm; > 0.
        sampling_rate: Probability that the unit enters one step, by the device's own coin.
        steps: Noised steps; >= 1.

    Raises:
        ConfigError: A number is not finite or out of range.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "noise_multiplier", number("noise_multiplier", self.noise_multiplier)
        )
        object.__setattr__(self, "sampling_rate", number("sampling_rate", self.sampling_rate))
        object.__setattr__(self, "steps", count("steps", self.steps))


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Two accountants' answers to one question, close enough to publish the first.

    Attributes:
        epsilon: The headline number.
        delta: Its failure probability; no epsilon is printed without it.
        adjacency: The relation both numbers are for.
        accountant: What computed `epsilon`, with its version.
        second_opinion: The other accountant's upper bound.
        second_accountant: What computed it, with its version.
    """

    epsilon: float
    delta: float
    adjacency: str
    accountant: str
    second_opinion: float
    second_accountant: str


def epsilon(*, noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> float:
    """Return epsilon of `steps` equal noised steps, add-or-remove.

    Args:
        noise_multiplier: Noise standard deviation divided by the clip norm.
        sampling_rate: Probability that one unit enters one step; 1 claims no amplification.
        steps: Number of steps.
        delta: Failure probability, 0 < delta < 1.

    Raises:
        ConfigError: A number is not finite or out of range.

    Guarantees:
        At sampling rate 1 the result is exact; below it, an upper bound.
    """
    spend = Spend(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps)
    return epsilon_of((spend,), delta=delta)


def epsilon_of(spends: Sequence[Spend], *, delta: float) -> float:
    """Return epsilon of everything one unit took part in; 0 for nothing.

    Answers are cached, so a progress bar may ask every round.

    Raises:
        ConfigError: delta is out of range.
    """
    return _epsilon(_merged(spends), number("delta", delta))


def second_opinion(spends: Sequence[Spend], *, delta: float) -> float:
    """Return the upper bound of Opacus's PRV accountant, an implementation apart from `epsilon_of`.

    Its own numerical slack, 0.005, is included: it lies about that much above the first opinion.

    Raises:
        ConfigError: delta is out of range.
        VerificationError: The accountant gives no finite answer.
    """
    return _prv(_merged(spends), number("delta", delta))


def agree(spends: Sequence[Spend], *, delta: float) -> Agreement:
    """Return both opinions, or stop the run.

    Raises:
        VerificationError: They differ by more than `TOLERANCE`, or the second has no answer.
    """
    first = epsilon_of(spends, delta=delta)
    second = second_opinion(spends, delta=delta)
    if abs(first - second) > TOLERANCE:
        raise VerificationError(
            f"Two accountants disagree on this plan (epsilon {first:.3f} and {second:.3f} at delta "
            f"{delta:g}), so no claim can be made; raise the sampling rate or lower the steps."
        )
    return Agreement(
        epsilon=first,
        delta=delta,
        adjacency="add-or-remove",
        accountant=_accountant(spends),
        second_opinion=second,
        second_accountant=f"opacus {version('opacus')} PRV",
    )


def gaussian_epsilon(mu: float, delta: float) -> float:
    r"""Return epsilon of a mu-GDP mechanism, from the exact closed form.

    Solves \(\Phi(\mu/2 - \varepsilon/\mu) - e^\varepsilon \Phi(-\mu/2 - \varepsilon/\mu) =
    \delta\); the answer is 0 where the left side at 0 is already below delta.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    if mu == 0.0 or _gaussian_delta(0.0, mu) <= delta:
        return 0.0
    # The first term alone bounds delta from above, so its root is an upper end of the bracket.
    upper = mu * (mu / 2.0 - float(ndtri(delta)))
    return float(brentq(lambda e: _gaussian_delta(e, mu) - delta, 0.0, upper, xtol=1e-12))


def _gaussian_delta(value: float, mu: float) -> float:
    """Delta of a mu-GDP mechanism; erfcx keeps the second term finite at any epsilon."""
    from scipy.special import erfcx, ndtr

    near, far = mu / 2.0 - value / mu, mu / 2.0 + value / mu
    second = 0.5 * math.exp(-near * near / 2.0) * float(erfcx(far / math.sqrt(2.0)))
    return float(ndtr(near)) - second


def _merged(spends: Sequence[Spend]) -> tuple[Spend, ...]:
    """One spend for each kind of step, in a fixed order: the key of the caches."""
    steps: dict[tuple[float, float], int] = {}
    for spend in spends:
        kind = (spend.noise_multiplier, spend.sampling_rate)
        steps[kind] = steps.get(kind, 0) + spend.steps
    return tuple(
        Spend(noise_multiplier=sigma, sampling_rate=rate, steps=total)
        for (sigma, rate), total in sorted(steps.items())
    )


def _mu(spends: Sequence[Spend]) -> float:
    """GDP parameter of the steps that everyone takes part in."""
    return math.sqrt(sum(s.steps / s.noise_multiplier**2 for s in spends if s.sampling_rate == 1.0))


@lru_cache(maxsize=4096)
def _epsilon(spends: tuple[Spend, ...], delta: float) -> float:
    sampled = [s for s in spends if s.sampling_rate < 1.0]
    return _pld(sampled, _mu(spends), delta) if sampled else gaussian_epsilon(_mu(spends), delta)


def _pld(sampled: Sequence[Spend], mu: float, delta: float) -> float:
    """Epsilon of sampled steps composed with one mu-GDP release (none if mu is 0)."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=min(map(_interval, sampled)),
    )
    for spend in sampled:
        event = dp_accounting.GaussianDpEvent(spend.noise_multiplier)
        sampled_event = dp_accounting.PoissonSampledDpEvent(spend.sampling_rate, event)
        accountant.compose(sampled_event, spend.steps)
    if mu > 0.0:
        accountant.compose(dp_accounting.GaussianDpEvent(1.0 / mu))
    return float(accountant.get_epsilon(delta))


def _interval(spend: Spend) -> float:
    """Grid of the loss: a tenth of one step's own spread, else rounding up dominates."""
    spread = spend.sampling_rate * math.sqrt(math.expm1(min(spend.noise_multiplier**-2, 100.0)))
    return min(1e-3, max(1e-5, spread / 10.0))


@lru_cache(maxsize=256)
def _prv(spends: tuple[Spend, ...], delta: float) -> float:
    if not spends:
        return 0.0
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(s.noise_multiplier, s.sampling_rate, s.steps) for s in spends]
    with warnings.catch_warnings():
        # At rate 1 it takes log(0) inside a `where` that drops it, once for each grid point.
        warnings.simplefilter("ignore")
        try:
            answer = float(accountant.get_epsilon(delta, eps_error=PRV_ERROR))
        except (ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
            raise VerificationError(_no_answer(delta)) from error
    if not math.isfinite(answer):
        raise VerificationError(_no_answer(delta))
    return answer


def _no_answer(delta: float) -> str:
    return (
        f"The second accountant gives no answer for this plan at delta {delta:g}, so no claim can "
        "be made; choose a smaller epsilon or fewer steps."
    )


def _accountant(spends: Sequence[Spend]) -> str:
    """Name of what `epsilon_of` used."""
    if all(s.sampling_rate == 1.0 for s in spends):
        return "Gaussian DP closed form"
    return f"dp-accounting {version('dp-accounting')} PLD"
