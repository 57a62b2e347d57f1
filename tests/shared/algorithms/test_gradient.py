"""Federated gradients of sequence models: autograd one by one, packing, averaging, refusals."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from server.census import Census
from server.terms import settle
from shared.algorithms.base import Cohort, State, Summing
from shared.algorithms.gradient import Gradient, GradientConfig
from shared.algorithms.methods import build, check_unit
from shared.algorithms.next_item import ExampleConfig, draw_candidates, draw_examples, losses
from shared.algorithms.optimisers import OptimiserConfig
from shared.config import Settings
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.attention import SASRecConfig, sasrec
from shared.models.gru import GRUConfig, gru
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.release import clip
from shared.randomness import NoNoise

N_ITEMS = 11
HISTORIES = [[0, 5, 3, 7, 7, 1], [4], [], [2, 3, 8, 9, 10], [6, 1, 1]]
both = pytest.mark.parametrize("name", ["gru", "sasrec"])


def method(
    name: str = "gru", *, dropout: float = 0.3, window: int = 4, **settings: Any
) -> Gradient:
    shared = {"dim": 4, "window": window, "memories": 2, "dropout": dropout}
    examples = ExampleConfig(**{"anywhere": 0.0, **settings.pop("examples", {})})
    config = GradientConfig(examples=examples, **{"precision": "double", **settings})
    if name == "gru":
        return Gradient(model=gru(GRUConfig(**shared), N_ITEMS, None), config=config)
    return Gradient(model=sasrec(SASRecConfig(**shared), N_ITEMS, None), config=config)


def state(algorithm: Gradient) -> State:
    """A model in which nothing is zero."""
    rng = np.random.default_rng(2)
    start = algorithm.start(0)
    moved = {n: v + rng.normal(scale=0.3, size=v.shape) for n, v in start.tensors.items()}
    return replace(start, tensors=moved)


def cohort(histories: list[list[int]] = HISTORIES, *, keys: Any = None, round: int = 1) -> Cohort:
    return Cohort(
        histories=Interactions.from_histories(histories, n_items=N_ITEMS),
        keys=np.arange(len(histories)) if keys is None else np.asarray(keys),
        memory={},
        round=round,
        seed=5,
    )


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "unit": Unit.NONE,
        "trust": Trust.CENTRAL,
        "epsilon": np.inf,
        "delta": 0.0,
        "clip_norm": 1.0,
        "noise_multiplier": 0.0,
        "sampling_rate": 1.0,
        "steps_per_round": 1,
        "participations": 4,
        "rounds": 4,
        "expected_cohort": 2,
        "noise": "off",
    }
    return Plan(**{**settings, **changes})


USER = plan(unit=Unit.USER, epsilon=8.0, delta=1e-5, noise_multiplier=1.0)


def totals(algorithm: Gradient, users: Cohort, public: Plan) -> dict[str, np.ndarray]:
    update, memory = algorithm.contribute(state(algorithm), users, public)
    assert memory == {}
    assert update.users == users.histories.n_users
    return {name: rows.total() for name, rows in update.tensors.items()}


def close(one: Any, two: Any, *, atol: float = 1e-9) -> None:
    assert set(one) == set(two)
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], rtol=0, atol=atol, err_msg=name)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"local_steps": 3, "local_rate": 0.2},
    {"examples": {"anywhere": 1.0, "recency": 2.0, "weighting": "mean", "smoothing": 0.1}},
    {"examples": {"candidates": 5, "anywhere": 0.5}},
]


@both
@pytest.mark.parametrize("settings", VARIANTS)
def test_packing_does_not_show(name: str, settings: dict[str, Any]) -> None:
    """Each user alone, all at once, and the sum made at once are the same contribution."""
    algorithm = method(name, **settings)
    packed = totals(algorithm, cohort(), plan())
    alone = [
        totals(algorithm, cohort([history], keys=[key]), plan())
        for key, history in enumerate(HISTORIES)
    ]
    close(packed, {n: sum(one[n] for one in alone) for n in packed})
    summed, _ = algorithm.contribute_sum(state(algorithm), cohort(), plan())
    close(packed, summed)
    assert all(np.abs(value).max() > 1e-4 for value in packed.values())


@both
def test_contributions_are_the_negative_gradient_of_a_naive_loss(name: str) -> None:
    """One user after the other, one position after the other, without dropout."""
    algorithm = method(name, dropout=0.0, window=9)
    values = {n: torch.tensor(v, requires_grad=True) for n, v in state(algorithm).tensors.items()}
    model = algorithm.model
    loss = torch.zeros(())
    for history in HISTORIES:
        for place, item in enumerate(history):
            known = Interactions.from_histories([history[:place]], n_items=N_ITEMS)
            prepared = model.prepared(model.windows(known), kind=torch.float64)
            state_now = model.states(values, prepared)[0, place]
            scores = values["items"] @ state_now + values["bias"]
            loss = loss + (scores.logsumexp(0) - scores[item]) / np.sqrt(len(history))
    loss.backward()
    expected = {n: -v.grad.numpy() for n, v in values.items() if v.grad is not None}
    close(totals(algorithm, cohort(), plan()), expected)


def test_several_steps_are_descent_with_fresh_draws() -> None:
    algorithm = method(local_steps=2, local_rate=0.3)
    users = cohort([HISTORIES[0]])
    model, examples = algorithm.model, algorithm.config.examples
    start = {n: torch.tensor(v) for n, v in state(algorithm).tensors.items()}
    values = start
    for step in (0, 1):
        values = {n: v.detach().requires_grad_() for n, v in values.items()}
        batch = draw_examples(examples, model, users, step=step, weighted=True, kind=torch.float64)
        losses(examples, model, values, batch, None, packed=True).backward()
        values = {n: v - 0.3 * v.grad for n, v in values.items()}
    moved = {n: (v - start[n]).detach().numpy() for n, v in values.items()}
    close(totals(algorithm, users, plan()), moved)


@both
def test_a_future_event_changes_no_earlier_example(name: str) -> None:
    """What is asked about an event, in which window and behind which mask, is the past's alone."""
    algorithm = method(name, window=8)
    model, examples = algorithm.model, ExampleConfig(weighting="mean", anywhere=0.0)
    values = {n: torch.tensor(v) for n, v in state(algorithm).tensors.items()}
    found = []
    for history in ([1, 2, 3], [1, 2, 3, 9, 9, 0]):
        batch = draw_examples(
            examples, model, cohort([history]), step=0, weighted=True, kind=torch.float64
        )
        batch["weights"] = torch.zeros_like(batch["weights"])
        batch["weights"][:, :3] = 1.0
        wide = {n: v.clone().requires_grad_() for n, v in values.items()}
        losses(examples, model, wide, batch, None, packed=False).backward()
        found.append({n: v.grad.numpy() for n, v in wide.items()})
    close(found[0], found[1])


