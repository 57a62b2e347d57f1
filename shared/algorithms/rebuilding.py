"""Histories that an autoencoder tells again, and the loss of it.

Every draw (which items the encoder does not see, the noise of the code) is named by (seed, round,
step, user), never by a place in the cohort, so it does not depend on packing.

Source: Liang et al. 2018 (multinomial likelihood, divergence of a chosen weight).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Cohort
from shared.algorithms.next_item import ExampleConfig
from shared.models.vae import VAEModel
from shared.randomness import stream

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["draw_histories", "rebuilding_losses"]


def draw_histories(
    config: ExampleConfig,
    model: VAEModel,
    cohort: Cohort,
    *,
    step: int,
    weighted: bool,
    kind: "torch.dtype",
) -> dict[str, "Torch"]:
    """Draw what the encoder sees in one local step, and what the decoder has to say.

    Args:
        config: Public settings; `weighting` and `recency` hold here too.
        model: The model.
        cohort: The users and their training histories.
        step: Number of the local step, from 0.
        weighted: Whether `config.weighting` holds; else a user's history weighs 1.
        kind: Number type.

    Returns:
        `seen` [users, n_items], weights for the encoder; `asked` [users, n_items], weights of the
        targets; `draws` [users, latent], standard normal; `share` [users], of the divergence.
    """
    import torch

    settings, users = model.config, cohort.histories.n_users
    kept = np.zeros((users, model.n_items))
    draws = np.zeros((users, settings.latent))
    for row, key in enumerate(cohort.keys.tolist()):
        rng = stream(cohort.seed, "rebuilding", cohort.round, step, key)
        kept[row] = rng.random(model.n_items) >= settings.dropout
        draws[row] = rng.standard_normal(settings.latent)
    asked, share = _targets(config, cohort, model.n_items, weighted=weighted)
    made = {
        "seen": model.baskets(cohort.histories) * kept,
        "asked": asked,
        "draws": draws,
        "share": share,
    }
    return {name: torch.tensor(value, dtype=kind) for name, value in made.items()}


def _targets(
    config: ExampleConfig, cohort: Cohort, n_items: int, *, weighted: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights of the items to be told, and the weight of a user's divergence."""
    table = cohort.histories
    asked = np.zeros((table.n_users, n_items))
    age = np.repeat(table.offsets[1:], table.lengths) - 1 - np.arange(len(table))
    recent = np.exp2(-age / config.recency) if config.recency else np.ones(len(age))
    np.maximum.at(asked, (table.users, table.items), recent)
    many = np.maximum((asked > 0).sum(axis=1), 1)
    asked /= np.maximum(asked.sum(axis=1, keepdims=True), 1e-12)
    share = np.where(table.lengths > 0, 1.0 / many, 0.0)
    if weighted and config.weighting == "root":
        asked, share = asked * np.sqrt(many)[:, None], share * np.sqrt(many)
    return asked, share


def rebuilding_losses(
    model: VAEModel, tensors: Mapping[str, "Torch"], batch: Mapping[str, "Torch"]
) -> "Torch":
    """Return the weighted loss of a batch, summed over its users.

    Args:
        model: The model.
        tensors: The global tensors.
        batch: What `draw_histories` returns.
    """
    import torch

    middle, spread = model.encoded(tensors, batch["seen"])
    codes = middle + batch["draws"] * torch.exp(0.5 * spread)
    chances = torch.log_softmax(model.decoded(tensors, codes), dim=-1)
    apart = 0.5 * (middle.square() + spread.exp() - spread - 1.0).sum(dim=-1)
    told = (batch["asked"] * chances).sum(dim=-1)
    return (model.config.divergence * batch["share"] * apart - told).sum()
