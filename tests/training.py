"""A small federated factorisation to train: plans, cohorts and settings that fit together."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.averaging import Averaging, AveragingConfig
from shared.algorithms.base import Cohort, State
from shared.data.interactions import Interactions
from shared.models.mf import MatrixFactorization, MFConfig
from shared.privacy.plan import Plan, Trust, Unit

__all__ = ["averaging", "cohort", "off_centre", "plan"]


def averaging(n_items: int, *, dim: int = 3, **settings: Any) -> Averaging:
    """A method on items that start far enough from zero for gradients to differ."""
    config = MFConfig(dim=dim, init="normal", init_scale=0.7)
    model = MatrixFactorization(n_items=n_items, config=config)
    return Averaging(model=model, config=AveragingConfig(**settings))


def plan(algorithm: Averaging, **changes: Any) -> Plan:
    """A plan whose rate and steps are those of `algorithm`; `unit="none"` takes the claims off."""
    settings: dict[str, Any] = {
        "unit": Unit.INTERACTION,
        "trust": Trust.LOCAL,
        "epsilon": 8.0,
        "delta": 1e-5,
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "sampling_rate": algorithm.sampling_rate,
        "steps_per_round": algorithm.local_steps,
        "participations": 4,
        "rounds": 4,
        "expected_cohort": 1,
        "noise": "off",
    }
    settings |= changes
    if settings["unit"] == "none":
        settings |= {"epsilon": np.inf, "delta": 0.0, "noise_multiplier": 0.0}
    return Plan(**settings)


def cohort(
    algorithm: Averaging,
    histories: list[list[int]],
    *,
    keys: NDArray[np.int64] | None = None,
    round: int = 1,
    seed: int = 0,
) -> Cohort:
    """Users before their first round, each with a user vector that is not almost zero."""
    names = np.arange(len(histories), dtype=np.int64) if keys is None else np.asarray(keys)
    memory = {"user": 60.0 * algorithm.memory(names, seed)["user"]}
    return Cohort(
        histories=Interactions.from_histories(histories, n_items=algorithm.model.n_items),
        keys=names,
        memory=memory,
        round=round,
        seed=seed,
    )


def off_centre(state: State) -> State:
    """A state whose biases differ, too."""
    bias = np.linspace(-1.0, 1.0, len(state.tensors["bias"]))
    return State(tensors={**state.tensors, "bias": bias}, optimiser={}, round=state.round)
