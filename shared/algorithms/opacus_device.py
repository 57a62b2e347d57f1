"""Private training of one device after the other with Opacus, on the compact tables they touch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from shared.algorithms.local_training import LocalTables
from shared.algorithms.optimisers import shrink
from shared.algorithms.private_training import Descent
from shared.privacy.dpsgd import LazyNoise, opacus_descent

__all__ = ["FactorLoss", "descend_devices"]


class FactorLoss(nn.Module):
    """Loss of each example of one user, with every parameter an embedding that Opacus knows.

    A block's parameter is what it adds to its frozen start, divided by the block's scale: so
    Opacus sees the scaled gradient in its joint clip. The user vector has no frozen start.

    Args:
        user: float64 [1, dim].
        items: float64 [rows, dim], start of the rows the user touches.
        bias: float64 [rows, 1].
        scales: Scale of each block.
        negative_weight: Weight of one negative.
    """

    def __init__(
        self,
        user: torch.Tensor,
        items: torch.Tensor,
        bias: torch.Tensor,
        *,
        scales: Mapping[str, float],
        negative_weight: float,
    ) -> None:
        super().__init__()
        self.user = _embedding(user / scales["user"])
        self.items = _embedding(torch.zeros_like(items))
        self.bias = _embedding(torch.zeros_like(bias))
        self.start = (items, bias)
        self.scales = dict(scales)
        self.negative_weight = negative_weight

    def forward(self, slots: torch.Tensor) -> torch.Tensor:
        """Return float64 [examples] for int64 [examples, 1 + negatives], positive first."""
        items, bias = (start[slots] for start in self.start)
        user = self.user(torch.zeros_like(slots[:, :1])) * self.scales["user"]
        items = items + self.items(slots) * self.scales["items"]
        bias = bias + self.bias(slots) * self.scales["bias"]
        scores = (items * user).sum(dim=-1) + bias[..., 0]
        positive = nn.functional.softplus(-scores[:, 0])
        return positive + self.negative_weight * nn.functional.softplus(scores[:, 1:]).sum(dim=1)


def _embedding(weight: torch.Tensor) -> nn.Embedding:
    rows, dim = weight.shape
    return nn.Embedding(rows, dim, _weight=weight)


def descend_devices(descent: Descent, debts: Mapping[str, LazyNoise]) -> LocalTables:
    """Train each device with Opacus; see `private_training.descend_together`.

    Opacus noises every row of a compact table at every step, so those rows owe nothing more.
    """
    moved = descent.start.unmoved()
    users = descent.cohort.histories.n_users
    bounds = np.searchsorted(descent.slots.owner, np.arange(users + 1))
    for user in range(users):
        _descend_device(descent, moved, user, slice(int(bounds[user]), int(bounds[user + 1])))
    for debt in debts.values():
        debt.settled(steps=len(descent.batches))
    return moved


def _descend_device(descent: Descent, moved: LocalTables, user: int, own: slice) -> None:
    """Write one user's vector and the changes of its slots, `own`, into `moved`."""
    start, blocks, plan = descent.start, descent.blocks, descent.plan
    scales = {name: block.scale for name, block in blocks.items()}
    module = FactorLoss(
        torch.from_numpy(start.user[user : user + 1]),
        torch.from_numpy(start.items[own]),
        torch.from_numpy(start.bias[own, None]),
        scales=scales,
        negative_weight=descent.negative_weight,
    )
    values = {name: p.detach().numpy() for name, p in module.named_parameters()}
    vector, block = values["user.weight"], blocks["user"]

    def penalise() -> None:
        vector[:] = shrink(vector, l1=block.l1 / block.scale, l2=block.l2)

    opacus_descent(
        module,
        [(torch.from_numpy(b.slots[b.owner == user] - own.start),) for b in descent.batches],
        rates={f"{name}.weight": b.rate / b.scale**2 for name, b in blocks.items()},
        clip_norm=plan.clip_norm,
        noise_multiplier=plan.noise_multiplier,
        noise=descent.noise,
        keys=("device", descent.cohort.round, int(descent.cohort.keys[user])),
        after_step=penalise if block.l1 or block.l2 else None,
    )
    moved.user[user] = vector[0] * scales["user"]
    moved.items[own] = values["items.weight"] * scales["items"]
    moved.bias[own] = values["bias.weight"][:, 0] * scales["bias"]
