"""The public description of a private run: everything in it may be printed, sent and recorded.

`PrivacyConfig` is what a person asks for; `Plan` is what that comes to for a population and a
number of rounds. Both hold settings only, never a datum.
"""

from dataclasses import dataclass
from enum import StrEnum

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


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyConfig:
    """What a person asks for.

    Attributes:
        unit: What is protected ("user", "interaction", "none").
        trust: Who adds the noise ("distributed", "central", "local").
        epsilon: Budget of one unit over the whole run.
        delta: Failure probability; 0 means the rule of `accounting.default_delta`.
        clip_norm: L2 bound of one unit's contribution to one step.
        noise: Source of protective draws: "os" (the only private one), "seeded" or "off".
    """

    unit: Unit = Unit.INTERACTION
    trust: Trust = Trust.LOCAL
    epsilon: float = 8.0
    delta: float = 0.0
    clip_norm: float = 1.0
    noise: str = "os"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the request comes to: the parameters every device checks and the ledger records.

    Attributes:
        unit: What is protected.
        trust: Who adds the noise.
        epsilon: Budget asked for; `inf` without protection.
        delta: Failure probability; 0 without protection.
        clip_norm: L2 bound of one unit's contribution to one step.
        noise_multiplier: Noise standard deviation divided by `clip_norm`, per noised step.
        sampling_rate: Probability that one unit enters one step, by the device's own coin.
        steps_per_round: Noised steps in one participation.
        participations: Most rounds that one device may take part in.
        rounds: Rounds of the run.
        expected_cohort: Public denominator: users expected in one round.
        noise: Source of protective draws ("os", "seeded", "off").
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

    @property
    def steps(self) -> int:
        """Noised steps of one device over the whole run."""
        return self.participations * self.steps_per_round
