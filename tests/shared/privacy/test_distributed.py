"""From clipped contributions to a sum of shares: bounded whatever is drawn, noised everywhere."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from counting import user_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from shared.errors import ConfigError, RunError
from shared.privacy import distributed
from shared.privacy.accounting import Spend, epsilon_of
from shared.privacy.calibration import noise_multiplier
from shared.privacy.distributed import (
    Layout,
    Rounded,
    check_distributed,
    gathered,
    noise_shares,
    opened,
    round_off,
    veil,
)
from shared.privacy.noise_shares import SMOOTHING, NoiseShares
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.quantisation import Grid, quantise, round_rows, signed, wrap
from shared.privacy.release import ClippedUpdate, LocalUpdate, Rows, clip

Floats = NDArray[np.float64]
SHAPES = {"wide": (5, 3), "flat": (4,)}
LAYOUT = Layout(shapes=SHAPES)
FALSE_ALARM = 1e-6


def made_plan(**changes: object) -> Plan:
    return replace(user_plan(trust=Trust.DISTRIBUTED), **changes)  # type: ignore[arg-type]


def made_shares(plan: Plan, layout: Layout = LAYOUT, round: int = 1) -> NoiseShares:
    return noise_shares(plan, round=round, layout=layout)


def made_update(users: int, seed: int = 0, scale: float = 1.0) -> LocalUpdate:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in SHAPES.items():
        pairs = np.argwhere(rng.random((users, shape[0])) < 0.7)
        values = scale * rng.normal(size=(len(pairs), *shape[1:]))
        tensors[name] = Rows(owner=pairs[:, 0], index=pairs[:, 1], values=values, shape=shape)
    return LocalUpdate(tensors=tensors, users=users)


def part(update: ClippedUpdate, people: list[int]) -> ClippedUpdate:
    """The rows of some users, numbered anew."""
    tensors = {}
    for name, rows in update.tensors.items():
        kept = np.isin(rows.owner, people)
        owner = np.searchsorted(people, rows.owner[kept])
        tensors[name] = replace(rows, owner=owner, index=rows.index[kept], values=rows.values[kept])
    return replace(update, tensors=tensors, users=len(people), below=update.below[people])


def rounded(update: ClippedUpdate, plan: Plan, keys: list[int], seed: int = 3) -> Rounded:
    return round_off(
        update,
        plan,
        shares=made_shares(plan),
        layout=LAYOUT,
        keys=np.array(keys, dtype=np.int64),
        seed=seed,
        round=1,
    )


Draw = Callable[[int], Floats]


def draws(kind: str, size: int) -> Draw:
    if kind == "zeros":
        return lambda attempt: np.zeros(size)
    if kind == "ones":
        return lambda attempt: np.ones(size)  # Beyond [0, 1): rounds everything down.
    return lambda attempt: np.random.default_rng([attempt, size]).random(size)


@settings(deadline=None, max_examples=60)
@given(
    values=st.integers(1, 40).flatmap(
        lambda n: arrays(np.float64, (3, n), elements=st.floats(-1.0, 1.0, width=32))
    ),
    resolution=st.sampled_from([0.1, 0.4, 1.0, 50.0, 1e4]),
    overshoot=st.sampled_from([0.0, 0.3, 1.0, 1.5, 1e6]),
    kind=st.sampled_from(["zeros", "ones", "random"]),
)
def test_round_rows_bounds_every_norm(
    values: Floats, resolution: float, overshoot: float, kind: str
) -> None:
    """Also where the contribution was not clipped, and where the draws are an adversary's."""
    users, dimension = values.shape
    grid = Grid(dimension=dimension, clip_norm=1.0, resolution=resolution)
    norms = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300)
    scaled = (values / norms * grid.reach * overshoot).ravel()
    owner = np.repeat(np.arange(users), dimension)
    found = round_rows(scaled, owner=owner, users=users, grid=grid, draw=draws(kind, len(scaled)))
    for row in found.reshape(users, dimension):
        assert sum(int(i) ** 2 for i in row) <= grid.squared_sensitivity


def test_a_finer_grid_than_sums_of_squares_are_exact_on_is_refused() -> None:
    assert Grid(dimension=4000, clip_norm=1.0, resolution=1e6).squared_sensitivity < 2**53
    with pytest.raises(ConfigError, match="coarser"):
        Grid(dimension=5000, clip_norm=1.0, resolution=1e6)


