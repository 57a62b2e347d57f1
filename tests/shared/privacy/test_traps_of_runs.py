"""Known ways in which a private run leaks or misleads, each shown not to be open here."""

import ast
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from counting import federate, made_population, user_plan
from training import averaging, cohort
from training import plan as training_plan

from shared import protocol
from shared.algorithms.popularity import Popularity
from shared.data.interactions import Interactions
from shared.privacy.accounting import Spend, epsilon_of, gaussian_epsilon
from shared.privacy.calibration import make_plan
from shared.privacy.charges import Budget
from shared.privacy.disclosure import not_protected
from shared.privacy.ledger import Ledger
from shared.privacy.plan import PrivacyConfig, Trust, Unit
from shared.privacy.release import LocalUpdate, Rows, clip
from shared.randomness import OSNoise
from simulations.display import protection

ROOT = Path(__file__).parents[3]
SOURCES = [p for room in ("client", "server", "shared") for p in (ROOT / room).rglob("*.py")]


def imported() -> set[str]:
    """Every module and name that the product imports."""
    names: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("unit", [Unit.USER, Unit.INTERACTION])
def test_trap_2_a_fixed_cohort_is_not_accounted_as_sampled(unit: Unit) -> None:
    """A tenth of the users a round buys fewer participations, and no amplification."""
    trust = Trust.CENTRAL if unit is Unit.USER else Trust.LOCAL
    config = PrivacyConfig(unit=unit, trust=trust, epsilon=3.0)
    made = make_plan(
        config,
        users=1000,
        rounds=20,
        cohort=100,
        participations=2,
        sampling_rate=1.0,
        steps_per_round=1,
    )
    assert made.sampling_rate == 1.0
    full = [Spend(noise_multiplier=made.noise_multiplier, sampling_rate=1.0, steps=2)]
    assert epsilon_of(full, delta=made.delta) == pytest.approx(3.0, abs=1e-3)


