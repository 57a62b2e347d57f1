"""Planted bugs: each breaks the real code in one place, and an attack finds it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rehearsing import LAYERS, alarming, attacked, correct, target

import client.contribution
import server.noising
import shared.algorithms.local_training
import shared.algorithms.popularity
import shared.privacy.distributed
import shared.privacy.gaussian
from client.contribution import Work
from shared.privacy.charges import Charges
from shared.privacy.release import ClippedUpdate, LocalUpdate, Release, clip
from shared.randomness import OSNoise
from simulations.attack.target import Target

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


def no_noise(patch: Patch) -> None:
    patch.setattr(OSNoise, "gaussian", lambda self, shape, *keys: np.zeros(shape))


def no_clip(patch: Patch) -> None:
    def unclipped(update: LocalUpdate, *, clip_norm: float) -> ClippedUpdate:
        return replace(clip(update, clip_norm=clip_norm), tensors=update.tensors)

    patch.setattr(client.contribution, "clip", unclipped)


def noise_once(patch: Patch) -> None:
    real = server.noising.privatise_total

    def lazy(total: Mapping[str, Any], *, users: int, round: int, **rest: Any) -> Release:
        if round == 1:
            return real(total, users=users, round=round, **rest)
        return Release(tensors=dict(total), users=users, private=True)

    patch.setattr(server.noising, "privatise_total", lazy)


def seed_reused(patch: Patch) -> None:
    def same(self: OSNoise, shape: tuple[int, ...], *keys: object) -> Any:
        return np.random.default_rng(7).standard_normal(shape)

    patch.setattr(OSNoise, "gaussian", same)


def share_sigma_over_n(patch: Patch) -> None:
    """Noise that would do if n others added as much: at the server, on devices, in shares."""
    total, alone = server.noising.privatise_total, client.contribution.privatise
    shares = client.contribution.noise_shares

    def central(sums: Any, *, users: int, plan: Any, **rest: Any) -> Release:
        return total(sums, users=users, plan=quieter(plan, users), **rest)

    def local(clipped: ClippedUpdate, plan: Any, *rest: Any, **more: Any) -> Release:
        return alone(clipped, quieter(plan, plan.expected_cohort), *rest, **more)

    def distributed(plan: Any, **rest: Any) -> Any:
        return shares(quieter(plan, plan.expected_cohort**0.5), **rest)

    def quieter(plan: Any, times: float) -> Any:
        return replace(plan, noise_multiplier=plan.noise_multiplier / times)

    patch.setattr(server.noising, "privatise_total", central)
    patch.setattr(client.contribution, "privatise", local)
    patch.setattr(client.contribution, "noise_shares", distributed)


def weighted_by_examples(patch: Patch) -> None:
    lengths: dict[str, Any] = {}
    cohort = Work._cohort

    def remembering(self: Work, people: Any) -> Any:
        made = cohort(self, people)
        lengths["now"] = made.histories.lengths
        return made

    def weighted(update: LocalUpdate, *, clip_norm: float) -> ClippedUpdate:
        clipped = clip(update, clip_norm=clip_norm)
        tensors = {name: rows.times(lengths["now"]) for name, rows in clipped.tensors.items()}
        return replace(clipped, tensors=tensors)

    patch.setattr(Work, "_cohort", remembering)
    patch.setattr(client.contribution, "clip", weighted)


def sampling_not_done(patch: Patch) -> None:
    patch.setattr(OSNoise, "coins", lambda self, size, rate, *keys: np.ones(size, dtype=np.bool_))


def touched_rows_only(patch: Patch) -> None:
    real = shared.privacy.gaussian.perturb

    def sparse(sums: Mapping[str, Any], **rest: Any) -> Release:
        release = real(sums, **rest)
        touched = {n: np.asarray(v).reshape(len(v), -1).any(axis=1) for n, v in sums.items()}
        kept = {
            n: v * touched[n].reshape(-1, *[1] * (v.ndim - 1)) for n, v in release.tensors.items()
        }
        return replace(release, tensors=kept)

    patch.setattr(shared.privacy.gaussian, "perturb", sparse)
    patch.setattr(shared.algorithms.popularity, "perturb", sparse)


def budget_not_checked(patch: Patch) -> None:
    patch.setattr(Charges, "refuse_beyond", lambda self, budget, **rest: None)


CENTRAL: dict[str, tuple[Bug, dict[str, set[str]]]] = {
    "no noise": (
        no_noise,
        {
            "conformance": {"noise variance", "row coverage"},
            "canaries": {"planted items", "alternating sign"},
            "statistics": {"lower bound", "estimate"},
        },
    ),
    "no clip": (no_clip, {"conformance": {"norm"}, "canaries": {"huge norm"}}),
    "noise once": (
        noise_once,
        {
            "conformance": {"noise variance", "row coverage"},
            "canaries": {"planted items", "alternating sign"},
        },
    ),
    "seed reused": (
        seed_reused,
        {
            "conformance": {"correlation"},
            "canaries": {"alternating sign"},
            "statistics": {"lower bound", "estimate"},
        },
    ),
    "share sigma/n": (
        share_sigma_over_n,
        {
            "conformance": {"noise variance"},
            "canaries": {"planted items", "alternating sign"},
            "statistics": {"lower bound", "estimate"},
        },
    ),
    "weighting by examples": (
        weighted_by_examples,
        {"conformance": {"norm"}, "canaries": {"long history"}},
    ),
    "noise only on touched rows": (
        touched_rows_only,
        {
            "conformance": {"noise variance", "row coverage"},
            "canaries": {"planted items"},
        },
    ),
    "budget not checked": (budget_not_checked, {"conformance": {"budget"}}),
}


def test_a_correct_mechanism_raises_no_alarm() -> None:
    report = correct()
    assert report["verdict"] == "PASS"
    assert alarming(report) == {}
    assert all(check["ok"] for layer in LAYERS for check in report["layers"][layer]["checks"])


@pytest.mark.parametrize("name", CENTRAL)
def test_a_bug_of_a_trusted_server_is_caught(name: str, monkeypatch: Patch) -> None:
    bug, expected = CENTRAL[name]
    bug(monkeypatch)
    report = attacked(target("user", "central"))
    found = alarming(report)
    assert report["verdict"] == "ALARM"
    for layer, checks in expected.items():
        assert checks <= found.get(layer, set()), (layer, found)


DEVICES: dict[str, tuple[Bug, str, str]] = {
    "no noise": (no_noise, "conformance", "noise variance"),
    "no clip": (no_clip, "canaries", "huge norm"),
    "seed reused": (seed_reused, "conformance", "correlation"),
    "share sigma/n": (share_sigma_over_n, "conformance", "noise variance"),
    "weighting by examples": (weighted_by_examples, "canaries", "long history"),
    "budget not checked": (budget_not_checked, "conformance", "budget"),
}


@pytest.mark.parametrize("name", DEVICES)
def test_a_bug_of_devices_is_caught(name: str, monkeypatch: Patch) -> None:
    bug, layer, check = DEVICES[name]
    bug(monkeypatch)
    aim = target("user", "local", model="popularity", rounds=2, privacy={"epsilon": 100.0})
    assert check in alarming(attacked(aim, canaries=40)).get(layer, set())


def shares_without_noise(patch: Patch) -> None:
    real = shared.privacy.distributed.discrete_gaussian
    silent = lambda *, size, **rest: 0 * real(size=size, **rest)  # noqa: E731
    patch.setattr(shared.privacy.distributed, "discrete_gaussian", silent)


def shares_noised_once(patch: Patch) -> None:
    real, quiet = client.contribution.veil, shared.privacy.distributed.Veiled

    def lazy(rounded: Any, plan: Any, *, keys: tuple[Any, ...], **rest: Any) -> Any:
        if keys[1] == 1:
            return real(rounded, plan, keys=keys, **rest)
        words = shared.privacy.distributed.wrap(rounded.integers)
        return quiet(words=words, users=rounded.users, private=True)

    patch.setattr(client.contribution, "veil", lazy)


def shares_from_one_seed(patch: Patch) -> None:
    def same(*, size: int, sigma: float, source: Any) -> Any:
        draws = np.random.default_rng(7).normal(0.0, sigma, size)
        return np.rint(draws).astype(np.int64)

    patch.setattr(shared.privacy.distributed, "discrete_gaussian", same)


def shares_on_touched_values(patch: Patch) -> None:
    real = client.contribution.veil

    def sparse(rounded: Any, plan: Any, **rest: Any) -> Any:
        veiled = real(rounded, plan, **rest)
        return replace(veiled, words=veiled.words * (rounded.integers != 0).astype(np.uint32))

    patch.setattr(client.contribution, "veil", sparse)


DISTRIBUTED: dict[str, tuple[Bug, str]] = {
    "no noise": (shares_without_noise, "noise variance"),
    "noise once": (shares_noised_once, "noise variance"),
    "seed reused": (shares_from_one_seed, "correlation"),
    "share sigma/n": (share_sigma_over_n, "noise variance"),
    "noise only on touched rows": (shares_on_touched_values, "row coverage"),
    "budget not checked": (budget_not_checked, "budget"),
}
"""A contribution that was not clipped is left out by the rounding, so it does no harm here."""


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_a_bug_of_noise_shares_is_caught(name: str, monkeypatch: Patch) -> None:
    bug, check = DISTRIBUTED[name]
    bug(monkeypatch)
    found = alarming(attacked(target("user", "distributed", rounds=2)))
    assert check in found.get("conformance", set())


INTERACTIONS: dict[str, tuple[Bug, str]] = {
    "no noise": (no_noise, "noise variance"),
    "seed reused": (seed_reused, "correlation"),
    "sampling not done": (sampling_not_done, "sampling"),
    "noise only on touched rows": (touched_rows_only, "row coverage"),
    "budget not checked": (budget_not_checked, "budget"),
}


@pytest.mark.parametrize("name", INTERACTIONS)
def test_a_bug_of_interactions_is_caught(name: str, monkeypatch: Patch) -> None:
    bug, check = INTERACTIONS[name]
    bug(monkeypatch)
    assert check in alarming(attacked(sampled()))["conformance"]


def sampled() -> Target:
    coin = {"sampling_rate": 0.2}
    return target("interaction", "local", model="popularity", rounds=2, algorithm=coin)


def test_a_gradient_that_is_not_clipped_is_caught(monkeypatch: Patch) -> None:
    def ones(norms: Any, *, clip_norm: float) -> Any:
        return np.ones_like(norms)

    monkeypatch.setattr(shared.algorithms.local_training, "clip_factors", ones)
    aim = target("interaction", "local", rounds=2, privacy={"clip_norm": 0.1})
    found = alarming(attacked(aim, canaries=40))
    assert "huge norm" in found["canaries"]
    assert "norm" in found["conformance"]


def test_correlated_noise_is_the_plan_s_or_an_alarm(monkeypatch: Patch) -> None:
    """What later rounds take back is expected; independent noise of the same plan is not."""
    banded = target(
        "user",
        "central",
        rounds=6,
        privacy={"separation": 3},
        training={"rounds": 6, "cohort": 0.3},
    )
    assert not alarming(attacked(banded, seed=3))
    real = server.noising.privatise_total

    def independent(self: object, total: Any, *, users: int, plan: Any, round: int) -> Release:
        alone = replace(plan, bands=1)
        return real(total, users=users, plan=alone, noise=OSNoise(), round=round)

    monkeypatch.setattr(server.noising.Noising, "release", independent)
    assert "correlation" in alarming(attacked(banded, seed=3))["conformance"]


def test_no_bug_no_alarm_on_devices_and_interactions() -> None:
    assert alarming(attacked(sampled())) == {}
    assert (
        alarming(attacked(target("user", "local", model="popularity", rounds=2), canaries=40)) == {}
    )


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
def test_a_moving_clip_and_a_measuring_round_raise_no_alarm(trust: str) -> None:
    more = {"clip_quantile": 0.5, "clip_share": 0.05, "metrics_share": 0.1}
    report = attacked(target("user", trust, rounds=3, privacy=more), canaries=40)
    assert alarming(report) == {}
    assert report["rounds"] == 4
    assert report["canaries"] == 40


@pytest.mark.parametrize("bug", [no_noise, seed_reused, share_sigma_over_n])
def test_bugs_are_caught_while_the_clip_moves(bug: Bug, monkeypatch: Patch) -> None:
    bug(monkeypatch)
    more = {"clip_quantile": 0.5, "clip_share": 0.05, "metrics_share": 0.1}
    assert alarming(attacked(target("user", "central", privacy=more)))


SEEDS = 20


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(
    ("unit", "trust", "model", "canaries"),
    [
        ("user", "central", "mf", 400),
        ("user", "central", "popularity", 400),
        ("user", "distributed", "mf", 400),
        ("user", "distributed", "popularity", 400),
        ("user", "local", "popularity", 40),
        ("interaction", "local", "mf", 400),
        ("interaction", "local", "popularity", 400),
    ],
)
def test_a_correct_mechanism_raises_no_alarm_over_many_seeds(
    unit: str, trust: str, model: str, canaries: int
) -> None:
    """Each check alarms once in a million; 20 seeds of at most 14 checks: below 3 in 10,000."""
    for seed in range(SEEDS):
        aim = target(unit, trust, model=model, rounds=2)
        report = attacked(aim, seed=seed, canaries=canaries)
        assert alarming(report) == {}, seed
        assert report["false_alarm"]["all"] <= 14 * report["false_alarm"]["each"]
