"""Noise that later rounds take back: what it costs, what it leaves, and that both ways agree."""

import copy
from itertools import pairwise

import numpy as np
import pytest
from counting import private_plan, user_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import block_diag
from scipy.stats import chi2, kstest

from shared.errors import ConfigError, RunError
from shared.privacy.accounting import Spend, epsilon_of, gaussian_epsilon
from shared.privacy.bands import (
    coefficients,
    column_norm,
    echo_spend,
    participation_spend,
    sensitivity,
)
from shared.privacy.calibration import correlated_multiplier, noise_multiplier
from shared.privacy.correlated import CorrelatedNoise, Decoder, encode, iterate_rms
from shared.privacy.gaussian import ROUNDING
from shared.privacy.plan import Trust
from shared.privacy.release import LocalUpdate, Rows, clip
from shared.randomness import NoNoise, OSNoise, SeededNoise

Array = NDArray[np.float64]
PLAN = user_plan(trust=Trust.CENTRAL, clip_norm=0.5)


def matrix(rounds: int, bands: int) -> Array:
    """C, written out."""
    return sum(
        (np.diag(np.full(rounds - j, c), -j) for j, c in enumerate(coefficients(bands)[:rounds])),
        np.zeros((rounds, rounds)),
    )


def scale_p(values: Array, sigma: float) -> float:
    s = float(np.sum(np.square(values))) / sigma**2
    return float(2 * min(chi2.cdf(s, values.size), chi2.sf(s, values.size)))


def test_coefficients_are_those_of_the_square_root_of_all_sums() -> None:
    """Without a cut, C C is the matrix of running sums."""
    whole = matrix(12, 12)
    assert np.allclose(whole @ whole, np.tril(np.ones((12, 12))))


def test_golden_sensitivities() -> None:
    """jax-privacy's figures for (rounds, separation) with as many bands."""
    for (rounds, apart), golden in {(40, 40): 1.496, (40, 10): 2.677, (100, 10): 4.232}.items():
        found = sensitivity(rounds=rounds, separation=apart, bands=apart)
        assert found == pytest.approx(golden, abs=5e-4)


@pytest.mark.parametrize(
    ("rounds", "apart", "banded", "independent"),
    [
        (40, 40, (8.8, 3.21, 1.13), (19.1, 6.99, 2.45)),
        (40, 10, (18.7, 6.84, 2.40), (38.3, 14.0, 4.90)),
        (100, 10, (40.6, 14.8, 5.20), (94.9, 34.7, 12.2)),
    ],
)
def test_golden_rms(
    rounds: int, apart: int, banded: tuple[float, ...], independent: tuple[float, ...]
) -> None:
    """jax-privacy's figures at delta 1e-6 and epsilon 1, 3, 10, to the digits they have."""
    for bands, golden in ((apart, banded), (1, independent)):
        for budget, expected in zip((1.0, 3.0, 10.0), golden, strict=True):
            z = correlated_multiplier(
                epsilon=budget, delta=1e-6, rounds=rounds, separation=apart, bands=bands
            )
            found = iterate_rms(rounds=rounds, bands=bands, noise_multiplier=z)
            assert found == pytest.approx(expected, rel=6e-3)


def test_two_bands_gain_nothing_for_users_of_every_round() -> None:
    """Their columns overlap: it is refused, and by the matrix it would cost 45.0 against 44.2."""
    with pytest.raises(ConfigError, match="fewer bands"):
        sensitivity(rounds=40, separation=1, bands=2)
    one = noise_multiplier(epsilon=3.0, delta=1e-6, sampling_rate=1.0, steps=1)
    moved = float(np.linalg.norm(matrix(40, 2).sum(axis=1)))
    assert iterate_rms(rounds=40, bands=2, noise_multiplier=one * moved) == pytest.approx(
        45.0, abs=0.05
    )
    z = correlated_multiplier(epsilon=3.0, delta=1e-6, rounds=40, separation=1, bands=1)
    assert iterate_rms(rounds=40, bands=1, noise_multiplier=z) == pytest.approx(44.2, abs=0.05)
    assert z == pytest.approx(
        noise_multiplier(epsilon=3.0, delta=1e-6, sampling_rate=1.0, steps=40)
    )


