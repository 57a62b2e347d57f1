"""A clip norm that follows a quantile: what the bit costs, and where the bound goes."""

import math

import numpy as np
import pytest
from counting import user_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import ConfigError, RunError
from shared.privacy.accounting import Spend, epsilon_of
from shared.privacy.adaptive_clip import BELOW, AdaptiveClip, attach, detach, next_clip, within
from shared.privacy.gaussian import privatise_total
from shared.privacy.plan import Trust
from shared.privacy.release import LocalUpdate, Rows, clip, entrust
from shared.privacy.riders import Rider, Riders
from shared.randomness import NoiseSource, NoNoise, SeededNoise

Array = NDArray[np.float64]


def made(norms: Array) -> LocalUpdate:
    """Contributions of given norms, each spread over two values."""
    users = len(norms)
    owner, index = np.divmod(np.arange(users * 2), 2)
    values = np.repeat(norms / math.sqrt(2.0), 2)
    rows = Rows(owner=owner, index=index, values=values, shape=(2,))
    return LocalUpdate(tensors={"table": rows}, users=users)


def one_round(
    norms: Array, clip_norm: float, adaptive: AdaptiveClip, noise: NoiseSource, turn: int
) -> tuple[dict[str, Array], float]:
    """Clip, attach, sum, noise, detach: as devices and a trusted server would."""
    plan = user_plan(
        trust=Trust.CENTRAL, cohort=len(norms), sigma=6.0, clip_norm=clip_norm, noise="seeded"
    )
    sent = entrust(attach(clip(made(norms), clip_norm=clip_norm), adaptive=adaptive), plan)
    release = privatise_total(sent.tensors, users=sent.users, plan=plan, noise=noise, keys=(turn,))
    return detach(release.tensors, adaptive=adaptive, clip_norm=clip_norm, cohort=len(norms))


def test_the_share_within_the_bound_comes_out() -> None:
    main, fraction = one_round(np.arange(1.0, 11.0), 7.0, AdaptiveClip(), NoNoise(0), 1)
    assert fraction == pytest.approx(0.7)
    assert main.keys() == {"table"}
    expected = (28 + 3 * 7.0) / math.sqrt(2.0)
    assert main["table"] == pytest.approx([expected, expected])


def test_a_user_whose_contribution_is_not_finite_is_not_within_the_bound() -> None:
    update = clip(made(np.array([0.5, math.nan, math.inf, 1e200, 1.0, 1.5])), clip_norm=1.0)
    assert update.below.tolist() == [True, False, False, False, True, False]
    assert within(update).tolist() == [[0.5], [-0.5], [-0.5], [-0.5], [0.5], [-0.5]]
    assert "below" not in repr(update)


def test_the_denominator_is_public() -> None:
    """Users who never replied count as halves: nothing is divided by how many replied."""
    adaptive = AdaptiveClip()
    update = attach(clip(made(np.full(4, 0.1)), clip_norm=1.0), adaptive=adaptive)
    total = {name: rows.total() for name, rows in update.tensors.items()}
    _, fraction = detach(total, adaptive=adaptive, clip_norm=1.0, cohort=8)
    assert fraction == pytest.approx(0.75)


@given(st.floats(0.001, 0.5), st.floats(0.3, 50.0), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=60)
def test_trap_12_the_bit_is_paid_for(share: float, z: float, clip_norm: float) -> None:
    """Andrew's z_delta^-2 = z^-2 - (2 sigma_b)^-2, with the noise that is really there."""
    riders = Riders(blocks=(AdaptiveClip(share=share).rider,))
    deviation = z * clip_norm
    of_bits = riders.deviations(sum_deviation=deviation, clip_norm=clip_norm)[BELOW]
    total = {"table": np.array([deviation]), BELOW: np.array([deviation])}
    main, rode = riders.detach(total, clip_norm=clip_norm)
    of_table = float(main["table"][0]) / clip_norm
    assert rode[BELOW][0] == pytest.approx(of_bits)
    assert of_table**-2 == pytest.approx(z**-2 - (2 * of_bits) ** -2, rel=1e-9)
    assert (2 * of_bits) ** -2 == pytest.approx(share * z**-2)
    # As two releases of their own they cost what the one release costs, no less.
    apart = [
        Spend(noise_multiplier=sigma, sampling_rate=1.0, steps=1)
        for sigma in (of_table, 2 * of_bits)
    ]
    whole = epsilon_of([Spend(noise_multiplier=z, sampling_rate=1.0, steps=1)], delta=1e-5)
    assert epsilon_of(apart, delta=1e-5) == pytest.approx(whole, abs=1e-6)


