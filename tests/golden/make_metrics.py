"""Write metrics.json: random made rankings scored by ir-measures. Run: python make_metrics.py."""

import json
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import AP, RR, P, R, Success, nDCG

CUTS = (1, 5, 10, 20, 100)
MEASURES = {
    "hit_rate": Success,
    "ndcg": nDCG,
    "recall": R,
    "precision": P,
    "mrr": RR,
    "map": AP,
}
"""R and AP divide by the number of targets n; the test rescales them to min(k, n)."""


def made_ranks(rng: np.random.Generator, *, queries: int, candidates: int) -> list[list[int]]:
    """Return ranks: in turn one target anywhere, and 1 to 30 that favour the first places."""
    weights = 1.0 / np.arange(1, candidates + 1)
    likely = weights / weights.sum()
    rows = []
    for query in range(queries):
        size, p = (1, None) if query % 2 else (int(rng.integers(1, 31)), likely)
        rows.append(sorted(rng.choice(candidates, size=size, replace=False, p=p).tolist()))
    return rows


def measure(ranks: list[list[int]], *, candidates: int) -> dict[str, list[float]]:
    """Return measure@cut -> one value a query, from the independent library."""
    qrels = [ir_measures.Qrel(f"{q:03}", str(r), 1) for q, found in enumerate(ranks) for r in found]
    run = [
        ir_measures.ScoredDoc(f"{q:03}", str(r), float(candidates - r))
        for q in range(len(ranks))
        for r in range(candidates)
    ]
    values: dict[str, list[float]] = {}
    for name, family in MEASURES.items():
        for cut in CUTS:
            scored = ir_measures.iter_calc([family @ cut], qrels, run)
            by_query = {metric.query_id: metric.value for metric in scored}
            values[f"{name}@{cut}"] = [by_query[q] for q in sorted(by_query)]
    return values


def main() -> None:
    """Write the golden file beside this script."""
    ranks = made_ranks(np.random.default_rng(20021), queries=25, candidates=250)
    content = {"library": "ir-measures 0.4.3", "ranks": ranks}
    content["values"] = measure(ranks, candidates=250)
    target = Path(__file__).with_name("metrics.json")
    target.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