@given(st.integers(1, 30), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_rms_is_that_of_the_matrix(rounds: int, bands: int) -> None:
    noise = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(matrix(rounds, bands))
    expected = 2.5 * np.sqrt(np.square(noise).sum(axis=1).mean())
    found = iterate_rms(rounds=rounds, bands=bands, noise_multiplier=2.5)
    assert found == pytest.approx(expected)


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_sensitivity_is_exact(data: st.DataObject) -> None:
    """Over schedules that keep the separation, and contributions that differ by round."""
    rounds, apart = data.draw(st.integers(1, 25)), data.draw(st.integers(1, 8))
    bands = data.draw(st.integers(1, apart))
    bound = sensitivity(rounds=rounds, separation=apart, bands=bands)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))

    def moved(turns: list[int], shape: tuple[int, ...] = (3,)) -> float:
        given_ = np.zeros((rounds, *shape))
        for turn in turns:
            one = rng.normal(size=shape)
            given_[turn] = one / np.linalg.norm(one)
        return float(np.linalg.norm(np.tensordot(matrix(rounds, bands), given_, axes=1)))

    turns = [data.draw(st.integers(0, rounds - 1))]
    while (least := turns[-1] + apart) < rounds:
        turns.append(data.draw(st.integers(least, rounds - 1)))
    assert moved(turns) <= bound * (1 + 1e-12)
    assert moved(list(range(0, rounds, apart))) == pytest.approx(bound)


def test_column_norm_is_exact_at_the_end_of_the_run() -> None:
    whole = matrix(9, 4)
    for column in range(9):
        expected = float(np.linalg.norm(whole[:, column]))
        assert column_norm(bands=4, rounds_left=9 - column) == pytest.approx(expected)


def test_trap_26_steps_of_correlated_noise_are_not_independent_steps() -> None:
    """Per-step accounting claims too little; the columns say what is spent, to the last digit."""
    asked = {"rounds": 45, "separation": 10, "bands": 10}
    z = correlated_multiplier(epsilon=3.0, delta=1e-6, **asked)
    turns = range(1, 46, 10)
    whole = matrix(45, 10)
    true = gaussian_epsilon(float(np.linalg.norm(whole[:, ::10].sum(axis=1))) / z, 1e-6)
    ours = [participation_spend(noise_multiplier=z, round=turn, **asked) for turn in turns]
    naive = [Spend(noise_multiplier=z, sampling_rate=1.0, steps=1)] * len(ours)
    assert true == pytest.approx(3.0, abs=1e-6), "the slack of the calibration"
    assert epsilon_of(ours, delta=1e-6) == pytest.approx(true, abs=1e-9)
    assert epsilon_of(ours, delta=1e-6) <= 3.0
    assert epsilon_of(naive, delta=1e-6) == pytest.approx(2.206, abs=1e-3)


def test_trap_26_columns_closer_than_the_bands_cost_more_than_they_say() -> None:
    """So the separation is part of the accounting: fewer rounds than bands are refused."""
    whole = matrix(45, 10)
    apart = {gap: np.linalg.norm(whole[:, 3] + whole[:, 3 + gap]) ** 2 for gap in range(1, 12)}
    said = 2 * column_norm(bands=10, rounds_left=42) ** 2
    assert all((apart[gap] > said + 1e-3) == (gap < 10) for gap in apart)
    assert apart[10] == pytest.approx(said)
    for build in (sensitivity, participation_spend, correlated_multiplier):
        words: dict[str, float] = {"rounds": 45, "separation": 9, "bands": 10}
        if build is participation_spend:
            words |= {"noise_multiplier": 3.0, "round": 4}
        if build is correlated_multiplier:
            words |= {"epsilon": 3.0, "delta": 1e-6}
        with pytest.raises(ConfigError, match="must not overlap"):
            build(**words)  # type: ignore[operator]


