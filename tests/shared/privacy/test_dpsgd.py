"""Private descent: the compact tables against Opacus on the whole item table.

The oracle is Opacus itself on a plain module that holds every row, with its own noise. Statistical
checks reject at p < 1e-6: that is the false alarm rate of each check of a right scale or shape.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy.stats import chi2, ks_2samp, kstest
from torch import nn
from training import averaging, cohort, off_centre, plan

from shared.algorithms import private_training
from shared.algorithms.examples import draw_batches
from shared.algorithms.optimisers import OptimiserConfig
from shared.privacy.dpsgd import LazyNoise, clip_factors
from shared.randomness import NoNoise, OSNoise, SeededNoise

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")

LIMIT = 1e-6
HISTORIES = [[0, 5, 3, 7, 7, 1, 9], [4], [], [2, 3, 8]]
ENGINES = ["opacus", "vectorised"]
Tables = dict[str, np.ndarray]


class DenseLoss(nn.Module):
    """The textbook module: every row of the item table is a parameter."""

    def __init__(self, values: Tables, negative_weight: float) -> None:
        super().__init__()
        for name, value in values.items():
            table = nn.Embedding(*value.shape, dtype=torch.float64)
            table.weight.data = torch.tensor(value)
            setattr(self, name, table)
        self.negative_weight = negative_weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        user = self.user(torch.zeros_like(rows))
        scores = (self.items(rows) * user).sum(dim=2) + self.bias(rows).squeeze(2)
        lost = nn.functional.logsigmoid(scores[:, 0])
        return -lost - self.negative_weight * nn.functional.logsigmoid(-scores[:, 1:]).sum(dim=1)


def values_of(state, users, user: int) -> Tables:
    return {
        "user": users.memory["user"][user : user + 1],
        "items": state.tensors["items"],
        "bias": state.tensors["bias"][:, None],
    }


def dense_opacus(values: Tables, batches, rates, *, clip_norm, sigma, negative_weight) -> Tables:
    """How far each value moves in Opacus's hands."""
    module = DenseLoss(values, negative_weight)
    wrapped = GradSampleModule(module, loss_reduction="sum")
    named = dict(module.named_parameters())
    optimiser = DPOptimizer(
        torch.optim.SGD([{"params": [named[f"{n}.weight"]], "lr": r} for n, r in rates.items()]),
        noise_multiplier=sigma,
        max_grad_norm=clip_norm,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    for rows in batches:
        optimiser.zero_grad()
        if len(rows):
            wrapped(torch.tensor(rows)).sum().backward()
        else:
            for p in named.values():
                p.grad_sample = torch.zeros(0, *p.shape, dtype=p.dtype)
        optimiser.step()
    return {n: named[f"{n}.weight"].detach().numpy() - v for n, v in values.items()}


def one_by_one(values, batches, rates, *, clip_norm, scales, negative_weight):
    """The mechanism as it is written in the paper, an example at a time; also the norms."""
    module = DenseLoss(values, negative_weight)
    named = {n.removesuffix(".weight"): p for n, p in module.named_parameters()}
    norms = []
    for rows in batches:
        total = {name: torch.zeros_like(p) for name, p in named.items()}
        for example in rows:
            loss = module(torch.tensor(example[None])).sum()
            found = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
            size = torch.sqrt(sum((scales[n] * g).square().sum() for n, g in found.items()))
            norms.append(float(size))
            for name, gradient in found.items():
                total[name] += gradient * min(1.0, clip_norm / (float(size) + 1e-6))
        for name, p in named.items():
            p.data -= rates[name] * total[name]
    return {n: p.detach().numpy() - values[n] for n, p in named.items()}, np.array(norms)


def rows_of(users, algorithm, noise) -> list[list[np.ndarray]]:
    """Global rows of the examples of each step, by user."""
    config = algorithm.config
    slots, batches = draw_batches(
        users,
        steps=config.local_steps,
        rate=config.sampling_rate,
        negatives=config.negatives,
        noise=noise,
    )
    return [
        [slots.row[b.slots[b.owner == user]] for b in batches]
        for user in range(users.histories.n_users)
    ]


SETTINGS = {
    "local_steps": 3,
    "sampling_rate": 0.5,
    "negatives": 4,
    "negative_weight": 0.6,
    "examples": 4.0,
    "user_rate": 1.7,
    "bias_rate": 0.4,
    "local": OptimiserConfig(rate=1.2),
}
RATES = {"user": 0.3 * 1.7, "items": 0.3, "bias": 0.3 * 0.4}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scales", [(1.0, 1.0), (2.5, 0.3)])
def test_compact_descent_is_the_mechanism_of_the_paper(engine: str, scales) -> None:
    noise = NoNoise(0)
    algorithm = averaging(10, engine=engine, user_scale=scales[0], bias_scale=scales[1], **SETTINGS)
    state, users = off_centre(algorithm.start(1)), cohort(algorithm, HISTORIES, seed=2)
    rows = rows_of(users, algorithm, noise)
    every = np.concatenate([batch for steps in rows for batch in steps])
    assert any(not len(batch) for batch in rows[1])  # a user with one item and a step without it
    assert any(len(batch) for batch in rows[1])
    assert (every[:, 1:] == every[:, :1]).any()  # a negative that is the positive
    weights = {"user": scales[0], "items": 1.0, "bias": scales[1]}
    settings_ = {"scales": weights, "negative_weight": 0.6}
    values = [values_of(state, users, user) for user in range(4)]
    norms = np.concatenate(
        [
            one_by_one(v, r, RATES, clip_norm=1e9, **settings_)[1]
            for v, r in zip(values, rows, strict=True)
        ]
    )
    clip_norm = float(np.median(norms))
    expected = [
        one_by_one(v, r, RATES, clip_norm=clip_norm, **settings_)[0]
        for v, r in zip(values, rows, strict=True)
    ]
    private = plan(algorithm, clip_norm=clip_norm)
    released, memory = algorithm.contribute_per_interaction(state, users, private, noise)
    compare(released, memory, users, expected)
    if scales == (1.0, 1.0):
        dense = [
            dense_opacus(v, r, RATES, clip_norm=clip_norm, sigma=0.0, negative_weight=0.6)
            for v, r in zip(values, rows, strict=True)
        ]
        compare(released, memory, users, dense)


def compare(released, memory, users, expected: list[Tables]) -> None:
    tight = {"rtol": 0.0, "atol": 1e-10}
    items = sum(one["items"] for one in expected)
    np.testing.assert_allclose(released.tensors["items"], items, **tight)
    bias = sum(one["bias"] for one in expected)[:, 0]
    np.testing.assert_allclose(released.tensors["bias"], bias, **tight)
    moved = memory["user"] - users.memory["user"]
    np.testing.assert_allclose(moved, np.concatenate([one["user"] for one in expected]), **tight)
    assert np.abs(items).max() > 0.1


@pytest.mark.parametrize("settings_", [{"l2": 0.3}, {"l1": 0.02}, {"l1": 0.01, "l2": 0.1}])
def test_engines_agree_on_penalties(settings_) -> None:
    found = []
    for engine in ENGINES:
        local = OptimiserConfig(rate=1.2, **settings_)
        algorithm = averaging(10, **{**SETTINGS, "engine": engine, "local": local})
        users = cohort(algorithm, HISTORIES)
        release, memory = algorithm.contribute_per_interaction(
            algorithm.start(1), users, plan(algorithm), NoNoise(0)
        )
        found.append([*release.tensors.values(), memory["user"]])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_device_without_examples_releases_noise_alone(engine: str) -> None:
    algorithm = averaging(10, engine=engine, **SETTINGS)
    users = cohort(algorithm, [[]])
    state = algorithm.start(0)
    quiet, memory = algorithm.contribute_per_interaction(state, users, plan(algorithm), NoNoise(0))
    assert not quiet.tensors["items"].any()
    assert memory["user"].tolist() == users.memory["user"].tolist()
    loud, memory = algorithm.contribute_per_interaction(
        state, users, plan(algorithm, noise="os"), OSNoise()
    )
    assert (loud.tensors["items"] != 0.0).all()
    assert (memory["user"] != users.memory["user"]).all()


# Noise ------------------------------------------------------------------------------------------


def scale_p(x: np.ndarray, sigma: float) -> float:
    total = float(np.sum(np.square(x))) / sigma**2
    return 2 * min(float(chi2.cdf(total, len(x))), float(chi2.sf(total, len(x))))


def check_gaussian(x: np.ndarray, sigma: float, *, within: float) -> None:
    """Two checks that may fail falsely (1e-6 each); the others must reject."""
    x = np.ravel(x)
    assert scale_p(x, sigma) > LIMIT
    assert scale_p(x, sigma * (1 + within)) < LIMIT
    assert scale_p(x, sigma / (1 + within)) < LIMIT
    assert kstest(x / sigma, "norm").pvalue > LIMIT


LOUD = {
    "local_steps": 3,
    "examples": 1.0,
    "negatives": 2,
    "user_rate": 2.0,
    "bias_rate": 0.5,
    "user_scale": 4.0,
    "bias_scale": 0.25,
    "local": OptimiserConfig(rate=1e-4),
}
SIGMA, STEPS, REPEATS = 1e4, 3, 80
ROOT = np.sqrt(STEPS)
DEVIATIONS = {"items": ROOT, "bias": ROOT * 0.5 / 0.25, "user": ROOT * 2.0 / 4.0}
"""The gradients of all steps are at most a thousandth of this noise, so they do not show."""


def noised(engine: str, histories, repeats: int = REPEATS) -> tuple[Tables, np.ndarray]:
    """Repeated releases, and which rows any user touched."""
    algorithm = averaging(60, dim=16, engine=engine, **LOUD)
    state, users = algorithm.start(0), cohort(algorithm, histories)
    private = plan(algorithm, noise_multiplier=SIGMA, noise="os")
    runs = [
        algorithm.contribute_per_interaction(state, users, private, OSNoise())
        for _ in range(repeats)
    ]
    found = {n: np.stack([release.tensors[n] for release, _ in runs]) for n in ("items", "bias")}
    found["user"] = np.stack([memory["user"] - users.memory["user"] for _, memory in runs])
    rows = [b for steps in rows_of(users, algorithm, OSNoise()) for b in steps]
    return found, np.isin(np.arange(60), np.concatenate([r.ravel() for r in rows]))


@pytest.mark.statistical
@pytest.mark.parametrize("engine", ENGINES)
def test_every_row_has_the_noise_of_all_steps(engine: str) -> None:
    found, touched = noised(engine, [[3, 8, 21, 40, 55]])
    assert 15 < touched.sum() < 45
    for rows in (touched, ~touched):
        check_gaussian(found["items"][:, rows], DEVIATIONS["items"], within=0.06)
        check_gaussian(found["bias"][:, rows], DEVIATIONS["bias"], within=0.3)
    check_gaussian(found["user"], DEVIATIONS["user"], within=0.3)


@pytest.mark.statistical
def test_a_packed_cohort_has_the_noise_of_all_its_devices() -> None:
    found, touched = noised("vectorised", [[3, 8, 21, 40], [], [9, 3, 8]])
    for rows in (touched, ~touched):
        check_gaussian(found["items"][:, rows] / np.sqrt(3), DEVIATIONS["items"], within=0.06)
        check_gaussian(found["bias"][:, rows] / np.sqrt(3), DEVIATIONS["bias"], within=0.3)


@pytest.mark.statistical
def test_lazy_noise_is_that_of_dense_opacus() -> None:
    """Opacus with its own noise on the whole table, in the unit of our scales of 1."""
    torch.manual_seed(5)
    found, touched = noised("vectorised", [[3, 8, 21, 40, 55]])
    algorithm = averaging(60, dim=16, **{**LOUD, "user_scale": 1.0, "bias_scale": 1.0})
    state, users = algorithm.start(0), cohort(algorithm, [[3, 8, 21, 40, 55]])
    rates = {"user": 2e-4, "items": 1e-4, "bias": 0.5e-4}
    rows = rows_of(users, algorithm, NoNoise(0))[0]
    values = values_of(state, users, 0)
    settings_ = {"clip_norm": 1.0, "sigma": SIGMA, "negative_weight": 1.0}
    runs = [dense_opacus(values, rows, rates, **settings_)["items"] for _ in range(REPEATS // 2)]
    for part in (touched, ~touched):
        dense, ours = np.stack(runs)[:, part].ravel(), found["items"][:, part].ravel()
        check_gaussian(dense, DEVIATIONS["items"], within=0.1)
        assert ks_2samp(dense, ours).pvalue > LIMIT
        assert ks_2samp(dense, 1.2 * ours).pvalue < LIMIT


@pytest.mark.parametrize("engine", ENGINES)
def test_the_noise_has_its_own_grain(engine: str) -> None:
    """A start of 1e30 would swallow noise that is added to it: touched rows would be exact."""
    algorithm = averaging(10, engine=engine, **SETTINGS)
    start = algorithm.start(0)
    huge = off_centre(start).tensors | {"items": np.full((10, 3), 1e30)}
    users = cohort(algorithm, [[0, 1, 2]])
    release, _ = algorithm.contribute_per_interaction(
        type(start)(tensors=huge, optimiser={}, round=0),
        users,
        plan(algorithm, noise="os"),
        OSNoise(),
    )
    noise = 0.3 * ROOT * algorithm.config.local.rate
    assert (np.abs(release.tensors["items"]) > 1e-9 * noise).all()
    assert len(np.unique(release.tensors["items"])) == 30


def test_one_torch_seed_on_two_devices_gives_different_noise() -> None:
    """Trap 8: Opacus's own noise would be the same on both, and its difference no noise at all."""
    algorithm = averaging(10, engine="opacus", **SETTINGS)
    state, users = algorithm.start(0), cohort(algorithm, [[]])
    ours, theirs = [], []
    for _ in range(2):
        torch.manual_seed(0)
        release, _ = algorithm.contribute_per_interaction(
            state, users, plan(algorithm, noise="os"), OSNoise()
        )
        ours.append(release.tensors["items"])
        torch.manual_seed(0)
        settings_ = {"clip_norm": 1.0, "sigma": 1.0, "negative_weight": 1.0}
        none = [np.zeros((0, 5), dtype=np.int64)]
        theirs.append(dense_opacus(values_of(state, users, 0), none, RATES, **settings_)["items"])
    assert (theirs[0] == theirs[1]).all()
    assert (ours[0] != ours[1]).all()


class Ones(SeededNoise):
    """A source whose every draw is one, so deviations can be read off."""

    def gaussian(self, shape, *keys):
        return np.ones(shape)


@given(
    reads=st.lists(st.sets(st.integers(0, 4)), min_size=1, max_size=6),
    index=st.lists(st.integers(0, 2), min_size=5, max_size=5),
)
@settings(deadline=None, max_examples=100)
def test_paid_and_owed_variance_add_up(reads, index) -> None:
    """At every moment, whatever was read: what a row got is `paid`, the rest completes `whole`."""
    debt = LazyNoise(rows=3, index=np.array(index), deviation=0.7, noise=Ones(0))
    received = np.zeros(5)
    for done, slots in enumerate(reads, start=1):
        before = np.zeros((5, 2))
        debt.pay(before, np.array(sorted(slots), dtype=np.int64), steps_done=done, keys=())
        received += before[:, 0] ** 2
        np.testing.assert_allclose(received[sorted(slots)], 0.49 * done)
        again = np.zeros((5, 2))
        debt.pay(again, np.array(sorted(slots), dtype=np.int64), steps_done=done, keys=())
        assert not again.any()
    np.testing.assert_allclose(debt.paid(), np.bincount(index, weights=received, minlength=3))
    assert debt.whole(users=5, steps=len(reads)) == pytest.approx(0.49 * 5 * len(reads))
    assert (debt.paid() <= debt.whole(users=5, steps=len(reads)) * (1 + 1e-12)).all()
    debt.settled(steps=len(reads))
    np.testing.assert_allclose(debt.paid(), 0.49 * len(reads) * np.bincount(index, minlength=3))


def test_noise_is_paid_before_a_row_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each step sees of a row is its start and the noise of all steps before, once."""
    algorithm = averaging(10, engine="vectorised", **{**SETTINGS, "local_steps": 6})
    state, users = algorithm.start(0), cohort(algorithm, HISTORIES)
    expected = last = None
    seen = []

    def recorded(tables, slots, batch, **_):
        nonlocal expected, last
        if expected is None:
            expected, last = state.tensors["items"][slots.row], np.zeros(len(slots.row))
        read = np.unique(batch.slots)
        expected[read] += 0.3 * np.sqrt(len(seen) - last[read])[:, None]
        last[read] = len(seen)
        np.testing.assert_allclose(tables.items[read], expected[read])
        seen.append(read)
        return {name: np.zeros_like(value) for name, value in tables.values().items()}

    monkeypatch.setattr(private_training, "gradients", recorded)
    algorithm.contribute_per_interaction(state, users, plan(algorithm), Ones(0))
    assert len(seen) == 6
    assert len(np.unique(np.concatenate(seen))) < sum(map(len, seen))


# Clip factors -----------------------------------------------------------------------------------


@given(
    norms=st.lists(st.floats(0.0, 1e300), min_size=1, max_size=9),
    clip_norm=st.floats(1e-6, 1e6),
)
@settings(deadline=None, max_examples=200)
def test_clip_factors_bound_the_norm(norms, clip_norm) -> None:
    norms = np.array(norms)
    factors = clip_factors(norms, clip_norm=clip_norm)
    assert ((factors >= 0.0) & (factors <= 1.0)).all()
    assert (norms * factors <= clip_norm * (1 + 1e-12)).all()
    small = norms <= clip_norm - 1e-6
    assert (factors[small] == 1.0).all()


def test_clip_factors_zero_what_is_not_finite() -> None:
    factors = clip_factors(np.array([np.nan, np.inf, 3.0, 0.0]), clip_norm=1.5)
    assert factors[:2].tolist() == [0.0, 0.0]
    assert factors[2] == pytest.approx(0.5, rel=1e-6)
    assert factors[3] == 1.0
