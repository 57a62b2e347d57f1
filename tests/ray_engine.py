"""The same apps on Flower's own simulation engine: python ray_engine.py RESULT.npz.

A process of its own, because Ray starts and ends processes of its own. The population comes from
the environment, as for any node that is not of this process.
"""

import sys
from pathlib import Path

import numpy as np
from counting import plan
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from client.app import app as client_app
from server.census import greet
from server.rounds import run_rounds
from server.terms import Method, Terms
from shared.algorithms.base import State
from shared.algorithms.methods import build

METHOD = Method(
    model="mf",
    algorithm="averaging",
    settings={"algorithm.local_steps": 2, "algorithm.engine": "vectorised"},
)


def main() -> None:
    """Run three rounds on four nodes and write the global tensors."""
    from flwr.simulation import run_simulation

    last: list[State] = []
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        census = greet(grid, nodes=4)
        algorithm = build(METHOD.model, METHOD.algorithm, METHOD.settings, census.n_items)
        last.append(
            run_rounds(
                grid,
                census=census,
                algorithm=algorithm,
                method=METHOD,
                plan=plan(rounds=3, cohort=census.users),
                terms=Terms(rounds=3, cohort=census.users),
                seed=1,
            )
        )

    run_simulation(
        server_app=server,
        client_app=client_app,
        num_supernodes=4,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    with Path(sys.argv[1]).open("wb") as file:
        np.savez(file, **dict(last[0].tensors))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
