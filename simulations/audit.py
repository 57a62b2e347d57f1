"""`fedrec audit PATH`: does the record of a run hold what its result claims?

The ledger is checked and added up anew; the claim is read from `result.json` and `manifest.json`
and never believed. Whatever a file does not say is reported as unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.errors import ConfigError, RunError, VerificationError
from shared.privacy.accounting import TOLERANCE
from shared.privacy.chain import Head
from shared.privacy.charges import Budget
from shared.privacy.disclosure import Facts, disclosure, markdown, not_protected
from shared.privacy.verification import (
    LIMITS,
    Reading,
    Recount,
    cross_check,
    holds,
    read_ledger,
    recount,
    rounds_left,
)
from simulations.directory import read_json, write_json, write_text

__all__ = ["Evidence", "audit", "export", "failures"]

SERVER = "server-ledger.db"
"""The server's own ledger, whose heads the devices of the run witnessed."""

ROUNDING = 1e-6
"""By how much a recomputed epsilon may lie above the claim: printing and solving, nothing else."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """Everything that was found at a path.

    Attributes:
        reading: The ledger.
        manifest: Settings and versions; empty if there is none.
        result: The claim; empty if there is none.
        count: Epsilon from the records; None where nothing was ever charged.
    """

    reading: Reading
    manifest: Mapping[str, Any]
    result: Mapping[str, Any]
    count: Recount | None

    @property
    def claim(self) -> Mapping[str, Any]:
        """The privacy block of the result."""
        found = self.result.get("privacy", {})
        return found if isinstance(found, dict) else {}

    @property
    def terms(self) -> Mapping[str, Any]:
        """The terms under which the last charge was made, else those of the ledger."""
        statement = self.reading.statement
        return statement.terms(max(statement.reservations, default=None))


def _gather(path: Path) -> Evidence:
    """Read a run directory or a ledger file.

    Raises:
        ConfigError: There is no ledger.
        RunError: A file cannot be read.
        VerificationError: The second accountant has no answer.
    """
    ledger = path / "ledger.db" if path.is_dir() else path
    if not ledger.is_file():
        raise ConfigError(f"No ledger at {ledger}; name the directory of a run or a ledger file.")
    reading = read_ledger(ledger)
    manifest, result = (
        read_json(path / name) if path.is_dir() and (path / name).exists() else {}
        for name in ("manifest.json", "result.json")
    )
    delta = _delta(reading, result)
    count = recount(reading.statement, delta=delta) if delta is not None else None
    return Evidence(reading=reading, manifest=manifest, result=result, count=count)


def audit(path: Path, *, witnesses: Sequence[Path] = ()) -> tuple[Evidence, dict[str, Any]]:
    """Check what a run recorded against what it claims.

    Args:
        path: A run directory or a ledger file.
        witnesses: Ledgers of devices that saw heads of this one.

    Returns:
        The evidence, and the report that `--json` prints.

    Raises:
        ConfigError: There is no ledger.
        RunError: A file cannot be read.
        VerificationError: The second accountant has no answer.
    """
    evidence = _gather(path)
    reading, count = evidence.reading, evidence.count
    checks = [*_ledger_checks(reading, evidence.claim), *_claim_checks(evidence)]
    checks += [_witness_check(reading, read_ledger(place)) for place in witnesses]
    server = path / SERVER
    if path.is_dir() and server.is_file():
        checks += _server_checks(read_ledger(server), reading)
    terms = evidence.terms
    report = {
        "path": str(path),
        "verdict": "failed" if any(c["ok"] is False for c in checks) else _verdict(evidence),
        "checks": checks,
        "ledger": {
            "records": len(reading.digests),
            "kinds": dict(reading.statement.kinds),
            "head": reading.digests[-1] if reading.digests else None,
            "public_key": reading.public_key,
            "first_bad_record": None if reading.fault is None else asdict(reading.fault),
        },
        "spend": None if count is None else _spend(count),
        "forecast": _forecast(evidence),
        "not_protected": not_protected(terms.get("unit"), terms.get("trust")),
        "limits": list(LIMITS),
    }
    return evidence, report


def failures(report: Mapping[str, Any]) -> list[str]:
    """Return the checks that failed, each as `name: what was found`."""
    return [f"{c['name']}: {c['found']}" for c in report["checks"] if c["ok"] is False]


def export(evidence: Evidence, report: Mapping[str, Any], out: Path) -> list[Path]:
    """Write the disclosure of a run as Markdown and JSON, and return both places.

    Raises:
        RunError: They cannot be written.
    """
    facts = Facts(
        statement=evidence.reading.statement,
        terms=evidence.terms,
        count=evidence.count,
        manifest=evidence.manifest,
        result=evidence.result,
        head=report["ledger"]["head"],
        verdict=report["verdict"],
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot create {out}: {error.strerror}; name another place.") from error
    page, data = out / "disclosure.md", out / "disclosure.json"
    write_text(page, markdown(facts))
    write_json(data, disclosure(facts))
    return [page, data]


def _verdict(evidence: Evidence) -> str:
    if evidence.count is None:
        return "nothing protected" if evidence.terms.get("unit") == "none" else "nothing spent"
    return "verified" if evidence.claim else "no claim to compare with"


def _delta(reading: Reading, result: Mapping[str, Any]) -> float | None:
    """Return the delta to account at: the claim's, else the smallest of any charge."""
    charged = [one.budget.delta for one in reading.statement.reservations.values()]
    claimed = result.get("privacy", {}).get("delta")
    if not charged:
        return None
    usable = isinstance(claimed, float) and 0.0 < claimed < 1.0
    return claimed if usable else min(charged)


