"""What a data set looks like: counts over the whole population, for `fedrec data inspect`."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.data.sources import Dataset

__all__ = ["Profile", "profile"]

_TOP_SHARES = (0.01, 0.05, 0.10, 0.20)
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The shape of a population.

    Attributes:
        name: Of the data set.
        digest: SHA-256 of ids and interactions.
        synthetic: Whether the population is made up.
        users: Number of users.
        items: Number of items.
        interactions: Number of events.
        density: Events over users times items.
        top_shares: Share of the most used items ("0.01", ...) -> share of all events on them.
        gini: Inequality of item use, 0 (all alike) to 1.
        length_quantiles: Quantile ("0.0", ...) -> events of a user.
        mean_length: Events a user.
        short_users: Users with fewer than 3 events (trained on, never asked).
        first_time: Earliest time, seconds since 1970; None without times.
        last_time: Latest time.
        tied_share: Share of neighbouring events of a user with equal times; None without times.
        with_title: Items with a title.
        categories: Distinct categories.
    """

    name: str
    digest: str
    synthetic: bool
    users: int
    items: int
    interactions: int
    density: float
    top_shares: dict[str, float]
    gini: float
    length_quantiles: dict[str, float]
    mean_length: float
    short_users: int
    first_time: int | None
    last_time: int | None
    tied_share: float | None
    with_title: int
    categories: int

    def as_dict(self) -> dict[str, Any]:
        """Return the profile as plain values for JSON."""
        return asdict(self)


def profile(dataset: Dataset) -> Profile:
    """Return the shape of a data set."""
    table = dataset.interactions
    lengths = table.lengths
    counts = np.sort(np.bincount(table.items, minlength=table.n_items))[::-1]
    content = dataset.content
    return Profile(
        name=dataset.name,
        digest=dataset.digest,
        synthetic=dataset.synthetic,
        users=table.n_users,
        items=table.n_items,
        interactions=len(table),
        density=len(table) / (table.n_users * table.n_items),
        top_shares={str(share): _top(counts, share) for share in _TOP_SHARES},
        gini=_gini(counts),
        length_quantiles={str(q): float(np.quantile(lengths, q)) for q in _QUANTILES},
        mean_length=float(lengths.mean()),
        short_users=int(np.count_nonzero(lengths < 3)),
        first_time=int(table.times.min()) if dataset.has_times else None,
        last_time=int(table.times.max()) if dataset.has_times else None,
        tied_share=_tied(table) if dataset.has_times else None,
        with_title=sum(1 for title in content.titles if title) if content else 0,
        categories=len({c for row in content.categories for c in row}) if content else 0,
    )


def _top(counts: NDArray[np.int64], share: float) -> float:
    """Return the share of events on the most used items; `counts` falls."""
    return float(counts[: max(1, round(share * len(counts)))].sum() / counts.sum())


def _gini(counts: NDArray[np.int64]) -> float:
    """Return the Gini coefficient of counts that fall."""
    n = len(counts)
    ranks = np.arange(n, 0, -1)
    return float(2 * (ranks * counts).sum() / (n * counts.sum()) - (n + 1) / n)


def _tied(table: Interactions) -> float:
    same_user = np.diff(table.users) == 0
    if not same_user.any():
        return 0.0
    return float(np.mean(np.diff(table.times)[same_user] == 0))
