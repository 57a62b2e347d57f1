"""Next-item examples of a cohort and their loss: at each position, which item comes next.

Every draw (where a window ends, which coordinates drop out) is named by (seed, round, step, user),
never by a place in the cohort, so it does not depend on packing.

Source: Hidasi & Karatzoglou 2018 (losses over many items), Petrov & Macdonald 2023 (calibrated
sampled losses).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Cohort
from shared.errors import ConfigError
from shared.models.predictor import Predictor
from shared.randomness import stream

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["ExampleConfig", "draw_candidates", "draw_examples", "losses"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleConfig:
    """Settings of the examples and of their loss.

    Attributes:
        anywhere: Probability that the window of a history that is longer than a window ends
            anywhere in it instead of at its newest event.
        recency: Half-life of an example's weight, in events; 0 weighs all of a user alike.
        weighting: What a user's examples weigh together: 1 ("mean"), or the square root of their
            number ("root"), which is for runs without protection: a private one takes the mean.
        candidates: Items drawn for a round that the next one is told from; 0 takes the catalogue.
        smoothing: Share of the target that is spread over the candidates.

    Raises:
        ConfigError: A number is out of range.
    """

    anywhere: float = 0.5
    recency: float = 0.0
    weighting: Literal["mean", "root"] = "root"
    candidates: int = 0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        shares = {"anywhere": self.anywhere, "smoothing": self.smoothing}
        wrong = [
            f"{name}={value} in [0, 1]" for name, value in shares.items() if not 0 <= value <= 1
        ]
        least = {"recency": self.recency, "candidates": self.candidates}
        wrong += [f"{n}={v} >= 0" for n, v in least.items() if not 0 <= v < math.inf]
        if self.smoothing and self.candidates:
            wrong.append("smoothing=0 with sampled candidates")
        if wrong:
            raise ConfigError(f"Expected algorithm.examples with {', '.join(wrong)}.")


def draw_examples(
    config: ExampleConfig,
    model: Predictor,
    cohort: Cohort,
    *,
    step: int,
    weighted: bool,
    kind: "torch.dtype",
) -> dict[str, "Torch"]:
    """Draw the examples of one local step.

    Args:
        config: Public settings.
        model: The model.
        cohort: The users and their training histories.
        step: Number of the local step, from 0.
        weighted: Whether `config.weighting` holds; else a user's examples weigh 1 together.
        kind: Number type.

    Returns:
        The windows as `Predictor.prepared` returns them; `weights` [users, width], of the
        example that asks for each event, 0 behind a window's length; with dropout, `masks`
        [users, width, masks, dim]; and what the model draws for all users in common.
    """
    import torch

    draws = [stream(cohort.seed, "next item", cohort.round, step, int(k)) for k in cohort.keys]
    ends = cohort.histories.lengths
    if config.anywhere:
        size = model.config.window
        pairs = zip(draws, ends.tolist(), strict=True)
        ends = np.array([_end(rng, n, size, config.anywhere) for rng, n in pairs], dtype=np.int64)
    windows = model.windows(cohort.histories, ends)
    batch = model.prepared(windows, kind=kind)
    weights = _weights(windows.lengths, config, weighted=weighted)
    batch["weights"] = torch.tensor(weights, dtype=kind)
    if model.config.dropout:
        batch["masks"] = torch.tensor(_masks(model, windows.lengths, draws), dtype=kind)
    common = stream(cohort.seed, "in common", cohort.round, step)
    return {**batch, **model.common(common, kind=kind)}


def _end(rng: np.random.Generator, length: int, size: int, anywhere: float) -> int:
    """Return how many events of a history are known to its window."""
    chance, place = rng.random(2)
    if length <= size or chance >= anywhere:
        return length
    return size + int(place * (length - size + 1))


def _weights(lengths: Ints, config: ExampleConfig, *, weighted: bool) -> NDArray[np.float64]:
    """Return float64 [users, width]; a user's weights sum to 1 or to the root of their number."""
    width = int(lengths.max(initial=0))
    age = lengths[:, None] - 1 - np.arange(width)
    weights = np.where(age >= 0, 1.0, 0.0)
    if config.recency:
        weights *= np.exp2(-np.maximum(age, 0) / config.recency)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    if weighted and config.weighting == "root":
        weights *= np.sqrt(lengths)[:, None]
    return weights


def _masks(
    model: Predictor, lengths: Ints, draws: list[np.random.Generator]
) -> NDArray[np.float32]:
    """Return float32 [users, width, masks, dim]: 0, or 1 / (1 - dropout)."""
    keep = 1.0 - model.config.dropout
    shape = (model.masks, model.config.dim)
    masks = np.zeros((len(lengths), int(lengths.max(initial=0)), *shape), dtype=np.float32)
    for row, (rng, length) in enumerate(zip(draws, lengths.tolist(), strict=True)):
        masks[row, :length] = rng.random((length, *shape), dtype=np.float32) < keep
    return masks / np.float32(keep)


def draw_candidates(
    config: ExampleConfig, *, n_items: int, seed: int, round: int
) -> "Torch | None":
    """Return the items that a round tells the next one from: public, drawn without data.

    Returns:
        int64 [candidates], ascending; None for the whole catalogue.
    """
    import torch

    if not 0 < config.candidates < n_items:
        return None
    rng = stream(seed, "candidates", round)
    return torch.from_numpy(np.sort(rng.choice(n_items, config.candidates, replace=False)))


def losses(
    config: ExampleConfig,
    model: Predictor,
    tensors: Mapping[str, "Torch"],
    batch: Mapping[str, "Torch"],
    candidates: "Torch | None",
    *,
    packed: bool,
) -> "Torch":
    """Return the weighted cross-entropy of a batch, summed over its users.

    Args:
        config: Public settings.
        model: The model.
        tensors: The global tensors.
        batch: What `draw_examples` returns.
        candidates: What `draw_candidates` returns.
        packed: Leave out what lies behind the windows' lengths, for speed: the same sum.
    """
    import torch

    tensors = model.ready(tensors, batch)
    targets, weights = batch["events"], batch["weights"]
    states = model.states(tensors, {**batch, "events": targets[:, :-1]}, batch.get("masks"))
    if packed:
        inside = weights > 0
        states, targets, weights = states[inside], targets[inside], weights[inside]
    if candidates is None:
        scores, right = model.scores(tensors, states), targets
    else:
        scores = _sampled(model, tensors, states, targets, candidates)
        right = torch.zeros_like(targets)
    lost = torch.nn.functional.cross_entropy(
        scores.flatten(0, -2),
        right.flatten(),
        reduction="none",
        label_smoothing=config.smoothing,
    )
    return (weights.flatten() * lost).sum()


def _sampled(
    model: Predictor,
    tensors: Mapping[str, "Torch"],
    states: "Torch",
    targets: "Torch",
    candidates: "Torch",
) -> "Torch":
    """Return the scores of the target, first, and of the sample that stands for all other items.

    The sum of their exponentials is that of the catalogue in expectation: a sampled item stands
    for (n_items - 1) / (sampled items besides the target) others.
    """
    import torch

    right = model.paired(tensors, states, targets)
    scores = model.scores(tensors, states, candidates)
    same = targets.unsqueeze(-1) == candidates
    others = (len(candidates) - same.sum(dim=-1, keepdim=True)).to(scores.dtype)
    up = torch.log((model.n_items - 1) / others)
    return torch.cat([right.unsqueeze(-1), (scores + up).masked_fill(same, -math.inf)], dim=-1)
