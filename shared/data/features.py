"""Public item content as numbers: what a model may start from without spending any budget."""

import numpy as np
from numpy.typing import NDArray

from shared.data.content import YEAR, ItemContent

__all__ = ["content_features"]

YEAR_BINS = 12


def content_features(content: ItemContent) -> NDArray[np.float64]:
    """Return 0/1 features of items: a column a category, then a column a bin of release years.

    The bins hold about equally many items each; years come from the end of titles, "(1995)".

    Returns:
        float64 [items, features]; without categories and years there are no columns.
    """
    _, membership = content.membership()
    found = [YEAR.search(title) for title in content.titles]
    years = np.array([float(match[1]) if match else np.nan for match in found])
    return np.concatenate([membership.astype(np.float64), _year_bins(years)], axis=1)


def _year_bins(years: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return float64 [items, bins]; an item without a year is in none."""
    known = np.isfinite(years)
    if not known.any():
        return np.zeros((len(years), 0))
    shares = np.arange(1, YEAR_BINS) / YEAR_BINS
    edges = np.unique(np.quantile(years[known], shares, method="lower"))
    bins = np.searchsorted(edges, years[known])
    table = np.zeros((len(years), len(edges) + 1))
    table[np.flatnonzero(known), bins] = 1.0
    return table
