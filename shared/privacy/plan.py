"""The public description of a private run: everything in it may be printed, sent and recorded.

`PrivacyConfig` is what a person asks for; `Plan` is what that comes to for a population and a
number of rounds. Both hold settings only, never a datum, and neither can be built with a number
or a name that would void the guarantee: what is wrong is said before any data is read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np

from shared.errors import ConfigError
from shared.privacy.accounting import Spend
from shared.privacy.bands import (
    check_bands,
    participation_spend,
    sensitivity,
    weighted_norm,
)
from shared.privacy.bounds import count, number
from shared.privacy.charges import Budget
from shared.randomness import NOISE_NAMES

__all__ = ["Plan", "PrivacyConfig", "Trust", "Unit"]


class Unit(StrEnum):
    """What one privacy unit is: what the guarantee hides the presence of."""

    USER = "user"
    INTERACTION = "interaction"
    NONE = "none"


class Trust(StrEnum):
    """Who adds the noise, and so who has to be trusted."""

    DISTRIBUTED = "distributed"
    CENTRAL = "central"
    LOCAL = "local"


Name = TypeVar("Name", Unit, Trust)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyConfig:
    """What a person asks for.

    Attributes:
        unit: What is protected ("user", "interaction", "none").
        trust: Who adds the noise ("distributed", "central", "local").
        epsilon: Budget of one unit over the whole run.
        delta: Failure probability; None means the rule of `calibration.default_delta`.
        clip_norm: L2 bound of one unit's contribution to one step; of a user, to one round.
        noise: Source of protective draws: "os" (the only private one), "seeded" or "off".
        dropouts: Share of a cohort that may fall silent in a round (trust "distributed"): the
            noise is enough without them.
        colluders: Share of a cohort that may work with the server (trust "distributed"): their
            noise is not counted.
        clip_quantile: Share of the users whose contributions shall be within the clip norm, which
            then moves from round to round (`adaptive_clip`); 0 keeps it fixed.
        clip_share: Of the budget, in mu^2, for the bits that move the clip norm.
        metrics_share: Of the budget, in mu^2, for one more round in which devices measure the
            final model; 0 measures nothing.
        separation: A device takes part at most once in any so many consecutive rounds, and
            refuses to come sooner; 1 allows every round (unit "user").
        bands: Rounds over which noise is correlated (`correlated`; trust "central"): 1 is
            independent noise, 0 as many as the separation allows.

    Raises:
        ConfigError: A number is not finite or out of range, a name is unknown, or the unit and
            the trust do not go together.
    """

    unit: Unit = Unit.INTERACTION
    trust: Trust = Trust.LOCAL
    epsilon: float = 8.0
    delta: float | None = None
    clip_norm: float = 0.3
    noise: str = "os"
    dropouts: float = 0.05
    colluders: float = 0.05
    clip_quantile: float = 0.0
    clip_share: float = 0.01
    metrics_share: float = 0.0
    separation: int = 1
    bands: int = 0

    def __post_init__(self) -> None:
        _check_names(self)
        for name in ("dropouts", "colluders"):
            share = getattr(self, name)
            if not 0.0 <= share < 0.5:
                raise ConfigError(f"Expected a share {name}={share} of a cohort in [0, 0.5).")
        _check_parts(self)
        object.__setattr__(self, "epsilon", number("epsilon", self.epsilon))
        if self.delta is not None:
            object.__setattr__(self, "delta", number("delta", self.delta))
        object.__setattr__(self, "clip_norm", number("clip_norm", self.clip_norm))
        _check_separation(self, bands=self.bands or self.separation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the request comes to: the parameters every device checks and the ledger records.

    Attributes:
        unit: What is protected.
        trust: Who adds the noise.
        epsilon: Budget asked for; `inf` without protection.
        delta: Failure probability; 0 without protection.
        clip_norm: L2 bound of one unit's contribution to one step.
        noise_multiplier: Noise standard deviation divided by `clip_norm`, per noised step; with
            `shares`, of the average round.
        sampling_rate: Probability that one unit enters one step, by the device's own coin; 1 for
            whole users.
        steps_per_round: Noised steps in one participation; 1 for whole users.
        participations: Most rounds that one device may take part in.
        rounds: Rounds of the run.
        expected_cohort: Public denominator: users expected in one round.
        noise: Source of protective draws ("os", "seeded", "off").
        shares: What each round takes of the whole budget, in mu^2 of Gaussian DP, summing to 1;
            empty where all rounds are alike.
        dropouts: Users of a cohort without whom the noise is still enough (trust distributed).
        colluders: Users of a cohort whose noise is not counted (trust distributed).
        clip_quantile: As in the request; with it `clip_norm` is that of one round.
        clip_share: As in the request.
        metrics_share: As in the request; the last round is then a measurement.
        separation: Least distance in rounds of two participations; devices refuse to come sooner.
        bands: Rounds over which the noise is correlated; 1 for independent noise. The multiplier
            is then of the fresh draws.

    Raises:
        ConfigError: As for `PrivacyConfig`; also when a plan without protection claims some.
    """

    unit: Unit
    trust: Trust
    epsilon: float
    delta: float
    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    steps_per_round: int
    participations: int
    rounds: int
    expected_cohort: int
    noise: str
    shares: tuple[float, ...] = ()
    dropouts: int = 0
    colluders: int = 0
    clip_quantile: float = 0.0
    clip_share: float = 0.0
    metrics_share: float = 0.0
    separation: int = 1
    bands: int = 1

    def __post_init__(self) -> None:
        _check_names(self)
        object.__setattr__(self, "clip_norm", number("clip_norm", self.clip_norm))
        object.__setattr__(self, "sampling_rate", number("sampling_rate", self.sampling_rate))
        for name in ("steps_per_round", "rounds", "expected_cohort"):
            object.__setattr__(self, name, count(name, getattr(self, name)))
        why = "no device takes part more often than there are rounds"
        count("participations", self.participations, most=self.rounds, why=why)
        if self.unit is Unit.NONE:
            self._check_claims_nothing()
        else:
            for name in ("epsilon", "delta", "noise_multiplier"):
                object.__setattr__(self, name, number(name, getattr(self, name)))
        self._check_shares()
        _check_parts(self)
        if self.unit is Unit.USER and (self.sampling_rate, self.steps_per_round) != (1.0, 1):
            raise ConfigError(
                "Expected sampling_rate=1 and steps_per_round=1 with unit=user, found "
                f"{self.sampling_rate:g} and {self.steps_per_round}: a participation is one "
                "release of a whole contribution, and no sampling is claimed."
            )
        _check_separation(self, bands=self.bands)
        if self.bands > 1 and self.shares:
            raise ConfigError(
                "Expected no shares of the budget by round where noise is correlated; set "
                "privacy.bands=1 or choose another algorithm."
            )

    def _check_shares(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))
        if not self.shares:
            return
        if self.unit is Unit.INTERACTION or self.participations != self.rounds:
            raise ConfigError(
                "Expected no shares of the budget by round with unit=interaction or where devices "
                "skip rounds: every device would have to take part in every round; set cohort=1."
            )
        sound = all(isinstance(s, float) and 0.0 < s <= 1.0 for s in self.shares)
        if not sound or len(self.shares) != self.rounds or abs(math.fsum(self.shares) - 1.0) > 1e-9:
            raise ConfigError(
                f"Expected {self.rounds} positive shares of the budget that sum to 1, one a round, "
                f"found {len(self.shares)}; the learning method sets them."
            )

    def _check_claims_nothing(self) -> None:
        claims = (self.epsilon, self.delta, self.noise_multiplier)
        if claims != (math.inf, 0.0, 0.0):
            raise ConfigError(
                "Expected epsilon=inf, delta=0 and noise_multiplier=0 with unit=none, found "
                f"{claims[0]}, {claims[1]} and {claims[2]}; use unit=interaction for protection."
            )

    @property
    def private(self) -> bool:
        """Whether the run protects a unit with noise that nobody can repeat."""
        return self.unit is not Unit.NONE and self.noise == "os"

    def multiplier(self, round: int) -> float:
        """Return the noise multiplier of a round, from 1: a larger share means less noise.

        Raises:
            ConfigError: The budget is shared out by round, and the run has no such round.
        """
        if not self.shares:
            return self.noise_multiplier
        if not 1 <= round <= self.rounds:
            raise ConfigError(f"Expected a round in 1 .. {self.rounds}, found {round}; plan more.")
        return self.noise_multiplier / math.sqrt(self.shares[round - 1] * self.rounds)

    def spend(self, round: int) -> Spend:
        """Return what taking part in a round, from 1, costs one unit in all.

        Raises:
            ConfigError: The plan protects nothing, so there is nothing to account.
        """
        if self.bands > 1:
            return participation_spend(
                noise_multiplier=self.noise_multiplier,
                round=round,
                rounds=self.rounds,
                separation=self.separation,
                bands=self.bands,
            )
        return Spend(
            noise_multiplier=self.multiplier(round),
            sampling_rate=self.sampling_rate,
            steps=self.steps_per_round,
        )

    def spends(self, rounds: int) -> tuple[Spend, ...]:
        """Return what the first `rounds` participations cost a unit that comes as soon as it may.

        Raises:
            ConfigError: The plan protects nothing, so there is nothing to account.
        """
        return tuple(self.spend(1 + turn * self.separation) for turn in range(rounds))

    @property
    def total_spend(self) -> Spend:
        """What the whole run costs a unit whose device takes part as often as it may.

        Raises:
            ConfigError: The plan protects nothing, so there is nothing to account.
        """
        if self.bands > 1:
            moved = sensitivity(rounds=self.rounds, separation=self.separation, bands=self.bands)
            whole = self.noise_multiplier / moved
            return Spend(noise_multiplier=whole, sampling_rate=1.0, steps=1)
        return Spend(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
        )

    @property
    def budget(self) -> Budget:
        """What one unit may spend over the whole run.

        Raises:
            ConfigError: The plan protects nothing, so there is nothing to account.
        """
        return Budget(epsilon=self.epsilon, delta=self.delta, planned=self.total_spend)

    @property
    def minimum(self) -> int:
        """Fewest users in the sum of a round."""
        return self.expected_cohort - self.dropouts

    @property
    def honest(self) -> int:
        """Fewest users in the sum of a round whose noise counts (trust distributed)."""
        return self.minimum - self.colluders

    def sum_deviation(self, round: int) -> float:
        """Return the standard deviation of the noise on one value of a round's sum.

        It is public. With trust=distributed all of the cohort are taken to answer; with
        unit=interaction it is that of steps of length 1. What rides along in the release for a
        share of its budget is taken off before. With several bands it is the marginal one: noises
        of different rounds are then correlated, and only `weighted_deviation` says what is in a
        sum over rounds.
        """
        if self.bands > 1:
            return self.weighted_deviation((*[0.0] * (round - 1), 1.0))
        return self._fresh_deviation(round)

    def weighted_deviation(
        self, weights: Sequence[float], *, blocks: tuple[int, ...] = (1,)
    ) -> float:
        """Return the standard deviation of the noise in a weighted sum over rounds, exactly.

        Args:
            weights: Of the sums of rounds 1, 2, ...; 0 for a round that is not in it.
            blocks: Rounds at which correlated noise began afresh: 1, and after each restart.

        Guarantees:
            Weighted deviation is exact: it is that of the released noise, whatever the weights.
        """
        if self.bands > 1:
            norm = weighted_norm(np.asarray(weights), bands=self.bands, blocks=blocks)
            return self._fresh_deviation(1) * norm
        return math.hypot(*(w * self._fresh_deviation(r) for r, w in enumerate(weights, 1)))

    def _fresh_deviation(self, round: int) -> float:
        """Return the standard deviation of what is drawn for one value of a round's sum."""
        once = self.multiplier(round) * self.clip_norm
        if self.clip_quantile:
            once /= math.sqrt(1.0 - self.clip_share)
        if self.unit is Unit.INTERACTION:
            return once * math.sqrt(self.expected_cohort * self.steps_per_round)
        draws = {
            Trust.CENTRAL: 1.0,
            Trust.LOCAL: float(self.expected_cohort),
            Trust.DISTRIBUTED: self.expected_cohort / max(1, self.honest),
        }
        return once * math.sqrt(draws[self.trust])

    @property
    def steps(self) -> int:
        """Noised steps of one device over the whole run."""
        return self.participations * self.steps_per_round


