"""Requests and plans that cannot be built, and what the refusal says."""

import math
from dataclasses import replace

import numpy as np
import pytest
from counting import user_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag

from shared.errors import ConfigError
from shared.privacy.accounting import epsilon_of
from shared.privacy.bands import coefficients
from shared.privacy.bounds import BOUNDS, count, number
from shared.privacy.plan import Plan, PrivacyConfig, Trust, Unit

PLAN = Plan(
    unit=Unit.INTERACTION,
    trust=Trust.LOCAL,
    epsilon=8.0,
    delta=1e-5,
    clip_norm=1.0,
    noise_multiplier=1.5,
    sampling_rate=0.1,
    steps_per_round=2,
    participations=3,
    rounds=4,
    expected_cohort=5,
    noise="os",
)
NOT_NUMBERS = [0.0, -1.0, math.nan, math.inf, -math.inf, "8", None, True]


@pytest.mark.parametrize("name", sorted(BOUNDS))
@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_number_refuses(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"Expected 0 < {name} <") as caught:
        number(name, value)
    assert str(value) in str(caught.value)
    assert BOUNDS[name].advice in str(caught.value)


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_number_keeps_its_end_of_the_range(name: str) -> None:
    bound = BOUNDS[name]
    inside = math.nextafter(bound.high, 0.0) if bound.open else bound.high
    assert number(name, inside) == inside
    with pytest.raises(ConfigError):
        number(name, math.nextafter(inside, math.inf))


def test_number_takes_whole_and_numpy_numbers() -> None:
    assert number("epsilon", 8) == 8.0
    assert number("clip_norm", np.float32(0.5)) == 0.5


@pytest.mark.parametrize("value", [0, -3, 2.0, math.nan, "2", True, None])
def test_count_refuses(value: object) -> None:
    with pytest.raises(ConfigError, match="whole number >= 1"):
        count("rounds", value)


def test_count_takes_whole_numbers() -> None:
    assert count("rounds", np.int64(3)) == 3


@pytest.mark.parametrize("name", ["epsilon", "delta", "clip_norm"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", True])
def test_config_refuses_numbers(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        PrivacyConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("epsilon", 0), ("clip_norm", 0), ("delta", 1.0)])
def test_config_refuses_ends(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        PrivacyConfig(**{name: value})  # type: ignore[arg-type]


def test_config_takes_plain_strings() -> None:
    config = PrivacyConfig(unit="none", trust="central", epsilon=3)  # type: ignore[arg-type]
    assert (config.unit, config.trust) == (Unit.NONE, Trust.CENTRAL)
    assert isinstance(config.epsilon, float)


@pytest.mark.parametrize("trust", list(Trust))
def test_no_protection_ignores_trust(trust: Trust) -> None:
    assert PrivacyConfig(unit=Unit.NONE, trust=trust).trust is trust


@pytest.mark.parametrize("trust", [Trust.CENTRAL, Trust.DISTRIBUTED])
def test_interactions_are_protected_by_the_device(trust: Trust) -> None:
    with pytest.raises(ConfigError, match="trust=local"):
        PrivacyConfig(trust=trust)
    with pytest.raises(ConfigError, match="trust=local"):
        replace(PLAN, trust=trust)


USER = replace(PLAN, unit=Unit.USER, sampling_rate=1.0, steps_per_round=1)


@pytest.mark.parametrize("trust", [Trust.CENTRAL, Trust.LOCAL])
def test_whole_users_are_protected_by_device_or_server(trust: Trust) -> None:
    assert PrivacyConfig(unit=Unit.USER, trust=trust).unit is Unit.USER
    assert replace(USER, trust=trust).private


def test_shares_of_the_budget_by_round_cost_the_same_in_all() -> None:
    plain = replace(USER, rounds=3, participations=3)
    shared = replace(plain, shares=(0.1, 0.3, 0.6))
    noises = [shared.multiplier(turn) for turn in (1, 2, 3)]
    assert noises == sorted(noises, reverse=True)
    mu = sum(1 / noise**2 for noise in noises)
    assert mu == pytest.approx(3 / plain.noise_multiplier**2)
    assert epsilon_of(shared.spends(3), delta=1e-5) == pytest.approx(
        epsilon_of((plain.total_spend,), delta=1e-5), abs=1e-9
    )
    for turn in (0, 4):
        with pytest.raises(ConfigError, match=r"Expected a round in 1 \.\. 3"):
            shared.multiplier(turn)


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.5, 0.6, -0.1), (0.2, 0.2, 0.2), (float("nan"), 0.5, 0.5), ("a",) * 3]
)
def test_impossible_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="3 positive shares"):
        replace(USER, rounds=3, participations=3, shares=shares)


