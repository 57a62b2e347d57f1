r"""A clip norm that follows a quantile of the contributions' norms, privately.

A fixed bound is too wide late in a run and too narrow early. Instead each user tells, by one bit,
whether its contribution was within the bound C of the round; the released share of such users
moves the bound: \(C' = C \exp(-\eta (\bar b - \gamma))\). Near the \(\gamma\) quantile of the
norms the steps vanish.

The bit is data, and is paid for. It rides in the same release (`riders`) as b - 1/2, of norm 1/2,
for a share q of the round's mu^2: with noise multiplier z the contribution is noised as by
\(z / \sqrt{1 - q}\), the sum of the bits by a deviation of \(\sigma_b = z / (2 \sqrt q)\), which
is Andrew's \(z_\Delta^{-2} = z^{-2} - (2 \sigma_b)^{-2}\). Spend of the round and ledger do not
change: noise is counted in clip norms. What the bound is in each round follows from releases alone
and is public; it never leaves `least` .. `most`.

Source: Andrew, Thakkar, McMahan & Ramaswamy 2021 (algorithm 1, geometric updates).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, RunError
from shared.privacy.bounds import BOUNDS, count, number
from shared.privacy.plan import Plan
from shared.privacy.release import ClippedUpdate
from shared.privacy.riders import Rider, Riders

__all__ = [
    "BELOW",
    "AdaptiveClip",
    "adaptive_of",
    "attach",
    "detach",
    "next_clip",
    "shapes_with_bits",
    "within",
]

Array = NDArray[np.float64]

BELOW: Final = "clip.below"
"""Name of the tensor that the bits travel in, shape (1,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptiveClip:
    """How the clip norm moves; all of it is public.

    Attributes:
        quantile: Share of the users who shall be within the bound, gamma.
        rate: Learning rate of its logarithm, eta.
        share: Part of each round's mu^2 that the bits get.
        least: The bound never falls below this.
        most: The bound never rises above this.

    Raises:
        ConfigError: A number is out of range, or `least` is above `most`.
    """

    quantile: float = 0.5
    rate: float = 0.2
    share: float = 0.01
    least: float = 1e-3
    most: float = 1e3

    def __post_init__(self) -> None:
        for name in ("quantile", "rate", "share"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise ConfigError(
                    f"Expected 0 < {name} < 1 for a moving clip norm, found {value}; "
                    "0.5, 0.2 and 0.01 are usual for quantile, rate and share."
                )
        if number("clip_norm", self.least) > number("clip_norm", self.most):
            raise ConfigError(
                f"Expected least={self.least} <= most={self.most} of a moving clip norm; swap them."
            )

    @property
    def rider(self) -> Rider:
        """The bit as it rides along; `Riders` takes it together with other riders."""
        return Rider(name=BELOW, size=1, bound=0.5, share=self.share)


def adaptive_of(plan: Plan) -> AdaptiveClip | None:
    """Return how the clip norm of a run moves, within a hundredfold of where it began, or None.

    Args:
        plan: The plan of the run, whose clip norm is the first one.
    """
    if not plan.clip_quantile:
        return None
    return AdaptiveClip(
        quantile=plan.clip_quantile,
        share=plan.clip_share,
        least=plan.clip_norm / 100.0,
        most=min(100.0 * plan.clip_norm, BOUNDS["clip_norm"].high),
    )


def shapes_with_bits(
    plan: Plan, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the tensors of one contribution, with the bit that moves the clip norm if one does."""
    return {**shapes, **({BELOW: (1,)} if plan.clip_quantile else {})}


def attach(clipped: ClippedUpdate, *, adaptive: AdaptiveClip) -> ClippedUpdate:
    """Return the contributions with everyone's bit aboard, and no other rider.

    Args:
        clipped: One contribution a user, as `clip` made it.
        adaptive: The rule.

    Raises:
        ConfigError: The bits are aboard already.

    Guarantees:
        A user whose contribution was not finite counts as not within the bound.
    """
    return Riders(blocks=(adaptive.rider,)).attach(clipped, {BELOW: within(clipped)})


def within(clipped: ClippedUpdate) -> Array:
    """Return each user's centred bit, float64 [users, 1]: 1/2 within the bound, else -1/2."""
    return np.where(clipped.below, 0.5, -0.5)[:, None]


def detach(
    total: Mapping[str, Array], *, adaptive: AdaptiveClip, clip_norm: float, cohort: int
) -> tuple[dict[str, Array], float]:
    """Return the sums of the contributions, and which share of the users was within the bound.

    Args:
        total: Name -> float64 released sum.
        adaptive: The rule.
        clip_norm: The clip norm of the round.
        cohort: The public denominator: users expected in a round, however many replied.

    Returns:
        The sums by name, and the share, as noisy as it is: it may lie outside 0 .. 1.

    Raises:
        ConfigError: The clip norm or the cohort is out of range.
        RunError: The bits are missing.
    """
    main, rode = Riders(blocks=(adaptive.rider,)).detach(total, clip_norm=clip_norm)
    return main, float(rode[BELOW][0]) / count("cohort", cohort) + 0.5


def next_clip(clip_norm: float, fraction: float, *, adaptive: AdaptiveClip) -> float:
    """Return the clip norm of the next round.

    The share is used as noisy as it was released: cutting it to 0 .. 1 would move the quantile.

    Args:
        clip_norm: That of this round.
        fraction: The released share of users within it.
        adaptive: The rule.

    Raises:
        ConfigError: The clip norm is out of range.
        RunError: The share is not finite.

    Guarantees:
        The next clip norm never leaves the public bounds.

    >>> next_clip(1.0, 0.5, adaptive=AdaptiveClip())
    1.0
    >>> round(next_clip(1.0, 1.0, adaptive=AdaptiveClip()), 3)
    0.905
    """
    if not math.isfinite(fraction):
        raise RunError("The released share of users within the clip norm is not finite.")
    low, high = math.log(adaptive.least), math.log(adaptive.most)
    step = adaptive.rate * (fraction - adaptive.quantile)
    moved = math.log(number("clip_norm", clip_norm)) - step
    # Bounded twice: no exponential overflows, and none of the bounds is missed by its rounding.
    plain = math.exp(min(max(moved, low), high))
    return min(max(plain, adaptive.least), adaptive.most)
