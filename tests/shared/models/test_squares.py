"""The closed form of a history's vector against the loss it is said to minimise."""

import numpy as np
import pytest

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.mf import MatrixFactorization, MFConfig
from shared.models.squares import SquaresConfig, fit_squares, outer_cells

RNG = np.random.default_rng(7)
ITEMS, DIM = 9, 3
TABLE = RNG.normal(size=(ITEMS, DIM))


@pytest.mark.parametrize(
    "config", [SquaresConfig(), SquaresConfig(unobserved=2.0, ridge=0.5, growth=0.0)]
)
def test_the_gradient_of_the_loss_is_zero(config: SquaresConfig) -> None:
    weights = RNG.random((4, ITEMS)) * (RNG.random((4, ITEMS)) < 0.5)
    weights[3] = 0.0
    for row, vector in zip(weights, fit_squares(weights, TABLE, config), strict=True):
        scores = TABLE @ vector
        penalty = config.ridge * (row.sum() + config.unobserved * ITEMS) ** config.growth
        slope = (row * (scores - 1.0) + config.unobserved * scores) @ TABLE + penalty * vector
        np.testing.assert_allclose(slope, 0.0, atol=1e-10)


def test_outer_cells_are_upper_triangles() -> None:
    for vector, cells in zip(TABLE, outer_cells(TABLE), strict=True):
        np.testing.assert_array_equal(np.outer(vector, vector)[np.triu_indices(DIM)], cells)


def test_the_model_fits_recent_items_more() -> None:
    """Item 0 came last: its score gains from a half life, that of the first item falls."""
    histories = Interactions.from_histories([[8, 3, 5, 0]], n_items=ITEMS)
    tensors = {"items": TABLE, "bias": np.zeros(ITEMS)}
    alike, recent = (
        MatrixFactorization(
            n_items=ITEMS, config=MFConfig(dim=DIM, half_life=half_life, fit="squares")
        ).score(tensors, histories)[0]
        for half_life in (0.0, 0.5)
    )
    assert recent[0] / recent[8] != pytest.approx(alike[0] / alike[8])
    weights = np.zeros((1, ITEMS))
    weights[0, [8, 3, 5, 0]] = 1.0
    vector = fit_squares(weights, TABLE, SquaresConfig())[0]
    np.testing.assert_allclose(alike, TABLE @ vector, atol=1e-12)


@pytest.mark.parametrize(
    "setting", [{"unobserved": 0.0}, {"ridge": -1.0}, {"growth": float("nan")}]
)
def test_impossible_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"squares.{next(iter(setting))}"):
        SquaresConfig(**setting)