@pytest.mark.statistical
@pytest.mark.parametrize("start", [0.02, 60.0])
@pytest.mark.parametrize("quantile", [0.5, 0.8])
def test_the_clip_norm_finds_the_quantile(start: float, quantile: float) -> None:
    """With the noise of epsilon 3 over 20 rounds and 1 % for the bits; the seed is fixed.

    The noise of a released share is z / (2 sqrt(q) n) = 0.03 and moves the logarithm by 0.006.
    """
    norms = np.exp(np.random.default_rng(3).normal(0.5, 0.8, size=1000))
    adaptive = AdaptiveClip(quantile=quantile)
    bound, noise = start, SeededNoise(5)
    kept = []
    for turn in range(120):
        _, fraction = one_round(norms, bound, adaptive, noise, turn)
        bound = next_clip(bound, fraction, adaptive=adaptive)
        kept.append(bound)
    reached = [float((norms <= one).mean()) for one in kept[-30:]]
    assert all(abs(one - quantile) < 0.05 for one in reached)


@given(
    st.floats(1e-3, 1e3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(1e-6, 1.0),
    st.floats(1.0, 1e6),
)
@settings(deadline=None, max_examples=100)
def test_the_next_clip_norm_never_leaves_the_public_bounds(
    clip_norm: float, fraction: float, least: float, most: float
) -> None:
    adaptive = AdaptiveClip(least=least, most=most)
    assert least <= next_clip(clip_norm, fraction, adaptive=adaptive) <= most


def test_the_clip_norm_moves_against_the_share() -> None:
    adaptive = AdaptiveClip(quantile=0.3, rate=0.5)
    assert next_clip(2.0, 0.3, adaptive=adaptive) == pytest.approx(2.0)
    assert next_clip(2.0, 1.0, adaptive=adaptive) == pytest.approx(2.0 * math.exp(-0.35))
    assert next_clip(2.0, 0.0, adaptive=adaptive) == pytest.approx(2.0 * math.exp(0.15))


def test_bits_ride_beside_other_riders() -> None:
    metrics = Rider(name="metrics", size=2, bound=1.0, share=0.05)
    riders = Riders(blocks=(AdaptiveClip().rider, metrics))
    update = clip(made(np.array([0.5, 2.0, 0.7])), clip_norm=1.0)
    values = {BELOW: within(update), "metrics": np.full((3, 2), 0.5)}
    total = {n: rows.total() for n, rows in riders.attach(update, values).tensors.items()}
    _, rode = riders.detach(total, clip_norm=1.0)
    assert rode[BELOW] == pytest.approx([0.5])
    assert rode["metrics"] == pytest.approx([1.5, 1.5])


def test_bits_are_attached_once() -> None:
    update = attach(clip(made(np.ones(2)), clip_norm=1.0), adaptive=AdaptiveClip())
    with pytest.raises(ConfigError, match="another tensor"):
        attach(update, adaptive=AdaptiveClip())


@pytest.mark.parametrize("fraction", [math.nan, math.inf, -math.inf])
def test_a_share_that_is_not_finite_is_refused(fraction: float) -> None:
    with pytest.raises(RunError, match="not finite"):
        next_clip(1.0, fraction, adaptive=AdaptiveClip())


@pytest.mark.parametrize(
    "change",
    [
        {"quantile": 0.0},
        {"quantile": 1.0},
        {"rate": math.nan},
        {"rate": -0.1},
        {"share": 0.0},
        {"share": 1.0},
        {"least": 0.0},
        {"most": math.inf},
        {"least": 2.0, "most": 1.0},
    ],
)
def test_impossible_rules_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        AdaptiveClip(**change)