def test_round_rows_is_quantise_of_each_user() -> None:
    """Given the same uniforms, zeros left out or not."""
    grid = Grid(dimension=60, clip_norm=2.0, resolution=0.7)
    rng = np.random.default_rng(1)
    dense = rng.normal(size=(5, 60)) * (rng.random((5, 60)) < 0.5)
    dense *= 2.0 / np.linalg.norm(dense, axis=1, keepdims=True)
    dense[4] = 0.0
    uniforms = rng.integers(0, 2**64, (32, 5, 60), dtype=np.uint64)

    class Given:
        private = False

        def __init__(self, user: int) -> None:
            self.turns = iter(uniforms[:, user])

        def words(self, size: int) -> NDArray[np.uint64]:
            return np.asarray(next(self.turns))

    owner, place = np.nonzero(dense)

    def draw(attempt: int) -> Floats:
        return (uniforms[attempt, owner, place] >> np.uint64(11)).astype(np.float64) * 2.0**-53

    scaled = dense[owner, place] * (grid.reach / grid.clip_norm)
    sparse = np.zeros((5, 60), dtype=np.int64)
    sparse[owner, place] = round_rows(scaled, owner=owner, users=5, grid=grid, draw=draw)
    whole = [quantise(dense[user], grid=grid, source=Given(user)) for user in range(5)]
    assert np.array_equal(sparse, whole)
    assert sparse[:4].any(axis=1).all()


def test_a_user_who_is_over_does_not_touch_the_others() -> None:
    grid = Grid(dimension=400, clip_norm=1.0, resolution=0.4)
    values = np.concatenate([np.full(400, 0.4), np.full(1, 0.4)])
    owner = np.concatenate([np.zeros(400, dtype=np.int64), np.ones(1, dtype=np.int64)])
    found = round_rows(values, owner=owner, users=2, grid=grid, draw=lambda a: np.zeros(401))
    assert not found[:400].any()
    assert found[400] == 1


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-6, 0.1, 10.0, 1e200]))
def test_round_off_bounds_every_user(seed: int, scale: float) -> None:
    plan = made_plan()
    update = clip(made_update(4, seed, scale), clip_norm=plan.clip_norm)
    limit = made_shares(plan).grid.squared_sensitivity
    for user in range(4):
        alone = rounded(part(update, [user]), plan, [user], seed)
        assert sum(int(i) ** 2 for i in alone.integers) <= limit


def test_packing_does_not_show_in_the_integers() -> None:
    plan = made_plan()
    update = clip(made_update(6), clip_norm=plan.clip_norm)
    whole = rounded(update, plan, [4, 9, 11, 12, 30, 31])
    for cut in ([[0, 1, 2, 3, 4, 5]], [[0, 3], [1, 2, 4], [5]], [[i] for i in range(6)]):
        keys = np.array([4, 9, 11, 12, 30, 31])
        parts = [rounded(part(update, p), plan, keys[p].tolist()) for p in cut]
        assert np.array_equal(sum(p.integers for p in parts), whole.integers)
        assert sum(p.users for p in parts) == whole.users == 6
    other = rounded(update, plan, [5, 9, 11, 12, 30, 31])
    assert not np.array_equal(other.integers, whole.integers)


@pytest.mark.statistical
def test_rounding_off_is_unbiased() -> None:
    """Below the clip norm, where no rounding is refused for its norm."""
    # Seeded; 19 means, each 6 sd off with chance 2e-9 were the draws fresh.
    plan = made_plan()
    update = clip(made_update(3, seed=5, scale=0.05), clip_norm=plan.clip_norm)
    assert update.below.all()
    sums = {name: rows.total() for name, rows in update.tensors.items()}
    exact = np.concatenate([sums[name].ravel() for name in sorted(sums)])
    step = made_shares(plan).grid.step
    found = np.array([rounded(update, plan, [1, 2, 3], s).integers for s in range(800)]) * step
    assert np.abs(found.mean(axis=0) - exact).max() < 6 * step * math.sqrt(3) / 2 / 800**0.5
    assert found.std(axis=0).max() > step / 4


def test_another_clip_norm_is_refused() -> None:
    update = clip(made_update(2), clip_norm=0.5)
    with pytest.raises(ConfigError):
        rounded(update, made_plan(), [1, 2])


@pytest.mark.parametrize(("unit", "trust"), [(Unit.USER, Trust.CENTRAL), (Unit.USER, Trust.LOCAL)])
def test_other_plans_have_no_shares(unit: Unit, trust: Trust) -> None:
    with pytest.raises(ConfigError, match="trust=distributed"):
        check_distributed(replace(user_plan(trust=trust), unit=unit))
    with pytest.raises(ConfigError, match="trust=distributed"):
        made_shares(user_plan(trust=trust))


