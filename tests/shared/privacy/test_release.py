"""Bounding what one user weighs, and which types may leave without noise."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from counting import plan, private_plan, user_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import ConfigError, RunError
from shared.privacy.plan import Plan, Trust
from shared.privacy.release import LocalUpdate, Rows, clip, entrust, expose_sum

USERS = 4
SHAPES = {"items": (6, 3), "bias": (6,)}


def made_update(values: Mapping[str, np.ndarray]) -> LocalUpdate:
    """Values [users, rows, ...] as rows, without the last user's."""
    owner, index = np.divmod(np.arange((USERS - 1) * 6), 6)
    tensors = {
        name: Rows(
            owner=owner,
            index=index,
            values=dense[: USERS - 1].reshape(-1, *dense.shape[2:]),
            shape=SHAPES[name],
        )
        for name, dense in values.items()
    }
    return LocalUpdate(tensors=tensors, users=USERS)


def dense(tensors: Mapping[str, Rows], user: int) -> np.ndarray:
    """One user's whole contribution as a vector, by another way than the code's."""
    parts = []
    for _, rows in sorted(tensors.items()):
        whole = np.zeros(rows.shape)
        for owner, index, values in zip(rows.owner, rows.index, rows.values, strict=True):
            if owner == user:
                whole[index] += values
        parts.append(whole.ravel())
    return np.concatenate(parts)


def random_update(seed: int, scale: float = 1.0) -> LocalUpdate:
    rng = np.random.default_rng(seed)
    return made_update({n: scale * rng.normal(size=(USERS, *s)) for n, s in SHAPES.items()})


ANY = st.floats(-1e200, 1e200, width=64)


@given(
    items=hnp.arrays(np.float64, (USERS, 6, 3), elements=ANY),
    bias=hnp.arrays(np.float64, (USERS, 6), elements=ANY),
    clip_norm=st.floats(1e-6, 1e3),
)
@settings(max_examples=60, deadline=None)
def test_clip_bounds_norm(items: np.ndarray, bias: np.ndarray, clip_norm: float) -> None:
    clipped = clip(made_update({"items": items, "bias": bias}), clip_norm=clip_norm)
    assert clipped.clip_norm == clip_norm
    for user in range(USERS):
        assert np.linalg.norm(dense(clipped.tensors, user)) <= clip_norm * (1 + 1e-6)


def test_clip_is_joint_and_keeps_the_direction() -> None:
    update = random_update(1, scale=5.0)
    clipped = clip(update, clip_norm=0.5)
    for user in range(USERS - 1):
        before, after = dense(update.tensors, user), dense(clipped.tensors, user)
        np.testing.assert_allclose(np.linalg.norm(after), 0.5, rtol=1e-12)
        np.testing.assert_allclose(after / 0.5, before / np.linalg.norm(before), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_clip_zeroes_non_finite(bad: float) -> None:
    update = random_update(2)
    update.tensors["bias"].values[7] = bad
    clipped = clip(update, clip_norm=1.0)
    assert not dense(clipped.tensors, 1).any()
    sound = clip(random_update(2), clip_norm=1.0)
    for user in (0, 2, 3):
        assert np.array_equal(dense(clipped.tensors, user), dense(sound.tensors, user))


def test_clip_is_identity_below_bound() -> None:
    update = random_update(3, scale=1e-3)
    clipped = clip(update, clip_norm=1.0)
    for name, rows in update.tensors.items():
        assert rows.values.tobytes() == clipped.tensors[name].values.tobytes()
        assert rows.values is not clipped.tensors[name].values


def test_clip_of_nothing_is_nothing() -> None:
    clipped = clip(made_update({n: np.zeros((USERS, *s)) for n, s in SHAPES.items()}), clip_norm=1)
    assert not any(rows.total().any() for rows in clipped.tensors.values())


def test_clip_refuses_a_row_twice_from_one_user() -> None:
    rows = Rows(owner=np.array([0, 0]), index=np.array([2, 2]), values=np.ones(2), shape=(6,))
    with pytest.raises(RunError, match="row twice"):
        clip(LocalUpdate(tensors={"bias": rows}, users=1), clip_norm=1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf])
def test_clip_refuses_a_bound_that_is_none(bound: float) -> None:
    with pytest.raises(ConfigError, match="clip_norm"):
        clip(random_update(4), clip_norm=bound)


def test_entrusted_is_the_clipped_sum() -> None:
    clipped = clip(random_update(5), clip_norm=1.0)
    sums = entrust(clipped, user_plan(trust=Trust.CENTRAL))
    assert sums.users == USERS
    whole = np.concatenate([sums.tensors[name].ravel() for name in sorted(SHAPES)])
    expected = sum(dense(clipped.tensors, user) for user in range(USERS))
    np.testing.assert_allclose(whole, expected, rtol=1e-12)


@pytest.mark.parametrize("other", [plan(), private_plan(), user_plan(trust=Trust.LOCAL)])
def test_nothing_is_entrusted_to_a_server_that_is_not_trusted(other: Plan) -> None:
    with pytest.raises(ConfigError, match="unit=user with trust=central"):
        entrust(clip(random_update(6), clip_norm=1.0), other)


def test_contributions_clipped_elsewhere_are_refused() -> None:
    clipped = clip(random_update(7), clip_norm=2.0)
    with pytest.raises(ConfigError, match="clip_norm=1"):
        entrust(clipped, replace(user_plan(trust=Trust.CENTRAL), clip_norm=1.0))


def test_plain_sums_leave_a_run_without_protection_only() -> None:
    sums = {"bias": np.arange(6.0)}
    made = expose_sum(sums, users=3, plan=plan())
    assert made.users == 3
    np.testing.assert_array_equal(made.tensors["bias"], sums["bias"])
    for protected in (private_plan(), *(user_plan(trust=trust) for trust in Trust)):
        with pytest.raises(ConfigError, match="unit=none"):
            expose_sum(sums, users=3, plan=protected)
