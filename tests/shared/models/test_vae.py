"""Mult-VAE: what it reads, what it tells, what order means to it."""

from typing import Any

import numpy as np
import pytest
import torch

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.vae import VAEConfig, VAEModel

N_ITEMS = 7


def made(**settings: Any) -> VAEModel:
    return VAEModel(n_items=N_ITEMS, config=VAEConfig(hidden=5, latent=3, **settings))


def moved(model: VAEModel) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {n: v + rng.normal(scale=0.5, size=v.shape) for n, v in model.initial(0).items()}


def scored(model: VAEModel, *histories: list[int]) -> np.ndarray[Any, Any]:
    table = Interactions.from_histories(list(histories), n_items=N_ITEMS)
    return model.score(moved(model), table)


def test_scores_are_the_formula() -> None:
    model, tensors = made(), moved(made())
    basket = np.zeros(N_ITEMS)
    basket[[1, 4]] = 1 / np.sqrt(2)
    inner = np.tanh(basket @ tensors["read"] + tensors["read.bias"])
    code = (inner @ tensors["squeeze"])[:3]
    expected = np.tanh(code @ tensors["widen"]) @ tensors["items"].T + tensors["bias"]
    np.testing.assert_allclose(scored(model, [1, 4, 1])[0], expected, atol=1e-5)


def test_order_means_nothing_unless_recent_items_weigh_more() -> None:
    plain, recent = made(), made(half_life=1.0)
    np.testing.assert_allclose(*scored(plain, [1, 2, 3], [3, 1, 2]))
    one, other = scored(recent, [1, 2, 3], [3, 1, 2])
    assert np.abs(one - other).max() > 1e-3
    assert recent.baskets(Interactions.from_histories([[2, 0, 2]], n_items=N_ITEMS)).tolist() == [
        [0.5, 0, 1.0, 0, 0, 0, 0]
    ]


def test_an_empty_history_is_told_finitely_with_finite_slopes() -> None:
    model = made()
    values = {n: torch.tensor(v, requires_grad=True) for n, v in moved(model).items()}
    middle, spread = model.encoded(values, torch.zeros((1, N_ITEMS), dtype=torch.float64))
    (model.decoded(values, middle).sum() + spread.sum()).backward()
    assert all(torch.isfinite(v.grad).all() for v in values.values() if v.grad is not None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden": 0},
        {"latent": 0},
        {"dropout": 1.0},
        {"divergence": -1.0},
        {"half_life": -1.0},
        {"init_scale": 0.0},
    ],
)
def test_bad_settings_of_the_autoencoder_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        VAEConfig(**wrong)
