"""Self-attention over a history, next item by a softmax over the whole catalogue.

Item and position vectors, causal blocks with the norm first, and scores by the product with the
same item vectors. A history longer than the window is trained in windows whose cuts move with the
epoch, and scored by its last window; no vector of a user exists, so a new user works at once.

Source: Kang & McAuley 2018; Klenitskiy & Vasilev 2023 (the full softmax instead of one negative).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.evaluation.protocols import Scorer
from shared.randomness import stream

if TYPE_CHECKING:
    import torch

__all__ = ["SasrecConfig", "fit_sasrec"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_EMPTY = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class SasrecConfig:
    """Size and descent.

    Attributes:
        dim: Length of a vector.
        window: Most events that are looked at together.
        blocks: Self-attention blocks.
        heads: Heads of each block; divides `dim`.
        dropout: Share of values dropped in training.
        rate: Step of Adam.
        epochs: Passes over all events.
        batch: Windows of one step.

    Raises:
        ConfigError: A number is out of range.
    """

    stochastic: ClassVar[bool] = True

    dim: int = 64
    window: int = 100
    blocks: int = 2
    heads: int = 1
    dropout: float = 0.2
    rate: float = 0.001
    epochs: int = 30
    batch: int = 64

    def __post_init__(self) -> None:
        counts = (self.dim, self.window - 1, self.blocks, self.heads, self.epochs, self.batch)
        if min(counts) < 1 or self.rate <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                "Expected sasrec.window >= 2, every other count of sasrec >= 1, "
                f"sasrec.rate={self.rate} > 0 and sasrec.dropout={self.dropout} in [0, 1)."
            )
        if self.dim % self.heads:
            raise ConfigError(f"Expected sasrec.heads={self.heads} to divide dim={self.dim}.")


def fit_sasrec(train: Interactions, *, config: SasrecConfig, seed: int) -> Scorer:
    """Return a scorer that reads the last window of a history.

    Args:
        train: Training interactions of everyone.
        config: Of the method.
        seed: Names start vectors, dropout, windows and their order.
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(int(stream(seed, "sasrec").integers(2**62)))
        encoder, items = _network(train.n_items, config)
        adam = torch.optim.Adam([*encoder.parameters(), items], lr=config.rate)
        for epoch in range(config.epochs):
            rng = stream(seed, "sasrec windows", epoch)
            windows = _windows(train, config.window + 1, rng)
            windows = windows[rng.permutation(len(windows))]
            for part in np.array_split(windows, max(1, -(-len(windows) // config.batch))):
                _step(adam, encoder, items, torch.from_numpy(part))
    encoder.eval()

    def score(histories: Interactions) -> Floats:
        last = torch.from_numpy(_last(histories, config.window))
        with torch.no_grad():
            states = encoder(last, items)
            ends = (last != _EMPTY).sum(1).clamp(min=1) - 1
            values = states[torch.arange(len(last)), ends] @ items.T
        return np.asarray(values.numpy(), dtype=np.float64)

    return score


def _network(n_items: int, config: SasrecConfig) -> tuple["torch.nn.Module", "torch.nn.Parameter"]:
    """Return the encoder of [rows, window] item indices and the table of item vectors."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        """Windows of items, padded behind with -1, to a state at each place."""

        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.randn(config.window, config.dim) * scale)
            self.drop = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    config.dim,
                    config.heads,
                    dim_feedforward=config.dim,
                    dropout=config.dropout,
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(config.blocks)
            )
            self.norm = nn.LayerNorm(config.dim)

        def forward(self, windows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            """Return float32 [rows, width, dim]; padding lies behind, so no place looks at it."""
            width = windows.shape[1]
            later = nn.Transformer.generate_square_subsequent_mask(width)
            states = items[windows.clamp(min=0)] * config.dim**0.5 + self.places[:width]
            states = self.drop(states)
            for block in self.blocks:
                states = block(states, src_mask=later, is_causal=True)
            out: torch.Tensor = self.norm(states)
            return out

    scale = 0.02
    table = nn.Parameter(torch.randn(n_items, config.dim) * scale)
    return Encoder(), table


def _step(
    adam: "torch.optim.Optimizer",
    encoder: "torch.nn.Module",
    items: "torch.nn.Parameter",
    windows: "torch.Tensor",
) -> None:
    """Descend once on the cross-entropy of every next item in the windows."""
    import torch

    known, following = windows[:, :-1], windows[:, 1:]
    real = following != _EMPTY
    scores = encoder(known, items)[real] @ items.T
    loss = torch.nn.functional.cross_entropy(scores, following[real])
    adam.zero_grad()
    torch.autograd.backward(loss)
    adam.step()


def _windows(histories: Interactions, width: int, rng: np.random.Generator) -> Ints:
    """Cut every history into windows that overlap by one event, padded behind with -1.

    The first cut is random, so what the window before it hid is seen in another epoch.
    """
    step, rows = width - 1, []
    cuts = rng.integers(1, width, size=histories.n_users)
    for user in np.flatnonzero(histories.lengths >= 2).tolist():
        history = histories.history(user)
        first = 0 if len(history) <= width else int(cuts[user]) - step
        for start in range(first, len(history) - 1, step):
            part = history[max(start, 0) : start + width]
            rows.append(np.pad(part, (0, width - len(part)), constant_values=_EMPTY))
    return np.stack(rows) if rows else np.zeros((0, width), dtype=np.int64)


def _last(histories: Interactions, width: int) -> Ints:
    """Return int64 [rows, width]: the last events of each history, padded behind with -1."""
    kept = np.minimum(histories.lengths, width)
    matrix = np.full((histories.n_users, width), _EMPTY, dtype=np.int64)
    rows = np.repeat(np.arange(histories.n_users), kept)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(kept) - kept, kept)
    matrix[rows, places] = histories.items[histories.offsets[1:][rows] - kept[rows] + places]
    return matrix
