"""With one local step, a user's contribution is Opacus's gradient of a sample that is a user."""

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from training import averaging, cohort, off_centre, plan

from shared.algorithms.examples import draw_batches
from shared.algorithms.optimisers import OptimiserConfig
from shared.privacy.release import clip

RATE = 0.7
HISTORIES = [[0, 5, 3, 7, 1, 9], [4], [], [2, 3, 8]]
WEIGHT = 0.6


class UserLoss(nn.Module):
    """The loss of a whole user; where a user has fewer examples than others, the mask is 0."""

    def __init__(self, items: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        for name, value in {"items": items, "bias": bias[:, None]}.items():
            table = nn.Embedding(*value.shape, dtype=torch.float64)
            table.weight.data = torch.tensor(value)
            setattr(self, name, table)

    def forward(self, user: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = (self.items(rows) * user[:, None, None, :]).sum(dim=3) + self.bias(rows).squeeze(3)
        lost = nn.functional.logsigmoid(scores[:, :, 0])
        lost = lost + WEIGHT * nn.functional.logsigmoid(-scores[:, :, 1:]).sum(dim=2)
        return -(lost * mask).sum(dim=1)


def padded(users, algorithm) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [users, examples, 1 + negatives] and their mask [users, examples]."""
    slots, (batch,) = draw_batches(users, steps=1, rate=1.0, negatives=2, noise=None)
    rows = np.zeros((len(HISTORIES), 6, 3), dtype=np.int64)
    mask = np.zeros(rows.shape[:2])
    for user in range(len(HISTORIES)):
        own = slots.row[batch.slots[batch.owner == user]]
        rows[user, : len(own)], mask[user, : len(own)] = own, 1.0
    return torch.tensor(rows), torch.tensor(mask)


def by_opacus(users, algorithm, state, clip_norm: float) -> dict[str, np.ndarray]:
    """Opacus's clipped sum of gradients, one sample a user, as an update of the rows."""
    module = UserLoss(state.tensors["items"], state.tensors["bias"])
    wrapped = GradSampleModule(module, loss_reduction="sum")
    optimiser = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=RATE),
        noise_multiplier=0.0,
        max_grad_norm=clip_norm / RATE,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    rows, mask = padded(users, algorithm)
    wrapped(torch.tensor(users.memory["user"]), rows, mask).sum().backward()
    optimiser.step()
    return {
        "items": module.items.weight.detach().numpy() - state.tensors["items"],
        "bias": module.bias.weight.detach().numpy()[:, 0] - state.tensors["bias"],
    }


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("clip_norm", [0.4, 1.5, 1e3])
def test_clipped_sum_is_opacus_with_users_as_samples(clip_norm: float) -> None:
    algorithm = averaging(
        12,
        local_steps=1,
        negatives=2,
        negative_weight=WEIGHT,
        examples=1.0,
        bias_rate=1.0,
        local=OptimiserConfig(rate=RATE),
    )
    users = cohort(algorithm, HISTORIES)
    state = off_centre(algorithm.start(3))
    update, _ = algorithm.contribute(state, users, plan(algorithm, unit="none"))
    clipped = clip(update, clip_norm=clip_norm)
    changed = [
        not np.array_equal(clipped.tensors[n].values, r.values) for n, r in update.tensors.items()
    ]
    assert any(changed) == (clip_norm < 1e3)
    for name, expected in by_opacus(users, algorithm, state, clip_norm).items():
        # Opacus adds 1e-6 to a norm before it divides.
        np.testing.assert_allclose(clipped.tensors[name].total(), expected, rtol=1e-5, atol=1e-9)
