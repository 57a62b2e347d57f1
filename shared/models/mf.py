"""Matrix factorisation: items are shared vectors, a user is a vector fitted on the device.

score(u, i) = bias_i + <p_u, v_i>. The federation shares `items` and `bias`; the user vector never
leaves. For scoring, the device fits it anew from its own history with the shared table frozen: a
logistic regression on a few coordinates, in which recent items weigh more. So a new user works at
once, and what was learned on the device last year does not have to be stored.

Source: Hu, Koren & Volinsky 2008 (implicit feedback), Singhal et al. 2021 (fitting the local part
on the device), Ding & Li 2005 (exponential time weights).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.base import Tensors
from shared.randomness import stream

__all__ = ["MFConfig", "MatrixFactorization", "principal_axes", "recency_weights"]

Array = NDArray[np.float64]
Batch = NDArray[np.float32]

NEWTON_STEPS = 6
LARGEST_STEP = 2.0
BATCH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class MFConfig:
    """Settings of matrix factorisation.

    Attributes:
        dim: Coordinates of a vector.
        init: Start of the item table: "normal", "xavier" (uniform, Glorot & Bengio 2010), or
            "content": principal axes of public item content where the catalogue has any.
        init_scale: Standard deviation of a normal coordinate ("xavier" fixes its own).
        content_scale: Factor of the principal axes of 0/1 item features.
        start_bias: Bias of every item before the first round.
        half_life: Events after which an item of the history weighs half when the user vector is
            fitted for scoring; 0 weighs all alike.
        ridge: L2 penalty of that fit.
        negatives: Weight of the unseen catalogue in that fit, in units of the history's weight.

    Raises:
        ConfigError: A number is out of range.
    """

    dim: int = 20
    init: Literal["normal", "xavier", "content"] = "content"
    init_scale: float = 0.1
    content_scale: float = 0.7
    start_bias: float = -2.5
    half_life: float = 5.0
    ridge: float = 1.0
    negatives: float = 4.0

    def __post_init__(self) -> None:
        names = ("dim", "init_scale", "content_scale", "ridge")
        positive = {name: getattr(self, name) for name in names}
        wrong = [f"model.{name}={value} > 0" for name, value in positive.items() if not value > 0]
        least = {"half_life": self.half_life, "negatives": self.negatives}
        wrong += [f"model.{name}={value} >= 0" for name, value in least.items() if not value >= 0]
        if wrong:
            raise ConfigError(f"Expected {', '.join(wrong)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixFactorization:
    """Items as shared vectors and biases; the user as a vector that stays on the device.

    Attributes:
        n_items: Size of the catalogue.
        config: Public settings.
        features: float64 [n_items, any], public item content, or None. Only a starting server
            needs it: what it comes to is in the item table that devices receive.
    """

    n_items: int
    config: MFConfig = field(default_factory=MFConfig)
    features: Array | None = field(default=None, repr=False)

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the shared tensors by name."""
        return {"items": (self.n_items, self.config.dim), "bias": (self.n_items,)}

    @property
    def local_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes, per user, of the tensors that stay on the device."""
        return {"user": (self.config.dim,)}

    def initial(self, seed: int) -> dict[str, Array]:
        """Return the start: from the seed and public item content alone."""
        shape = (self.n_items, self.config.dim)
        rng = stream(seed, "initial items")
        if self.config.init == "xavier":
            bound = np.sqrt(6.0 / sum(shape))
            items = rng.uniform(-bound, bound, shape)
        else:
            items = rng.normal(0.0, self.config.init_scale, shape)
        if self.config.init == "content" and self.features is not None:
            axes = principal_axes(self.features, self.config.dim) * self.config.content_scale
            items[:, : axes.shape[1]] = axes
        return {"items": items, "bias": np.full(self.n_items, self.config.start_bias)}

    def score(self, tensors: Tensors, histories: Interactions) -> Array:
        """Return float64 [rows, n_items]: scores by user vectors fitted to the histories."""
        table = np.concatenate([tensors["items"], tensors["bias"][:, None]], axis=1)
        scores = np.empty((histories.n_users, self.n_items))
        for start in range(0, histories.n_users, BATCH):
            rows = np.arange(start, min(start + BATCH, histories.n_users))
            vectors = self.fit_users(tensors, histories.select(rows))
            scores[rows] = np.append(vectors, np.ones((len(rows), 1)), axis=1) @ table.T
        return scores

    def fit_users(self, tensors: Tensors, histories: Interactions) -> Array:
        """Fit user vectors with the shared tensors frozen (Newton's method, bounded steps).

        Minimises, for each user, the logistic loss of the history's items, weighted by recency,
        against each unseen item with `negatives` / n_items of the history's whole weight, plus
        `ridge` / 2 times the squared norm.

        Returns:
            float64 [rows, dim].
        """
        items = tensors["items"].astype(np.float32)
        bias = tensors["bias"].astype(np.float32)
        seen = self._weights(histories)
        rest = (self.config.negatives / self.n_items) * seen.sum(axis=1, keepdims=True)
        unseen = np.where(seen > 0, np.float32(0), rest)
        pairs = np.einsum("ia,ib->iab", items, items).reshape(self.n_items, -1)
        vectors = np.zeros((histories.n_users, self.config.dim), dtype=np.float32)
        for _ in range(NEWTON_STEPS):
            vectors -= self._newton_step(vectors, items, bias, pairs, seen, unseen)
        return vectors.astype(np.float64)

    def _newton_step(
        self, vectors: Batch, items: Batch, bias: Batch, pairs: Batch, seen: Batch, unseen: Batch
    ) -> Batch:
        """Return the bounded Newton step of every user, float32 [rows, dim]."""
        dim = self.config.dim
        chance = 1.0 / (1.0 + np.exp(-np.clip(vectors @ items.T + bias, -30.0, 30.0)))
        slope = seen * (chance - 1.0) + unseen * chance
        curve = (seen + unseen) * chance * (1.0 - chance)
        gradient = slope @ items + self.config.ridge * vectors
        hessian = (curve @ pairs).reshape(-1, dim, dim) + self.config.ridge * np.eye(dim)
        step = np.linalg.solve(hessian, gradient[..., None].astype(np.float64))[..., 0]
        norm = np.linalg.norm(step, axis=1, keepdims=True)
        bounded = step * np.minimum(1.0, LARGEST_STEP / np.maximum(norm, 1e-12))
        return np.asarray(bounded, dtype=np.float32)

    def _weights(self, histories: Interactions) -> Batch:
        """Return float32 [rows, n_items]: recency weights of the items of each history."""
        weights = np.zeros((histories.n_users, self.n_items), dtype=np.float32)
        recent = recency_weights(histories.lengths, half_life=self.config.half_life)
        np.maximum.at(weights, (histories.users, histories.items), recent)
        return weights


def recency_weights(lengths: NDArray[np.int64], *, half_life: float) -> NDArray[np.float32]:
    """Return a weight for each event of grouped histories, 1 for the newest.

    Args:
        lengths: int64 [users], events of each user.
        half_life: Events after which a weight halves; 0 weighs all alike.

    >>> recency_weights(np.array([3]), half_life=1.0).tolist()
    [0.25, 0.5, 1.0]
    """
    total = int(lengths.sum())
    if half_life == 0.0:
        return np.ones(total, dtype=np.float32)
    ends = np.repeat(np.cumsum(lengths), lengths)
    age = ends - 1 - np.arange(total)
    return np.exp2(-age / half_life).astype(np.float32)


def principal_axes(features: Array, dim: int) -> Array:
    """Return the scaled principal coordinates of public features, at most `dim` columns."""
    centred = features - features.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray((left * scale)[:, :dim])
