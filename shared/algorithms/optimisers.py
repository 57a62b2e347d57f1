"""Descent steps and learning-rate schedules, for the server's mean and for local training.

Pure functions on named arrays: the moments are part of the state that is checkpointed.
Source: Kingma & Ba 2015 (Adam), Reddi et al. 2021 (server optimisers), Loshchilov & Hutter 2017
(cosine schedule).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError

__all__ = ["OptimiserConfig", "descend", "learning_rate", "shrink"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig:
    """Settings of a descent.

    Attributes:
        name: "sgd" (with `momentum`) or "adam".
        rate: Learning rate.
        momentum: Of SGD, in [0, 1).
        beta1: Of Adam, decay of the mean.
        beta2: Of Adam, decay of the squared mean.
        schedule: "constant", "exponential" (times `decay` each step) or "cosine" (towards
            0, which a step after the last would reach).
        decay: Factor a step of the exponential schedule, in (0, 1].
        warmup: Steps over which the rate rises linearly from 0.
        l1: Absolute penalty.
        l2: Squared penalty.

    Raises:
        ConfigError: A number is out of range.
    """

    name: Literal["sgd", "adam"] = "sgd"
    rate: float = 1.0
    momentum: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    schedule: Literal["constant", "exponential", "cosine"] = "constant"
    decay: float = 0.95
    warmup: int = 0
    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        wrong = [f"rate={self.rate} > 0"] if not 0.0 < self.rate < math.inf else []
        for name in ("momentum", "beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                wrong.append(f"{name}={getattr(self, name)} in [0, 1)")
        if not 0.0 < self.decay <= 1.0:
            wrong.append(f"decay={self.decay} in (0, 1]")
        for name in ("warmup", "l1", "l2"):
            if not 0.0 <= getattr(self, name) < math.inf:
                wrong.append(f"{name}={getattr(self, name)} >= 0")
        if wrong:
            raise ConfigError(f"Expected an optimiser with {', '.join(wrong)}.")


def learning_rate(config: OptimiserConfig, *, step: int, steps: int) -> float:
    """Return the rate of step `step` (from 1) of `steps`, above 0.

    >>> learning_rate(OptimiserConfig(rate=1.0, schedule="cosine"), step=6, steps=10)
    0.5
    """
    rate = config.rate
    if config.schedule == "exponential":
        rate *= config.decay ** (step - 1)
    elif config.schedule == "cosine":
        rate *= 0.5 * (1.0 + math.cos(math.pi * (step - 1) / steps))
    return rate * min(1.0, step / config.warmup) if config.warmup else rate


def descend(
    config: OptimiserConfig,
    values: Mapping[str, Array],
    gradients: Mapping[str, Array],
    moments: Mapping[str, Array],
    *,
    step: int,
    rate: float,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Take one step against `gradients`.

    Args:
        config: Public settings.
        values: Name -> array to move.
        gradients: Name -> array of the same shape.
        moments: What the last step returned; empty before the first.
        step: Number of this step since there were no moments, from 1.
        rate: Learning rate of this step.

    Returns:
        The moved arrays and the moments.

    Guarantees:
        A zero gradient without penalties and moments moves nothing.
    """
    moved: dict[str, Array] = {}
    kept: dict[str, Array] = {}
    for name, value in values.items():
        direction = _direction(config, name, gradients[name], moments, kept, step=step)
        moved[name] = shrink(value - rate * direction, l1=rate * config.l1, l2=rate * config.l2)
    return moved, kept


def _direction(
    config: OptimiserConfig,
    name: str,
    gradient: Array,
    moments: Mapping[str, Array],
    kept: dict[str, Array],
    *,
    step: int,
) -> Array:
    """Return the direction of one array's step, and keep its moments."""
    if config.name == "adam":
        zero = np.zeros_like(gradient)
        mean = config.beta1 * moments.get(f"mean.{name}", zero) + (1 - config.beta1) * gradient
        square = config.beta2 * moments.get(f"square.{name}", zero)
        square = square + (1 - config.beta2) * gradient**2
        kept[f"mean.{name}"], kept[f"square.{name}"] = mean, square
        corrected = np.sqrt(square / (1 - config.beta2**step)) + 1e-8
        return np.asarray(mean / (1 - config.beta1**step) / corrected)
    if config.momentum:
        past = moments.get(f"mean.{name}", np.zeros_like(gradient))
        gradient = config.momentum * past + gradient
        kept[f"mean.{name}"] = gradient
    return gradient


def shrink(value: Array, *, l1: float, l2: float) -> Array:
    """Return the proximal step of the penalties: `l1` |x| + `l2` / 2 x^2."""
    if l1:
        value = np.sign(value) * np.maximum(np.abs(value) - l1, 0.0)
    return value / (1.0 + l2) if l2 else value
