"""How long one secure sum takes when one process plays the server and every device.

Goals on two cores: 50 devices x 54,400 coordinates in under 2 s, 1,000 x 100,000 in under 60 s.
A twentieth of the devices fall silent after sharing, so the dear recovery of their masks is
included; colluders and dropouts are declared as a tenth each. What devices send goes over the
wire; lists that are the same for all are read once, and so is each signature (it would cost a
device on its own one verification for each vote). Run:

    python -m simulations.benchmarks.secure_sum [--devices N --dimension D]

One JSON object goes to stdout; the exit code is 4 when a sum is not the plain one.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.errors import FedrecError, VerificationError
from shared.privacy.discrete_gaussian import discrete_gaussian
from shared.privacy.keystream import OSWords
from shared.privacy.secure_sum.device import Device
from shared.privacy.secure_sum.server import Server
from shared.privacy.secure_sum.session import Session
from shared.randomness import stream

__all__ = ["GOALS", "main", "measure", "noise_rate"]

GOALS = {(50, 54_400): 2.0, (1000, 100_000): 60.0}
"""(devices, coordinates) -> seconds."""

DISTINCT = 16
"""Different vectors; device i sends number i modulo this many."""


class _Watch:
    """Seconds of each phase, and the bytes of one device."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.bytes_up: dict[str, int] = {}
        self._began = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = round(now - self._began, 3)
        self._began = now

    def wire(self, message: Any) -> Any:
        """Send a message: what arrives is what its bytes say."""
        raw = message.to_bytes()
        self.bytes_up[type(message).__name__] = len(raw)
        return type(message).from_bytes(raw)


def measure(*, devices: int, dimension: int) -> dict[str, Any]:
    """Return seconds, bytes and whether the sum is the plain one, for one sum.

    Args:
        devices: Devices of the roster, 3 or more.
        dimension: Coordinates of a vector.
    """
    identities = [Ed25519PrivateKey.generate() for _ in range(devices)]
    session = Session(
        run="benchmark",
        round=1,
        roster=tuple(key.public_key().public_bytes_raw() for key in identities),
        dimension=dimension,
        minimum=max(devices * 7 // 10, 2),
        colluders=devices // 10,
        dropouts=devices // 10,
    )
    vectors = stream(0, "benchmark vectors").integers(
        0, 2**32, (min(devices, DISTINCT), dimension), dtype=np.uint32
    )
    watch, silent = _Watch(), devices // 20
    cohort = [Device(session=session, number=i, identity=key) for i, key in enumerate(identities)]
    total = _play(session, cohort, vectors=vectors, silent=silent, watch=watch)
    weights = np.bincount(np.arange(silent, devices) % len(vectors), minlength=len(vectors))
    plain = (weights.astype(np.uint32)[:, None] * vectors).sum(axis=0, dtype=np.uint32)
    seconds, goal = sum(watch.seconds.values()), GOALS.get((devices, dimension))
    return {
        "devices": devices,
        "dimension": dimension,
        "silent": silent,
        "exact": bool(np.array_equal(total, plain)),
        "seconds": round(seconds, 3),
        "goal_seconds": goal,
        "met": goal and seconds < goal,
        "phases": watch.seconds,
        "bytes_up": watch.bytes_up,
    }


def _play(
    session: Session,
    cohort: list[Device],
    *,
    vectors: NDArray[np.uint32],
    silent: int,
    watch: _Watch,
) -> NDArray[np.uint32]:
    """Play one sum in which the first devices fall silent after sharing."""
    server = Server(session)
    watch.lap("set-up")
    for device in cohort:
        server.receive(watch.wire(device.advertise()))
    keys = watch.wire(server.keys())
    watch.lap("advertise")
    for device in cohort:
        server.receive(watch.wire(device.share(keys)))
    deliveries = server.deliveries()
    watch.lap("share")
    awake = list(enumerate(cohort))[silent:]
    for number, device in awake:
        delivery = watch.wire(deliveries[number])
        server.receive(watch.wire(device.mask(delivery, vectors[number % len(vectors)])))
    survivors = watch.wire(server.survivors())
    watch.lap("mask")
    for _, device in awake:
        server.receive(watch.wire(device.vote(survivors)))
    proof = watch.wire(server.proof())
    watch.lap("vote")
    for _, device in awake:
        server.receive(watch.wire(device.unmask(proof)))
    watch.lap("unmask")
    total = server.total()
    watch.lap("total")
    return total


def noise_rate(*, sigma: float, size: int = 1_000_000) -> float:
    """Return discrete Gaussian samples per second of one core."""
    began = time.process_time()
    discrete_gaussian(size=size, sigma=sigma, source=OSWords())
    return round(size / (time.process_time() - began))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both goals, or one case; return the exit code."""
    parser = argparse.ArgumentParser(description="Wall time of a secure sum in one process.")
    parser.add_argument("--devices", type=int, help="devices of one case of your own")
    parser.add_argument("--dimension", type=int, default=100_000, help="coordinates of that case")
    asked = parser.parse_args(arguments)
    cases = [(asked.devices, asked.dimension)] if asked.devices else list(GOALS)
    try:
        sums = [measure(devices=devices, dimension=dimension) for devices, dimension in cases]
    except FedrecError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    rates = {f"{sigma:g}": noise_rate(sigma=sigma) for sigma in (10.0, 1e4, 1e6)}
    sys.stdout.write(json.dumps({"sums": sums, "noise_samples_per_second": rates}) + "\n")
    return 0 if all(case["exact"] for case in sums) else VerificationError.exit_code


if __name__ == "__main__":
    sys.exit(main())
