"""Kill runs without warning, resume them, and compare each with one that was left alone.

Protective noise is a stand-in here (`privacy.noise=seeded`), so that all runs must end with the
same numbers to the last digit; the ledger must show every planned step, and none less.

    python -m simulations.benchmarks.kill_and_resume [--dataset NAME|PATH] [--kills 10] [--seed 0]

Each of ten runs is sent SIGKILL after a random part of the time that a whole run takes. One JSON
object goes to stdout; the exit code is 4 when anything differs.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.randomness import stream

__all__ = ["main"]

ROUNDS = 6


def _command(arguments: argparse.Namespace, out: Path) -> list[str]:
    """Return a run, or its continuation where there is something to continue."""
    base = [sys.executable, "-m", "simulations.cli", "simulate", "--json", "--out", str(out)]
    if (out / "manifest.json").exists():
        return [*base, "--resume"]
    noise = ["--set", "privacy.noise=seeded", "--rounds", str(ROUNDS)]
    return [*base, "--dataset", arguments.dataset, *noise, "--seed", str(arguments.seed)]


def _whole(arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    done = subprocess.run(  # noqa: S603 our own interpreter and arguments
        _command(arguments, out), capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _killed(arguments: argparse.Namespace, out: Path, seconds: float) -> dict[str, Any]:
    """Return the result of a run that was killed after `seconds`, and then went on."""
    process = subprocess.Popen(  # noqa: S603 our own interpreter and arguments
        _command(arguments, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if (out / "result.json").exists():
        return {}
    return _whole(arguments, out)


def _compared(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Run once in peace, then kill and resume until the kills are done."""
    began = time.monotonic()
    alone = _whole(arguments, place / "alone")
    longest = time.monotonic() - began
    rng = stream(arguments.seed, "kills")
    moments: list[float] = []
    same, least = True, math.inf
    while len(moments) < arguments.kills:
        seconds = float(rng.uniform(0.15, 1.0)) * longest
        with tempfile.TemporaryDirectory(dir=place) as out:
            resumed = _killed(arguments, Path(out) / "run", seconds)
        if not resumed:
            continue
        moments.append(round(seconds, 1))
        same &= all(alone[part] == resumed[part] for part in ("test", "validation", "rounds"))
        least = min(least, resumed["privacy"]["epsilon"])
    return {
        "killed after seconds": moments,
        "seconds of a whole run": round(longest, 1),
        "same result each time": same,
        "epsilon of the run left alone": alone["privacy"]["epsilon"],
        "least epsilon in a ledger": least,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        found = _compared(arguments, Path(place))
    print(json.dumps(found, indent=1))  # noqa: T201
    true = found["least epsilon in a ledger"] >= found["epsilon of the run left alone"]
    return 0 if found["same result each time"] and true else 4


if __name__ == "__main__":
    sys.exit(main())
