"""Rows of a comparison beside each other: means over seeds, differences over users, buckets.

A row's mean and standard deviation are over its seeds. Its difference to the reference is paired:
each user's values are averaged over the seeds first, and the 95 % interval is over users. It is not
widened for the number of rows.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.evaluation.buckets import Buckets, bucket_means
from shared.evaluation.protocols import Scores, compare

__all__ = ["Row", "pooled", "standings"]

Parts = Mapping[int, Mapping[str, Buckets]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """What one row is made of.

    Attributes:
        name: Of this row alone.
        label: Rows of one label make one curve over epsilons.
        kind: "federated", "floor" (private popularity) or "central".
        about: Model, budget and whatever else describes it.
        cost: What a device and the machine paid.
        scores: Seed -> scores of every user asked.
    """

    name: str
    label: str
    kind: str
    about: Mapping[str, Any]
    cost: Mapping[str, float | None]
    scores: Mapping[int, Scores] = field(repr=False)


def standings(rows: Sequence[Row], *, reference: str, parts: Parts) -> dict[str, Any]:
    """Describe rows by numbers.

    Args:
        rows: At least one.
        reference: Name of the row that differences are taken to.
        parts: Seed -> kind of bucket -> partition of that seed's test queries.

    Raises:
        ValueError: A row was not asked by the same users as the reference.
    """
    base = pooled(list(next(row for row in rows if row.name == reference).scores.values()))
    first = next(iter(rows[0].scores.values()))
    return {
        "users_asked": len(base.users),
        "metrics": list(first.metrics),
        "reference": reference,
        "rows": [_summary(row, base, parts) for row in rows],
    }


def pooled(runs: Sequence[Scores]) -> Scores:
    """Average each user's values over the runs that asked them.

    Users need not be the same in every run: under `strong` each seed asks others.
    """
    users, place = np.unique(np.concatenate([run.users for run in runs]), return_inverse=True)
    times = np.bincount(place, minlength=len(users))
    names = [name for name in runs[0].per_query if all(name in run.per_query for run in runs)]
    values = {
        name: np.bincount(
            place,
            weights=np.concatenate([run.per_query[name] for run in runs]),
            minlength=len(users),
        )
        / times
        for name in names
    }
    means = {name: float(column.mean()) for name, column in values.items()}
    return Scores(metrics=means, extra={}, per_query=values, users=users)


def _summary(row: Row, base: Scores, parts: Parts) -> dict[str, Any]:
    """Describe one row by numbers alone."""
    runs = list(row.scores.values())
    whole, first = pooled(runs), runs[0]
    intervals, gaps = whole.intervals(), compare(whole, base)
    metrics = {
        name: {
            "mean": statistics.fmean(run.metrics[name] for run in runs),
            "sd": statistics.stdev(run.metrics[name] for run in runs) if runs[1:] else None,
            "interval": list(intervals[name]),
            "above_reference": [gaps[name].mean, gaps[name].low, gaps[name].high],
            "clear": gaps[name].clear,
        }
        for name in first.metrics
    }
    return {
        "name": row.name,
        "label": row.label,
        "kind": row.kind,
        **row.about,
        "runs": len(runs),
        "metrics": metrics,
        "buckets": {kind: _by_bucket(row.scores, parts, kind) for kind in _kinds(parts)},
        "cost": dict(row.cost),
    }


def _by_bucket(scores: Mapping[int, Scores], parts: Parts, kind: str) -> list[dict[str, Any]]:
    """Return each bucket's means over the seeds; labels and counts are those of the first seed."""
    first = next(iter(scores))
    found: list[dict[str, Any]] = []
    for bucket, label in enumerate(parts[first][kind].labels):
        found.append({"label": label, "users": 0})
        for metric in scores[first].metrics:
            means = [
                bucket_means(run.users, run.per_query[metric], parts[seed][kind])[bucket]
                for seed, run in scores.items()
            ]
            held = [mean for _, mean in means if mean is not None]
            found[-1]["users"] = means[0][0]
            found[-1][metric] = statistics.fmean(held) if held else None
    return found


def _kinds(parts: Parts) -> list[str]:
    return list(next(iter(parts.values()), {}))
