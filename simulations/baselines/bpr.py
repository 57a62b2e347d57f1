r"""Bayesian personalised ranking: an item met should score above one that is not.

Each event (u, i) is paired with a uniform item j outside the user's *training* items, and
-log sigmoid(s_ui - s_uj) with an L2 penalty is descended by Adam; s_ui = u.v_i + b_i.

The users' vectors of training are thrown away. A history is scored with a vector of its own, found
by the same descent on that history with the items fixed, from zero: a new user works at once.

Source: Rendle et al. 2009.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.negatives import unmet_items
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.evaluation.protocols import Scorer
from shared.randomness import stream

if TYPE_CHECKING:
    import torch

__all__ = ["BprConfig", "fit_bpr"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class BprConfig:
    """Size and descent.

    Attributes:
        dim: Length of a vector.
        rate: Step of Adam.
        l2: Penalty on the vectors of a triple.
        epochs: Passes over all events.
        batch: Events of one step.
        fold_in: Passes over a history that find its vector.
        fold_in_rate: Step of Adam there.

    Raises:
        ConfigError: A number is out of range.
    """

    stochastic: ClassVar[bool] = True

    dim: int = 128
    rate: float = 0.005
    l2: float = 0.002
    epochs: int = 30
    batch: int = 4096
    fold_in: int = 40
    fold_in_rate: float = 0.1

    def __post_init__(self) -> None:
        counts = (self.dim, self.epochs, self.batch, self.fold_in)
        if min(counts) < 1 or min(self.rate, self.fold_in_rate) <= 0 or self.l2 < 0:
            raise ConfigError(
                f"Expected bpr.dim={self.dim}, bpr.epochs={self.epochs}, bpr.batch={self.batch} "
                f"and bpr.fold_in={self.fold_in} >= 1, bpr.rate={self.rate} and "
                f"bpr.fold_in_rate={self.fold_in_rate} > 0, bpr.l2={self.l2} >= 0."
            )


def fit_bpr(train: Interactions, *, config: BprConfig, seed: int) -> Scorer:
    """Return a scorer that descends to the history's vector with the items fixed.

    Args:
        train: Training interactions of everyone.
        config: Of the method.
        seed: Names start vectors, order of events and negatives.
    """
    import torch

    rng = stream(seed, "bpr")

    def start(rows: int) -> torch.Tensor:
        drawn = rng.standard_normal((rows, config.dim)) * 0.1 / np.sqrt(config.dim)
        return torch.from_numpy(drawn.astype(np.float32)).requires_grad_()

    users, items = start(train.n_users), start(train.n_items)
    bias = torch.zeros(train.n_items, requires_grad=True)
    adam = torch.optim.Adam([users, items, bias], lr=config.rate)
    for epoch in range(config.epochs):
        order = stream(seed, "bpr order", epoch).permutation(len(train))
        drawn = _negatives(train, seed, epoch)
        for part in np.array_split(order, -(-len(order) // config.batch)):
            triple = (train.users[part], train.items[part], drawn[part])
            _step(adam, triple, (users, items, bias), config.l2, events=len(part))
    fixed, level = items.detach(), bias.detach()

    def score(histories: Interactions) -> Floats:
        own = _fold_in(histories, fixed, level, config, seed)
        return np.asarray((own @ fixed.T + level).numpy(), dtype=np.float64)

    return score


def _fold_in(
    histories: Interactions,
    items: "torch.Tensor",
    bias: "torch.Tensor",
    config: BprConfig,
    seed: int,
) -> "torch.Tensor":
    """Return [rows, dim]: the vector of each history; one without events keeps zero."""
    import torch

    own = torch.zeros((histories.n_users, config.dim), requires_grad=True)
    adam = torch.optim.Adam([own], lr=config.fold_in_rate)
    for step in range(config.fold_in if len(histories) else 0):
        triple = (histories.users, histories.items, _negatives(histories, seed, step))
        _step(adam, triple, (own, items, bias), config.l2, events=len(histories))
    return own.detach()


def _step(
    adam: "torch.optim.Optimizer",
    triple: tuple[NDArray[np.int64], ...],
    tables: tuple["torch.Tensor", ...],
    l2: float,
    *,
    events: int,
) -> None:
    """Descend once on triples of a user, an item met and one that is not."""
    import torch

    owner, met, unmet = (torch.from_numpy(column) for column in triple)
    users, items, bias = tables
    u, i, j = users[owner], items[met], items[unmet]
    gap = (u * (i - j)).sum(1) + bias[met] - bias[unmet]
    penalty = u.square().sum() + i.square().sum() + j.square().sum()
    loss = (torch.nn.functional.softplus(-gap).sum() + l2 * penalty) / events
    adam.zero_grad()
    torch.autograd.backward(loss)
    adam.step()


def _negatives(histories: Interactions, seed: int, epoch: int) -> NDArray[np.int64]:
    """Draw an item outside the owner's history for each event."""
    chances = stream(seed, "bpr negatives", epoch).random(len(histories))
    return unmet_items(chances, owner=histories.users, training=histories)
