"""Free post-processing of a noised square matrix: keep what stands out of the noise.

A white Gaussian noise matrix has singular values up to a known edge. What lies above belongs to the
signal, inflated by a known amount. Split into blocks inside and outside the span of public item
content, a small block has a low edge: what content explains survives where nothing else does.

Source: Gavish & Donoho 2017 (optimal shrinkage of singular values, Frobenius loss).
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["content_basis", "content_vectors", "positive_part", "shrink", "shrink_blocks"]

Array = NDArray[np.float64]


def shrink(matrix: Array, deviation: float) -> Array:
    """Return the estimate of a matrix from its observation under white Gaussian noise.

    Args:
        matrix: float64 [a, b].
        deviation: Standard deviation of the noise of a cell; 0 returns the matrix.

    Guarantees:
        pure noise becomes zero, but for what a largest singular value exceeds its limit by.
        no noise changes nothing.
    """
    if not matrix.size or deviation <= 0.0:
        return matrix
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    long = deviation * np.sqrt(max(matrix.shape))
    ratio = min(matrix.shape) / max(matrix.shape)
    squares = np.square(values / long)
    inside = np.maximum(np.square(squares - ratio - 1.0) - 4.0 * ratio, 0.0)
    kept = np.where(squares > (1.0 + np.sqrt(ratio)) ** 2, np.sqrt(inside), 0.0)
    return np.asarray((left * (kept * long / np.sqrt(np.maximum(squares, 1e-300)))) @ right)


def shrink_blocks(matrix: Array, deviation: float, basis: Array | None) -> Array:
    """Shrink the four blocks of a square matrix inside and outside the span of `basis`.

    Args:
        matrix: float64 [n, n].
        deviation: Standard deviation of the noise of a cell; cells mirrored across the diagonal
            may share it, for then both the edge and the shape are the same.
        basis: float64 [n, g] with orthonormal columns, or None for a single block.
    """
    if basis is None or deviation <= 0.0:
        return shrink(matrix, deviation)
    inside = basis.shape[1]
    whole = np.linalg.qr(np.concatenate([basis, np.eye(len(basis))], axis=1))[0]
    turned = whole.T @ matrix @ whole
    parts = (slice(0, inside), slice(inside, None))
    for rows in parts:
        for columns in parts:
            turned[rows, columns] = shrink(turned[rows, columns], deviation)
    return np.asarray(whole @ turned @ whole.T)


def positive_part(matrix: Array) -> Array:
    """Return the nearest positive semidefinite matrix of a symmetric one (Higham 1988)."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def content_basis(features: Array | None) -> Array | None:
    """Return an orthonormal basis of the columns of item features, or None where there are none."""
    if features is None or not features.size:
        return None
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    kept = values > 1e-6 * max(values[0], 1e-300)
    if not kept.any() or kept.sum() >= len(features):
        return None
    return np.asarray(left[:, kept])


def content_vectors(features: Array, rank: int) -> Array:
    """Return float64 [items, rank]: their inner products are how alike items are by content.

    That is the cosine of their features less the mean item's, as well as so many dimensions can
    tell it; columns that are not needed are 0.
    """
    apart = features - features.mean(axis=0)
    norms = np.linalg.norm(apart, axis=1, keepdims=True)
    left, values, _ = np.linalg.svd(apart / np.maximum(norms, 1e-12), full_matrices=False)
    vectors = np.zeros((len(features), rank))
    used = min(rank, len(values))
    vectors[:, :used] = left[:, :used] * values[:used]
    return vectors
