"""Federated averaging: packing, public denominators, the server's step, and the sensitivity."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import averaging, cohort, off_centre, plan

from shared.algorithms.averaging import AveragingConfig
from shared.algorithms.base import Cohort, State
from shared.algorithms.denoising import shrink_rows
from shared.algorithms.optimisers import OptimiserConfig
from shared.errors import ConfigError
from shared.privacy.plan import Plan
from shared.randomness import NoNoise, OSNoise

HISTORIES = [[0, 5, 3, 7, 7, 1], [4], [], [2, 3, 8, 9]]
SETTINGS = {
    "local_steps": 3,
    "sampling_rate": 0.6,
    "examples": 4.0,
    "user_rate": 1.5,
    "bias_rate": 0.5,
    "user_scale": 2.0,
    "bias_scale": 0.5,
}


def alone(users: Cohort, user: int) -> Cohort:
    rows = np.array([user])
    return replace(
        users,
        histories=users.histories.select(rows),
        keys=users.keys[rows],
        memory={name: value[rows] for name, value in users.memory.items()},
    )


# Packing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "local",
    [
        OptimiserConfig(rate=0.7),
        OptimiserConfig(rate=0.7, momentum=0.5, schedule="cosine", l2=0.1),
        OptimiserConfig(name="adam", rate=0.1, l1=0.01),
    ],
)
def test_packing_does_not_show_in_contributions(local: OptimiserConfig) -> None:
    algorithm = averaging(10, local=local, **SETTINGS)
    state, users = off_centre(algorithm.start(0)), cohort(algorithm, HISTORIES, round=2)
    public = plan(algorithm, unit="none")
    packed, memory = algorithm.contribute(state, users, public)
    assert packed.users == 4
    single = [algorithm.contribute(state, alone(users, user), public) for user in range(4)]
    for name, rows in packed.tensors.items():
        total = sum(update.tensors[name].total() for update, _ in single)
        np.testing.assert_allclose(rows.total(), total, rtol=0, atol=1e-9)
        assert np.abs(total).max() > 1e-3
    vectors = np.concatenate([learned["user"] for _, learned in single])
    np.testing.assert_allclose(memory["user"], vectors, rtol=0, atol=1e-9)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_packing_does_not_show_in_private_contributions(l2: float) -> None:
    algorithm = averaging(10, local=OptimiserConfig(rate=0.7, l2=l2), **SETTINGS)
    state, users = off_centre(algorithm.start(0)), cohort(algorithm, HISTORIES, round=2)
    private = plan(algorithm, clip_norm=0.8)
    packed, memory = algorithm.contribute_per_interaction(state, users, private, NoNoise(0))
    single = [
        algorithm.contribute_per_interaction(state, alone(users, user), private, NoNoise(0))
        for user in range(4)
    ]
    for name, value in packed.tensors.items():
        total = sum(release.tensors[name] for release, _ in single)
        np.testing.assert_allclose(value, total, rtol=0, atol=1e-9)
        assert np.abs(total).max() > 1e-3
    vectors = np.concatenate([learned["user"] for _, learned in single])
    np.testing.assert_allclose(memory["user"], vectors, rtol=0, atol=1e-9)


def test_adam_starts_anew_but_its_schedule_goes_on() -> None:
    local = OptimiserConfig(name="adam", rate=0.1, schedule="exponential", decay=0.5)
    algorithm = averaging(10, local=local, **{**SETTINGS, "local_steps": 1, "sampling_rate": 1.0})
    state, public = algorithm.start(0), plan(algorithm, unit="none")
    moved = [
        algorithm.contribute(state, cohort(algorithm, HISTORIES, round=r), public)[0]
        for r in (1, 3)
    ]
    peaks = [float(np.abs(update.tensors["items"].values).max()) for update in moved]
    assert peaks[0] == pytest.approx(0.1, rel=1e-3)
    assert peaks[1] == pytest.approx(0.025, rel=1e-3)


def test_a_contribution_leaves_state_and_memory_alone() -> None:
    algorithm = averaging(10, **SETTINGS)
    state, users = algorithm.start(0), cohort(algorithm, HISTORIES)
    before = state.tensors["items"].copy(), users.memory["user"].copy()
    algorithm.contribute(state, users, plan(algorithm, unit="none"))
    algorithm.contribute_per_interaction(state, users, plan(algorithm), OSNoise())
    assert (state.tensors["items"] == before[0]).all()
    assert (users.memory["user"] == before[1]).all()


# Sensitivity and public numbers -----------------------------------------------------------------


def one_step(history: list[int], *, clip_norm: float, seed: int) -> np.ndarray:
    """Everything one noise-free step moves, in the unit of the clip."""
    algorithm = averaging(8, engine="vectorised", **{**SETTINGS, "local_steps": 1})
    state, users = off_centre(algorithm.start(seed)), cohort(algorithm, [history], seed=seed)
    private = plan(algorithm, clip_norm=clip_norm)
    release, memory = algorithm.contribute_per_interaction(state, users, private, NoNoise(0))
    rate = algorithm.config.local.rate / algorithm.config.examples
    vector = memory["user"] - users.memory["user"]
    return np.concatenate(
        [
            release.tensors["items"].ravel() / rate,
            release.tensors["bias"] / (rate * 0.5) * 0.5,
            vector.ravel() / (rate * 1.5) * 2.0,
        ]
    )


@given(
    history=st.lists(st.integers(0, 7), min_size=1, max_size=10, unique=True),
    clip_norm=st.sampled_from([0.05, 0.5, 5.0]),
    seed=st.integers(0, 20),
)
@settings(deadline=None, max_examples=80)
def test_one_interaction_moves_one_example_of_a_step(history, clip_norm, seed) -> None:
    """Items, bias and user vector together move by at most the clip norm (times rate/examples)."""
    whole = one_step(history, clip_norm=clip_norm, seed=seed)
    rest = one_step(history[1:], clip_norm=clip_norm, seed=seed)
    assert np.linalg.norm(whole - rest) <= clip_norm * (1 + 1e-9)


def test_the_bound_is_reached() -> None:
    """The sensitivity is not claimed for steps that hardly move."""
    gaps = [
        np.linalg.norm(
            one_step([1, 4, 6], clip_norm=0.05, seed=seed)
            - one_step([4, 6], clip_norm=0.05, seed=seed)
        )
        for seed in range(10)
    ]
    assert max(gaps) == pytest.approx(0.05, rel=1e-3)


def test_the_number_of_interactions_scales_nothing() -> None:
    """Eight interactions move eight clipped examples: divided by `examples`, never by a count."""
    settings_ = {**SETTINGS, "local_steps": 1, "sampling_rate": 1.0, "engine": "vectorised"}
    algorithm = averaging(10, **settings_)
    state = off_centre(algorithm.start(0))
    private = plan(algorithm, clip_norm=0.1)

    def sums(history: list[int], algorithm=algorithm) -> np.ndarray:
        users = cohort(algorithm, [history])
        release, _ = algorithm.contribute_per_interaction(state, users, private, NoNoise(0))
        return release.tensors["items"]

    parts = sum(sums([item]) for item in range(8))
    np.testing.assert_allclose(sums(list(range(8))), parts, rtol=0, atol=1e-12)
    half = averaging(10, **{**settings_, "examples": 8.0})
    np.testing.assert_allclose(sums([1, 2], half), sums([1, 2]) / 2, rtol=0, atol=1e-12)
    repeated = sums([3, 3, 3, 3])
    np.testing.assert_allclose(repeated, sums([3]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ["opacus", "vectorised"])
def test_every_row_is_noised_whatever_the_history(engine: str) -> None:
    algorithm = averaging(10, engine=engine, **SETTINGS)
    for history in ([], [4], list(range(9))):
        release, _ = algorithm.contribute_per_interaction(
            algorithm.start(0),
            cohort(algorithm, [history]),
            plan(algorithm, noise="os"),
            OSNoise(),
        )
        assert release.private
        assert {n: v.shape for n, v in release.tensors.items()} == {"items": (10, 3), "bias": (10,)}
        assert all((value != 0.0).all() for value in release.tensors.values())


@pytest.mark.parametrize("local", [OptimiserConfig(name="adam"), OptimiserConfig(momentum=0.9)])
def test_private_training_is_plain_descent(local: OptimiserConfig) -> None:
    algorithm = averaging(10, local=local)
    with pytest.raises(ConfigError, match=r"algorithm\.local\.name=sgd"):
        algorithm.contribute_per_interaction(
            algorithm.start(0), cohort(algorithm, HISTORIES), plan(algorithm), OSNoise()
        )


@pytest.mark.parametrize(
    "changes", [{"unit": "none"}, {"steps_per_round": 1}, {"sampling_rate": 0.1}]
)
def test_private_training_is_what_the_plan_accounts(changes) -> None:
    algorithm = averaging(10, **SETTINGS)
    with pytest.raises(ConfigError, match="Expected"):
        algorithm.contribute_per_interaction(
            algorithm.start(0), cohort(algorithm, HISTORIES), plan(algorithm, **changes), OSNoise()
        )


@pytest.mark.parametrize("schedule", ["constant", "exponential", "cosine"])
def test_the_last_round_of_a_schedule_still_has_noise(schedule) -> None:
    algorithm = averaging(10, local=OptimiserConfig(schedule=schedule))
    users = cohort(algorithm, HISTORIES, round=4)
    release, _ = algorithm.contribute_per_interaction(
        algorithm.start(0), users, plan(algorithm, noise="os"), OSNoise()
    )
    assert (release.tensors["items"] != 0.0).all()


def test_user_vectors_start_without_data() -> None:
    algorithm = averaging(10)
    keys = np.array([5, 2**40, -3])
    memory = algorithm.memory(keys, 1)["user"]
    assert np.abs(memory).max() <= 1e-2
    assert (algorithm.memory(keys[1:], 1)["user"] == memory[1:]).all()
    assert (algorithm.memory(keys, 2)["user"] != memory).all()


# The server -------------------------------------------------------------------------------------

TOTAL = {"items": np.arange(30.0).reshape(10, 3) - 11.0, "bias": np.linspace(1, 3, 10)}


def absorbed(server: OptimiserConfig, rounds: int, **changes) -> tuple[State, State, Plan]:
    algorithm = averaging(10, server=server, denoise=False)
    public = plan(algorithm, expected_cohort=50, **changes)
    start = state = algorithm.start(0)
    for _ in range(rounds):
        state = algorithm.absorb(state, TOTAL, public)
    return start, state, public


def test_server_steps_along_the_mean_over_the_expected_cohort() -> None:
    start, state, _ = absorbed(OptimiserConfig(rate=0.5), 2)
    assert state.round == 2
    for name, value in state.tensors.items():
        np.testing.assert_allclose(value, start.tensors[name] + 2 * 0.5 * TOTAL[name] / 50)


def test_server_momentum_remembers() -> None:
    start, state, _ = absorbed(OptimiserConfig(rate=0.5, momentum=0.8), 2)
    for name, value in state.tensors.items():
        expected = start.tensors[name] + 0.5 * (1 + 1.8) * TOTAL[name] / 50
        np.testing.assert_allclose(value, expected)


def test_server_adam_steps_by_its_rate() -> None:
    start, state, _ = absorbed(OptimiserConfig(name="adam", rate=0.1), 3)
    for name, value in state.tensors.items():
        step = value - start.tensors[name]
        moving = TOTAL[name] != 0.0
        np.testing.assert_allclose(step[moving], 0.3 * np.sign(TOTAL[name][moving]), rtol=1e-5)


def test_server_penalties_shrink_the_tables() -> None:
    algorithm = averaging(10, server=OptimiserConfig(rate=0.5, l1=0.2, l2=1.0), denoise=False)
    start = off_centre(algorithm.start(0))
    zero = {name: np.zeros_like(value) for name, value in start.tensors.items()}
    state = algorithm.absorb(start, zero, plan(algorithm))
    for name, value in start.tensors.items():
        expected = np.sign(value) * np.maximum(np.abs(value) - 0.1, 0.0) / 1.5
        np.testing.assert_allclose(state.tensors[name], expected)


@pytest.mark.parametrize("unit", ["none", "interaction"])
@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize(
    "server", [OptimiserConfig(), OptimiserConfig(momentum=0.9), OptimiserConfig(name="adam")]
)
def test_a_zero_total_changes_nothing(server, denoise, unit) -> None:
    algorithm = averaging(10, server=server, denoise=denoise)
    public = plan(algorithm, unit=unit)
    start = state = off_centre(algorithm.start(0))
    zero = {name: np.zeros_like(value) for name, value in start.tensors.items()}
    for _ in range(2):
        state = algorithm.absorb(state, zero, public)
    for name, value in start.tensors.items():
        np.testing.assert_array_equal(state.tensors[name], value)


# Denoising --------------------------------------------------------------------------------------


def test_no_noise_changes_nothing() -> None:
    change = np.random.default_rng(0).normal(size=(20, 5))
    change[3] = 0.0
    np.testing.assert_array_equal(shrink_rows(change, variance=0.0), change)


def test_a_row_of_pure_noise_is_mostly_removed() -> None:
    """Of 4,000 rows of noise a tenth of the size is left; rows ten times as large stay."""
    noise = np.random.default_rng(1).normal(scale=0.3, size=(4000, 16))
    left = shrink_rows(noise, variance=0.09)
    assert np.square(left).sum() < 0.1 * np.square(noise).sum()
    signal = noise + 3.0
    kept = shrink_rows(signal, variance=0.09)
    assert np.square(kept).sum() > 0.95 * np.square(signal).sum()
    assert np.square(kept - 3.0).sum() < 1.1 * np.square(noise).sum()


def test_denoising_knows_the_variance_of_what_was_released() -> None:
    """Devices without data: what the server publishes is what shrinking removed of pure noise."""
    algorithm = averaging(
        200,
        dim=16,
        local_steps=2,
        examples=4.0,
        local=OptimiserConfig(rate=0.7),
        server=OptimiserConfig(rate=1.3),
        engine="vectorised",
    )
    users = 25
    private = plan(algorithm, noise="os", noise_multiplier=2.0, expected_cohort=users)
    start = state = algorithm.start(0)
    for round_ in (1, 2, 3):
        group = cohort(algorithm, [[]] * users, round=round_)
        release, _ = algorithm.contribute_per_interaction(state, group, private, OSNoise())
        state = algorithm.absorb(state, release.tensors, private)
    raw = state.optimiser["raw.items"] - start.tensors["items"]
    variance = private.weighted_deviation(state.optimiser["weights.items"].tolist()) ** 2
    # 3,200 values: five standard errors of their variance are 12.5 %, a false alarm of 6e-7.
    assert variance == pytest.approx(raw.var(), rel=0.125)
    left = state.tensors["items"] - start.tensors["items"]
    assert np.square(left).sum() < 0.15 * np.square(raw).sum()
    np.testing.assert_allclose(left, shrink_rows(raw, variance=variance), atol=1e-12)


@pytest.mark.parametrize(
    "server", [OptimiserConfig(momentum=0.5), OptimiserConfig(name="adam"), OptimiserConfig(l2=0.1)]
)
def test_only_plain_sums_are_denoised(server) -> None:
    algorithm = averaging(10, server=server, denoise=True)
    other = averaging(10, server=server, denoise=False)
    state = algorithm.start(0)
    one, two = (a.absorb(state, TOTAL, plan(a)) for a in (algorithm, other))
    np.testing.assert_array_equal(one.tensors["items"], two.tensors["items"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("local_steps", 0),
        ("negatives", 0),
        *[("sampling_rate", v) for v in (0.0, 1.1, np.nan)],
        *[
            (name, value)
            for name in ("negative_weight", "examples", "user_rate", "bias_rate", "user_scale")
            for value in (0.0, -1.0, np.inf, np.nan)
        ],
    ],
)
def test_bad_configs_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.{name}"):
        AveragingConfig(**{name: value})