def test_trap_7_one_interaction_is_not_a_person() -> None:
    """Epsilon 1 for an interaction is 36.5 for a person with 20, and every report says so."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_epsilon(middle, 1e-5) <= 1.0 else (low, middle)
    assert gaussian_epsilon(20 * low, 1e-5) == pytest.approx(36.5, abs=0.1)
    result = {"unit": "interaction", "trust": "local", "private": True, "epsilon": 1.0}
    assert "grows to k times epsilon" in " ".join(protection({**result, "delta": 1e-5}))
    assert any("history" in line for line in not_protected("interaction", "local"))


def test_trap_8_devices_of_one_seed_draw_different_noise() -> None:
    first, second = (OSNoise().gaussian((50,), "device", 1, 7) for _ in range(2))
    assert not np.isin(first, second).any()


def test_trap_9_no_count_of_a_device_reaches_rate_or_scale() -> None:
    """Longer histories leave rate, steps, noise and denominators what they were."""
    algorithm = averaging(12, sampling_rate=0.5, examples=10.0)
    made = training_plan(algorithm)
    released = []
    for histories in ([[1]], [[1, 2, 3, 4, 5, 6, 7]]):
        people = cohort(algorithm, histories)
        noise = Recorded()
        algorithm.contribute_per_interaction(algorithm.start(0), people, made, noise)
        released.append(noise)
    assert released[0].rates == released[1].rates == {0.5}
    config = algorithm.config
    assert (config.examples, algorithm.sampling_rate, algorithm.local_steps) == (10.0, 0.5, 1)


class Recorded(OSNoise):
    """Notes the rates that are asked for."""

    def __init__(self) -> None:
        self.rates: set[float] = set()

    def coins(self, size: int, rate: float, *keys: str | int) -> np.ndarray:
        self.rates.add(rate)
        return super().coins(size, rate, *keys)


def test_trap_11_the_largest_epsilon_is_reported_not_the_mean(tmp_path: Path) -> None:
    one = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=1)
    with Ledger(tmp_path / "ledger.db") as ledger:
        for user, rounds in enumerate((1, 3, 10, 30, 100)):
            ledger.reserve(
                run="r",
                round=user + 1,
                order_digest=str(user),
                participants=np.array([user]),
                spend=replace(one, steps=rounds),
                budget=Budget(epsilon=50.0, delta=1e-5),
                noise="os",
            )
        spent = ledger.spent(delta=1e-5)
        worst = ledger.worst(delta=1e-5)
    np.testing.assert_allclose(spent.epsilon, [0.73, 1.33, 2.59, 4.87, 10.0], atol=0.01)
    assert spent.largest == spent.epsilon.max() == epsilon_of(worst, delta=1e-5)


def test_trap_13_tuning_is_said_to_be_unaccounted() -> None:
    said = " ".join(
        protection(
            {"unit": "user", "trust": "central", "private": True, "epsilon": 1.0, "delta": 1e-5}
        )
    )
    assert "settings chosen by looking at validation scores" in said
    assert any("validation" in line or "settings" in line for line in not_protected("user", "x"))


def test_trap_14_a_reply_has_no_room_for_a_count_or_a_metric() -> None:
    names = {one.name for one in fields(protocol.Reply)}
    assert names == {"run", "round", "order", "users", "private", "tensors"}


def test_trap_15_examples_do_not_weigh() -> None:
    """Someone with 737 examples weighs no more than the bound; nobody can hand in a weight."""
    many = Interactions.from_histories([[k % 12 for k in range(737)], [3]], n_items=12)
    algorithm = Popularity(n_items=12)
    people = cohort(averaging(12), [[1], [3]])
    people = replace(people, histories=many)
    made = user_plan(trust=Trust.CENTRAL, clip_norm=0.7)
    update, _ = algorithm.contribute(algorithm.start(0), people, made)
    clipped = clip(update, clip_norm=0.7)
    rows = clipped.tensors["counts"]
    norms = np.sqrt(np.bincount(rows.owner, weights=rows.values**2))
    assert (norms <= 0.7 * (1 + 1e-6)).all()
    assert not {"weight", "examples", "num_examples"} & {f.name for f in fields(protocol.Reply)}


@pytest.mark.parametrize("trust", list(Trust))
def test_trap_18_an_empty_history_and_a_nan_end_as_replies_of_the_same_shape(
    trust: Trust, tmp_path: Path
) -> None:
    table = Interactions.from_histories([[], [1, 2], [], [0], [], [2]], n_items=8)
    population = replace(made_population(), histories=table)
    made = replace(user_plan(trust=trust, noise="os", sigma=30.0), rounds=1, participations=1)
    with Ledger(tmp_path / "ledger.db") as ledger:
        state = federate(population, nodes=6, rounds=1, run_plan=made, ledger=ledger)
    assert state.round == 1
    assert np.isfinite(state.tensors["table"]).all()
    bad = Rows(
        owner=np.zeros(1, dtype=np.int64),
        index=np.zeros(1, dtype=np.int64),
        values=np.array([[np.nan, 1.0]]),
        shape=(8, 2),
    )
    clipped = clip(LocalUpdate(tensors={"table": bad}, users=1), clip_norm=1.0)
    assert not clipped.tensors["table"].total().any()


def test_trap_19_secure_mode_is_no_requirement_and_no_claim() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    assert "secure_mode" not in text
    assert not [name for name in imported() if "csprng" in name]


def test_trap_20_and_21_flower_s_own_privacy_is_not_used() -> None:
    """Its local mod and its wrapper account per round, or draw from a seedable generator."""
    flower = [name for name in imported() if name.startswith("flwr")]
    words = ("Dp", "DifferentialPrivacy", "differential_privacy", "secagg", "SecAgg")
    assert flower
    assert not [name for name in flower for word in words if word in name]


def test_trap_22_a_zero_update_is_clipped_without_a_division() -> None:
    rows = Rows(owner=np.array([0]), index=np.array([0]), values=np.zeros((1, 2)), shape=(3, 2))
    clipped = clip(LocalUpdate(tensors={"t": rows}, users=2), clip_norm=1.0)
    assert not clipped.tensors["t"].total().any()
    assert clipped.below.all()


def test_trap_24_no_weight_or_choice_comes_from_exact_counts() -> None:
    """What a server starts from follows from the seed alone; counts reach it as releases."""
    one, other = (averaging(12).start(3).tensors for _ in range(2))
    np.testing.assert_array_equal(one["items"], other["items"])
    assert not Popularity(n_items=12).start(3).tensors["counts"].any()
    assert Popularity(n_items=12).purpose(1) == "counts"
