"""Under which terms a ledger was begun or a charge made: what an auditor must know beside sigma.

Everything here is public. Where nobody said it, it is absent: an auditor reports it as unknown.
"""

import hashlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from shared.privacy.plan import Plan, Trust, Unit

__all__ = ["ADJACENCY", "RNG_POLICY", "Terms", "code_digest"]

ADJACENCY: Final = "add-or-remove"
"""The relation that every epsilon of this package is for."""

RNG_POLICY: Final = {
    "os": "AES-256-CTR under a fresh OS key per draw, no seed exists: float64 Gaussian, or with "
    "trust=distributed exact discrete Gaussian on a grid",
    "seeded": "repeatable stand-in: not private",
    "off": "no noise: not private",
}
"""Where protective draws come from, by the name of their source."""

MECHANISMS: Final = {
    "interaction/local": "DP-SGD on the device: per-interaction clip and Gaussian noise, version 1",
    "user/local": "Gaussian mechanism on the device: whole contribution clipped, version 1",
    "user/distributed": "distributed discrete Gaussian: whole contributions clipped and rounded to "
    "a grid, noise shares of the devices, secure sum modulo 2^32, version 1",
    "user/central": "Gaussian mechanism on the server: whole contributions clipped, version 1",
}

CORRELATED: Final = (
    "; noise correlated over rounds by a banded square-root Toeplitz matrix, devices keep the "
    "separation, version 1"
)
"""What is added to the name where there is more than one band."""

ROOMS: Final = ("client", "server", "shared")


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The public terms of a protected piece of work.

    Attributes:
        unit: What is protected.
        trust: Who adds the noise.
        epsilon: Budget of one unit; None without protection.
        delta: Failure probability; None without protection.
        clip_norm: L2 bound of one unit's contribution to one step.
        clip_policy: How the bound was chosen: "fixed", or after which quantile it moves.
        metrics_share: Part of the budget, in mu^2, for the devices' measurement of the model.
        noise_multiplier: Claimed noise; None without protection.
        sampling_rate: Claimed sampling rate, by the device's own coin.
        steps_per_round: Noised steps in one participation.
        participations: Most rounds that one device may take part in.
        rounds: Rounds of the run.
        expected_cohort: Public denominator of a round.
        noise: Source of the protective draws.
        shares: Of the budget by round, in mu^2; empty where all rounds are alike.
        honest: Fewest honest devices whose noise is counted in a sum; None where nobody shares it.
        separation: Least distance in rounds of two participations, which devices enforce.
        bands: Rounds over which the noise is correlated; 1 for independent noise.
        mechanism: Name and version of the mechanism; None where this version knows no name.
    """

    unit: str
    trust: str
    epsilon: float | None
    delta: float | None
    clip_norm: float
    clip_policy: str
    noise_multiplier: float | None
    sampling_rate: float
    steps_per_round: int
    participations: int
    rounds: int
    expected_cohort: int
    noise: str
    shares: tuple[float, ...]
    honest: int | None
    metrics_share: float
    separation: int
    bands: int
    mechanism: str | None

    @classmethod
    def from_plan(cls, plan: Plan) -> "Terms":
        """Return the terms of a plan."""
        protected = plan.unit is not Unit.NONE
        return cls(
            unit=str(plan.unit),
            trust=str(plan.trust),
            epsilon=plan.epsilon if protected else None,
            delta=plan.delta if protected else None,
            clip_norm=plan.clip_norm,
            clip_policy=_clip_policy(plan),
            noise_multiplier=plan.noise_multiplier if protected else None,
            sampling_rate=plan.sampling_rate,
            steps_per_round=plan.steps_per_round,
            participations=plan.participations,
            rounds=plan.rounds,
            expected_cohort=plan.expected_cohort,
            noise=plan.noise,
            shares=plan.shares,
            honest=plan.honest if plan.trust is Trust.DISTRIBUTED and protected else None,
            metrics_share=plan.metrics_share,
            separation=plan.separation,
            bands=plan.bands,
            mechanism=_mechanism(plan),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for a record."""
        return asdict(self) | {"shares": list(self.shares)}


def _mechanism(plan: Plan) -> str | None:
    name = MECHANISMS.get(f"{plan.unit}/{plan.trust}")
    return name + CORRELATED if name and plan.bands > 1 else name


def _clip_policy(plan: Plan) -> str:
    if not plan.clip_quantile:
        return "fixed"
    return (
        f"follows the {plan.clip_quantile:g} quantile of the norms, whose bits take "
        f"{plan.clip_share:g} of each round's mu^2"
    )


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return the SHA-256 (hex) of the source of `client`, `server` and `shared` as installed.

    Two installations of the same version have the same digest; an edited file changes it.
    """
    root = Path(__file__).parents[2]
    whole = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()