def test_shares_need_everyone_in_every_round() -> None:
    with pytest.raises(ConfigError, match="every device would have to take part"):
        replace(USER, rounds=3, participations=2, shares=(0.2, 0.3, 0.5))


def test_noise_on_a_sum_by_trust() -> None:
    base = replace(USER, trust=Trust.CENTRAL, expected_cohort=100, clip_norm=0.5)
    once = base.noise_multiplier * 0.5
    assert base.sum_deviation(1) == pytest.approx(once)
    assert replace(base, trust=Trust.LOCAL).sum_deviation(1) == pytest.approx(10 * once)
    spread = replace(base, trust=Trust.DISTRIBUTED, dropouts=20, colluders=16)
    assert (spread.minimum, spread.honest) == (80, 64)
    assert spread.sum_deviation(1) == pytest.approx(once * 1.25)


@pytest.mark.parametrize("change", [{"sampling_rate": 0.5}, {"steps_per_round": 2}])
def test_whole_users_claim_no_sampling_and_one_release(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="sampling_rate=1 and steps_per_round=1"):
        replace(USER, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["unit", "trust", "noise"])
@pytest.mark.parametrize("value", ["", "Local ", "os ", None, 3])
def test_unknown_names_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"Unknown {setting}=.*use one of"):
        PrivacyConfig(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "epsilon",
        "delta",
        "clip_norm",
        "noise_multiplier",
        "sampling_rate",
        "rounds",
        "steps_per_round",
        "participations",
        "expected_cohort",
    ],
)
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "1"])
def test_plan_refuses_numbers(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        replace(PLAN, **{name: value})  # type: ignore[arg-type]


def test_plan_refuses_more_participations_than_rounds() -> None:
    with pytest.raises(ConfigError, match="participations <= 4, found 5"):
        replace(PLAN, participations=5)


@pytest.mark.parametrize("change", [{"epsilon": 8.0}, {"delta": 1e-5}, {"noise_multiplier": 1.0}])
def test_unprotected_plan_may_claim_nothing(change: dict[str, float]) -> None:
    bare = replace(PLAN, unit=Unit.NONE, epsilon=math.inf, delta=0.0, noise_multiplier=0.0)
    with pytest.raises(ConfigError, match="unit=none"):
        replace(bare, **change)  # type: ignore[arg-type]


@given(
    st.integers(1, 6),
    st.lists(st.floats(-3, 3), min_size=1, max_size=9),
    st.sets(st.integers(2, 9)),
)
@settings(deadline=None, max_examples=60)
def test_weighted_deviation_is_that_of_the_inverse(
    bands: int, weights: list[float], restarts: set[int]
) -> None:
    """Against C^-1 written out, a block for each restart."""
    rounds = len(weights)
    plan = replace(
        user_plan(trust=Trust.CENTRAL, rounds=max(rounds, 6), sigma=2.0, clip_norm=0.5),
        separation=6,
        bands=bands,
        participations=1,
    )
    blocks = (1, *sorted(one for one in restarts if one <= rounds))
    sizes = np.diff([*blocks, rounds + 1])
    parts = [
        sum(np.diag(np.full(n - j, c), -j) for j, c in enumerate(coefficients(bands)[:n]))
        for n in sizes
    ]
    noise = np.linalg.inv(block_diag(*parts)).T @ np.array(weights)
    found = plan.weighted_deviation(weights, blocks=blocks)
    assert found == pytest.approx(float(np.linalg.norm(noise)), abs=1e-9)
