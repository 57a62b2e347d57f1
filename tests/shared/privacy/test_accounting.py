"""Both accountants against numbers that were made without this project's code."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ConfigError, VerificationError
from shared.privacy import accounting
from shared.privacy.accounting import (
    PRV_ERROR,
    TOLERANCE,
    Spend,
    agree,
    epsilon,
    epsilon_of,
    gaussian_epsilon,
    second_opinion,
)

GOLDEN = json.loads(Path(__file__).parents[2].joinpath("golden", "epsilons.json").read_text())
QUICK = [row for row in GOLDEN["sampled"] if row["steps"] <= 100]
LONG = [row for row in GOLDEN["sampled"] if row["steps"] > 100]


def spend(noise: float, rate: float, steps: int) -> Spend:
    return Spend(noise_multiplier=noise, sampling_rate=rate, steps=steps)


def of(row: dict[str, float]) -> Spend:
    return spend(row["noise"], row["rate"], int(row["steps"]))


def check_sampled(row: dict[str, float]) -> None:
    ours = epsilon_of([of(row)], delta=1e-5)
    assert ours == pytest.approx(row["pld"], abs=1e-3)
    assert ours >= row["pld"] - 1e-6  # a coarser grid may only cost, never flatter


@pytest.mark.parametrize("row", QUICK, ids=str)
def test_sampled_epsilon_matches_dp_accounting(row: dict[str, float]) -> None:
    check_sampled(row)


@pytest.mark.slow
@pytest.mark.parametrize("row", LONG, ids=str)
def test_long_sampled_epsilon_matches_dp_accounting(row: dict[str, float]) -> None:
    check_sampled(row)


@pytest.mark.parametrize("row", QUICK[::4], ids=str)
def test_second_opinion_matches_opacus(row: dict[str, float]) -> None:
    """The golden value carries Opacus's default slack of 0.01, ours half of it."""
    ours = second_opinion([of(row)], delta=1e-5)
    assert ours == pytest.approx(row["prv"] - 0.01 + PRV_ERROR, abs=2e-3)


@pytest.mark.parametrize("row", GOLDEN["full"], ids=str)
def test_full_participation_matches_dp_accounting(row: dict[str, float]) -> None:
    ours = epsilon(
        noise_multiplier=row["noise"],
        sampling_rate=1.0,
        steps=int(row["steps"]),
        delta=row["delta"],
    )
    assert ours == pytest.approx(row["pld"], abs=1e-3)


@pytest.mark.parametrize(
    ("noise", "steps", "common", "rare"),
    [
        (0.8, 1, 5.680, 6.312),
        (0.8, 10, 23.995, 25.948),
        (1.0, 1, 4.377, 4.887),
        (1.0, 10, 17.857, 19.424),
        (1.0, 20, 28.373, 30.579),
        (2.0, 10, 7.511, 8.306),
        (5.0, 20, 3.849, 4.306),
        (5.0, 100, 9.997, 10.997),
    ],
)
def test_closed_form_table(noise: float, steps: int, common: float, rare: float) -> None:
    whole = [spend(noise, 1.0, steps)]
    assert epsilon_of(whole, delta=1e-5) == pytest.approx(common, abs=1e-3)
    assert epsilon_of(whole, delta=1e-6) == pytest.approx(rare, abs=1e-3)


@pytest.mark.parametrize("row", GOLDEN["mixed"], ids=str)
def test_mixed_steps_match_dp_accounting(row: dict[str, list[list[float]]]) -> None:
    spends = [spend(sigma, rate, int(steps)) for sigma, rate, steps in row["spends"]]
    assert epsilon_of(spends, delta=1e-5) == pytest.approx(row["pld"], abs=2e-3)
    assert second_opinion(spends, delta=1e-5) == pytest.approx(row["prv"], abs=7e-3)


def test_mixed_noise_at_full_participation_adds_squares() -> None:
    both = [spend(3.0, 1.0, 9), spend(4.0, 1.0, 16)]
    assert epsilon_of(both, delta=1e-5) == pytest.approx(gaussian_epsilon(math.sqrt(2), 1e-5))


