"""Popularity, both halves: devices report which items they met, the server adds up.

An interaction is a (user, item) pair: an item met twice counts once, so nobody votes twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Alike, Cohort, Memory, State
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.popularity import PopularityModel
from shared.privacy.gaussian import perturb
from shared.privacy.plan import Plan, Unit
from shared.privacy.release import LocalUpdate, Release, Rows
from shared.randomness import NoiseSource

__all__ = ["Popularity", "PopularityConfig"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PopularityConfig:
    """Settings of the count.

    Attributes:
        sampling_rate: Probability that the device's coin lets one interaction into a private
            count; 1 counts everything.

    Raises:
        ConfigError: The rate is not in (0, 1].
    """

    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.sampling_rate <= 1.0:
            raise ConfigError(f"Expected popularity.sampling_rate={self.sampling_rate} in (0, 1].")


@dataclass(frozen=True, kw_only=True, slots=True)
class Popularity(Alike):
    """Counts of items, exact or noised; each round's count is added to the last.

    Attributes:
        n_items: Size of the catalogue.
        config: Public settings.
    """

    n_items: int
    config: PopularityConfig = field(default_factory=PopularityConfig)

    @property
    def model(self) -> PopularityModel:
        """The model this method learns."""
        return PopularityModel(n_items=self.n_items)

    @property
    def sampling_rate(self) -> float:
        """Public probability that one interaction enters a round's count."""
        return self.config.sampling_rate

    @property
    def local_steps(self) -> int:
        """One noised count a round."""
        return 1

    def purpose(self, round: int) -> str:
        """Return that every round counts."""
        return "counts"

    def start(self, seed: int) -> State:
        """Return counts of zero."""
        return State(tensors=self.model.initial(seed), optimiser={}, round=0)

    def memory(self, keys: Ints, seed: int) -> dict[str, Array]:
        """Return nothing: no tensor stays on the device."""
        return {}

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> tuple[LocalUpdate, Memory]:
        """Return each user's distinct items with value 1, and no memory."""
        owner, items = _distinct(cohort.histories)
        rows = Rows(owner=owner, index=items, values=np.ones(len(items)), shape=(self.n_items,))
        users = cohort.histories.n_users
        return LocalUpdate(tensors={"counts": rows}, users=users), {}

    def contribute_per_interaction(
        self, state: State, cohort: Cohort, plan: Plan, noise: NoiseSource
    ) -> tuple[Release, Memory]:
        """Return the cohort's noised sum of the interactions that the devices' coins let in.

        An interaction's contribution is the indicator of its item, whose L2 norm 1 is clipped to
        `plan.clip_norm`. Each device adds Gaussian noise of standard deviation
        `noise_multiplier * clip_norm` to every item, met or not. Only the sum over the cohort
        leaves, and a sum of n independent Gaussians is one Gaussian of n times the variance: a
        packed cohort makes that one draw, which is exact in distribution. A stand-in's draw is
        therefore named by the round and the first user, and depends on packing.

        Raises:
            ConfigError: The plan protects another unit than one interaction, or its noise is not
                positive and finite.

        Guarantees:
            an interaction moves the sum by at most `plan.clip_norm`.
            every item is noised.
        """
        if plan.unit is not Unit.INTERACTION:
            raise ConfigError(f"Expected unit=interaction for this count, found unit={plan.unit}.")
        _, items = _distinct(cohort.histories)
        users = cohort.histories.n_users
        keys: tuple[str | int, ...] = ("popularity", cohort.round, *cohort.keys[:1].tolist())
        drawn = items[noise.coins(len(items), plan.sampling_rate, *keys)]
        weights = np.full(len(drawn), min(1.0, plan.clip_norm))
        counts = np.bincount(drawn, weights=weights, minlength=self.n_items).astype(np.float64)
        variance = users * (plan.noise_multiplier * plan.clip_norm) ** 2
        release = perturb(
            {"counts": counts}, variance={"counts": variance}, users=users, noise=noise, keys=keys
        )
        return release, {}

    def absorb(self, state: State, total: Mapping[str, Array], plan: Plan) -> State:
        """Add the round's sum, back in events: clipping and sampling are divided out."""
        private = plan.unit is Unit.INTERACTION
        scale = min(1.0, plan.clip_norm) * plan.sampling_rate if private else 1.0
        counts = state.tensors["counts"] + total["counts"] / scale
        return State(tensors={"counts": counts}, optimiser={}, round=state.round + 1)


def _distinct(histories: Interactions) -> tuple[Ints, Ints]:
    """Return owner and item of every distinct (user, item) pair."""
    pairs = np.unique(histories.users * histories.n_items + histories.items)
    owner, items = np.divmod(pairs, max(histories.n_items, 1))
    return owner, items
