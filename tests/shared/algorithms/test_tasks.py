"""The models of the zoo under one descent: packing, autograd, frozen tensors, refusals."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from shared.algorithms.base import Cohort, State
from shared.algorithms.gradient import Gradient
from shared.algorithms.methods import build
from shared.algorithms.next_item import ExampleConfig
from shared.algorithms.tasks import NextItem, Rebuilding, task_of
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.release import clip
from shared.randomness import NoNoise

N_ITEMS = 11
HISTORIES = [[0, 5, 3, 7, 7, 1], [4], [], [2, 3, 8, 9, 10], [6, 1, 1]]
FEATURES = np.random.default_rng(0).normal(size=(N_ITEMS, 6))
FEATURES[:, 0] = np.where(np.arange(N_ITEMS) < 5, 3.0, -3.0)
POOLED: dict[str, object] = {"model.dim": 4, "model.window": 4, "model.memories": 2}
SETTINGS: dict[str, dict[str, object]] = {
    "bilinear": POOLED,
    "ncf": {**POOLED, "model.hidden": 6, "model.dropout": 0.3},
    "two-tower": {**POOLED, "model.dropout": 0.3},
    "vae": {"model.hidden": 5, "model.latent": 3},
}
every = pytest.mark.parametrize("name", SETTINGS)


def method(name: str, **settings: object) -> Gradient:
    exact = {"algorithm.precision": "double"}
    flat = {**SETTINGS[name], **exact, **settings}
    made = build(name, "gradient", flat, N_ITEMS, features=FEATURES)
    assert isinstance(made, Gradient)
    return made


def state(algorithm: Gradient) -> State:
    """A model in which nothing that is learned is zero."""
    rng, start = np.random.default_rng(2), algorithm.start(0)
    moved = {
        n: v if n in algorithm.model.frozen else v + rng.normal(scale=0.3, size=v.shape)
        for n, v in start.tensors.items()
    }
    return replace(start, tensors=moved)


def cohort(histories: list[list[int]] = HISTORIES, *, keys: Any = None, round: int = 1) -> Cohort:
    return Cohort(
        histories=Interactions.from_histories(histories, n_items=N_ITEMS),
        keys=np.arange(len(histories)) if keys is None else np.asarray(keys),
        memory={},
        round=round,
        seed=5,
    )


def plan(unit: Unit = Unit.NONE) -> Plan:
    private = unit is Unit.USER
    return Plan(
        unit=unit,
        trust=Trust.CENTRAL,
        epsilon=8.0 if private else np.inf,
        delta=1e-5 if private else 0.0,
        clip_norm=1.0,
        noise_multiplier=1.0 if private else 0.0,
        sampling_rate=1.0,
        steps_per_round=1,
        participations=80,
        rounds=80,
        expected_cohort=24,
        noise="off",
    )


def totals(algorithm: Gradient, users: Cohort, public: Plan) -> dict[str, Any]:
    update, _ = algorithm.contribute(state(algorithm), users, public)
    return {name: rows.total() for name, rows in update.tensors.items()}


def close(one: Any, two: Any) -> None:
    assert set(one) == set(two)
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], atol=1e-10, err_msg=name)


@every
@pytest.mark.parametrize(
    "settings", [{}, {"algorithm.local_steps": 2, "algorithm.local_rate": 0.3}]
)
def test_packing_does_not_show_in_a_contribution(name: str, settings: dict[str, object]) -> None:
    """Each user alone, all at once, and the sum made at once are the same contribution."""
    algorithm = method(name, **settings)
    for public in (plan(), plan(Unit.USER)):
        packed = totals(algorithm, cohort(), public)
        alone = [
            totals(algorithm, cohort([history], keys=[key]), public)
            for key, history in enumerate(HISTORIES)
        ]
        close(packed, {n: sum(one[n] for one in alone) for n in packed})
        close(packed, algorithm.contribute_sum(state(algorithm), cohort(), public)[0])
        assert all(np.abs(value).max() > 1e-6 for value in packed.values())


@pytest.mark.parametrize("name", ["bilinear", "ncf", "two-tower"])
def test_packing_does_not_show_with_sampled_candidates(name: str) -> None:
    algorithm = method(name, **{"algorithm.examples.candidates": 5})
    packed = totals(algorithm, cohort(), plan())
    close(packed, algorithm.contribute_sum(state(algorithm), cohort(), plan())[0])


@every
def test_blocks_do_not_show_in_a_contribution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = method(name)
    whole = totals(algorithm, cohort(), plan())
    monkeypatch.setattr("shared.algorithms.gradient.SCORES", 60)
    close(totals(algorithm, cohort(), plan()), whole)


@every
def test_contributions_are_the_negative_slope_of_the_loss(name: str) -> None:
    """Central differences of the task's own loss, in a random direction of each tensor."""
    algorithm = method(name)
    values = {n: torch.tensor(v) for n, v in state(algorithm).tensors.items()}
    task = task_of(algorithm.config.examples, algorithm.model)
    batch = task.draw(cohort(), step=0, weighted=True, kind=torch.float64)
    found, rng = totals(algorithm, cohort(), plan()), np.random.default_rng(1)
    for tensor, change in found.items():
        way = rng.normal(size=change.shape)
        ends = []
        for sign in (1.0, -1.0):
            there = {**values, tensor: values[tensor] + sign * 1e-6 * torch.tensor(way)}
            ends.append(float(task.losses(there, batch, None, packed=False)))
        slope = (ends[0] - ends[1]) / 2e-6
        assert slope == pytest.approx(-float((change * way).sum()), abs=1e-6), tensor