def test_draws_are_named_by_seed_round_step_and_user() -> None:
    algorithm = method()
    one = totals(algorithm, cohort([HISTORIES[0]], keys=[7]), plan())
    close(one, totals(algorithm, cohort([HISTORIES[0]], keys=[7]), plan()), atol=0.0)
    for other in (cohort([HISTORIES[0]], keys=[8]), cohort([HISTORIES[0]], keys=[7], round=2)):
        changed = totals(algorithm, other, plan())
        assert np.abs(changed["items"] - one["items"]).max() > 1e-3


def test_the_sampled_loss_is_the_catalogues_in_expectation() -> None:
    """Over all samples of a size, the mean of the estimated sums is the catalogue's."""
    algorithm = method(dropout=0.0)
    model, start = algorithm.model, state(algorithm)
    values = {n: torch.tensor(v) for n, v in start.tensors.items()}
    config = ExampleConfig(candidates=2)
    batch = draw_examples(config, model, cohort([[3]]), step=0, weighted=True, kind=torch.float64)
    exact = float(losses(config, model, values, batch, None, packed=True))
    found = [
        float(losses(config, model, values, batch, torch.tensor(drawn), packed=True))
        for drawn in combinations(range(N_ITEMS), 2)
    ]
    assert np.std(found) > 0.1
    assert np.mean(np.exp(np.array(found) - exact)) == pytest.approx(1.0, abs=1e-9)


def test_candidates_are_drawn_anew_each_round() -> None:
    config = ExampleConfig(candidates=4)
    one, again, other = (
        draw_candidates(config, n_items=N_ITEMS, seed=1, round=r) for r in (1, 1, 2)
    )
    assert len(set(one.tolist())) == 4
    assert one.tolist() == again.tolist() != other.tolist()
    assert draw_candidates(config, n_items=4, seed=1, round=1) is None


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = method()
    whole = totals(algorithm, cohort(), plan())
    monkeypatch.setattr("shared.algorithms.gradient.SCORES", 60)
    close(totals(algorithm, cohort(), plan()), whole)
    close(algorithm.contribute_sum(state(algorithm), cohort(), plan())[0], whole)


def test_weights_of_private_users_know_no_length() -> None:
    """The same gradient at every position: twice the length, the same contribution."""
    algorithm = method(dropout=0.0)
    for public, ratio in ((plan(), np.sqrt(2.0)), (USER, 1.0)):
        zero = {n: np.zeros_like(v) for n, v in state(algorithm).tensors.items()}
        flat = State(tensors=zero, optimiser={}, round=0)
        biases = [
            algorithm.contribute(flat, cohort([history]), public)[0].tensors["bias"].total()
            for history in ([1], [1, 1])
        ]
        np.testing.assert_allclose(biases[1], ratio * biases[0], atol=1e-12)


