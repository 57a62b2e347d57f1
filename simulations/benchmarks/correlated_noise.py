"""What correlated noise saves: in theory, in a run's released sums, and in a recommender.

Three answers, each as one key of the JSON object on stdout:

- `rms`: noise of the running sum over rounds, its rms in clip norms, independent and correlated,
  by rounds, separation and epsilon (delta 1e-6);
- `realised`: the same number measured in the model of a real federation of a made population (a
  private count in 40 rounds, against its twin without noise), beside what the plan says;
- `utility`, with `--dataset`: NDCG@10 of the same run under both kinds of noise. Whatever is to be
  otherwise than in `SETTINGS` is said with `--set`.

    python -m simulations.benchmarks.correlated_noise [--dataset NAME|PATH] [--seeds 0 1 2]
        [--config CONFIG.toml] [--set KEY=VALUE ...]

The exit code is 4 when the realised noise is more than 5 % from the plan's.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.app import app as client_app
from server.app import application
from server.census import Census
from server.journal import RoundReport
from server.terms import settle
from shared.config import Settings
from shared.data.interactions import Interactions
from shared.errors import FedrecError, VerificationError
from shared.privacy.calibration import correlated_multiplier
from shared.privacy.correlated import iterate_rms
from shared.privacy.ledger import Ledger
from shared.randomness import stream
from simulations.display import Display
from simulations.grids import LocalGrid
from simulations.options import settings_for
from simulations.population import Population
from simulations.run import measure

__all__ = ["main", "realised", "rms_table", "utility"]

CASES = ((40, 40), (40, 10), (100, 10), (40, 1))
"""Rounds and separation."""
EPSILONS = (1.0, 3.0, 10.0)
DELTA = 1e-6
SETTINGS = (
    "privacy.unit=user",
    "privacy.trust=central",
    "privacy.separation=10",
    "training.rounds=40",
    "training.cohort=0.1",
    "training.validate_every=40",
)
"""What both kinds of noise are compared under, unless `--set` says otherwise."""
CLOSE = 0.05
USERS, ITEMS = 200, 4000


def rms_table() -> list[dict[str, Any]]:
    """Return the rms noise of the running sum in clip norms, a row a case and epsilon."""
    return [
        {"rounds": rounds, "separation": apart, "epsilon": epsilon}
        | {
            name: round(_rms(rounds, apart, bands, epsilon), 2)
            for name, bands in {"independent": 1, "correlated": apart}.items()
        }
        for rounds, apart in CASES
        for epsilon in EPSILONS
    ]


def _rms(rounds: int, separation: int, bands: int, epsilon: float) -> float:
    noise = correlated_multiplier(
        epsilon=epsilon, delta=DELTA, rounds=rounds, separation=separation, bands=bands
    )
    return iterate_rms(rounds=rounds, bands=bands, noise_multiplier=noise)


def realised(*, bands: int, trust: str = "central", seed: int = 0) -> dict[str, float]:
    """Measure the noise that a run adds to its model, in clip norms.

    Args:
        bands: 0 for as many as the separation allows, 1 for independent noise.
        trust: Who adds the noise.
        seed: Of the made population and of the cohorts; never of the noise.

    Returns:
        "measured" and "planned": rms of the running sum's noise over rounds and items.
    """
    table: dict[str, Any] = {
        "seed": seed,
        "model": {"name": "popularity"},
        "privacy": {"unit": "user", "trust": trust, "separation": 10, "bands": bands},
        "training": {"rounds": 40, "cohort": 0.1, "quorum": 1.0},
    }
    noised = _counts(Settings.from_table(table))
    table["privacy"]["noise"] = "off"
    settings = Settings.from_table(table)
    census = Census(nodes={1: USERS}, n_items=ITEMS, catalogue="made")
    *_, plan = settle(settings, census)
    planned = [plan.weighted_deviation([1.0] * t) for t in range(1, plan.rounds + 1)]
    measured = (noised - _counts(settings)) / plan.clip_norm
    return {
        "measured": float(np.sqrt(np.square(measured).mean())),
        "planned": float(np.sqrt(np.square(planned).mean()) / plan.clip_norm),
    }


def _counts(settings: Settings) -> NDArray[np.float64]:
    """Return the model after each round, float64 [rounds, items], of a made population."""
    rng = stream(settings.seed, "made population")
    histories = [rng.integers(ITEMS, size=1 + user % 30).tolist() for user in range(USERS)]
    made = Interactions.from_histories(histories, n_items=ITEMS)
    population = Population.from_interactions(made, catalogue="made")
    seen: list[NDArray[np.float64]] = []

    def observe(report: RoundReport) -> bool:
        seen.append(report.state.tensors["counts"])
        return False

    with tempfile.TemporaryDirectory() as place, Ledger(Path(place) / "ledger.db") as ledger:
        participants = population.participants(2, ledger=ledger)
        with LocalGrid(client_app, participants) as grid:
            grid.serve(application(observe), {**settings.to_flat(), "nodes": 2})
    return np.array(seen)


def utility(runs: Sequence[Settings]) -> dict[str, Any]:
    """Repeat one setting; return NDCG@10 on validation and test, each with its deviation."""
    found: dict[str, list[float]] = {"validation": [], "test": []}
    for settings in runs:
        with tempfile.TemporaryDirectory() as place, Display(silent=True) as display:
            out = Path(place) / "run"
            _, result = measure(settings=settings, out=out, resume=False, display=display)
        for name, values in found.items():
            values.append(result[name]["ndcg@10"])
        print(f"bands {settings.privacy.bands} {found}", file=sys.stderr)  # noqa: T201
    return {
        name: {"runs": values, "mean": mean(values), "deviation": stdev(values)}
        for name, values in found.items()
    }


def _settings(arguments: argparse.Namespace, bands: int, seed: int) -> Settings:
    flags = {"data.dataset": arguments.dataset, "seed": seed}
    assignments = [*SETTINGS, *arguments.set, f"privacy.bands={bands}"]
    return settings_for(
        config=arguments.config, flags=flags, assignments=assignments, out=None, resume=False
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    kinds = {"independent": 1, "correlated": 0}
    found: dict[str, Any] = {"rms": rms_table()}
    try:
        found["realised"] = {name: realised(bands=bands) for name, bands in kinds.items()}
        if arguments.dataset:
            found["utility"] = {
                name: utility([_settings(arguments, bands, seed) for seed in arguments.seeds])
                for name, bands in kinds.items()
            }
    except FedrecError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(json.dumps(found, indent=1))  # noqa: T201
    ratios = [one["measured"] / one["planned"] for one in found["realised"].values()]
    close = all(abs(ratio - 1.0) <= CLOSE for ratio in ratios)
    return 0 if close else VerificationError.exit_code


if __name__ == "__main__":
    sys.exit(main())
