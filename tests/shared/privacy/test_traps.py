"""Known ways to publish a wrong epsilon, each shown not to be open here."""

import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest

from shared.errors import ConfigError
from shared.privacy.accounting import Spend, agree, epsilon, epsilon_of
from shared.privacy.charges import Budget
from shared.privacy.ledger import Ledger

GOLDEN = json.loads(Path(__file__).parents[2].joinpath("golden", "epsilons.json").read_text())
KEYS = np.arange(3, dtype=np.int64)


def test_trap_1_always_there_is_not_accounted_as_sampled() -> None:
    """Amplification is claimed only where the rate of the device's own coin is handed in."""
    there = epsilon(noise_multiplier=1.0, sampling_rate=1.0, steps=20, delta=1e-5)
    coin = epsilon(noise_multiplier=1.0, sampling_rate=0.1, steps=20, delta=1e-5)
    assert there == pytest.approx(28.37, abs=0.01)
    assert coin == pytest.approx(3.59, abs=0.01)
    rate = inspect.signature(epsilon).parameters["sampling_rate"]
    assert rate.default is inspect.Parameter.empty


def test_trap_3_epsilon_moves_with_delta_and_never_stands_without_it() -> None:
    table = {1e-3: 2.74, 1e-4: 3.33, 1e-5: 3.85, 1e-6: 4.31, 1e-8: 5.10}
    for delta, expected in table.items():
        found = epsilon(noise_multiplier=5.0, sampling_rate=1.0, steps=20, delta=delta)
        assert found == pytest.approx(expected, abs=0.01)
    for function in (epsilon, epsilon_of, agree, Ledger.spent):
        parameter = inspect.signature(function).parameters["delta"]
        assert parameter.default is inspect.Parameter.empty


def test_trap_4_adjacency_is_named_and_is_add_or_remove() -> None:
    """The same noise is 3.85 under add-or-remove and 8.72 under replace-one."""
    agreed = agree([Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=20)], delta=1e-5)
    assert agreed.adjacency == "add-or-remove"
    assert agreed.epsilon == pytest.approx(3.85, abs=0.01)
    doubled = epsilon(noise_multiplier=2.5, sampling_rate=1.0, steps=20, delta=1e-5)
    assert doubled == pytest.approx(8.72, abs=0.01)


def test_trap_10_without_sampling_there_is_no_amplification() -> None:
    """A rate just below 1 and a rate of 1 give the same answer: the seam hides nothing."""
    full = epsilon(noise_multiplier=2.0, sampling_rate=1.0, steps=10, delta=1e-5)
    almost = epsilon(noise_multiplier=2.0, sampling_rate=0.999999, steps=10, delta=1e-5)
    assert almost == pytest.approx(full, abs=2e-3)


def test_trap_16_the_account_goes_on_over_rounds_and_restarts(tmp_path: Path) -> None:
    one = Spend(noise_multiplier=4.0, sampling_rate=1.0, steps=2)
    seen = []
    for turn in range(1, 6):
        with Ledger(tmp_path / "ledger.db") as ledger:
            ledger.reserve(
                run=f"run {turn}",
                round=1,
                order_digest="d",
                participants=KEYS,
                spend=one,
                budget=Budget(epsilon=50.0, delta=1e-5),
                noise="os",
            )
            seen.append(ledger.spent(delta=1e-5).largest)
    expected = [
        epsilon(noise_multiplier=4.0, sampling_rate=1.0, steps=2 * turn, delta=1e-5)
        for turn in range(1, 6)
    ]
    assert seen == expected
    assert seen[-1] > 2 * seen[0]


@pytest.mark.parametrize("noise", [0.0, -1.0, math.inf, math.nan])
def test_trap_17_nonsense_is_refused_before_it_is_accounted(noise: float) -> None:
    with pytest.raises(ConfigError, match="noise_multiplier"):
        epsilon(noise_multiplier=noise, sampling_rate=0.1, steps=5, delta=1e-5)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, math.nan])
def test_trap_17_rates(rate: float) -> None:
    with pytest.raises(ConfigError, match="sampling_rate"):
        epsilon(noise_multiplier=1.0, sampling_rate=rate, steps=5, delta=1e-5)


def test_trap_25_central_limit_numbers_are_not_ours() -> None:
    """They lie below the true value by far more than the tolerance on these rows."""
    rows = [row for row in GOLDEN["sampled"] if row["steps"] <= 100 and row["rate"] >= 0.01]
    for row in rows:
        ours = epsilon(
            noise_multiplier=row["noise"],
            sampling_rate=row["rate"],
            steps=row["steps"],
            delta=1e-5,
        )
        assert ours > row["clt"] + 0.015
