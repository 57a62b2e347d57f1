"""One finding of an attack, and the tests that make one; each has a stated false-alarm rate."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["RISK", "Check", "scale_check", "upper_check"]

Array = NDArray[np.float64]

RISK: Final = 1e-6
"""Chance that one check of a correct mechanism raises an alarm, whatever it looks at in all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A finding.

    Attributes:
        name: What was looked at.
        ok: False is an alarm; None was not to be had in this run.
        found: What was seen, in words.
    """

    name: str
    ok: bool | None
    found: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return {"name": self.name, "ok": self.ok, "found": self.found}


def scale_check(name: str, samples: dict[str, Array], *, at_least: bool = False) -> Check:
    """Check that values have variance 1, by chi-square, each sample apart.

    Args:
        name: Of the check.
        samples: Label -> float64 [any], standard normal where all is well.
        at_least: Only too little noise is an alarm.
    """
    from scipy.stats import chi2

    if not samples:
        return Check(name=name, ok=None, found="nothing was released to look at")
    ratios, wrong = [], []
    for label, values in samples.items():
        squares = float(np.square(values).sum())
        chances = [float(chi2.cdf(squares, values.size)), float(chi2.sf(squares, values.size))]
        chance = chances[0] if at_least else 2.0 * min(chances)
        ratios.append(float(np.sqrt(squares / values.size)))
        if chance < RISK / len(samples):
            wrong.append(f"{label} has {ratios[-1]:.4g} of the claimed noise")
    spread = f"{min(ratios):.4f} to {max(ratios):.4f} of the claimed noise"
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    found = wrong[0] + more if wrong else f"{spread} in {len(samples)} releases"
    return Check(name=name, ok=not wrong, found=found)


def upper_check(name: str, values: Array, *, found: str) -> Check:
    """Check that no standard normal value, or one shifted down, is too large to believe."""
    from scipy.special import ndtri

    if not len(values):
        return Check(name=name, ok=None, found="nothing was released to look at")
    limit = float(-ndtri(RISK / len(values)))
    worst = float(values.max())
    return Check(
        name=name, ok=worst <= limit, found=f"{found} ({worst:.3g} of at most {limit:.3g})"
    )
