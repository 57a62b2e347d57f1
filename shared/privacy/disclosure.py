"""The disclosure of a run: 17 items and an entry for a public registry, from its records alone.

The items follow what guides to differential privacy ask a deployment to state (Ponomareva et al.
2023; NIST SP 800-226); the entry has the field names of the OpenDP deployments registry. A value
is what a ledger, a manifest or a result says, or None for unknown: nothing is made up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from shared.privacy.accounting import Spend, epsilon_of
from shared.privacy.statement import Statement
from shared.privacy.verification import Recount

__all__ = ["ITEMS", "Facts", "disclosure", "items", "markdown", "not_protected", "registry_entry"]

UNKNOWN: Final = "unknown"
CURVE: Final = (1e-4, 1e-5, 1e-6)
FALSE_POSITIVES: Final = 1e-3

EVERYWHERE: Final = (
    "participation: that a device took part, and when",
    "the catalogue: the list of items is public",
    "settings chosen by looking at results, which no accountant counts",
    "scores of a simulation, computed from raw held-out items",
    "the private popularity baseline beside a model: publishing both spends both budgets",
    "what happens outside the run: logs of other systems, recommendations seen over a shoulder",
)
MORE: Final = {
    "interaction": ("a whole history: the bound on k interactions grows to k times epsilon",),
    "user": ("people who share one account or own several devices, beyond one unit each",),
    "none": ("everything: devices sent plain sums",),
}
SEEN: Final = {
    "interaction/local": "raw data: the device; noised sums: the server",
    "user/local": "raw data: the device; noised contributions: the server",
    "user/central": "raw data: the device; clipped contributions without noise: the server",
    "user/distributed": "raw data: the device; the noised sum of many devices: the server, while "
    "the declared number of devices is honest",
    "none/local": "raw data: the device; plain sums: the server",
}
MODELS: Final = {"local": "Local", "central": "Central", "distributed": "Distributed"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Facts:
    """What a disclosure is made of.

    Attributes:
        statement: The ledger's records, checked.
        terms: The terms of the run, as the ledger has them.
        count: Epsilon from the records; None where nothing was charged.
        manifest: Settings and versions of the run; empty if unknown.
        result: The content of `result.json`; empty if unknown.
        head: Digest of the ledger's last record.
        verdict: What the audit said.
    """

    statement: Statement
    terms: Mapping[str, Any]
    count: Recount | None
    manifest: Mapping[str, Any] = field(repr=False)
    result: Mapping[str, Any] = field(repr=False)
    head: str | None
    verdict: str

    @property
    def protected(self) -> bool:
        """Whether the run claims to protect a unit."""
        return self.terms.get("unit") not in {None, "none"}

    @property
    def worst(self) -> tuple[Spend, ...]:
        """What the most charged user was charged."""
        return self.count.bands[-1].spends if self.count and self.count.bands else ()

    @property
    def mu(self) -> float | None:
        """Gaussian-DP parameter of the most charged user; None where steps were sampled."""
        if not self.worst or any(spend.sampling_rate < 1.0 for spend in self.worst):
            return None
        return math.sqrt(sum(s.steps / s.noise_multiplier**2 for s in self.worst))


def not_protected(unit: str | None, trust: str | None) -> list[str]:
    """Return what a run under a unit and a trust does not protect."""
    more = list(MORE.get(unit or "", ()))
    if trust == "central":
        more.append("clipped contributions, from the server and whoever reads its memory")
    return [*more, *EVERYWHERE]


def disclosure(facts: Facts) -> dict[str, Any]:
    """Return the whole disclosure, for JSON."""
    return {"format": 1, "items": items(facts), "registry": registry_entry(facts)}


def items(facts: Facts) -> list[dict[str, Any]]:
    """Return the 17 items, each with its number, its title and its named values."""
    return [
        {"item": number, "title": title, "values": values(facts)}
        for number, (title, values) in enumerate(ITEMS.items(), start=1)
    ]


def markdown(facts: Facts) -> str:
    """Return the 17 items as a page of Markdown; an unknown value says so."""
    lines = ["# Privacy disclosure", "", f"Audit of the records: {facts.verdict}.", ""]
    for item in items(facts):
        lines += [f"## {item['item']}. {item['title']}", ""]
        lines += [f"- {name}: {_shown(value)}" for name, value in item["values"].items()]
        lines.append("")
    return "\n".join(lines)


def _shown(value: object) -> str:
    if value is None or value in ([], {}):
        return UNKNOWN
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_shown(one) for one in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("\n", " ")


def _unit(facts: Facts) -> dict[str, Any]:
    return {"unit": facts.terms.get("unit"), "first and last charge (UTC)": _window(facts)}


def _window(facts: Facts) -> list[str] | None:
    times = facts.statement.times
    if times is None:
        return None
    return [datetime.fromtimestamp(t, tz=UTC).isoformat() for t in times]


def _adjacency(facts: Facts) -> dict[str, Any]:
    return {"adjacency": facts.statement.genesis.get("adjacency") if facts.protected else None}


def _loss(facts: Facts) -> dict[str, Any]:
    mu, worst = facts.mu, facts.worst
    return {
        "epsilon": facts.count and facts.count.epsilon,
        "delta": facts.count and facts.count.delta,
        "mu (Gaussian DP)": mu,
        "rho (zero-concentrated DP)": mu and mu * mu / 2.0,
        "epsilon by delta": {f"{d:g}": epsilon_of(worst, delta=d) for d in CURVE} if worst else {},
        "most true positives of an attacker at 0.001 false positives": mu and _power(mu),
        "every draw from the operating system": facts.count and facts.count.private,
    }


def _power(mu: float) -> float:
    """Return the power of the best test of a mu-GDP mechanism (Dong, Roth & Su 2019)."""
    from scipy.special import ndtr, ndtri

    return float(ndtr(ndtri(FALSE_POSITIVES) + mu))


def _flavour(facts: Facts) -> dict[str, Any]:
    exact = facts.mu is not None
    name = "Gaussian DP, stated as approximate DP" if exact else "Approximate DP"
    return {"flavour": name if facts.worst else None}


def _seen(facts: Facts) -> str | None:
    return SEEN.get(f"{facts.terms.get('unit')}/{facts.terms.get('trust')}")


def _trust(facts: Facts) -> dict[str, Any]:
    return {"trust": facts.terms.get("trust"), "who sees what": _seen(facts)}


def _covered(facts: Facts) -> dict[str, Any]:
    unit, trust = facts.terms.get("unit"), facts.terms.get("trust")
    covered = {"interaction": "one interaction", "user": "a whole history", "none": "nothing"}
    return {"covered": covered.get(str(unit)), "not covered": not_protected(unit, trust)}


def _accesses(facts: Facts) -> dict[str, Any]:
    terms = facts.terms
    return {
        "rounds planned": terms.get("rounds"),
        "most rounds of one device, planned": terms.get("participations"),
        "least distance in rounds between two of them": terms.get("separation"),
        "most noised steps of one user, charged": sum(s.steps for s in facts.worst) or None,
        "budget": {"epsilon": terms.get("epsilon"), "delta": terms.get("delta")},
        "renewal": "none: the budget holds for the ledger, not for a run or a day",
    }


def _mechanism(facts: Facts) -> dict[str, Any]:
    names = ("mechanism", "clip_norm", "clip_policy", "noise_multiplier", "sampling_rate")
    found = {name.replace("_", " "): facts.terms.get(name) for name in names}
    full = facts.terms.get("sampling_rate") == 1.0
    return found | {
        "steps per round": facts.terms.get("steps_per_round"),
        "rounds over which noise is correlated": facts.terms.get("bands"),
        "sampling": "none is claimed" if full else "by the device's own coin, in each step",
        "charged to the most charged user": [
            f"{s.steps} steps, noise multiplier {s.noise_multiplier:.6g}, rate {s.sampling_rate:g}"
            for s in facts.worst
        ],
    }


def _accountant(facts: Facts) -> dict[str, Any]:
    return {
        "accountants of the claim": _privacy(facts).get("accountant"),
        "claimed epsilon": _privacy(facts).get("epsilon"),
        "recomputed from the ledger": facts.count and facts.count.epsilon,
        "second opinion (upper bound)": facts.count and facts.count.second_opinion,
        "tightness": "exact" if facts.mu is not None else None,
    }


def _randomness(facts: Facts) -> dict[str, Any]:
    source = facts.terms.get("noise")
    policy = facts.statement.genesis.get("rng", {})
    return {"source": source, "policy": policy.get(source) if facts.protected else None}


def _population(facts: Facts) -> dict[str, Any]:
    charges = facts.statement.reservations.values()
    noises = {one.spend.noise_multiplier for one in charges if one.reply_digest is not None}
    return {
        "users in the data": facts.result.get("dataset", {}).get("users"),
        "users charged": facts.count and facts.count.users,
        "contributions charged": len(charges),
        "of these without a reply": sum(one.reply_digest is None for one in charges),
        "noise multipliers realised": sorted(noises),
    }


def _public_data(facts: Facts) -> dict[str, Any]:
    model = facts.manifest.get("settings", {}).get("model", {})
    return {"start of the model": model.get("init"), "pre-training": None}


def _tuning(facts: Facts) -> dict[str, Any]:
    return {"search over settings on private data": None, "accounted": "no"}


def _attack(facts: Facts) -> dict[str, Any]:
    return {
        "lower bound of the result": _privacy(facts).get("audit", {}).get("lower_bound"),
        "audits in the ledger": facts.statement.audits,
    }


def _utility(facts: Facts) -> dict[str, Any]:
    result = facts.result
    return {
        "test": result.get("test"),
        "popularity": result.get("baselines", {}).get("popularity"),
        "private popularity": result.get("baselines", {}).get("private_popularity"),
        "the same without protection": None,
    }


def _implementation(facts: Facts) -> dict[str, Any]:
    genesis = facts.statement.genesis
    return {
        "versions": facts.manifest.get("versions"),
        "digest of the source": genesis.get("code"),
        "licence": "Apache-2.0",
        "how to verify": "fedrec audit PATH",
        "public key of the ledger": genesis.get("public_key"),
        "head of the ledger": facts.head,
    }


def _contact(facts: Facts) -> dict[str, Any]:
    return {"contact": None, "change log": None}


ITEMS: Final = {
    "Unit and time window": _unit,
    "Adjacency": _adjacency,
    "Privacy loss": _loss,
    "Flavour": _flavour,
    "Trust": _trust,
    "What is covered and what is not": _covered,
    "Accesses to one person's data": _accesses,
    "Mechanism": _mechanism,
    "Accounting": _accountant,
    "Randomness and floating point": _randomness,
    "Population and realised noise": _population,
    "Public data and pre-training": _public_data,
    "Search over settings": _tuning,
    "Empirical audit": _attack,
    "Utility": _utility,
    "Implementation": _implementation,
    "Contact and change log": _contact,
}


def registry_entry(facts: Facts) -> dict[str, Any]:
    """Return an entry with the field names of the OpenDP deployments registry."""
    terms, count = facts.terms, facts.count
    parameters = {"epsilon": count.epsilon, "delta": count.delta} if count else None
    return {
        "url_slug": None,
        "deployment": {
            "basic": dict.fromkeys(BASIC) | {"data_product_type": "Machine learning model"},
            "dp_variant": {
                "variant_name": "Approximate DP" if count else None,
                "data_domain": facts.result.get("dataset", {}).get("name"),
                "unprotected_quantities": not_protected(terms.get("unit"), terms.get("trust")),
            },
            "privacy_loss": {
                "privacy_unit": terms.get("unit"),
                "privacy_unit_details": facts.statement.genesis.get("adjacency"),
                "number_of_privacy_units": 1 if count else None,
                "privacy_parameters": parameters,
                "privacy_parameters_details": None,
            },
            "deployment_model": _deployment_model(facts),
            "implementation": _registry_implementation(facts),
            "administrative": {
                "evidence_sources": None,
                "status": None,
                "registry_authors": None,
                "tier": None,
            },
        },
    }


BASIC: Final[Sequence[str]] = (
    "name",
    "data_curators",
    "description",
    "intended_use",
    "data_product_type",
    "data_product_region",
    "data_product_sector",
    "publication_date",
)


def _deployment_model(facts: Facts) -> dict[str, Any]:
    many = (facts.terms.get("rounds") or 0) > 1
    return {
        "model_name": MODELS.get(str(facts.terms.get("trust"))) if facts.protected else None,
        "model_name_details": None,
        "trust_assumptions": _seen(facts),
        "actors": None,
        "release_type": "Many releases" if many else None,
        "release_type_details": f"{facts.terms['rounds']} rounds" if many else None,
        "data_source_type": None,
        "data_source_type_details": None,
        "access_type": None,
        "access_type_details": None,
    }


def _registry_implementation(facts: Facts) -> dict[str, Any]:
    return {
        "preprocessing_and_hyperparameter_tuning": None,
        "mechanisms": facts.terms.get("mechanism"),
        "composition": _privacy(facts).get("accountant"),
        "post_processing": None,
        "justification": None,
        "utility": facts.result.get("test"),
        "additional_information": {
            "verdict": facts.verdict,
            "code": facts.statement.genesis.get("code"),
            "ledger_head": facts.head,
            "public_key": facts.statement.genesis.get("public_key"),
        },
    }


def _privacy(facts: Facts) -> Mapping[str, Any]:
    found = facts.result.get("privacy", {})
    return found if isinstance(found, dict) else {}
