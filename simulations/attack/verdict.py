"""The three layers of an attack together: for programs as JSON, for people as lines."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import RunError
from shared.privacy.ledger import Ledger
from simulations.attack.canaries import AttackConfig
from simulations.attack.checks import RISK, Check
from simulations.attack.conformance import conformance
from simulations.attack.planted import planted
from simulations.attack.rehearsal import Rehearsal, rehearse
from simulations.attack.statistics import CONFIDENCE, Statistics, statistics
from simulations.attack.target import Target
from simulations.directory import read_json, write_json

__all__ = ["alarms", "attack", "keep", "summary", "write"]

Report = dict[str, Any]

ASSUMPTIONS = (
    "the attacker sees every message or every released sum, the settings and all other users' data",
    "people are made; only the canaries' data matter, and the guarantee is for any data",
    "the run's code is attacked on this machine: a device with other code is not",
)


def attack(target: Target, *, seed: int = 0, config: AttackConfig | None = None) -> Report:
    """Attack a run's mechanism and return the report.

    Args:
        target: What is attacked.
        seed: Of coins, histories and cohorts; protective noise never sees it.
        config: Size of the attack.

    Raises:
        ConfigError: The settings cannot be had for this population, or hold no canaries.
    """
    began = time.perf_counter()
    config = config or AttackConfig.usual(target.settings.privacy)
    rehearsal = rehearse(target, config, seed=seed)
    scores = statistics(rehearsal)
    layers = {
        "conformance": _layer(conformance(rehearsal)),
        "canaries": _layer(planted(rehearsal)),
        "statistics": _layer(scores.checks),
    }
    tests = sum(check["ok"] is not None for one in layers.values() for check in one["checks"])
    alarmed = any(one["verdict"] == "ALARM" for one in layers.values())
    return {
        "verdict": "ALARM" if alarmed else "PASS",
        **_target(target, rehearsal),
        "claim": {"epsilon": scores.claim, "delta": scores.delta},
        **_found(scores),
        "layers": layers,
        "seed": seed,
        "false_alarm": {"each": RISK, "all": tests * RISK},
        "assumptions": list(ASSUMPTIONS),
        "seconds": time.perf_counter() - began,
    }


def _layer(checks: list[Check]) -> dict[str, Any]:
    wrong = any(check.ok is False for check in checks)
    return {
        "verdict": "ALARM" if wrong else "PASS",
        "checks": [check.as_dict() for check in checks],
    }


def _target(target: Target, rehearsal: Rehearsal) -> dict[str, Any]:
    plan = rehearsal.plan
    return {
        "run": None if target.directory is None else str(target.directory),
        "model": target.settings.model.name,
        "algorithm": target.settings.algorithm.name,
        "unit": str(plan.unit),
        "trust": str(plan.trust),
        "users": target.users,
        "items": target.items,
        "rounds": plan.rounds,
        "noise_multiplier": plan.noise_multiplier,
        "clip_norm": plan.clip_norm,
    }


def _found(scores: Statistics) -> dict[str, Any]:
    return {
        "lower_bound": scores.lower_bound,
        "estimate": scores.estimate,
        "method": scores.method,
        "confidence": CONFIDENCE,
        "bounds": scores.bounds,
        "canaries": scores.canaries,
    }


def alarms(report: Mapping[str, Any]) -> list[str]:
    """Return the checks that raised an alarm, by layer, each layer as `layer: name, name`."""
    found = {
        layer: [check["name"] for check in one["checks"] if check["ok"] is False]
        for layer, one in report["layers"].items()
    }
    return [f"{layer}: {', '.join(names)}" for layer, names in found.items() if names]


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ledger and a result keep of an attack."""
    kept = ("lower_bound", "estimate", "method", "canaries", "verdict", "seed")
    return {"kind": "attack", **{name: report[name] for name in kept}}


def write(report: Mapping[str, Any], out: Path) -> Path:
    """Write a report as attack.json into a directory, and return the file.

    Raises:
        RunError: It cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot create {out}: {error.strerror}; name another --out.") from error
    write_json(out / "attack.json", report)
    return out / "attack.json"


def keep(report: Mapping[str, Any], directory: Path) -> None:
    """Note an attack in the ledger of a run, then in its result.

    Raises:
        RunError: The ledger or the result cannot be used.
        VerificationError: The ledger does not check.
    """
    found = summary(report)
    with Ledger(directory / "ledger.db") as ledger:
        ledger.note_audit(found)
        head = ledger.head()
    place = directory / "result.json"
    if place.is_file():
        result = read_json(place)
        result["privacy"] |= {"audit": found, "ledger": head.as_dict()}
        write_json(place, result)
