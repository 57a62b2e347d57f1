"""Write `epsilons.json`: epsilons from dp-accounting and Opacus, without any code of this project.

Run `python tests/golden/make_epsilons.py` (two minutes). Every number is for delta 1e-5 unless its
row says otherwise, and for the add-or-remove relation.
"""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import dp_accounting
from dp_accounting.pld import PLDAccountant
from opacus.accountants import GaussianAccountant, PRVAccountant

SAMPLED = [
    (q, sigma, steps) for q in (0.01, 0.1) for sigma in (0.8, 1.0, 2.0) for steps in (10, 100, 1000)
] + [(0.1, 1.0, 20), (0.1, 5.0, 100), (0.001, 1.0, 3000)]
FULL = [(0.8, 1), (0.8, 10), (1.0, 1), (1.0, 10), (1.0, 20), (2.0, 10), (5.0, 20), (5.0, 100)]
MIXED = [[(1.5, 0.05, 50), (3.0, 0.2, 50)], [(1.5, 0.05, 50), (3.0, 1.0, 5)]]


def pld(history: list[tuple[float, float, int]], delta: float) -> float:
    """dp-accounting's PLD of (sigma, q, steps) triples, on its default grid."""
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for sigma, rate, steps in history:
        event = dp_accounting.GaussianDpEvent(sigma / (math.sqrt(steps) if rate == 1 else 1))
        if rate == 1:
            accountant.compose(event)
        else:
            accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, event), steps)
    return round(float(accountant.get_epsilon(delta)), 5)


def prv(history: list[tuple[float, float, int]], delta: float) -> float:
    """Opacus's PRV upper bound at its default error of 0.01."""
    accountant = PRVAccountant()
    accountant.history = history
    return round(float(accountant.get_epsilon(delta)), 5)


def clt(sigma: float, rate: float, steps: int, delta: float) -> float:
    """Opacus's central-limit accountant: no bound; kept as a negative example."""
    accountant = GaussianAccountant()
    accountant.history = [(sigma, rate, steps)]
    return round(float(accountant.get_epsilon(delta, poisson=True)), 5)


def main() -> None:
    """Compute and write every table."""
    warnings.simplefilter("ignore")
    table: dict[str, Any] = {"delta": 1e-5, "relation": "add-or-remove"}
    table["sampled"] = [
        {
            "rate": q,
            "noise": s,
            "steps": t,
            "pld": pld([(s, q, t)], 1e-5),
            "prv": prv([(s, q, t)], 1e-5),
            "clt": clt(s, q, t, 1e-5),
        }
        for q, s, t in SAMPLED
    ]
    table["full"] = [
        {"noise": s, "steps": t, "delta": delta, "pld": pld([(s, 1.0, t)], delta)}
        for s, t in FULL
        for delta in (1e-5, 1e-6)
    ]
    table["mixed"] = [{"spends": m, "pld": pld(m, 1e-5), "prv": prv(m, 1e-5)} for m in MIXED]
    path = Path(__file__).with_name("epsilons.json")
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
