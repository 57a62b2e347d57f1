r"""EASE: the linear item-item model of least squared error whose diagonal is zero.

With the Gram matrix G of the histories and \(P = (G + \lambda I)^{-1}\), the weights are
\(B_{ij} = -P_{ij} / P_{jj}\) off the diagonal. Source: Steck 2019.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.models.linear import Linear, LinearConfig

__all__ = ["Ease", "EaseModelConfig"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class EaseModelConfig(LinearConfig):
    """Settings of EASE.

    Attributes:
        ridge: Lambda, in users, without a head.
        head_ridge: Lambda with a head, in mean entries of the diagonal.

    Raises:
        ConfigError: A number is out of range.
    """

    ridge: float = 100.0
    head_ridge: float = 1.0

    def __post_init__(self) -> None:
        LinearConfig.__post_init__(self)
        for name in ("ridge", "head_ridge"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ConfigError(f"Expected model.{name}={getattr(self, name)} > 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ease(Linear):
    """EASE over the whole catalogue or a head."""

    config: EaseModelConfig = field(default_factory=EaseModelConfig)

    def solve(self, gram: Array) -> Array:
        """Return the weights of a Gram matrix, float64 [size, size], zero on the diagonal."""
        relative = self.config.head_ridge * float(np.diag(gram).mean())
        ridge = relative if self.config.head else self.config.ridge
        inverse = np.linalg.inv(gram + max(ridge, 1e-12) * np.eye(len(gram)))
        weights = inverse / -np.diag(inverse)
        np.fill_diagonal(weights, 0.0)
        return np.asarray(weights)
