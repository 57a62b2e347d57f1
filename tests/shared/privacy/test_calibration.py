"""Noise, delta and plans from what a person asks for."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.privacy.accounting import epsilon, epsilon_of
from shared.privacy.calibration import default_delta, make_plan, noise_multiplier
from shared.privacy.plan import Plan, PrivacyConfig, Trust, Unit


def plan(config: PrivacyConfig, **changes: object) -> Plan:
    settings = {
        "users": 943,
        "rounds": 10,
        "cohort": 943,
        "participations": 10,
        "sampling_rate": 1.0,
        "steps_per_round": 2,
    }
    return make_plan(config, **(settings | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("delta", "target", "noise"),
    [
        (1e-5, 0.5, 7.032),
        (1e-5, 1, 3.731),
        (1e-5, 2, 1.994),
        (1e-5, 3, 1.391),
        (1e-5, 5, 0.892),
        (1e-5, 8, 0.600),
        (1e-5, 10, 0.500),
        (1e-6, 0.5, 8.058),
        (1e-6, 1, 4.225),
        (1e-6, 3, 1.544),
        (1e-6, 10, 0.541),
    ],
)
def test_noise_of_one_release(delta: float, target: float, noise: float) -> None:
    found = noise_multiplier(epsilon=target, delta=delta, sampling_rate=1.0, steps=1)
    assert found == pytest.approx(noise, abs=1e-3)


def test_noise_of_twenty_rounds() -> None:
    common = {"epsilon": 3.0, "delta": 1e-5, "steps": 20}
    assert noise_multiplier(**common, sampling_rate=1.0) == pytest.approx(6.219, abs=1e-3)
    assert noise_multiplier(**common, sampling_rate=0.1) == pytest.approx(1.096, abs=2e-3)


@given(
    target=st.floats(0.05, 8.0),
    delta=st.sampled_from([1e-7, 1e-5]),
    rate=st.sampled_from([1.0, 0.3]),
    steps=st.integers(1, 50),
)
@settings(max_examples=4, deadline=None)
def test_calibrated_epsilon_is_within_target(
    target: float, delta: float, rate: float, steps: int
) -> None:
    noise = noise_multiplier(epsilon=target, delta=delta, sampling_rate=rate, steps=steps)
    found = epsilon(noise_multiplier=noise, sampling_rate=rate, steps=steps, delta=delta)
    assert target - 0.005 <= found <= target


def test_tiny_target_still_ends_within_it() -> None:
    asked = {"delta": 1e-5, "sampling_rate": 0.01, "steps": 3}
    noise = noise_multiplier(epsilon=1e-3, **asked)  # type: ignore[arg-type]
    assert epsilon(noise_multiplier=noise, **asked) <= 1e-3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("users", "delta"), [(1, 1e-5), (40, 1e-5), (943, 1e-5), (6040, 1e-6), (10**6, 1e-8)]
)
def test_default_delta(users: int, delta: float) -> None:
    assert default_delta(users) == delta


@given(st.integers(1, 10**9))
@settings(deadline=None)
def test_default_delta_is_below_one_over_users(users: int) -> None:
    assert default_delta(users) <= 1.0 / (10.0 * users**1.1) or default_delta(users) == 1e-5
    assert default_delta(users) < 1.0 / users


def test_plan_keeps_the_budget() -> None:
    made = plan(PrivacyConfig(epsilon=4.0), sampling_rate=0.1)
    assert (made.delta, made.epsilon, made.steps) == (1e-5, 4.0, 20)
    spent = epsilon(noise_multiplier=made.noise_multiplier, sampling_rate=0.1, steps=20, delta=1e-5)
    assert 3.995 <= spent <= 4.0
    assert made.budget.planned == made.total_spend
    assert made.total_spend.steps == 10 * made.spend(1).steps
    assert made.private


def test_plan_without_protection_claims_nothing() -> None:
    made = plan(PrivacyConfig(unit="none"))  # type: ignore[arg-type]
    assert (made.epsilon, made.delta, made.noise_multiplier) == (math.inf, 0.0, 0.0)
    assert not made.private
    with pytest.raises(ConfigError):
        _ = made.budget


@pytest.mark.parametrize("noise", ["seeded", "off"])
def test_stand_in_noise_is_not_private(noise: str) -> None:
    assert not plan(PrivacyConfig(noise=noise)).private


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cohort": 944}, "cohort <= 943"),
        ({"cohort": 0}, "cohort"),
        ({"users": 0}, "users"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 9}, "participations <= 9"),
        ({"participations": 0}, "participations"),
        ({"steps_per_round": 0}, "steps_per_round"),
        ({"steps_per_round": 2.5}, "steps_per_round"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": 1.01}, "sampling_rate"),
        ({"sampling_rate": math.nan}, "sampling_rate"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(PrivacyConfig(), **changes)


def test_delta_above_one_over_users_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1/users.*leave it out for the default 1e-05"):
        plan(PrivacyConfig(delta=0.002))
    assert plan(PrivacyConfig(delta=0.001)).delta == 0.001


@pytest.mark.parametrize("trust", ["central", "local"])
def test_whole_users_pay_once_a_round_whatever_they_do_locally(trust: str) -> None:
    config = PrivacyConfig(unit="user", trust=trust, epsilon=3.0)  # type: ignore[arg-type]
    made = plan(config, rounds=20, participations=20, sampling_rate=0.1, steps_per_round=7)
    assert (made.sampling_rate, made.steps_per_round, made.steps) == (1.0, 1, 20)
    assert made.noise_multiplier == pytest.approx(6.219, abs=1e-3)
    seldom = plan(config, rounds=20, participations=1, cohort=40)
    assert seldom.noise_multiplier == pytest.approx(1.391, abs=1e-3)


def test_delta_above_one_over_users_is_refused_for_whole_users() -> None:
    with pytest.raises(ConfigError, match="1/users"):
        plan(PrivacyConfig(unit="user", trust="central", delta=0.002))  # type: ignore[arg-type]


def separated(**changes: Any) -> Plan:
    """A plan of 40 rounds for 943 users who sit out nine rounds after each."""
    config = PrivacyConfig(
        unit=Unit.USER, trust=Trust.CENTRAL, epsilon=3.0, separation=10, **changes
    )
    return make_plan(
        config,
        users=943,
        rounds=40,
        cohort=94,
        participations=4,
        sampling_rate=1.0,
        steps_per_round=1,
    )


def test_a_separation_plans_for_the_devices_that_keep_it() -> None:
    whole, independent = separated(), separated(bands=1)
    assert (whole.separation, whole.bands, whole.participations) == (10, 10, 4)
    assert whole.noise_multiplier / noise_multiplier(
        epsilon=3.0, delta=whole.delta, sampling_rate=1.0, steps=1
    ) == pytest.approx(2.677, abs=1e-3)
    assert independent.noise_multiplier == pytest.approx(
        noise_multiplier(epsilon=3.0, delta=whole.delta, sampling_rate=1.0, steps=4)
    )
    for plan in (whole, independent):
        assert epsilon_of(plan.spends(4), delta=plan.delta) == pytest.approx(3.0, abs=1e-6)
        assert epsilon_of(plan.spends(4), delta=plan.delta) <= plan.epsilon
        assert epsilon_of([plan.total_spend], delta=plan.delta) <= plan.epsilon


def test_a_cohort_too_large_for_the_separation_is_refused() -> None:
    config = PrivacyConfig(unit=Unit.USER, trust=Trust.CENTRAL, separation=6)
    whole: dict[str, Any] = {"participations": 4, "sampling_rate": 1.0, "steps_per_round": 1}
    with pytest.raises(ConfigError, match=r"training\.cohort <= 0\.1666 with .*separation=6"):
        make_plan(config, users=600, rounds=4, cohort=101, **whole)
    make_plan(config, users=600, rounds=4, cohort=100, **whole)


@pytest.mark.parametrize(
    "wrong",
    [
        {"separation": 0},
        {"separation": 2.5},
        {"separation": 3, "bands": 4},
        {"separation": 3, "bands": -1},
        {"separation": 3, "trust": Trust.LOCAL},
        {"separation": 3, "trust": Trust.DISTRIBUTED},
        {"separation": 3, "unit": Unit.NONE, "trust": Trust.LOCAL},
        {"separation": 3, "clip_quantile": 0.5},
    ],
)
def test_an_impossible_separation_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        PrivacyConfig(**{"unit": Unit.USER, "trust": Trust.CENTRAL, **wrong})


def test_without_protection_no_clip_norm_moves() -> None:
    asked = {"trust": "central", "clip_quantile": 0.5}
    for unit, moves in (("none", 0.0), ("user", 0.5)):
        made = plan(PrivacyConfig(unit=unit, **asked))  # type: ignore[arg-type]
        assert made.clip_quantile == moves
        assert bool(made.clip_share) == bool(moves)
