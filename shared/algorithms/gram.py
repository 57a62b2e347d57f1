r"""Gram statistics, both halves: devices report which items they met, the server solves.

Without a head (no protection) one round of plain sums gives the Gram matrix \(\sum_u x_u x_u^T\)
of the 0/1 histories, and with it exactly the item-kNN or the EASE of a central fit.

With a head (whole users protected) there are two rounds, as for transitions: private counts choose
the head, then each user reports the pairs of its head items, all alike, as one vector of norm 1.
The rest is free post-processing: the popular part is known from the counts, what exceeds it is
shrunk by its known noise in blocks of public item content. Of that the positive part is kept: only
so is the estimate a Gram matrix, and every system that is solved from it well-posed.

Source: Steck 2019; Deshpande & Karypis 2004; Gavish & Donoho 2017; Higham 1988.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Cohort, Memory, Shapes, State
from shared.algorithms.headed import Headed
from shared.algorithms.pairs import count_rows, distinct, head_pairs, square
from shared.algorithms.spectra import content_basis, positive_part, shrink_blocks
from shared.algorithms.transitions import LEAST_COUNT, edge_of
from shared.errors import ConfigError
from shared.models.linear import Linear
from shared.models.transitions import head_of
from shared.privacy.plan import Plan, Unit
from shared.privacy.release import LocalUpdate, Release, Rows
from shared.randomness import NoiseSource

__all__ = ["Gram", "GramConfig", "gram_head_size"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class GramConfig:
    """Settings of private statistics; plain sums have none.

    Attributes:
        counts: Share of the budget that the private counts take.
        edge: Factor of the noise edge in shrinkage; 0 leaves it to the rule of `edge_of`.

    Raises:
        ConfigError: A number is out of range.
    """

    counts: float = 0.1
    edge: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.counts < 1.0:
            raise ConfigError(f"Expected algorithm.counts={self.counts} in (0, 1).")
        if not 0.0 <= self.edge < np.inf:
            raise ConfigError(f"Expected algorithm.edge={self.edge} >= 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gram(Headed):
    """How often items meet, exact or private.

    Attributes:
        model: The linear model that is solved from it.
        config: Public settings.
    """

    model: Linear
    config: GramConfig = field(default_factory=GramConfig)

    def asked(self, round: int) -> Shapes:
        """Return counts, then pairs of the head; without a head the upper triangle of it all."""
        size = self.model.size
        if not self._head:
            return {"gram": (size * (size + 1) // 2,)}
        return {"pairs": (size * (size - 1) // 2,)} if round == 2 else {"counts": self._items}

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> tuple[LocalUpdate, Memory]:
        """Return counts or pairs, a user's of norm `plan.clip_norm`; plain sums without a head.

        Guarantees:
            every private contribution has norm clip norm, or 0.
            repeats count once.

        Raises:
            ConfigError: Users are to be protected without a head.
        """
        if not self._head:
            rows = self._plain(cohort, plan)
        elif cohort.round == 1:
            owner, index, values = count_rows(cohort.histories)
            scaled = values * plan.clip_norm
            rows = {"counts": Rows(owner=owner, index=index, values=scaled, shape=self._items)}
        else:
            head = head_of(state.tensors["counts"], self.model.size)
            owner, index, values, _ = head_pairs(cohort.histories, head, decay=1.0)
            scaled, shape = values * plan.clip_norm, self.asked(2)["pairs"]
            rows = {"pairs": Rows(owner=owner, index=index, values=scaled, shape=shape)}
        return LocalUpdate(tensors=rows, users=cohort.histories.n_users), {}

    def contribute_per_interaction(
        self, state: State, cohort: Cohort, plan: Plan, noise: NoiseSource
    ) -> tuple[Release, Memory]:
        """Refuse: one interaction is in many pairs, so no noise on one pair hides it.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "Gram statistics protect whole users; use unit=user, or model=mf for unit=interaction."
        )

    def absorb(self, state: State, total: Mapping[str, Array], plan: Plan) -> State:
        """Keep the counts, or solve for the weights.

        Guarantees:
            without signal above the noise the ranking is that of the private counts.
            plain sums give the weights of a central fit.
        """
        round_ = state.round + 1
        if not self._head:
            gram = _whole(total["gram"], self.model.n_items)
            tensors = {"counts": np.diag(gram).copy(), "weights": self.model.solve(gram)}
        elif round_ == 1:
            # Rounded as for transitions: the order of sums must not decide between equal counts.
            rounded = np.round(total["counts"] / plan.clip_norm, 3)
            tensors = {**state.tensors, "counts": rounded.astype(np.float32).astype(np.float64)}
        else:
            gram = self._estimated(state.tensors["counts"], total["pairs"] / plan.clip_norm, plan)
            tensors = {**state.tensors, "weights": self.model.solve(gram)}
        return State(tensors=tensors, optimiser={}, round=round_)

    @property
    def _items(self) -> tuple[int, ...]:
        return (self.model.n_items,)

    def _plain(self, cohort: Cohort, plan: Plan) -> dict[str, Rows]:
        """Return the cohort's sums under its first user: nothing is clipped, so nobody has rows."""
        from scipy.sparse import csr_array, triu

        if plan.unit is not Unit.NONE:
            raise ConfigError("Expected model.head of 2 or more to protect users, found 0; set it.")
        users, items = distinct(cohort.histories)
        shape = (cohort.histories.n_users, self.model.n_items)
        held = csr_array((np.ones(len(users)), (users, items)), shape=shape)
        met = triu(held.T @ held, format="coo")
        low, high = met.coords[0].astype(np.int64), met.coords[1].astype(np.int64)
        index = low * (2 * self.model.n_items - low - 1) // 2 + high
        first = np.zeros(len(index), dtype=np.int64)
        values = met.data.astype(np.float64)
        return {"gram": Rows(owner=first, index=index, values=values, shape=self.asked(1)["gram"])}

    def _estimated(self, counts: Array, pairs: Array, plan: Plan) -> Array:
        """Return the positive semidefinite Gram matrix over the head that noised pairs speak for.

        In units of a user's pairs, each sqrt(2 / (k (k - 1))): the pairs of a user with k head
        items sum to about sqrt(2) k, and its items alone to sqrt(2).
        """
        head = head_of(counts, self.model.size)
        level = np.maximum(counts[head], LEAST_COUNT * max(float(counts[head].mean()), 1e-12))
        share = level / level.sum()
        deviation = plan.sum_deviation(2) / plan.clip_norm
        edge = self.config.edge or edge_of(plan.expected_cohort / deviation if deviation else 0.0)
        features = self.model.features
        basis = content_basis(None if features is None else features[head])
        met, alone = square(pairs), math.sqrt(2.0) * plan.expected_cohort
        popular = np.outer(share, share) * np.clip(met.sum(), alone, alone * len(head))
        rest = positive_part(shrink_blocks(met - popular, edge * deviation, basis))
        return np.asarray(np.diag(alone * share) + popular + rest)


def _whole(cells: Array, size: int) -> Array:
    """Return the symmetric matrix of an upper triangle with its diagonal, row by row."""
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = cells
    return np.asarray(matrix + np.triu(matrix, 1).T)


def gram_head_size(strength: float, n_items: int) -> int:
    """Return the size of the head that private Gram statistics span.

    Args:
        strength: Users times mu, as for `transitions.head_size`. Public: no data enters.
        n_items: Size of the catalogue.

    >>> [gram_head_size(x, 10_000) for x in (253.0, 678.0, 1886.0, 11160.0)]
    [201, 270, 367, 625]
    """
    size = round(200.0 * math.pow(max(strength, 0.0) / 250.0, 0.3))
    return max(2, min(1000, n_items, size))