def test_shares_are_for_the_least_honest_survivors() -> None:
    plan = made_plan(expected_cohort=20, dropouts=3, colluders=2)
    shares = made_shares(plan)
    assert (plan.minimum, plan.honest, shares.minimum, shares.devices) == (17, 15, 15, 20)
    assert shares.realised(15) == pytest.approx(plan.noise_multiplier)
    with pytest.raises(RunError, match="15 honest"):
        shares.realised(14)


SIZE = 2000
WIDE = Layout(shapes={"t": (SIZE,)})


def zero(users: int, size: int = SIZE) -> Rounded:
    return Rounded(integers=np.zeros(size, dtype=np.int64), users=users)


def test_veil_noises_every_coordinate() -> None:
    """A share is 0 on one coordinate with chance 1 / (sd sqrt(2 pi)), about 1 in 4,500."""
    plan = made_plan()
    shares = made_shares(plan, WIDE)
    assert shares.deviation > 1800
    for users in (1, 6):
        noise = signed(veil(zero(users), plan, shares=shares, seed=0).words)
        # More than 20 zeros: below 1e-19 for one device, less for more.
        assert np.count_nonzero(noise == 0) < 20


@pytest.mark.parametrize("noise", ["os", "seeded", "off"])
def test_only_the_system_s_noise_is_private(noise: str) -> None:
    plan = made_plan(noise=noise)
    shares = made_shares(plan, WIDE)
    first, second = (veil(zero(2), plan, shares=shares, seed=7, keys=("a",)) for _ in range(2))
    assert first.private is (noise == "os")
    assert np.array_equal(first.words, second.words) is (noise != "os")
    assert first.words.any() == (noise != "off")
    if noise == "seeded":
        other = veil(zero(2), plan, shares=shares, seed=7, keys=("b",))
        assert not np.array_equal(first.words, other.words)


def scale_p(x: Floats, sigma: float) -> float:
    squares = float(np.sum(np.square(x))) / sigma**2
    return float(2 * min(stats.chi2.cdf(squares, len(x)), stats.chi2.sf(squares, len(x))))


def _noise(plan: Plan, users: int, repeats: int, seed: int) -> Floats:
    shares = made_shares(plan, WIDE)
    size = 20_000
    total = np.zeros(size)
    for turn in range(repeats):
        keys = ("trial", seed, turn)
        veiled = veil(zero(users, size), plan, shares=shares, seed=seed, keys=keys)
        total += signed(veiled.words)
    return total


@pytest.mark.statistical
def test_a_packed_sum_has_the_law_of_single_shares() -> None:
    """Both are the theory's; 5 % of scale is caught either way. Seeded; else 2e-6 false alarms."""
    plan = made_plan(noise="seeded")
    deviation = made_shares(plan, WIDE).deviation * math.sqrt(6)
    for users, repeats in ((6, 1), (1, 6), (3, 2)):
        x = _noise(plan, users, repeats, seed=2)
        assert scale_p(x, deviation) > FALSE_ALARM
        assert scale_p(x, deviation * 1.05) < FALSE_ALARM
        assert scale_p(x, deviation / 1.05) < FALSE_ALARM
        # The shape: 40 bins of equal chance; a lattice of 4,000 steps a sd is fine enough.
        bins = np.bincount((stats.norm.cdf(x / deviation) * 40).astype(np.int64), minlength=40)
        assert stats.chisquare(bins).pvalue > FALSE_ALARM


@pytest.mark.slow
@pytest.mark.statistical
def test_the_right_scale_is_never_refused_in_200_trials() -> None:
    plan = made_plan(noise="seeded")
    deviation = made_shares(plan, WIDE).deviation * math.sqrt(6)
    for seed in range(200):
        x = _noise(plan, 6, 1, seed=seed)
        assert scale_p(x, deviation) > FALSE_ALARM
        assert scale_p(x, deviation * 1.05) < FALSE_ALARM
        assert scale_p(x, deviation / 1.05) < FALSE_ALARM


