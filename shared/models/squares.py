r"""The vector of a history under squared loss, in closed form: every unseen item is a weak zero.

Given items' vectors v, a history with weights w has the vector that minimises
    sum_i w_i (1 - u.v_i)^2 + alpha sum_i (u.v_i)^2 + lambda (sum w + alpha n)^nu |u|^2,
n items in all. Biases are no part of it: an empty history has the vector zero.

Source: Hu, Koren & Volinsky 2008; Rendle et al. 2022 (the growing penalty).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError

__all__ = ["SquaresConfig", "fit_squares", "outer_cells", "solve_rows"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SquaresConfig:
    """Weights of the squared loss.

    Attributes:
        unobserved: Alpha, the weight of any item against one of the history.
        ridge: Lambda.
        growth: Nu, how the penalty grows with the length of a history.

    Raises:
        ConfigError: A number is out of range.
    """

    unobserved: float = 0.3
    ridge: float = 0.01
    growth: float = 1.0

    def __post_init__(self) -> None:
        for name in ("unobserved", "ridge"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ConfigError(f"Expected squares.{name}={getattr(self, name)} > 0.")
        if not 0.0 <= self.growth < np.inf:
            raise ConfigError(f"Expected squares.growth={self.growth} >= 0.")


def fit_squares(weights: Array, items: Array, config: SquaresConfig) -> Array:
    """Return float64 [rows, dim]: the best vector of each row.

    Args:
        weights: float64 [rows, n_items], 0 for what is not in the history.
        items: float64 [n_items, dim].
        config: Weights of the loss.
    """
    from scipy.sparse import csr_array

    seen = csr_array(weights)
    right, own = np.asarray(seen @ items), np.asarray(seen @ outer_cells(items))
    sizes = weights.sum(axis=1)
    return solve_rows(own, items.T @ items, right, sizes, others=len(items), config=config)


def solve_rows(
    own: Array, gramian: Array, right: Array, sizes: Array, *, others: int, config: SquaresConfig
) -> Array:
    """Solve the normal equations of many rows: users given items, or items given users.

    Args:
        own: float64 [rows, dim (dim + 1) / 2], upper triangle of the weighted outer products of
            what a row holds (`outer_cells`).
        gramian: float64 [dim, dim], the same of everything a row could hold, unweighted.
        right: float64 [rows, dim].
        sizes: float64 [rows], weight of what a row holds.
        others: What a row could hold, in all.
        config: Weights of the loss.
    """
    dim = len(gramian)
    upper, lower = np.triu_indices(dim)
    systems = np.empty((len(own), dim, dim))
    systems[:, upper, lower] = own
    systems[:, lower, upper] = own
    systems += config.unobserved * gramian
    penalty = config.ridge * (sizes + config.unobserved * others) ** config.growth
    systems[:, np.arange(dim), np.arange(dim)] += penalty[:, None]
    return np.asarray(np.linalg.solve(systems, right[..., None])[..., 0])


def outer_cells(vectors: Array) -> Array:
    """Return float64 [rows, dim (dim + 1) / 2]: each vector's outer product, upper triangle.

    >>> outer_cells(np.array([[1.0, 2.0]])).tolist()
    [[1.0, 2.0, 4.0]]
    """
    upper, lower = np.triu_indices(vectors.shape[1])
    return np.asarray(vectors[:, upper] * vectors[:, lower])
