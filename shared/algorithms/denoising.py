"""Free post-processing of released tensors: their noise is public, so it can be shrunk away.

Source: James & Stein 1961, positive part.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["shrink_rows"]

Array = NDArray[np.float64]


def shrink_rows(change: Array, *, variance: float) -> Array:
    """Shrink each row towards zero by what its noise explains (positive-part James-Stein).

    Args:
        change: float64 [rows, dim], released change of each row.
        variance: Variance of the noise of one coordinate.

    Guarantees:
        no noise changes nothing: variance 0 returns `change`.
        a row of pure noise is mostly removed.
    """
    size = np.square(change).sum(axis=1, keepdims=True)
    kept = np.maximum(0.0, 1.0 - change.shape[1] * variance / np.maximum(size, 1e-300))
    return np.asarray(change * kept)
