"""The descents against torch's, the schedules against torch's, the penalties against calculus."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from shared.algorithms.optimisers import OptimiserConfig, descend, learning_rate, shrink
from shared.errors import ConfigError

STEPS = 12


def gradient_of(value: np.ndarray, step: int) -> np.ndarray:
    """A gradient that depends on where one is and on the step."""
    return np.tanh(value) + 0.3 * np.sin(step + np.arange(value.size)).reshape(value.shape)


def ours(config: OptimiserConfig, start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    values, moments = dict(start), {}
    for step in range(1, STEPS + 1):
        found = {name: gradient_of(value, step) for name, value in values.items()}
        rate = learning_rate(config, step=step, steps=STEPS)
        values, moments = descend(config, values, found, moments, step=step, rate=rate)
    return values


def theirs(optimiser, schedule, start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = {name: torch.tensor(value) for name, value in start.items()}
    steps = optimiser(list(values.values()))
    rates = schedule(steps)
    for step in range(1, STEPS + 1):
        for value in values.values():
            value.grad = torch.from_numpy(gradient_of(value.numpy(), step))
        steps.step()
        rates.step()
    return {name: value.numpy() for name, value in values.items()}


OPTIMISERS = {
    "sgd": ({}, lambda p: torch.optim.SGD(p, lr=0.2)),
    "momentum": ({"momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9)),
    "adam": (
        {"name": "adam", "beta1": 0.8, "beta2": 0.97},
        lambda p: torch.optim.Adam(p, lr=0.2, betas=(0.8, 0.97)),
    ),
}
RATES = torch.optim.lr_scheduler
SCHEDULES = {
    "constant": ({}, lambda o: RATES.ConstantLR(o, factor=1.0)),
    "exponential": (
        {"schedule": "exponential", "decay": 0.8},
        lambda o: RATES.ExponentialLR(o, gamma=0.8),
    ),
    "cosine": ({"schedule": "cosine"}, lambda o: RATES.CosineAnnealingLR(o, T_max=STEPS)),
    "warm-up": (
        {"warmup": 5},
        lambda o: RATES.LinearLR(o, start_factor=1 / 5, total_iters=4),
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_descent_is_torchs(optimiser: str, schedule: str) -> None:
    settings_, make = OPTIMISERS[optimiser]
    more, make_schedule = SCHEDULES[schedule]
    rng = np.random.default_rng(0)
    start = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)}
    found = ours(OptimiserConfig(rate=0.2, **settings_, **more), start)
    expected = theirs(make, make_schedule, start)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-12)
        assert np.abs(value - start[name]).max() > 0.05


def test_schedules_keep_their_word() -> None:
    cosine = OptimiserConfig(rate=2.0, schedule="cosine")
    rates = [learning_rate(cosine, step=step, steps=8) for step in range(1, 9)]
    assert rates[0] == 2.0
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0.0
    both = OptimiserConfig(rate=2.0, schedule="exponential", decay=0.5, warmup=4)
    assert learning_rate(both, step=1, steps=8) == 2.0 / 4
    assert learning_rate(both, step=3, steps=8) == 2.0 * 0.25 * 0.75
    assert learning_rate(both, step=6, steps=8) == 2.0 * 0.5**5


@given(
    value=st.floats(-3, 3),
    l1=st.sampled_from([0.0, 0.3, 2.0]),
    l2=st.sampled_from([0.0, 0.7]),
)
@settings(deadline=None, max_examples=60)
def test_shrink_is_the_proximal_step(value: float, l1: float, l2: float) -> None:
    def objective(x: float) -> float:
        return 0.5 * (x - value) ** 2 + l1 * abs(x) + 0.5 * l2 * x**2

    found = float(shrink(np.array(value), l1=l1, l2=l2))
    best = minimize_scalar(objective, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9})
    assert objective(found) <= best.fun + 1e-9


def test_penalties_are_taken_with_the_rate() -> None:
    config = OptimiserConfig(rate=0.5, l1=0.2, l2=0.4)
    start = {"a": np.array([1.0, -1.0, 0.05])}
    moved, _ = descend(config, start, {"a": np.zeros(3)}, {}, step=1, rate=0.5)
    np.testing.assert_allclose(moved["a"], [0.9 / 1.2, -0.9 / 1.2, 0.0])


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_zero_gradient_moves_nothing(name: str) -> None:
    config = OptimiserConfig(rate=0.2, **OPTIMISERS[name][0])
    start = {"a": np.array([1.0, -2.0, 0.0])}
    moved, moments = descend(config, start, {"a": np.zeros(3)}, {}, step=1, rate=0.2)
    moved, _ = descend(config, moved, {"a": np.zeros(3)}, moments, step=2, rate=0.2)
    assert moved["a"].tolist() == start["a"].tolist()


def test_values_are_not_changed_in_place() -> None:
    start, gradient = {"a": np.ones(2)}, {"a": np.ones(2)}
    descend(OptimiserConfig(momentum=0.5), start, gradient, {}, step=1, rate=1.0)
    assert start["a"].tolist() == gradient["a"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("rate", v) for v in (0.0, -1.0, np.nan, np.inf)],
        *[(n, v) for n in ("momentum", "beta1", "beta2") for v in (-0.1, 1.0, np.nan)],
        *[("decay", v) for v in (0.0, 1.1, np.nan)],
        *[(n, v) for n in ("l1", "l2") for v in (-1.0, np.nan, np.inf)],
        ("warmup", -1),
    ],
)
def test_bad_configs_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        OptimiserConfig(**{name: value})