def _check_names(settings: PrivacyConfig | Plan) -> None:
    """Turn plain strings into names, and refuse unknown ones and impossible pairs."""
    unit, trust = _named(Unit, "unit", settings.unit), _named(Trust, "trust", settings.trust)
    object.__setattr__(settings, "unit", unit)
    object.__setattr__(settings, "trust", trust)
    if settings.noise not in NOISE_NAMES:
        raise ConfigError(_unknown("noise", settings.noise, NOISE_NAMES))
    if unit is Unit.INTERACTION and trust is not Trust.LOCAL:
        raise ConfigError(
            f"Expected trust=local with unit=interaction, found trust={trust}; the device itself "
            "must add the noise that hides one interaction."
        )


def _check_separation(settings: PrivacyConfig | Plan, *, bands: int) -> None:
    """Refuse a separation that nothing enforces or that correlated noise would break.

    A unit that comes every round has no separation, which is what 1 says.
    """
    check_bands(bands, settings.separation)
    shared = settings.unit is Unit.USER and settings.trust is not Trust.LOCAL
    if settings.separation > 1 and not shared:
        raise ConfigError(
            f"Expected separation=1 with unit={settings.unit} and trust={settings.trust}, found "
            f"{settings.separation}; it is for unit=user with trust=central or distributed."
        )
    if bands > 1 and settings.trust is Trust.DISTRIBUTED:
        raise ConfigError(
            "Expected trust=central where noise is correlated, found trust=distributed, under "
            "which devices cannot yet do so in a run; set privacy.bands=1 for independent noise."
        )
    if bands > 1 and (settings.clip_quantile or settings.metrics_share):
        raise ConfigError(
            "Expected clip_quantile=0 and metrics_share=0 where noise is correlated: all rounds "
            "must be of one kind and one clip norm; set privacy.bands=1."
        )


def _check_parts(settings: PrivacyConfig | Plan) -> None:
    """Refuse parts of the budget that cannot be had."""
    for name in ("clip_quantile", "clip_share", "metrics_share"):
        if not 0.0 <= getattr(settings, name) < 1.0:
            raise ConfigError(f"Expected {name}={getattr(settings, name)} in [0, 1).")
    if settings.unit is Unit.INTERACTION and (settings.clip_quantile or settings.metrics_share):
        raise ConfigError(
            "Expected clip_quantile=0 and metrics_share=0 with unit=interaction: one interaction "
            "can change a norm or a metric by any amount; use unit=user."
        )
    if settings.clip_quantile and not settings.clip_share:
        raise ConfigError("Expected clip_share > 0 with clip_quantile: its bits are paid for.")


def _named(kind: type[Name], setting: str, value: str) -> Name:
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(_unknown(setting, value, tuple(kind))) from None


def _unknown(setting: str, value: object, known: tuple[str, ...]) -> str:
    return f"Unknown {setting}={value}; use one of {', '.join(known)}."