def test_whole_users_are_clipped_by_the_house() -> None:
    algorithm = method()
    update, _ = algorithm.contribute(state(algorithm), cohort(), USER)
    clipped = clip(update, clip_norm=0.01)
    norms = np.zeros(len(HISTORIES))
    for rows in clipped.tensors.values():
        values = rows.values.reshape(len(rows.owner), -1)
        norms += np.bincount(rows.owner, (values**2).sum(axis=1), minlength=len(norms))
    np.testing.assert_allclose(np.sqrt(norms)[[0, 1, 3, 4]], 0.01, rtol=1e-6)
    assert norms[2] == 0.0


def test_one_interaction_is_refused() -> None:
    algorithm = method()
    assert isinstance(algorithm, Summing)
    with pytest.raises(ConfigError, match="unit=user"):
        algorithm.contribute_per_interaction(state(algorithm), cohort(), plan(), NoNoise(0))
    with pytest.raises(ConfigError, match="cannot protect one interaction"):
        check_unit("gradient", Unit.INTERACTION)
    check_unit("gradient", Unit.USER)
    check_unit("averaging", Unit.INTERACTION)


def test_a_run_that_protects_one_interaction_is_refused_before_it_starts() -> None:
    settings = Settings.from_table({"model": {"name": "sasrec"}})
    assert settings.privacy.unit is Unit.INTERACTION
    census = Census(nodes={1: 50}, n_items=N_ITEMS, catalogue="any")
    with pytest.raises(ConfigError, match="cannot protect one interaction"):
        settle(settings, census)


def test_the_last_round_averages_the_late_models() -> None:
    settings = {"server": OptimiserConfig(rate=1.0)}
    plain, late = method(**settings), method(average=0.5, **settings)
    totals_ = {n: np.ones_like(v) for n, v in state(plain).tensors.items()}
    one = two = state(plain)
    seen = []
    for _ in range(4):
        one, two = (a.absorb(s, totals_, plan()) for a, s in ((plain, one), (late, two)))
        seen.append(one.tensors["items"])
        if two.round < 4:
            close(one.tensors, two.tensors, atol=0.0)
    np.testing.assert_allclose(two.tensors["items"], (seen[2] + seen[3]) / 2)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_frozen_table_is_neither_asked_nor_moved(steps: int) -> None:
    settings = {"local_steps": steps, "dropout": 0.0}
    whole, rest = method(**settings), method(train_items=False, **settings)
    assert set(rest.asked(1)) == set(whole.asked(1)) - {"items"}
    found = totals(rest, cohort(), plan())
    close(found, rest.contribute_sum(state(rest), cohort(), plan())[0])
    if steps == 1:
        close(found, {n: v for n, v in totals(whole, cohort(), plan()).items() if n != "items"})
    after = rest.absorb(state(rest), found, plan())
    np.testing.assert_array_equal(after.tensors["items"], state(rest).tensors["items"])
    assert np.abs(after.tensors["bias"] - state(rest).tensors["bias"]).max() > 1e-4


def test_denominators_are_public() -> None:
    algorithm = method(server=OptimiserConfig(rate=1.0))
    before = state(algorithm)
    total = {n: np.full_like(v, 3.0) for n, v in before.tensors.items()}
    after = algorithm.absorb(before, total, plan(expected_cohort=6))
    np.testing.assert_allclose(after.tensors["items"] - before.tensors["items"], 0.5)


def test_an_order_is_learned() -> None:
    """Item i is always followed by i + 1: after 80 rounds it is ranked first."""
    rng = np.random.default_rng(0)
    starts = rng.integers(N_ITEMS, size=24)
    histories = [[int((s + k) % N_ITEMS) for k in range(6)] for s in starts]
    algorithm = method(
        precision="single", server=OptimiserConfig(name="adam", rate=0.03), dropout=0.1
    )
    now = algorithm.start(0)
    public = plan(rounds=80, participations=80, expected_cohort=24)
    for round_ in range(1, 81):
        total, _ = algorithm.contribute_sum(now, cohort(histories, round=round_), public)
        now = algorithm.absorb(now, total, public)
    scores = algorithm.model.score(now.tensors, cohort(histories).histories)
    last = np.array([history[-1] for history in histories])
    assert (scores.argmax(axis=1) == (last + 1) % N_ITEMS).mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"algorithm.local_steps": 0}, "local_steps"),
        ({"algorithm.local_rate": 0.0}, "local_rate"),
        ({"algorithm.average": 1.5}, "average"),
        ({"algorithm.examples.anywhere": -0.1}, "anywhere"),
        ({"algorithm.examples.smoothing": 1.1}, "smoothing"),
        ({"algorithm.examples.candidates": -1}, "candidates"),
        ({"algorithm.examples.candidates": 5, "algorithm.examples.smoothing": 0.1}, "smoothing"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        build("gru", "gradient", settings, 9)


@pytest.mark.parametrize(("model", "algorithm"), [("mf", "gradient"), ("gru", "averaging")])
def test_wrong_pairs_of_sequences_are_refused(model: str, algorithm: str) -> None:
    with pytest.raises(ConfigError, match="learns model="):
        build(model, algorithm, {}, 9)
