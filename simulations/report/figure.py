"""The utility-privacy curve: what is left of a recommender at each budget, baselines across."""

import math
from collections.abc import Mapping
from typing import Any

from simulations.report.chart import Chart, Point, Series

__all__ = ["utility_curve"]


def utility_curve(found: Mapping[str, Any], *, metric: str | None = None) -> Chart:
    """Return the curve of a comparison.

    Args:
        found: Content of `compare.json`.
        metric: What is drawn; the first metric unless named. Intervals cover 95 % over users.
    """
    shown = metric or found["metrics"][0]
    rows = [row for row in found["rows"] if row["kind"] != "central"]
    places = _places([row["epsilon"] for row in rows])
    labels = dict.fromkeys(row["label"] for row in rows)
    series = [
        Series(label=label, points=_points([r for r in rows if r["label"] == label], shown, places))
        for label in labels
    ]
    central = {
        f"{row['name']} (central)": row["metrics"][shown]["mean"]
        for row in found["rows"]
        if row["kind"] == "central"
    }
    made = ", SYNTHETIC DATA" if found["dataset"]["synthetic"] else ""
    return Chart(
        title=f"{found['dataset']['name']}: {shown} by privacy budget{made}",
        x_label="epsilon of one unit over the whole run (none: no protection)",
        y_label=f"{shown}, test",
        series=series,
        levels=central,
        ticks={
            place: "none" if epsilon is None else f"{epsilon:g}"
            for epsilon, place in places.items()
        },
    )


def _places(epsilons: list[float | None]) -> dict[float | None, float]:
    """Put budgets on a logarithmic axis; no protection stands behind the largest."""
    places: dict[float | None, float] = {
        one: math.log10(one) for one in sorted({e for e in epsilons if e is not None})
    }
    if None in epsilons:
        places[None] = max(places.values(), default=-0.5) + 0.5
    return places


def _points(
    rows: list[Mapping[str, Any]], metric: str, places: Mapping[float | None, float]
) -> tuple[Point, ...]:
    points = [
        Point(
            x=places[row["epsilon"]],
            y=row["metrics"][metric]["mean"],
            low=row["metrics"][metric]["interval"][0],
            high=row["metrics"][metric]["interval"][1],
        )
        for row in rows
    ]
    return tuple(sorted(points, key=lambda point: point.x))