def test_echoes_cost_what_their_column_costs() -> None:
    for left in (1, 3, 20):
        kept = min(left, 10)
        echoes = [echo_spend(noise_multiplier=6.0, since=j, bands=10) for j in range(kept)]
        column = participation_spend(
            noise_multiplier=6.0, round=21 - left, rounds=20, separation=12, bands=10
        )
        together = sum(one.noise_multiplier**-2 for one in echoes)
        assert together == pytest.approx(column.noise_multiplier**-2)
    assert echoes[0].noise_multiplier == 6.0
    for since in (-1, 10):
        with pytest.raises(ConfigError, match="no echo"):
            echo_spend(noise_multiplier=6.0, since=since, bands=10)


def made(rng: np.random.Generator, users: int, scale: float = 2.0) -> LocalUpdate:
    """Contributions to a matrix and a vector, some of them beyond the bound."""
    owner, index = np.divmod(np.arange(users * 4), 4)
    values = {"table": rng.normal(size=(users * 4, 3)), "bias": rng.normal(size=users * 4)}
    return LocalUpdate(
        tensors={
            name: Rows(owner=owner, index=index, values=scale * value, shape=(4, *value.shape[1:]))
            for name, value in values.items()
        },
        users=users,
    )


def played(rounds: int, apart: int, bands: int) -> tuple[list[dict[str, Array]], ...]:
    """The plain sums of a run, and what its devices send: every user echoes its newest one."""
    rng = np.random.default_rng(5)
    plain, sent, kept = [], [], {}
    for turn in range(rounds):
        kept[turn % apart] = (turn, clip(made(rng, 3), clip_norm=0.5))
        plain.append({name: rows.total() for name, rows in kept[turn % apart][1].tensors.items()})
        total = {name: np.zeros_like(value) for name, value in plain[-1].items()}
        for first, group in kept.values():
            encoded = encode(group, since=np.full(3, turn - first), bands=bands)
            for name, rows in encoded.tensors.items():
                total[name] += rows.total()
        sent.append(total)
    return plain, sent


@pytest.mark.parametrize(("apart", "bands"), [(1, 1), (4, 4), (6, 3)])
def test_decoding_undoes_encoding(apart: int, bands: int) -> None:
    """And a decoder that starts from what another one remembered goes on as that one would."""
    plain, sent = played(15, apart, bands)
    decoder = Decoder(bands=bands)
    for turn, (expected, total) in enumerate(zip(plain, sent, strict=True)):
        if turn in {2, 9}:
            decoder = Decoder(bands=bands, past=decoder.past)
        found = decoder.step(total)
        for name, value in expected.items():
            assert np.allclose(found[name], value, rtol=0, atol=1e-12)
            assert decoder.past[name].shape[0] == min(turn + 1, bands - 1)


def test_what_devices_send_is_c_times_their_contributions() -> None:
    plain, sent = played(12, 5, 4)
    for name in ("table", "bias"):
        stacked = np.stack([total[name] for total in plain])
        expected = np.tensordot(matrix(12, 4), stacked, axes=1)
        assert np.allclose(np.stack([total[name] for total in sent]), expected)


def test_distributed_and_central_noise_have_one_law() -> None:
    """The server that decodes masked sums with fresh noise sees what a trusted one releases."""
    plain, sent = played(9, 4, 4)
    z, source = 3.0, SeededNoise(4)
    trusted = CorrelatedNoise(bands=4, source=source)
    decoder = Decoder(bands=4)
    for turn, (x, cx) in enumerate(zip(plain, sent, strict=True)):
        released = trusted.privatise(x, users=3, plan=PLAN, noise_multiplier=z, keys=(turn,))
        masked = {
            name: value + z * 0.5 * ROUNDING * source.gaussian(value.shape, turn, name)
            for name, value in cx.items()
        }
        decoded = decoder.step(masked)
        for name in x:
            assert np.allclose(decoded[name], released.tensors[name], rtol=0, atol=1e-12)


