r"""Implicit alternating least squares: every unseen item is a weak zero, every event a one.

A row with items S has the vector that minimises
    sum_{i in S} (1 - u.v_i)^2 + alpha sum_i (u.v_i)^2 + lambda (|S| + alpha n)^nu |u|^2,
n items in all. The same solve folds in a history that trained nothing: given the items' vectors, a
user's vector is a function of the history alone.

Source: Hu, Koren & Volinsky 2008; Rendle et al. 2022 (the penalty that grows with |S|).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.evaluation.protocols import Scorer
from shared.randomness import stream

__all__ = ["IalsConfig", "fit_ials"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class IalsConfig:
    """Size and weights.

    Attributes:
        dim: Length of a vector.
        unobserved: Alpha, the weight of an item that is not in the history.
        ridge: Lambda.
        growth: Nu, how the penalty grows with the length of a history.
        sweeps: Passes over users and items.
        spread: Standard deviation of a start vector's length.

    Raises:
        ConfigError: A number is out of range.
    """

    stochastic: ClassVar[bool] = True

    dim: int = 64
    unobserved: float = 0.3
    ridge: float = 0.01
    growth: float = 1.0
    sweeps: int = 12
    spread: float = 0.1

    def __post_init__(self) -> None:
        positive = all(x > 0 for x in (self.unobserved, self.ridge, self.spread))
        if self.dim < 1 or self.sweeps < 1 or not positive:
            raise ConfigError(
                f"Expected ials.dim={self.dim} and ials.sweeps={self.sweeps} >= 1, and "
                f"ials.unobserved={self.unobserved}, ials.ridge={self.ridge} and "
                f"ials.spread={self.spread} > 0."
            )


def fit_ials(train: Interactions, *, config: IalsConfig, seed: int) -> Scorer:
    """Return a scorer that solves the history's vector and multiplies it with the items'.

    Args:
        train: Training interactions of everyone.
        config: Of the method.
        seed: Names the start vectors.
    """
    by_item = Interactions.from_events(
        users=train.items, items=train.users, n_users=train.n_items, n_items=train.n_users
    )
    scale = config.spread / np.sqrt(config.dim)
    items = scale * stream(seed, "ials").standard_normal((train.n_items, config.dim))
    for _ in range(config.sweeps):
        items = _solve(by_item, _solve(train, items, config), config)
    return lambda histories: _solve(histories, items, config) @ items.T


def _solve(rows: Interactions, others: Floats, config: IalsConfig) -> Floats:
    """Return [rows, dim]: the best vector of each row, given the vectors of what it holds."""
    weak = config.unobserved * (others.T @ others)
    solved = np.zeros((rows.n_users, config.dim))
    for row in range(rows.n_users):
        held = others[np.unique(rows.history(row))]
        size = (len(held) + config.unobserved * len(others)) ** config.growth
        system = weak + held.T @ held
        system[np.diag_indices_from(system)] += config.ridge * size
        solved[row] = np.linalg.solve(system, held.sum(axis=0))
    return solved
