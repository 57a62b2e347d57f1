"""What protection costs: the default run at several epsilons and seeds, against popularity.

For each epsilon the run is repeated; the per-user scores are averaged over the repetitions and
compared with popularity's on the same users, so that the interval of the difference is paired.
Protective noise comes from the operating system: repetitions differ in it, whatever the seeds.

    python -m simulations.benchmarks.epsilon_curve [--dataset NAME|PATH] [--epsilons 2 4 8]
        [--seeds 0 1 2] [--config CONFIG.toml]

One JSON object goes to stdout, a line a run to stderr. `--epsilons none` runs without protection.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.config import Settings
from shared.errors import FedrecError
from shared.evaluation.protocols import Scores, compare
from simulations.display import Display
from simulations.options import settings_for
from simulations.run import measure

__all__ = ["curve", "main"]

METRICS = ("hit_rate@10", "ndcg@10", "recall@20", "sampled_hit_rate@10", "sampled_ndcg@10")


def curve(settings: Sequence[Settings]) -> dict[str, Any]:
    """Repeat one setting and compare it with popularity and private popularity.

    Args:
        settings: The same run under different seeds.

    Returns:
        Means and standard deviations over the repetitions, and paired differences to each
        baseline with a 95 % interval over users.
    """
    runs = [_scores(one) for one in settings]
    ours = [run["test"] for run in runs]
    found: dict[str, Any] = {"runs": len(runs)}
    for name in ("test", "popularity", "private_popularity"):
        repeated = [run[name] for run in runs if name in run]
        if repeated:
            found[name] = {metric: _spread(repeated, metric) for metric in METRICS}
        if repeated and name != "test":
            found[f"above {name}"] = {
                metric: [round(value, 4) for value in (gap.mean, gap.low, gap.high)]
                for metric, gap in compare(ours, repeated).items()
                if metric in METRICS
            }
    return found


def _scores(settings: Settings) -> dict[str, Scores]:
    with tempfile.TemporaryDirectory() as place, Display(silent=True) as display:
        scores, _ = measure(
            settings=settings, out=Path(place) / "run", resume=False, display=display
        )
    test = scores["test"].metrics
    budget = settings.privacy.epsilon if settings.privacy.unit != "none" else "none"
    print(f"epsilon {budget} seed {settings.seed} {test}", file=sys.stderr)  # noqa: T201
    return scores


def _spread(repeated: Sequence[Scores], metric: str) -> list[float]:
    """Return mean and standard deviation over repetitions."""
    values = [one.metrics[metric] for one in repeated]
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)) ** 0.5
    return [round(mean, 4), round(spread, 4)]


def _settings(arguments: argparse.Namespace, epsilon: str, seed: int) -> Settings:
    flags: dict[str, object] = {"data.dataset": arguments.dataset, "seed": seed}
    if epsilon == "none":
        flags["privacy.unit"] = "none"
    else:
        flags["privacy.epsilon"] = float(epsilon)
    return settings_for(
        config=arguments.config, flags=flags, assignments=arguments.set, out=None, resume=False
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--epsilons", nargs="+", default=["2", "4", "8"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    try:
        found = {
            f"epsilon {epsilon}": curve([_settings(arguments, epsilon, s) for s in arguments.seeds])
            for epsilon in arguments.epsilons
        }
    except FedrecError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(json.dumps(found, indent=1))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