@given(st.integers(1, 6), st.lists(st.integers(0, 9), min_size=5, max_size=5))
@settings(deadline=None, max_examples=40)
def test_encoding_never_exceeds_the_clip_norm(bands: int, since: list[int]) -> None:
    kept = clip(made(np.random.default_rng(1), 5, scale=50.0), clip_norm=0.5)
    encoded = encode(kept, since=np.array(since), bands=bands)
    squares = np.zeros(5)
    for rows in encoded.tensors.values():
        flat = rows.values.reshape(len(rows.owner), -1)
        squares += np.bincount(rows.owner, weights=np.square(flat).sum(axis=1), minlength=5)
    factors = [coefficients(bands)[j] if j < bands else 0.0 for j in since]
    assert np.allclose(np.sqrt(squares), 0.5 * np.array(factors))
    assert encoded.clip_norm == 0.5


@pytest.mark.parametrize("since", [[-1, 0], [0], [0.0, 1.0], [[0, 1]]])
def test_impossible_rounds_of_an_echo_are_refused(since: list[float]) -> None:
    kept = clip(made(np.random.default_rng(1), 2), clip_norm=0.5)
    with pytest.raises(ConfigError, match="every user"):
        encode(kept, since=np.array(since), bands=3)


def run_of_noise(source: object, rounds: int, shape: tuple[int, ...], restarts: set[int]) -> Array:
    """What a trusted server adds in each round, in units of z times the clip norm."""
    added = []
    noise = CorrelatedNoise(bands=4, source=source)  # type: ignore[arg-type]
    for turn in range(rounds):
        if turn in restarts:
            noise = CorrelatedNoise(bands=4, source=source)  # type: ignore[arg-type]
        zeros = {"a": np.zeros(shape)}
        release = noise.privatise(zeros, users=2, plan=PLAN, noise_multiplier=3.0, keys=(turn,))
        added.append(release.tensors["a"] / (1.5 * ROUNDING))
    return np.stack(added)


@pytest.mark.statistical
def test_every_round_gets_a_fresh_draw_of_the_full_deviation() -> None:
    """C times the noise is white. False alarms 1e-6 each; 5 % of scale is caught both ways."""
    fresh = matrix(6, 4) @ run_of_noise(OSNoise(), 6, (20_000,), set())
    for row in fresh:
        assert scale_p(row, 1.0) > 1e-6
        assert scale_p(row, 1.05) < 1e-6
        assert scale_p(row, 1 / 1.05) < 1e-6
        assert kstest(row, "norm").pvalue > 1e-6
    # 15 pairs; a correlation of independent rows lies beyond 5.3 / sqrt(20,000) once in 1e7.
    pairs = np.corrcoef(fresh)[np.triu_indices(6, 1)]
    assert np.abs(pairs).max() < 5.3 / np.sqrt(20_000)
    # The noise itself is anything but white: one round takes back half of the last one's.
    noise = np.linalg.inv(matrix(6, 4)) @ fresh
    assert all(np.corrcoef(a, b)[0, 1] < -0.3 for a, b in pairwise(noise))


@given(st.sets(st.integers(1, 11), max_size=4), st.data())
@settings(deadline=None, max_examples=60)
def test_a_restart_does_not_raise_the_sensitivity(restarts: set[int], data: st.DataObject) -> None:
    """C becomes block-diagonal; no schedule that keeps the separation moves it further."""
    ends = [0, *sorted(restarts), 12]
    blocks = block_diag(*(matrix(high - low, 4) for low, high in pairwise(ends)))
    source = SeededNoise(8)
    fresh = np.stack([source.gaussian((2, 2), turn, "a") for turn in range(12)])
    expected = np.tensordot(np.linalg.inv(blocks), fresh, axes=1)
    assert np.allclose(run_of_noise(source, 12, (2, 2), restarts), expected)
    turns = [data.draw(st.integers(0, 11))]
    while (least := turns[-1] + 4) < 12:
        turns.append(data.draw(st.integers(least, 11)))
    moved = np.linalg.norm(blocks[:, turns].sum(axis=1))
    paid = [
        participation_spend(noise_multiplier=1.0, round=turn + 1, rounds=12, separation=4, bands=4)
        for turn in turns
    ]
    assert moved**2 <= sum(one.noise_multiplier**-2 for one in paid) * (1 + 1e-12)
    assert moved <= sensitivity(rounds=12, separation=4, bands=4) * (1 + 1e-12)


