"""Runs whose noise later rounds take back: what is really released, charged, refused, resumed."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import federate, made_population, user_plan
from numpy.typing import NDArray
from scipy.stats import chi2, kstest

import server.rounds
from server.census import cohorts, soonest
from server.checkpoints import Checkpoints
from server.journal import RoundReport
from server.terms import Method
from shared.algorithms.base import check_alike
from shared.algorithms.measured import Measured
from shared.algorithms.popularity import Popularity
from shared.errors import BudgetError, ConfigError, RunError
from shared.privacy.accounting import Spend, epsilon_of
from shared.privacy.bands import coefficients
from shared.privacy.calibration import correlated_multiplier
from shared.privacy.gaussian import ROUNDING
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Plan, Trust

Array = NDArray[np.float64]

USERS, ITEMS, ROUNDS, APART = 40, 6000, 8, 4
METHOD = Method(model="popularity", algorithm="popularity", settings={})


def popularity(model: str, algorithm: str, settings: object, n_items: int) -> Popularity:
    return Popularity(n_items=n_items)


def banded(*, bands: int = APART, noise: str = "os", rounds: int = ROUNDS) -> Plan:
    """A plan that spends epsilon 8 over `rounds` rounds, calibrated for its bands."""
    sigma = correlated_multiplier(
        epsilon=8.0, delta=1e-5, rounds=rounds, separation=APART, bands=bands
    )
    plain = user_plan(
        trust=Trust.CENTRAL, rounds=rounds, cohort=USERS // APART, sigma=sigma, noise=noise
    )
    return replace(plain, separation=APART, bands=bands, participations=-(-rounds // APART))


def play(plan: Plan, place: Path, **changes: Any) -> list[RoundReport]:
    """Run private counts, which do not depend on the model, and return every round."""
    seen: list[RoundReport] = []

    def observe(report: RoundReport) -> bool:
        seen.append(report)
        return report.round == changes.get("stop")

    place.mkdir(parents=True, exist_ok=True)
    with Ledger(place / "devices.db") as ledger:
        federate(
            made_population(USERS, ITEMS),
            nodes=2,
            rounds=plan.rounds,
            share=1 / APART,
            run_plan=plan,
            method=METHOD,
            make=popularity,
            ledger=ledger,
            observer=observe,
            directory=changes.get("directory"),
            resume=changes.get("resume", False),
        )
    return seen


def counts(reports: list[RoundReport]) -> Array:
    """float64 [rounds, items]: the model after each round."""
    return np.array([report.state.tensors["counts"] for report in reports])


def released(plan: Plan, place: Path) -> Array:
    """float64 [rounds, items]: the noise of each round of a run, in fresh deviations."""
    noised = counts(play(plan, place / "noised"))
    bare = counts(play(replace(plan, noise="off"), place / "bare"))
    noise = np.diff(noised - bare, axis=0, prepend=0.0)
    return noise / (plan.noise_multiplier * plan.clip_norm * ROUNDING)


def encoded(noise: Array, bands: int = APART) -> Array:
    """C times the noise: fresh draws again, if it was C^-1 times fresh draws."""
    weights = coefficients(bands)
    return np.array(
        [sum(c * noise[t - j] for j, c in enumerate(weights[: t + 1])) for t in range(len(noise))]
    )


def scale_p(values: Array, sigma: float = 1.0) -> float:
    s = float(np.square(values).sum()) / sigma**2
    return float(2 * min(chi2.cdf(s, values.size), chi2.sf(s, values.size)))


def largest_correlation(noise: Array) -> float:
    """The largest correlation of two rounds, in standard errors."""
    pairs = combinations(range(len(noise)), 2)
    return max(abs(float(np.corrcoef(noise[a], noise[b])[0, 1])) for a, b in pairs) * ITEMS**0.5


def test_released_noise_is_c_inverse_of_fresh_noise(tmp_path: Path) -> None:
    """Variance and covariance over rounds; chi-square and KS at 1e-6 each, 28 correlations at 6
    standard errors (6e-8 together): false alarms below 3e-6. Noise 5 % off is caught.
    """
    fresh = encoded(released(banded(), tmp_path))
    assert scale_p(fresh) > 1e-6
    assert max(scale_p(fresh, 1.05), scale_p(fresh, 1 / 1.05)) < 1e-6
    assert kstest(fresh.ravel(), "norm").pvalue > 1e-6
    assert largest_correlation(fresh) < 6.0


def test_independent_noise_is_no_correlated_noise(tmp_path: Path) -> None:
    """The other direction: each kind fails the test of the other (false alarms as above)."""
    plan = banded(bands=1)
    independent = released(plan, tmp_path / "independent")
    assert scale_p(independent) > 1e-6
    assert largest_correlation(independent) < 6.0
    assert largest_correlation(encoded(independent)) > 6.0
    assert scale_p(encoded(independent)) < 1e-6
    correlated = released(banded(), tmp_path / "correlated")
    assert largest_correlation(correlated) > 6.0
    # What it is for: the sum of all rounds has less noise for the same epsilon.
    sums = [plan.noise_multiplier * independent.sum(axis=0).std()]
    sums.append(banded().noise_multiplier * correlated.sum(axis=0).std())
    assert sums[1] < 0.8 * sums[0]


def test_weighted_deviation_is_exact(tmp_path: Path) -> None:
    """Six standard errors of the deviation of 6,000 values: false alarms below 1e-8."""
    plan, rng = banded(), np.random.default_rng(3)
    noise = released(plan, tmp_path) * plan.noise_multiplier * ROUNDING
    for weights in (np.ones(ROUNDS), rng.normal(size=ROUNDS), np.eye(ROUNDS)[5]):
        planned = plan.weighted_deviation(weights.tolist())
        assert (weights @ noise).std() == pytest.approx(planned, rel=6 / (2 * ITEMS) ** 0.5)
    assert plan.sum_deviation(6) == plan.weighted_deviation([0, 0, 0, 0, 0, 1])


def test_epsilon_of_every_round_is_what_the_ledgers_hold(tmp_path: Path) -> None:
    seen: list[tuple[float, float, float]] = []
    plan = banded(rounds=7)
    with Ledger(tmp_path / "devices.db") as devices:

        def observe(report: RoundReport) -> bool:
            with Ledger(tmp_path / "run" / "server-ledger.db") as server_ledger:
                spent = [one.spent(delta=1e-5).largest for one in (devices, server_ledger)]
            seen.append((report.epsilon, *spent))
            return False

        federate(
            made_population(USERS, 8),
            nodes=3,
            rounds=7,
            share=1 / APART,
            run_plan=plan,
            ledger=devices,
            directory=tmp_path / "run",
            observer=observe,
        )
    for said, *spent in seen:
        assert spent == pytest.approx([said, said], abs=1e-9)
    assert seen[-1][0] == pytest.approx(8.0, abs=1e-5)
    assert seen[-1][0] <= 8.0
    assert seen[0][0] == seen[3][0] < seen[4][0] == seen[6][0]


def test_trap_26_correlated_noise_is_not_accounted_step_by_step(tmp_path: Path) -> None:
    """Counting participations at the noise of fresh draws would claim less than is spent."""
    plan = banded()
    wrong = Spend(noise_multiplier=plan.noise_multiplier, sampling_rate=1.0, steps=2)
    with Ledger(tmp_path / "devices.db") as ledger:
        federate(
            made_population(USERS, 8),
            nodes=1,
            rounds=ROUNDS,
            share=1 / APART,
            run_plan=plan,
            ledger=ledger,
        )
        spent = ledger.spent(delta=1e-5).largest
    assert epsilon_of([wrong], delta=1e-5) < 6.5
    assert spent == pytest.approx(8.0, abs=1e-5)


def test_a_device_asked_too_early_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that asks one device again in the next round gets the others' replies alone."""
    first, second, *_ = (next(c) for c in [cohorts(users=12, size=4, seed=1, separation=3)] * 2)
    early = np.sort(np.append(second[1:], first[0]))
    monkeypatch.setattr(server.rounds, "cohorts", lambda **_: iter([first, early]))
    seen: list[RoundReport] = []

    def observe(report: RoundReport) -> bool:
        seen.append(report)
        return False

    plan = replace(banded(rounds=2), expected_cohort=4, participations=1)
    with Ledger(tmp_path / "devices.db") as ledger:
        federate(
            made_population(12, 8),
            nodes=12,
            rounds=2,
            share=1 / 3,
            quorum=0.5,
            run_plan=plan,
            ledger=ledger,
            observer=observe,
        )
        paid = {one.participants.item(): one.spend for one in ledger.history()}
    assert [report.users for report in seen] == [4, 3]
    assert seen[1].quarantined == {"refused-budget": 1}
    assert len(paid) == 7
    assert {paid[user] for user in first.tolist()} == {plan.spend(1)}
    assert {paid[user] for user in second[1:].tolist()} == {plan.spend(2)}
    assert plan.spend(2).noise_multiplier > plan.spend(1).noise_multiplier


