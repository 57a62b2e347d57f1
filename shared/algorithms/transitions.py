r"""Transitions, both halves: devices report what followed what, the server solves in closed form.

Without a head (no protection) one round of plain sums is enough: counts, and for each decay g the
ordered pairs \(T_g[a, b] = \sum g^{lag}\). With the decayed history \(h\), and every history
followed by events that teach nothing, the normal equations of predicting what comes next from it
are combinations of these: \(A_{gk} = (T_g + T_k^T + D) / (1 - g k)\) and
\(B_g = (T_g - T_\delta) / (g - \delta)\), D the counts. So the server gets exactly the ridge
regression of a central fit.

With a head (whole users protected) there are two rounds: private counts choose the head, then each
user reports its pairs of head items as one matrix of norm 1. What was paid for once is
post-processed freely: the popular part is known from the counts, the rest is shrunk by its known
noise in blocks of public item content, and the same ridge is solved from what is left.

Both items of a pair are known to have met; which came first costs as much again. Under much noise
only the first is asked (`order = "no"`): it is better known then.

Source: facts of this project, sections 5.1 to 5.3; Steck 2019; Gavish & Donoho 2017.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Cohort, Memory, Shapes, State
from shared.algorithms.headed import Headed
from shared.algorithms.pairs import count_rows, distinct, head_pairs, pair_sums, square
from shared.algorithms.spectra import content_basis, content_vectors, shrink_blocks
from shared.errors import ConfigError
from shared.models.transitions import TransitionsModel, head_of
from shared.privacy.plan import Plan, Unit
from shared.privacy.release import LocalUpdate, Release, Rows
from shared.randomness import NoiseSource

__all__ = ["Transitions", "TransitionsTraining", "edge_of", "head_size", "keeps_order"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_COUNT = 0.05
"""Floor of a noised count, in mean counts of the head."""

LEAST_EIGENVALUE = 0.1
"""Floor of the eigenvalues of a noised system whose diagonal is 1 or less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransitionsTraining:
    """Settings of the two halves.

    Attributes:
        target: Decay of what counts as next, without a head; 0 is the very next item.
        ridge: Penalty of the closed form without a head, in events.
        support: Share of the users who must have met an item for it to count in the two longer
            blocks, without a head: fewer rows to solve for.
        head_ridge: The same penalty with a head, in mean counts of the head.
        overlap: Weight of pairs against single items in the head's system.
        order: Whether private devices report which item of a pair came first; "auto" leaves it to
            the rule of `keeps_order`.
        counts: Share of the budget that the private counts take.
        edge: Factor of the noise edge in shrinkage; 0 leaves it to the rule of `edge_of`.
        discount: Power of an item's popularity that divides its score, with a head.

    Raises:
        ConfigError: A number is out of range.
    """

    target: float = 0.2
    ridge: float = 700.0
    support: float = 0.015
    head_ridge: float = 2.0
    overlap: float = 0.5
    order: Literal["auto", "yes", "no"] = "auto"
    counts: float = 0.1
    edge: float = 0.0
    discount: float = 0.15

    def __post_init__(self) -> None:
        wrong = []
        for name in ("target", "support", "counts", "discount"):
            if not 0.0 <= getattr(self, name) < 1.0:
                wrong.append(f"algorithm.{name}={getattr(self, name)} in [0, 1)")
        for name in ("ridge", "head_ridge"):
            if not getattr(self, name) > 0.0:
                wrong.append(f"algorithm.{name}={getattr(self, name)} > 0")
        for name in ("overlap", "edge"):
            if not getattr(self, name) >= 0.0:
                wrong.append(f"algorithm.{name}={getattr(self, name)} >= 0")
        if self.counts == 0.0:
            wrong.append("algorithm.counts above 0")
        if wrong:
            raise ConfigError(f"Expected {', '.join(wrong)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transitions(Headed):
    """Closed-form transitions, exact or private.

    Attributes:
        model: The model it learns.
        config: Public settings.

    Raises:
        ConfigError: The target's decay is that of a block.
    """

    model: TransitionsModel
    config: TransitionsTraining = field(default_factory=TransitionsTraining)

    def __post_init__(self) -> None:
        if not self._head and self.config.target in self.model.config.blocks:
            raise ConfigError(
                f"Expected algorithm.target={self.config.target} to differ from the model's decays."
            )

    def asked(self, round: int) -> Shapes:
        """Return counts, then pairs; both at once without a head."""
        counts: Shapes = {"counts": (self.model.n_items,)}
        if self._head and round == 1:
            return counts
        return self._pairs if self._head else {**counts, **self._pairs}

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> tuple[LocalUpdate, Memory]:
        """Return counts or pairs, a user's of norm `plan.clip_norm`; plain sums without a head.

        Guarantees:
            every private contribution has norm clip norm, or 0.
            repeats count once: an item met again stands where it was met last.

        Raises:
            ConfigError: Users are to be protected without a head.
        """
        if not self._head:
            return self._plain(cohort, plan), {}
        rows = (
            self._counted(cohort, plan) if cohort.round == 1 else self._paired(state, cohort, plan)
        )
        return LocalUpdate(tensors=rows, users=cohort.histories.n_users), {}

    def contribute_sum(
        self, state: State, cohort: Cohort, plan: Plan
    ) -> tuple[Mapping[str, Array], Memory]:
        """Return the cohort's counts and pairs in dense sums: for runs without protection."""
        if not self._head:
            return self._sums(cohort, plan), {}
        update, memory = self.contribute(state, cohort, plan)
        return {name: rows.total() for name, rows in update.tensors.items()}, memory

    def contribute_per_interaction(
        self, state: State, cohort: Cohort, plan: Plan, noise: NoiseSource
    ) -> tuple[Release, Memory]:
        """Refuse: a pair is of two interactions, so no noise on one hides the other.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "Transitions protect whole users; use unit=user, or model=mf for unit=interaction."
        )

    def absorb(self, state: State, total: Mapping[str, Array], plan: Plan) -> State:
        """Keep the counts, or solve for the weights.

        Guarantees:
            without signal above the noise the ranking is that of the private counts.
            closed form equals a central solve of the same sums.
        """
        round_ = state.round + 1
        if not self._head:
            tensors = {"counts": total["counts"], "weights": self._solved(total, plan)}
        elif round_ == 1:
            # The head is what devices see, in float32; rounding keeps the order in which users
            # are summed from deciding between equal counts.
            rounded = np.round(total["counts"] / plan.clip_norm, 3)
            counts = rounded.astype(np.float32).astype(np.float64)
            tensors = {**state.tensors, "counts": counts}
        else:
            tensors = {**state.tensors, **self._denoised(state, total["pairs"], plan)}
        return State(tensors=tensors, optimiser={}, round=round_)

    @property
    def _ordered(self) -> bool:
        return self.config.order == "yes"

    @property
    def _decays(self) -> tuple[float, ...]:
        """The distinct decays above 0 whose pairs are asked without a head."""
        return tuple(g for g in (*self.model.config.blocks, self.config.target) if g > 0.0)

    @property
    def _pairs(self) -> Shapes:
        size = self.model.size
        if not self._head:
            return {"pairs": (size * size, len(self._decays))}
        return {"pairs": (size * (size - 1) // 2, 2 if self._ordered else 1)}

    def _counted(self, cohort: Cohort, plan: Plan) -> dict[str, Rows]:
        users, items, values = count_rows(cohort.histories)
        values = values * plan.clip_norm
        shape = (self.model.n_items,)
        return {"counts": Rows(owner=users, index=items, values=values, shape=shape)}

    def _paired(self, state: State, cohort: Cohort, plan: Plan) -> dict[str, Rows]:
        head = head_of(state.tensors["counts"], self.model.size)
        decay = self.model.config.decay
        owner, cells, weights, forward = head_pairs(cohort.histories, head, decay=decay)
        values = (weights * plan.clip_norm)[:, None]
        if self._ordered:
            values = np.concatenate([values, np.where(forward, 1, -1)[:, None] * values], axis=1)
            values /= math.sqrt(2.0)
        shape = self._pairs["pairs"]
        return {"pairs": Rows(owner=owner, index=cells, values=values, shape=shape)}

    def _plain(self, cohort: Cohort, plan: Plan) -> LocalUpdate:
        """Return the cohort's sums under its first user: nothing is clipped, so nobody has rows."""
        rows = {}
        for name, values in self._sums(cohort, plan).items():
            index = np.flatnonzero((values.reshape(len(values), -1) != 0.0).any(axis=1))
            first = np.zeros(len(index), dtype=np.int64)
            rows[name] = Rows(owner=first, index=index, values=values[index], shape=values.shape)
        return LocalUpdate(tensors=rows, users=cohort.histories.n_users)

    def _sums(self, cohort: Cohort, plan: Plan) -> dict[str, Array]:
        if plan.unit is not Unit.NONE:
            raise ConfigError("Expected model.head of 2 or more to protect users, found 0; set it.")
        n_items = self.model.n_items
        items = distinct(cohort.histories)[1]
        return {
            "counts": np.bincount(items, minlength=n_items).astype(np.float64),
            "pairs": pair_sums(cohort.histories, self._decays).reshape(n_items * n_items, -1),
        }

    def _solved(self, total: Mapping[str, Array], plan: Plan) -> Array:
        """Solve the ridge regression from plain sums, float32 inside to bound the memory."""
        from scipy.linalg import cho_solve, cholesky

        counts, blocks = total["counts"].astype(np.float32), self.model.config.blocks
        pairs = total["pairs"].astype(np.float32).reshape(len(counts), len(counts), -1)
        found = {g: pairs[:, :, place] for place, g in enumerate(self._decays)}
        none = np.zeros((len(counts), len(counts)), dtype=np.float32)
        known = counts >= self.config.support * plan.expected_cohort
        kept = [counts > 0.0, *[known] * (len(blocks) - 1)]
        edges = np.cumsum([0, *(int(rows.sum()) for rows in kept)])
        places = [slice(*pair) for pair in itertools.pairwise(edges)]
        system = np.zeros((edges[-1], edges[-1]), dtype=np.float32, order="F")
        right = np.zeros((edges[-1], len(counts)), dtype=np.float32, order="F")
        target = self.config.target
        for row, g in enumerate(blocks):
            for column, k in enumerate(blocks[: row + 1]):
                block = (found.get(g, none) + found.get(k, none).T + np.diag(counts)) / (1 - g * k)
                system[places[row], places[column]] = block[np.ix_(kept[row], kept[column])]
            whole = (found.get(g, none) - found.get(target, none)) / (g - target)
            right[places[row]] = whole[kept[row]]
        system[np.diag_indices(len(system))] += np.float32(self.config.ridge)
        factor = cholesky(system, lower=True, overwrite_a=True, check_finite=False)
        solved = cho_solve((factor, True), right, overwrite_b=True, check_finite=False)
        weights = np.zeros(self.model.global_shapes["weights"])
        weights[np.concatenate(kept)] = solved
        return weights

    def _denoised(self, state: State, pairs: Array, plan: Plan) -> dict[str, Array]:
        """Return the weights over the head from noised pairs: shrink, solve, discount.

        The content goes with them where anything stood out of the noise: else counts rank alone.
        """
        counts = state.tensors["counts"]
        head = head_of(counts, self.model.size)
        least = LEAST_COUNT * max(float(counts[head].mean()), 1e-12)
        level = np.maximum(counts[head], least)
        share, decay = level / level.sum(), self.model.config.decay
        popular, rest = self._parts(pairs / plan.clip_norm, level, head, plan)
        single = level * math.sqrt(1.0 - decay**2)
        weights = _head_ridge(single, popular, rest, decay * self.config.overlap, self.config)
        weights = weights / (share / share.mean() + 0.5) ** self.config.discount
        shape, features = self.model.global_shapes.get("content"), self.model.features
        if shape is None or features is None or not rest.any():
            return {"weights": weights}
        return {"weights": weights, "content": content_vectors(features[head], shape[1])}

    def _parts(self, pairs: Array, level: Array, head: Ints, plan: Plan) -> tuple[Array, Array]:
        """Return the popular part and the rest of the sum of the users' unit matrices.

        A matrix holds a pair at its first item's row and its next item's column.
        """
        deviation = plan.sum_deviation(2) / plan.clip_norm
        edge = self.config.edge or edge_of(plan.expected_cohort / deviation if deviation else 0.0)
        features = self.model.features
        basis = content_basis(None if features is None else features[head])
        half = math.sqrt(0.5) if self._ordered else 1.0
        noise = edge * deviation / half
        met = square(pairs[:, 0] / half, 1.0)
        decay, share = self.model.config.decay, level / level.sum()
        # No more can follow an item than a whole history: so far noise may carry the sum.
        most = 2.0 * level.sum() * math.sqrt(1.0 - decay**2) / (1.0 - decay)
        popular = np.outer(share, share) * np.clip(met.sum(), 0.01 * most, most)
        rest = shrink_blocks(met - popular, noise, basis)
        if self._ordered:
            rest = rest + shrink_blocks(square(pairs[:, 1] / half, -1.0), noise, basis)
        return popular / 2.0, rest / 2.0


def _head_ridge(
    single: Array, popular: Array, rest: Array, overlap: float, config: TransitionsTraining
) -> Array:
    """Solve the ridge regression of one decay from the estimated pairs over the head.

    Eigenvalues that noise made small or negative are raised, so the solution stays bounded.
    """
    apart = rest + rest.T
    np.fill_diagonal(apart, 0.0)
    scale = np.sqrt(single + config.head_ridge * single.mean())
    system = np.eye(len(scale)) + overlap * (2.0 * popular + apart) / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(system)
    inverse = (vectors / np.maximum(values, LEAST_EIGENVALUE)) @ vectors.T
    return np.asarray(inverse @ ((popular + rest) / scale[:, None]) / scale[:, None])


def head_size(strength: float, n_items: int) -> int:
    """Return the size of the head that a private run learns over.

    Args:
        strength: Users times mu, the Gaussian-DP parameter of the whole run; with local trust its
            square root of users. Public: no data enters.
        n_items: Size of the catalogue.

    >>> [head_size(x, 10_000) for x in (253.0, 678.0, 1430.0, 3912.0, 11160.0)]
    [101, 197, 327, 649, 1000]
    """
    size = round(100.0 * math.pow(max(strength, 0.0) / 250.0, 0.68))
    return max(2, min(1000, n_items, size))


def keeps_order(strength: float) -> bool:
    """Return whether the order within pairs is worth its noise (arguments of `head_size`)."""
    return strength >= 8000.0


def edge_of(strength: float) -> float:
    """Return the factor of the noise edge: ranking keeps more than the least square error would.

    >>> [round(edge_of(x), 2) for x in (253.0, 1430.0, 11160.0)]
    [1.1, 0.94, 0.76]
    """
    return float(np.clip(1.1 - 0.09 * math.log(max(strength, 1.0) / 250.0), 0.7, 1.1))
