"""Shrinkage on known matrices under known noise."""

import numpy as np
import pytest

from shared.algorithms.spectra import content_basis, content_vectors, shrink, shrink_blocks

SIDE = 120


def low_rank(strength: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    left = np.linalg.qr(rng.normal(size=(SIDE, 3)))[0]
    right = np.linalg.qr(rng.normal(size=(SIDE, 3)))[0]
    return strength * np.sqrt(SIDE) * left @ right.T


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(SIDE, SIDE))


def error(estimate: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(estimate - truth) / np.linalg.norm(truth))


def test_low_rank_is_found_under_noise() -> None:
    truth = low_rank(5.0)
    seen = truth + noise(1)
    assert error(seen, truth) > 1.0
    # The best possible loss of one spike of strength x is sqrt(1 - (1 - 1/x^4) ...): about .3 here.
    assert error(shrink(seen, 1.0), truth) < 0.4


def test_wrong_noise_level_is_worse_in_both_directions() -> None:
    truth = low_rank(3.0)
    seen = truth + noise(2)
    right = error(shrink(seen, 1.0), truth)
    assert right < error(shrink(seen, 0.5), truth)
    assert right < error(shrink(seen, 1.8), truth)


def test_pure_noise_becomes_zero() -> None:
    # The largest singular value passes its limit by more than 5 % with probability below 1e-6.
    assert not shrink(noise(4), 1.05).any()
    assert shrink(noise(4), 0.7).any()


def test_no_noise_changes_nothing() -> None:
    truth = low_rank(1.0)
    np.testing.assert_array_equal(shrink(truth, 0.0), truth)
    np.testing.assert_array_equal(shrink_blocks(truth, 0.0, np.eye(SIDE)[:, :4]), truth)
    assert shrink(np.zeros((0, 5)), 1.0).shape == (0, 5)
    assert not shrink(np.zeros((4, 5)), 1.0).any()


def test_content_saves_what_the_whole_matrix_loses() -> None:
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(SIDE, 4)))[0]
    core = np.diag([9.0, 8.0, 7.0, 6.0])  # below the edge of the whole, about 22
    truth = basis @ core @ basis.T
    seen = truth + noise(6)
    assert error(shrink(seen, 1.0), truth) > 0.9
    assert error(shrink_blocks(seen, 1.0, basis), truth) < 0.6


def test_symmetry_survives_the_blocks() -> None:
    basis = np.linalg.qr(np.random.default_rng(7).normal(size=(SIDE, 5)))[0]
    seen = low_rank(4.0) + noise(8)
    for sign in (1.0, -1.0):
        half = (seen + sign * seen.T) / 2
        kept = shrink_blocks(half, 0.7, basis)
        np.testing.assert_allclose(kept, sign * kept.T, atol=1e-9)


@pytest.mark.parametrize("features", [None, np.zeros((6, 0)), np.zeros((6, 2)), np.eye(6)])
def test_features_that_say_nothing_or_everything_are_no_basis(features: np.ndarray | None) -> None:
    assert content_basis(features) is None


def test_basis_is_orthonormal_and_spans_dependent_features() -> None:
    features = np.random.default_rng(9).integers(0, 2, size=(20, 3)).astype(float)
    basis = content_basis(np.concatenate([features, features[:, :1]], axis=1))
    assert basis is not None
    assert basis.shape == (20, 3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(basis @ (basis.T @ features), features, atol=1e-9)


def test_content_vectors_multiply_to_cosines() -> None:
    features = np.random.default_rng(4).normal(size=(9, 3)) + 2.0
    apart = features - features.mean(axis=0)
    unit = apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-12)
    for rank in (3, 7):
        vectors = content_vectors(features, rank)
        assert vectors.shape == (9, rank)
        np.testing.assert_allclose(vectors @ vectors.T, unit @ unit.T, atol=1e-12)
    best = content_vectors(features, 2)
    lost = np.linalg.svd(unit, compute_uv=False)[2]
    np.testing.assert_allclose(np.linalg.norm(best @ best.T - unit @ unit.T, 2), lost**2)


def test_items_of_the_same_content_have_no_vectors() -> None:
    assert not content_vectors(np.ones((5, 2)), 4).any()