def test_the_server_s_own_ledger_keeps_the_separation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(cohorts(users=USERS, size=10, seed=1, separation=APART))
    monkeypatch.setattr(server.rounds, "cohorts", lambda **_: iter([first] * ROUNDS))
    with pytest.raises(BudgetError, match="twice"):
        play(banded(), tmp_path / "run", directory=tmp_path / "run")


def test_the_last_round_fits_and_nothing_beyond(tmp_path: Path) -> None:
    """Columns cut off at the end are charged as what they are."""
    plan = banded(rounds=7)
    user: dict[str, Any] = {"participants": np.array([1]), "budget": plan.budget, "noise": "os"}
    with Ledger(tmp_path / "ledger.db") as ledger:
        for round_ in (1, 5):
            spend = plan.spend(round_)
            ledger.reserve(
                run="a", round=round_, order_digest="x", spend=spend, separation=APART, **user
            )
        tiny = Spend(noise_multiplier=1e3, sampling_rate=1.0, steps=1)
        with pytest.raises(BudgetError):
            ledger.reserve(run="b", round=1, order_digest="y", spend=tiny, **user)
    assert plan.spends(2) == (plan.spend(1), plan.spend(5))
    assert plan.spend(5).noise_multiplier > plan.spend(4).noise_multiplier
    assert plan.spend(4) == plan.spend(1)


