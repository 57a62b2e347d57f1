"""The noise of a trusted server: fresh in each round, or taking back some of the rounds before."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shared.privacy.correlated import CorrelatedNoise
from shared.privacy.gaussian import privatise_total
from shared.privacy.plan import Plan
from shared.privacy.release import Release
from shared.randomness import noise_source

__all__ = ["Noising"]


class Noising:
    """What a trusted server adds to the sums of one run, until the process ends.

    Args:
        plan: Protects a user, with trust central.
        seed: Of stand-ins; protective noise never sees it.

    Raises:
        ConfigError: The source of noise is unknown.
    """

    def __init__(self, plan: Plan, *, seed: int) -> None:
        self._source = noise_source(plan.noise, seed)
        self._correlated: CorrelatedNoise | None = None
        if plan.bands > 1:
            self._correlated = CorrelatedNoise(bands=plan.bands, source=self._source)

    @property
    def remembers(self) -> bool:
        """Whether a restart loses what later rounds would have taken back."""
        return self._correlated is not None

    def release(
        self, total: Mapping[str, NDArray[np.float64]], *, users: int, plan: Plan, round: int
    ) -> Release:
        """Release the sum of a round, the next one of the run.

        Raises:
            ConfigError: The plan protects another unit or trusts another party.
            RunError: A sum is not finite, or the tensors are not those of the rounds before.
        """
        keys = ("central", round)
        if self._correlated is None:
            return privatise_total(
                total, users=users, plan=plan, noise=self._source, round=round, keys=keys
            )
        return self._correlated.privatise(
            total,
            users=users,
            plan=plan,
            noise_multiplier=plan.multiplier(round),
            keys=keys,
        )