@given(mu=st.floats(0.01, 60.0), delta=st.floats(1e-12, 0.1))
@settings(max_examples=100, deadline=None)
def test_closed_form_solves_its_equation(mu: float, delta: float) -> None:
    """The answer put back into the definition, in logarithms, gives delta again."""
    from scipy.stats import norm

    answer = gaussian_epsilon(mu, delta)
    near = norm.cdf(mu / 2 - answer / mu)
    back = near - np.exp(answer + norm.logcdf(-mu / 2 - answer / mu))
    if answer == 0.0:
        assert back <= delta
    else:
        assert back == pytest.approx(delta, rel=1e-5, abs=1e-14)


def test_zero_where_delta_covers_everything() -> None:
    assert epsilon_of([spend(1e6, 1.0, 1)], delta=1e-5) == 0.0
    assert epsilon_of([], delta=1e-5) == 0.0
    assert second_opinion([], delta=1e-5) == 0.0


def test_order_and_grouping_do_not_matter() -> None:
    one, other = spend(2.0, 0.5, 3), spend(3.0, 1.0, 2)
    expected = epsilon_of([one, other], delta=1e-5)
    parts = [other, *[spend(2.0, 0.5, 1)] * 3]
    assert epsilon_of(parts, delta=1e-5) == expected


@given(noise=st.floats(0.7, 20), rate=st.floats(0.01, 1.0), steps=st.integers(1, 30))
@settings(max_examples=8, deadline=None)
def test_epsilon_is_monotone(noise: float, rate: float, steps: int) -> None:
    """More steps and a higher rate never cost less; sampling never costs more than none."""
    here = epsilon_of([spend(noise, rate, steps)], delta=1e-5)
    assert epsilon_of([spend(noise, rate, 2 * steps)], delta=1e-5) >= here - 1e-3
    assert epsilon_of([spend(noise, 1.0, steps)], delta=1e-5) >= here - 1e-3


@pytest.mark.parametrize(
    "plan", [(0.6808, 0.1, 20), (1.19, 0.05, 1000), (8.9166, 1.0, 20), (0.7528, 0.01, 5000)]
)
def test_accountants_agree_at_the_epsilons_we_publish(plan: tuple[float, float, int]) -> None:
    agreed = agree([spend(*plan)], delta=1e-5)
    assert abs(agreed.epsilon - agreed.second_opinion) < TOLERANCE
    assert agreed.second_opinion >= agreed.epsilon - 1e-3
    assert agreed.adjacency == "add-or-remove"
    assert agreed.delta == 1e-5
    assert ("closed form" in agreed.accountant) == (plan[1] == 1.0)
    assert "PRV" in agreed.second_accountant


@pytest.mark.parametrize("shift", [-0.03, 0.03])
def test_disagreement_stops_the_run(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real = epsilon_of([spend(5.0, 1.0, 20)], delta=1e-5)
    monkeypatch.setattr(accounting, "second_opinion", lambda *_, **__: real + shift)
    with pytest.raises(VerificationError, match="disagree"):
        agree([spend(5.0, 1.0, 20)], delta=1e-5)


@pytest.mark.parametrize("answer", [math.nan, math.inf])
def test_second_opinion_without_answer_stops_the_run(
    answer: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opacus.accountants import PRVAccountant

    monkeypatch.setattr(PRVAccountant, "get_epsilon", lambda *_, **__: answer)
    with pytest.raises(VerificationError, match="no answer"):
        agree([spend(5.0, 1.0, 21)], delta=1e-5)


def test_answers_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    first = epsilon_of([spend(1.5, 0.25, 4)], delta=1e-5)
    monkeypatch.setattr(accounting, "_pld", lambda *_: pytest.fail("computed again"))
    assert epsilon_of([spend(1.5, 0.25, 4)], delta=1e-5) == first


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, math.inf])
def test_no_epsilon_without_a_proper_delta(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        epsilon_of([spend(5.0, 1.0, 20)], delta=delta)
    with pytest.raises(ConfigError, match="delta"):
        second_opinion([spend(5.0, 1.0, 20)], delta=delta)