def test_the_next_item_loss_is_that_of_the_scores_which_the_model_gives() -> None:
    """Every position of every history scored alone, without dropout and with all ids kept."""
    for name in ("bilinear", "ncf", "two-tower"):
        plain: dict[str, object] = {"model.dropout": 0.0, "model.window": 9}
        if name == "two-tower":
            plain["model.id_dropout"] = 0.0
        algorithm = method(name, **plain)
        tensors = state(algorithm).tensors
        expected = 0.0
        for history in HISTORIES:
            for place, item in enumerate(history):
                known = Interactions.from_histories([history[:place]], n_items=N_ITEMS)
                scores = algorithm.model.score(tensors, known)[0]
                expected += (np.logaddexp.reduce(scores) - scores[item]) / np.sqrt(len(history))
        task = task_of(algorithm.config.examples, algorithm.model)
        values = {n: torch.tensor(v) for n, v in tensors.items()}
        batch = task.draw(cohort(), step=0, weighted=True, kind=torch.float64)
        found = float(task.losses(values, batch, None, packed=True))
        assert found == pytest.approx(expected, rel=1e-4), name


def test_the_rebuilding_loss_is_the_likelihood_and_the_divergence() -> None:
    algorithm = method("vae", **{"model.dropout": 0.0, "model.divergence": 0.5})
    tensors, model = state(algorithm).tensors, algorithm.model
    task = task_of(algorithm.config.examples, model)
    values = {n: torch.tensor(v) for n, v in tensors.items()}
    batch = task.draw(cohort([[3, 5, 3]]), step=0, weighted=True, kind=torch.float64)
    found = float(task.losses(values, {**batch, "draws": 0 * batch["draws"]}, None, packed=True))
    table = cohort([[3, 5, 3]]).histories
    scores = model.score(tensors, table)[0]
    told = scores[[3, 5]].mean() - np.logaddexp.reduce(scores)
    basket = np.zeros(N_ITEMS)
    basket[[3, 5]] = np.sqrt(0.5)
    inner = np.tanh(basket @ tensors["read"] + tensors["read.bias"])
    middle, spread = np.split(inner @ tensors["squeeze"], 2)
    apart = 0.5 * (middle**2 + np.exp(spread) - spread - 1).sum()
    expected = np.sqrt(2) * (0.5 * apart / 2 - told)
    assert found == pytest.approx(expected, rel=1e-5)