@pytest.mark.statistical
def test_a_sum_wider_than_the_sampler_keeps_its_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many users of a node under much noise: drawn in parts, whose variances add up."""
    plan = made_plan(noise="seeded")
    deviation = made_shares(plan, WIDE).deviation
    monkeypatch.setattr(distributed, "LARGEST_SIGMA", deviation * 1.5)
    x = _noise(plan, 6, 1, seed=1)
    sigma = deviation * math.sqrt(6)
    assert scale_p(x, sigma) > FALSE_ALARM
    assert scale_p(x, sigma * 1.05) < FALSE_ALARM
    assert scale_p(x, sigma / 1.05) < FALSE_ALARM


def test_a_node_of_many_users_under_much_noise_is_not_refused() -> None:
    layout = Layout(shapes={"t": (4_000_000,)})
    plan = made_plan(expected_cohort=1000, dropouts=50, colluders=50, noise_multiplier=200.0)
    shares = made_shares(plan, layout)
    assert shares.deviation * 30 > 1e6 > shares.deviation
    noise = signed(veil(zero(1000, 200), plan, shares=shares, seed=0).words)
    assert noise.std() == pytest.approx(shares.deviation * 1000**0.5, rel=0.5)


@settings(deadline=None, max_examples=40)
@given(
    parts=arrays(np.int64, (3, LAYOUT.dimension), elements=st.integers(-(2**28), 2**28 - 1)),
)
def test_opened_inverts_gathered(parts: NDArray[np.int64]) -> None:
    """Through float64 sums of nodes as through words of a masked sum: no wrap, same bits."""
    plan = made_plan(noise="off")
    shares = made_shares(plan)
    sums = [
        gathered(veil(Rounded(integers=p, users=2), plan, shares=shares, seed=0), LAYOUT)
        for p in parts
    ]
    packed = opened({n: sum(s.tensors[n] for s in sums) for n in SHAPES}, shares)  # type: ignore[misc]
    words = np.sum([wrap(p) for p in parts], axis=0, dtype=np.uint32)
    masked = opened(LAYOUT.split(words.astype(np.float64)), shares)
    exact = LAYOUT.split(parts.sum(axis=0) * shares.grid.step)
    for name, shape in SHAPES.items():
        assert packed[name].shape == shape
        assert np.array_equal(packed[name], masked[name])
        assert np.array_equal(packed[name], exact[name])
    assert all(s.users == 2 and not s.private for s in sums)


def test_layout_is_by_name_and_row() -> None:
    assert LAYOUT.dimension == 19
    assert LAYOUT.starts() == {"flat": 0, "wide": 4}
    split = LAYOUT.split(np.arange(19.0))
    assert split["wide"][1].tolist() == [7.0, 8.0, 9.0]


def test_secrets_do_not_print() -> None:
    plan = made_plan(noise="off")
    one = Rounded(integers=np.array([77]), users=1)
    shares = made_shares(plan, Layout(shapes={"t": (1,)}))
    veiled = veil(one, plan, shares=shares, seed=0)
    sums = gathered(veiled, Layout(shapes={"t": (1,)}))
    assert all("77" not in repr(thing) for thing in (one, veiled, sums))


@pytest.mark.parametrize(("lost", "expected"), [(0.0, 3.0), (0.1, 3.19), (0.3, 3.68), (0.5, 4.46)])
def test_trap_5_missing_shares_are_missing_noise(lost: float, expected: float) -> None:
    """Noise falls as sqrt(1 - f) with the dropouts and colluders; it is planned for, or refused."""
    claimed = noise_multiplier(epsilon=3.0, delta=1e-5, sampling_rate=1.0, steps=20)
    naive = NoiseShares(
        grid=Grid(dimension=2000, clip_norm=0.3),
        noise_multiplier=claimed,
        minimum=1000,
        devices=1000,
    )
    left = round(1000 * (1.0 - lost))
    real = math.sqrt(left * naive.deviation**2 - 16.0) / naive.grid.sensitivity
    assert real == pytest.approx(claimed * math.sqrt(1.0 - lost), rel=1e-6)
    spend = Spend(noise_multiplier=real, sampling_rate=1.0, steps=20)
    assert epsilon_of([spend], delta=1e-5) == pytest.approx(expected, abs=0.01)
    if lost:
        with pytest.raises(RunError, match="aborted"):
            naive.realised(left)
    planned = replace(naive, minimum=left)
    assert planned.realised(left) == pytest.approx(claimed, rel=1e-9)
    assert planned.realised(left) >= claimed
    whole = claimed / math.sqrt(1.0 - lost)
    assert planned.realised(1000) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("users", [10, 943, 6040, 100_000])
@pytest.mark.parametrize("dimension", [1, 2, 50])
def test_a_short_vector_of_many_devices_has_a_grid_of_its_own(users: int, dimension: int) -> None:
    """Whoever measures two numbers over many devices gets shares wide enough for the argument."""
    plan = made_plan(expected_cohort=users, dropouts=users // 20, colluders=users // 20)
    for multiplier in (0.5, 5.0):
        shares = noise_shares(
            replace(plan, noise_multiplier=multiplier),
            round=1,
            layout=Layout(shapes={"metrics": (dimension,)}),
        )
        assert shares.deviation >= SMOOTHING
        assert shares.realised(plan.honest) >= multiplier * (1 - 1e-9)
