"""Values that ride along: what they weigh together, and that they come out as they went in."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from shared.errors import ConfigError, RunError
from shared.privacy.release import ClippedUpdate, LocalUpdate, Rows, clip
from shared.privacy.riders import Rider, Riders

Array = NDArray[np.float64]
USERS = 3
BOTH = Riders(
    blocks=(
        Rider(name="bit", size=1, bound=0.5, share=0.01),
        Rider(name="metrics", size=4, bound=2.0, share=0.04),
    )
)


def clipped(values: Array, clip_norm: float) -> ClippedUpdate:
    """Dense contributions [users, rows, 2]."""
    users, rows = values.shape[:2]
    owner, index = np.divmod(np.arange(users * rows), rows)
    table = Rows(owner=owner, index=index, values=values.reshape(-1, 2), shape=(rows, 2))
    return clip(LocalUpdate(tensors={"table": table}, users=users), clip_norm=clip_norm)


def norms(update: ClippedUpdate) -> Array:
    squares = np.zeros(update.users)
    for rows in update.tensors.values():
        flat = rows.values.reshape(len(rows.owner), -1)
        np.add.at(squares, rows.owner, np.square(flat).sum(axis=1))
    return np.sqrt(squares)


def sums(update: ClippedUpdate) -> Mapping[str, Array]:
    return {name: rows.total() for name, rows in update.tensors.items()}


ANY = st.floats(-1e200, 1e200, width=64) | st.sampled_from(
    [math.nan, math.inf, -math.inf, 1e308, 5e-324]
)


@given(
    table=hnp.arrays(np.float64, (USERS, 2, 2), elements=ANY),
    bit=hnp.arrays(np.float64, (USERS, 1), elements=ANY),
    metrics=hnp.arrays(np.float64, (USERS, 4), elements=ANY),
    clip_norm=st.floats(1e-6, 1e3),
)
@settings(deadline=None, max_examples=100)
def test_the_joint_norm_is_at_most_the_clip_norm(
    table: Array, bit: Array, metrics: Array, clip_norm: float
) -> None:
    update = BOTH.attach(clipped(table, clip_norm), {"bit": bit, "metrics": metrics})
    assert update.clip_norm == clip_norm
    assert (norms(update) <= clip_norm * (1 + 1e-6)).all()


def test_the_joint_norm_reaches_the_clip_norm() -> None:
    """Nothing of the budget is left lying about."""
    update = clipped(np.full((USERS, 2, 2), 9.0), 0.7)
    rode = {"bit": np.full((USERS, 1), -0.5), "metrics": np.full((USERS, 4), 1.0)}
    assert norms(BOTH.attach(update, rode)) == pytest.approx(0.7)


@given(st.integers(0, 2**32), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=40)
def test_unscaling_is_exact(seed: int, clip_norm: float) -> None:
    rng = np.random.default_rng(seed)
    update = clipped(rng.normal(size=(USERS, 2, 2)), clip_norm)
    rode = {"bit": rng.uniform(-0.5, 0.5, (USERS, 1)), "metrics": rng.uniform(-1, 1, (USERS, 4))}
    total = sums(BOTH.attach(update, rode))
    assert {name: value.shape for name, value in total.items()} == {"table": (2, 2)} | BOTH.shapes
    main, found = BOTH.detach(total, clip_norm=clip_norm)
    assert main.keys() == {"table"}
    assert np.allclose(main["table"], sums(update)["table"], rtol=1e-12, atol=1e-12 * clip_norm)
    for name, values in rode.items():
        assert np.allclose(found[name], values.sum(axis=0), rtol=1e-12, atol=1e-12)


def test_a_rider_beyond_its_bound_is_shortened_and_one_not_finite_is_zero() -> None:
    update = clipped(np.zeros((USERS, 2, 2)), 1.0)
    metrics = np.array([[3.0, 0, 4, 0], [1.0, math.nan, 1, 1], [1e300, 0, 0, 0]])
    rode = {"bit": np.zeros((USERS, 1)), "metrics": metrics}
    _, found = BOTH.detach(sums(BOTH.attach(update, rode)), clip_norm=1.0)
    assert found["metrics"] == pytest.approx([1.2 + 2.0, 0.0, 1.6, 0.0])


def test_noise_on_a_rider_is_what_its_share_buys() -> None:
    """In units of its own bound a rider of share q is noised as by z / sqrt(q)."""
    found = BOTH.deviations(sum_deviation=3.0 * 0.7, clip_norm=0.7)
    assert found == pytest.approx({"bit": 0.5 * 3.0 / 0.1, "metrics": 2.0 * 3.0 / 0.2})
    _, unscaled = BOTH.detach({"bit": np.array([2.1]), "metrics": np.full(4, 2.1)}, clip_norm=0.7)
    assert unscaled["bit"][0] == pytest.approx(found["bit"])
    assert unscaled["metrics"] == pytest.approx([found["metrics"]] * 4)


def test_shares_of_the_round_add_up_to_its_cost() -> None:
    assert BOTH.rest + sum(block.share for block in BOTH.blocks) == pytest.approx(1.0)
    assert Riders(blocks=()).rest == 1.0


def test_riders_leave_the_contribution_alone() -> None:
    update = clipped(np.ones((USERS, 2, 2)), 1.0)
    before = update.tensors["table"].values.copy()
    BOTH.attach(update, {"bit": np.zeros((USERS, 1)), "metrics": np.zeros((USERS, 4))})
    assert np.array_equal(update.tensors["table"].values, before)
    assert update.tensors.keys() == {"table"}


@pytest.mark.parametrize(
    "values",
    [
        {"bit": np.zeros((USERS, 1))},
        {"bit": np.zeros((USERS, 1)), "metrics": np.zeros((USERS, 3))},
        {"bit": np.zeros(USERS), "metrics": np.zeros((USERS, 4))},
        {"bit": np.zeros((2, 1)), "metrics": np.zeros((USERS, 4))},
        {"bit": np.zeros((USERS, 1)), "metrics": np.zeros((USERS, 4)), "x": np.zeros((USERS, 1))},
    ],
)
def test_other_values_than_the_riders_are_refused(values: dict[str, Array]) -> None:
    with pytest.raises(ConfigError, match="ride along"):
        BOTH.attach(clipped(np.zeros((USERS, 2, 2)), 1.0), values)


def test_a_name_that_is_taken_is_refused() -> None:
    riders = Riders(blocks=(Rider(name="table", size=1, bound=1.0, share=0.1),))
    with pytest.raises(ConfigError, match="another tensor"):
        riders.attach(clipped(np.zeros((USERS, 2, 2)), 1.0), {"table": np.zeros((USERS, 1))})


def test_a_sum_without_its_riders_is_refused() -> None:
    whole = {"table": np.zeros((2, 2)), "bit": np.zeros(1), "metrics": np.zeros(4)}
    for bad in ({"bit": np.zeros(1)}, whole | {"metrics": np.zeros(3)}, {}):
        with pytest.raises(RunError, match="no rider"):
            BOTH.detach(bad, clip_norm=1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"bound": 0.0},
        {"bound": math.inf},
        {"bound": math.nan},
        {"share": 0.0},
        {"share": 1.0},
        {"share": math.nan},
    ],
)
def test_impossible_riders_are_refused(change: dict[str, float]) -> None:
    good = {"name": "x", "size": 1, "bound": 1.0, "share": 0.1}
    Rider(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        Rider(**(good | change))  # type: ignore[arg-type]


def test_riders_leave_something_for_training_and_have_names_of_their_own() -> None:
    half = Rider(name="a", size=1, bound=1.0, share=0.5)
    with pytest.raises(ConfigError, match="nothing for training"):
        Riders(blocks=(half, Rider(name="b", size=1, bound=1.0, share=0.5)))
    with pytest.raises(ConfigError, match="one name"):
        Riders(blocks=(half, half))