def test_a_resume_begins_a_fresh_block_and_says_so(tmp_path: Path) -> None:
    """The sum over the restart has the noise of two blocks, within 6 standard errors (1e-8)."""
    plan, place = banded(), tmp_path / "run"
    before = play(plan, place, directory=place, stop=5)
    after = play(plan, place, directory=place, resume=True)
    assert [report.round for report in before + after] == list(range(1, ROUNDS + 1))
    assert after[-1].state.blocks == (1, 6)
    assert after[-1].epsilon == pytest.approx(8.0, abs=1e-5)
    kept = Checkpoints(place / "checkpoints")
    with pytest.raises(RunError, match="other settings"):
        kept.load(settings="")
    bare = counts(play(replace(plan, noise="off"), tmp_path / "bare"))
    noise = counts(before + after)[6] - bare[6]
    weights, close = [1.0] * 7, 6 / (2 * ITEMS) ** 0.5
    planned = plan.weighted_deviation(weights, blocks=(1, 6))
    assert noise.std() == pytest.approx(planned, rel=close)
    assert plan.weighted_deviation(weights) < (1 - 2 * close) * planned


def test_every_noised_round_is_kept(tmp_path: Path) -> None:
    play(banded(), tmp_path / "run", directory=tmp_path / "run", stop=3)
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert found[-1] == "round-000003"


def test_devices_apart_may_share_out_independent_noise(tmp_path: Path) -> None:
    """Under distributed trust the separation holds too; correlated noise is refused in words."""
    sigma = correlated_multiplier(epsilon=8.0, delta=1e-5, rounds=8, separation=APART, bands=1)
    plain = user_plan(trust=Trust.DISTRIBUTED, rounds=8, cohort=10, sigma=sigma)
    plan = replace(plain, separation=APART, participations=2)
    seen = play(plan, tmp_path / "run")
    assert [report.users for report in seen] == [10] * 8
    assert seen[-1].epsilon == pytest.approx(8.0, abs=1e-5)
    with pytest.raises(ConfigError, match=r"privacy\.bands=1"):
        replace(plan, bands=APART)


def test_rounds_that_differ_are_refused() -> None:
    counting = Popularity(n_items=8)
    check_alike(counting, banded())
    with pytest.raises(ConfigError, match="one purpose"):
        check_alike(Measured(inner=counting, rounds=ROUNDS, share=0.1), banded())
    wide: dict[str, Any] = {"clip_quantile": 0.5, "clip_share": 0.1}
    for change in (wide, {"metrics_share": 0.1}, {"shares": (0.125,) * 8, "participations": 8}):
        with pytest.raises(ConfigError):
            replace(banded(), **change)


@pytest.mark.parametrize(("users", "size", "rounds"), [(40, 10, 8), (43, 4, 30), (7, 7, 3)])
def test_soonest_is_nobody_s_second(users: int, size: int, rounds: int) -> None:
    """No user of kept-apart cohorts is asked earlier in any turn than the one that is counted."""
    asked: dict[int, list[int]] = {user: [] for user in range(users)}
    everyone = cohorts(users=users, size=size, seed=4, separation=max(users // size, 1))
    for round_, chosen in enumerate(everyone, 1):
        if round_ > rounds:
            break
        for user in chosen.tolist():
            asked[user].append(round_)
    found = soonest(rounds=rounds, size=size, users=users)
    assert list(found) in asked.values()
    for turns in asked.values():
        assert len(turns) <= len(found)
        assert all(first <= turn for first, turn in zip(found, turns, strict=False))