def test_the_memory_is_never_written() -> None:
    noise = CorrelatedNoise(bands=3, source=OSNoise())
    zeros = {"a": np.zeros(2)}
    noise.privatise(zeros, users=1, plan=PLAN, noise_multiplier=3.0)
    for write in (copy.copy, copy.deepcopy, lambda one: one.__reduce_ex__(5)):
        with pytest.raises(RunError, match="secret"):
            write(noise)
    assert [name for name in dir(noise) if not name.startswith("_")] == ["privatise"]
    assert "array" not in repr(noise)


def test_the_multiplier_and_the_clip_norm_scale_the_round() -> None:
    """The memory is in units of the noise, so a round's own numbers scale what it adds."""
    source, zeros = SeededNoise(2), {"a": np.zeros(5)}
    base, other = (CorrelatedNoise(bands=3, source=source) for _ in range(2))
    for turn, (z, bound) in enumerate([(3.0, 0.5), (6.0, 0.5), (3.0, 0.25)]):
        one = base.privatise(zeros, users=1, plan=PLAN, noise_multiplier=3.0, keys=(turn,))
        two = other.privatise(
            zeros,
            users=1,
            plan=user_plan(trust=Trust.CENTRAL, clip_norm=bound),
            noise_multiplier=z,
            keys=(turn,),
        )
        scale = z * bound / 1.5
        assert np.allclose(two.tensors["a"], scale * one.tensors["a"])


def test_a_refused_round_leaves_the_memory_as_it_was() -> None:
    source = SeededNoise(2)
    base, other = (CorrelatedNoise(bands=3, source=source) for _ in range(2))
    words = {"users": 1, "plan": PLAN, "noise_multiplier": 3.0}
    for turn in range(3):
        sums = {"a": np.full(4, float(turn))}
        if turn == 1:
            for bad in ({"a": np.array([0.0, np.nan, 0.0, 0.0])}, {"a": np.zeros(3)}, {}):
                with pytest.raises(RunError):
                    other.privatise(bad, keys=(turn,), **words)  # type: ignore[arg-type]
        one = base.privatise(sums, keys=(turn,), **words)  # type: ignore[arg-type]
        two = other.privatise(sums, keys=(turn,), **words)  # type: ignore[arg-type]
        assert np.array_equal(one.tensors["a"], two.tensors["a"])


def test_only_a_trusted_server_adds_correlated_noise() -> None:
    zeros = {"a": np.zeros(2)}
    noise = CorrelatedNoise(bands=3, source=OSNoise())
    for plan in (private_plan(), user_plan(trust=Trust.LOCAL)):
        with pytest.raises(ConfigError, match="trust=central"):
            noise.privatise(zeros, users=1, plan=plan, noise_multiplier=3.0)
    for z in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ConfigError, match="noise_multiplier"):
            noise.privatise(zeros, users=1, plan=PLAN, noise_multiplier=z)
    assert noise.privatise(zeros, users=1, plan=PLAN, noise_multiplier=3.0).private
    stand_in = CorrelatedNoise(bands=3, source=NoNoise(0))
    assert not stand_in.privatise(zeros, users=1, plan=PLAN, noise_multiplier=3.0).private


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_impossible_numbers_are_refused(bad: int) -> None:
    good = {"rounds": 10, "separation": 3, "bands": 3}
    for name in good:
        with pytest.raises(ConfigError):
            sensitivity(**(good | {name: bad}))
    with pytest.raises(ConfigError):
        Decoder(bands=bad)
    with pytest.raises(ConfigError):
        participation_spend(noise_multiplier=1.0, round=11, **good)
