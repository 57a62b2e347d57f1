"""The report of `fedrec audit` in words, a line a finding; ASCII, so any terminal shows it."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["in_words"]

Report = Mapping[str, Any]
SIGNS = {True: "ok    ", False: "FAILED", None: "-     "}
BAR = 30


def in_words(report: Report) -> list[str]:
    """Return the lines of a report: checks, spend, forecast, what is not protected, limits."""
    return [
        f"{report['path']}: {report['verdict'].upper()}",
        *_checks(report),
        *_spend(report),
        *_forecast(report),
        "",
        "Not protected:",
        *(f"  - {line}" for line in report["not_protected"]),
        "",
        "What this check can find:",
        *(f"  - {line}" for line in report["limits"]),
    ]


def _checks(report: Report) -> Iterator[str]:
    width = max(len(check["name"]) for check in report["checks"])
    for check in report["checks"]:
        yield f"  {SIGNS[check['ok']]}  {check['name']:<{width}}  {check['found']}"


def _spend(report: Report) -> Iterator[str]:
    spend = report["spend"]
    yield ""
    if spend is None:
        plain = "Nothing was spent: the ledger holds no charge."
        unprotected = " The run protected nothing, so there is nothing to recompute."
        yield plain + (unprotected if report["verdict"] == "nothing protected" else "")
        return
    yield (
        f"Spent: epsilon {spend['epsilon']:.4f} (second opinion {spend['second_opinion']:.4f}) at "
        f"delta {spend['delta']:g}, the largest of {spend['users']:,} users"
    )
    if not spend["private"]:
        yield "NOT PRIVATE: some noise was a repeatable stand-in."
    most = max(spend["epsilon"], 1e-12)
    for place in spend["quantiles"]:
        bar = "#" * round(BAR * place["epsilon"] / most)
        who = f"{place['users']:.0%} of users at most" if place["users"] else "the least charged"
        yield f"  {who:>21} {place['epsilon']:8.4f}  {bar}"


def _forecast(report: Report) -> Iterator[str]:
    forecast = report["forecast"]
    if forecast is None:
        return
    budget = forecast["budget"]
    yield (
        f"Left under a budget of epsilon {budget['epsilon']:g} at delta {budget['delta']:g}: "
        f"{forecast['rounds_left_most_charged']:,} more rounds like the last for the most charged "
        f"user, {forecast['rounds_left_least_charged']:,} for the least"
    )