@every
def test_draws_are_named_by_seed_round_and_user(name: str) -> None:
    algorithm = method(name)
    one = totals(algorithm, cohort([HISTORIES[0]], keys=[7]), plan())
    close(one, totals(algorithm, cohort([HISTORIES[0]], keys=[7]), plan()))
    other = totals(algorithm, cohort([HISTORIES[0]], keys=[7], round=2), plan())
    changed = max(np.abs(other[n] - one[n]).max() for n in one)
    assert changed > 1e-3


@pytest.mark.parametrize(("name", "still"), [("bilinear", "content"), ("two-tower", "text")])
def test_public_content_is_sent_and_never_asked_nor_moved(name: str, still: str) -> None:
    algorithm = method(name)
    before = state(algorithm)
    assert still in algorithm.sent(1)
    assert still not in algorithm.asked(1)
    assert before.tensors[still].any()
    after = algorithm.absorb(before, totals(algorithm, cohort(), plan()), plan())
    np.testing.assert_array_equal(after.tensors[still], before.tensors[still])
    assert np.abs(after.tensors["bias"] - before.tensors["bias"]).max() > 1e-4


@every
def test_a_device_without_content_has_the_server_s_shapes(name: str) -> None:
    """Only the server has the features; both ends build from the same settings."""
    flat = SETTINGS[name]
    device = build(name, "gradient", flat, N_ITEMS)
    assert device.sent(1) == method(name).sent(1)
    assert device.asked(1) == method(name).asked(1)


@every
def test_whole_users_are_clipped_and_empty_ones_send_nothing(name: str) -> None:
    algorithm = method(name)
    update, _ = algorithm.contribute(state(algorithm), cohort(), plan(Unit.USER))
    norms = np.zeros(len(HISTORIES))
    for rows in clip(update, clip_norm=0.01).tensors.values():
        values = rows.values.reshape(len(rows.owner), -1)
        norms += np.bincount(rows.owner, (values**2).sum(axis=1), minlength=len(norms))
    np.testing.assert_allclose(np.sqrt(norms)[[0, 1, 3, 4]], 0.01, rtol=1e-6)
    assert norms[2] == 0.0


@every
def test_one_interaction_is_refused_by_every_model(name: str) -> None:
    algorithm = method(name)
    with pytest.raises(ConfigError, match="unit=user"):
        algorithm.contribute_per_interaction(state(algorithm), cohort(), plan(), NoNoise(0))


@every
def test_two_tastes_are_learned(name: str) -> None:
    """Users of one half of the catalogue are shown the rest of that half."""
    rng = np.random.default_rng(0)
    histories = [[int(i) for i in rng.permutation(5)[:4] + 5 * (user % 2)] for user in range(24)]
    algorithm = method(name, **{"algorithm.server.rate": 0.05, "algorithm.precision": "single"})
    now = algorithm.start(0)
    for round_ in range(1, 81):
        total, _ = algorithm.contribute_sum(now, cohort(histories, round=round_), plan())
        now = algorithm.absorb(now, total, plan())
    new = cohort([[0, 1], [6, 7], [3], [9]])
    scores = algorithm.model.score(now.tensors, new.histories)
    first, second = scores[:, :5].mean(axis=1), scores[:, 5:10].mean(axis=1)
    assert ((first > second) == [True, False, True, False]).all()


def test_a_task_fits_the_model() -> None:
    config = ExampleConfig()
    assert isinstance(task_of(config, method("vae").model), Rebuilding)
    assert isinstance(task_of(config, method("ncf").model), NextItem)


@pytest.mark.parametrize("name", ["candidates", "smoothing"])
def test_an_autoencoder_tells_the_whole_catalogue(name: str) -> None:
    value: object = 3 if name == "candidates" else 0.1
    with pytest.raises(ConfigError, match="tells the whole catalogue"):
        build("vae", "gradient", {f"algorithm.examples.{name}": value}, N_ITEMS)
