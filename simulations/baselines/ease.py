r"""EASE: the linear item-item model of least squared error whose diagonal is zero.

With the Gram matrix G of the 0/1 histories and P = (G + lambda I)^{-1}, the weights are
B_ij = -P_ij / P_jj off the diagonal, and a history x scores x B. Source: Steck 2019.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.evaluation.protocols import Scorer
from simulations.baselines.incidence import gram, incidence

__all__ = ["EaseConfig", "fit_ease"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EaseConfig:
    """How strongly weights are held down.

    Attributes:
        ridge: Lambda, in users.

    Raises:
        ConfigError: It is not a positive number.
    """

    stochastic: ClassVar[bool] = False

    ridge: float = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.ridge < np.inf:
            raise ConfigError(f"Expected ease.ridge={self.ridge} > 0.")


def fit_ease(train: Interactions, *, config: EaseConfig, seed: int) -> Scorer:
    """Return a scorer `x B` of 0/1 histories x.

    Args:
        train: Training interactions of everyone.
        config: Of the method.
        seed: Unused; there is nothing random.
    """
    matrix = gram(train)
    matrix[np.diag_indices_from(matrix)] += config.ridge
    weights = np.linalg.inv(matrix)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0.0)
    return lambda histories: incidence(histories) @ weights
