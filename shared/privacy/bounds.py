"""The allowed range of every number that a privacy guarantee rests on, and the one check of it.

Libraries below this room accept a zero, an infinite or a NaN noise multiplier without a word, and
then report a budget that nobody gets. So each number is checked where it enters.
"""

import math
import operator
from dataclasses import dataclass

from shared.errors import ConfigError

__all__ = ["BOUNDS", "Bound", "count", "number"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """The range of one number: above 0, at most `high`, and what to do about a bad value.

    Attributes:
        high: The largest value allowed.
        advice: The way out, as the end of a sentence.
        open: Whether `high` itself is refused.
    """

    high: float
    advice: str
    open: bool = False


BOUNDS = {
    "epsilon": Bound(high=100.0, advice="choose 0.5 to 10, or unit=none for no protection"),
    "delta": Bound(
        high=1.0, open=True, advice="leave it out for the default, or take at most 1/users"
    ),
    "clip_norm": Bound(high=1e6, advice="choose a bound near the norm of one contribution"),
    "noise_multiplier": Bound(high=1e9, advice="let epsilon choose it, or use unit=none"),
    "sampling_rate": Bound(high=1.0, advice="use 1 where everyone takes part"),
}


def number(name: str, value: object) -> float:
    """Return `value` as a float in the range that `BOUNDS` gives to `name`.

    Args:
        name: A key of `BOUNDS`; it appears in the message.
        value: Any object; a number is expected, a bool is not one.

    Raises:
        ConfigError: It is not a number, not finite, not above 0, or above the range.
    """
    bound = BOUNDS[name]
    plain = _float(value)
    if not 0.0 < plain <= bound.high or (bound.open and plain == bound.high):
        end = "<" if bound.open else "<="
        raise ConfigError(
            f"Expected 0 < {name} {end} {bound.high:g}, found {value}; {bound.advice}."
        )
    return plain


def count(name: str, value: object, *, most: int | None = None, why: str = "") -> int:
    """Return `value` as a whole number of at least 1 (and at most `most`).

    Raises:
        ConfigError: It is not a whole number, or is out of range; `why` ends the sentence.
    """
    try:
        plain = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        plain = 0
    if plain < 1:
        raise ConfigError(f"Expected {name} to be a whole number >= 1, found {value}; raise it.")
    if most is not None and plain > most:
        raise ConfigError(f"Expected {name} <= {most}, found {plain}; {why}.")
    return plain


def _float(value: object) -> float:
    """Return a number as a float and anything else as NaN."""
    if isinstance(value, bool | str):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