def _check(name: str, ok: bool | None, found: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "found": found}


def _ledger_checks(reading: Reading, claim: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Check the chain by itself, and its end against the head that the result kept."""
    fault, records = reading.fault, len(reading.digests)
    sound = f"{records} records, each follows the one before it and is signed"
    bad = fault and f"record {fault.seq} {fault.why}"
    checks = [_check("chain", fault is None, bad or sound)]
    head = claim.get("ledger")
    if head is None:
        return [*checks, _check("head", None, "no result keeps a head: a cut end would not show")]
    try:
        wrong = holds(reading, Head.from_dict(head))
    except VerificationError:
        wrong = "is no head"
    found = f"the head in result.json {wrong or 'is in the chain'}"
    return [*checks, _check("head", wrong is None, found)]


def _witness_check(server: Reading, device: Reading) -> dict[str, Any]:
    name = f"witness {device.path.name}"
    if device.fault is not None:
        return _check(name, False, f"record {device.fault.seq} {device.fault.why}")
    try:
        seen = cross_check(server, device)
    except VerificationError as error:
        return _check(name, False, str(error))
    return _check(name, True if seen else None, f"{seen} heads witnessed, all in the chain")


def _server_checks(server: Reading, devices: Reading) -> list[dict[str, Any]]:
    """Check the server's chain, and that the devices saw this one and no other."""
    fault = server.fault
    found = f"{len(server.digests)} records, each follows the one before it and is signed"
    if fault is not None:
        return [_check("server chain", False, f"record {fault.seq} {fault.why}")]
    return [_check("server chain", True, found), _witness_check(server, devices)]


def _claim_checks(evidence: Evidence) -> list[dict[str, Any]]:
    """Check the numbers and names of the claim against the records."""
    count, claim = evidence.count, evidence.claim
    checks = [_settings_check(evidence)] if evidence.manifest else []
    if count is not None:
        checks += [_accountants_check(count), _budget_check(evidence, count)]
    if not claim:
        return [*checks, _check("claim", None, "there is no result.json to compare with")]
    checks.append(_terms_check(evidence))
    if count is not None:
        return [*checks, _epsilon_check(count, claim)]
    claimed = claim.get("epsilon")
    found = f"the claim is epsilon {claimed} and the ledger holds no charge"
    return [*checks, _check("epsilon", claimed is None, found)]


def _accountants_check(count: Recount) -> dict[str, Any]:
    found = f"epsilon {count.epsilon:.4f} and {count.second_opinion:.4f} at delta {count.delta:g}"
    return _check("accountants", count.agreed, found)


def _epsilon_check(count: Recount, claim: Mapping[str, Any]) -> dict[str, Any]:
    """The claim must not lie below either opinion, nor far from them."""
    claimed = claim.get("epsilon")
    if not isinstance(claimed, int | float):
        return _check("epsilon", False, "users were charged and the result claims no epsilon")
    over = count.epsilon > claimed + ROUNDING
    far = max(abs(count.epsilon - claimed), abs(count.second_opinion - claimed)) > TOLERANCE
    private = bool(claim.get("private")) <= count.private
    found = (
        f"claimed {claimed:.4f}, recomputed {count.epsilon:.4f} and {count.second_opinion:.4f}"
        f"{'' if private else ', and some noise was a stand-in that the claim calls private'}"
    )
    return _check("epsilon", not over and not far and private, found)


def _budget_check(evidence: Evidence, count: Recount) -> dict[str, Any]:
    """Nobody may have spent more than the budget each charge was made under."""
    charges = evidence.reading.statement.reservations.values()
    budget = max(one.budget.epsilon for one in charges)
    asked = evidence.manifest.get("settings", {}).get("privacy", {}).get("epsilon", budget)
    least = min(budget, asked)
    found = f"{count.epsilon:.4f} spent of {least:g}"
    return _check("budget", count.epsilon <= least + ROUNDING, found)


def _terms_check(evidence: Evidence) -> dict[str, Any]:
    """What the result says of the mechanism must be what was charged."""
    claim, terms = evidence.claim, evidence.terms
    same = ["unit", "trust", "clip_norm"]
    if evidence.count is not None:
        same += ["delta", "noise_multiplier", "separation", "bands"]
    wrong = [
        f"{name} {claim.get(name)} against {terms.get(name)}"
        for name in same
        if claim.get(name) != terms.get(name)
    ]
    if not terms:
        return _check("terms", None, "the ledger says no terms")
    return _check("terms", not wrong, ", ".join(wrong) or "unit, trust, noise and clip agree")


def _settings_check(evidence: Evidence) -> dict[str, Any]:
    """The manifest must be the one that the ledger was begun under."""
    from shared.config import Settings

    kept = evidence.reading.statement.genesis.get("settings")
    try:
        now = Settings.from_table(evidence.manifest["settings"]).digest()
    except (ConfigError, KeyError, TypeError) as error:
        return _check("settings", False, f"manifest.json cannot be read as settings ({error})")
    if kept is None:
        return _check("settings", None, "the ledger was begun without settings")
    same = kept == now == evidence.manifest.get("settings_digest")
    found = "manifest.json is" if same else "manifest.json is not"
    return _check("settings", same, f"{found} what the ledger was begun under")


def _spend(count: Recount) -> dict[str, Any]:
    return {
        "delta": count.delta,
        "users": count.users,
        "epsilon": count.epsilon,
        "second_opinion": count.second_opinion,
        "private": count.private,
        "quantiles": [
            {"users": share, "epsilon": first, "second_opinion": second}
            for share, first, second in count.quantiles
        ],
    }


def _forecast(evidence: Evidence) -> dict[str, Any] | None:
    """Return how many more rounds like the last one the most and the least charged could take."""
    count, charges = evidence.count, evidence.reading.statement.reservations
    if count is None or not charges:
        return None
    last = charges[max(charges)]
    budget = Budget(epsilon=last.budget.epsilon, delta=last.budget.delta)
    most, least = count.bands[-1].spends, count.bands[0].spends
    return {
        "budget": {"epsilon": budget.epsilon, "delta": budget.delta},
        "round": asdict(last.spend),
        "rounds_left_most_charged": rounds_left(most, each=last.spend, budget=budget),
        "rounds_left_least_charged": rounds_left(least, each=last.spend, budget=budget),
    }
