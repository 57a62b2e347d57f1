"""Two hundred trials: noise of the wrong scale is always caught, noise of the right one never.

A trial refuses at p < 1e-6 (two-sided, sum of squares of 20,000 values), so 200 trials of a right
mechanism refuse one falsely in 5,000 runs of this test; seeds make its outcome repeatable. A scale
wrong by 5 % lies 10 standard deviations away, and is missed once in 10^6 trials.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from counting import user_plan
from numpy.typing import NDArray
from scipy.stats import chi2

from shared.privacy.discrete_gaussian import discrete_gaussian
from shared.privacy.gaussian import ROUNDING, privatise, privatise_total
from shared.privacy.keystream import StandInWords
from shared.privacy.plan import Trust
from shared.privacy.release import LocalUpdate, Rows, clip
from shared.randomness import SeededNoise

TRIALS, SIZE, LIMIT = 200, 20_000, 1e-6
Values = NDArray[np.float64]


def central(seed: int) -> tuple[Values, float]:
    plan = user_plan(trust=Trust.CENTRAL, clip_norm=0.5)
    noise = SeededNoise(seed)
    made = privatise_total({"a": np.zeros(SIZE)}, users=9, plan=plan, noise=noise)
    return made.tensors["a"], plan.sum_deviation(1) * ROUNDING


def local(seed: int) -> tuple[Values, float]:
    plan = replace(user_plan(trust=Trust.LOCAL), expected_cohort=7)
    empty = np.zeros(0, dtype=np.int64)
    rows = Rows(owner=empty, index=empty, values=np.zeros(0), shape=(SIZE,))
    clipped = clip(LocalUpdate(tensors={"a": rows}, users=7), clip_norm=1.0)
    return privatise(clipped, plan, SeededNoise(seed)).tensors["a"], plan.sum_deviation(1)


def discrete(seed: int) -> tuple[Values, float]:
    draws = discrete_gaussian(size=SIZE, sigma=12.5, source=StandInWords(seed))
    return draws.astype(np.float64), 12.5


def p_value(values: Values, deviation: float) -> float:
    total = float(np.square(values).sum()) / deviation**2
    return 2.0 * min(float(chi2.cdf(total, SIZE)), float(chi2.sf(total, SIZE)))


@pytest.mark.statistical
@pytest.mark.parametrize("mechanism", [central, local, discrete])
def test_a_scale_wrong_by_a_twentieth_is_caught_and_the_right_one_is_not(
    mechanism: Callable[[int], tuple[Values, float]],
) -> None:
    for seed in range(TRIALS):
        values, deviation = mechanism(seed)
        assert p_value(values, deviation) > LIMIT, seed
        assert p_value(values, deviation * 1.05) < LIMIT, seed
        assert p_value(values, deviation / 1.05) < LIMIT, seed
