"""The report of `fedrec audit --attack` in words, a line a finding; ASCII, for any terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["in_words"]

Report = Mapping[str, Any]
SIGNS = {True: "ok   ", False: "ALARM", None: "-    "}
LAYERS = {
    "conformance": "Conformance (the auditor sees everything)",
    "canaries": "Attack canaries (the attacker sees releases)",
    "statistics": "One-run statistics (the attacker sees releases)",
}


def in_words(report: Report) -> list[str]:
    """Return the lines of a report: what was attacked, the layers, what they prove of epsilon."""
    claim = report["claim"]
    return [
        f"{report['model']}, {report['algorithm']}, unit {report['unit']}, trust "
        f"{report['trust']}, {report['rounds']} rounds: {report['verdict']}",
        *(line for name in LAYERS for line in _layer(report, name)),
        "",
        *_epsilon(report),
        f"  accounted     {claim['epsilon']:.3f} at delta {claim['delta']:g}",
        "",
        f"False alarms: {report['false_alarm']['each']:g} a check, at most "
        f"{report['false_alarm']['all']:.2g} in all. Seed {report['seed']}, "
        f"{report['canaries']:,} canaries, {report['seconds']:.1f} s.",
        "Assumed:",
        *(f"  - {line}" for line in report["assumptions"]),
    ]


def _layer(report: Report, name: str) -> Iterator[str]:
    layer = report["layers"][name]
    yield ""
    yield f"{LAYERS[name]}: {layer['verdict']}"
    width = max(len(check["name"]) for check in layer["checks"])
    for check in layer["checks"]:
        yield f"  {SIGNS[check['ok']]}  {check['name']:<{width}}  {check['found']}"


def _epsilon(report: Report) -> Iterator[str]:
    yield "Epsilon:"
    if report["lower_bound"] is None:
        yield "  no canary was scored, so nothing is known of it"
        return
    methods = ", ".join(f"{name} {value:.3f}" for name, value in report["bounds"].items())
    yield f"  lower bound   {report['lower_bound']:.3f} ({report['method']}; 95 % all together)"
    yield f"  each method   {methods} (95 % each)"
    yield f"  estimate      {report['estimate']:.3f} (no bound)"
