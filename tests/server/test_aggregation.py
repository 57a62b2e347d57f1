"""Validation and sum: poison is named and leaves no trace."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.aggregation import MAGNITUDE, Expected, Tally
from shared.protocol import Reason, Refusal, Reply

EXPECTED = Expected(
    run="run",
    round=3,
    order="digest",
    users=2,
    kind=np.dtype("float32"),
    shapes={"table": (4, 2), "bias": (4,)},
)


def made_reply(value: float = 1.0, **changes: object) -> Reply:
    tensors = {
        "table": np.full((4, 2), value, dtype=np.float32),
        "bias": np.full(4, value, dtype=np.float32),
    }
    reply = Reply(run="run", round=3, order="digest", users=2, private=True, tensors=tensors)
    return replace(reply, **changes)


def with_table(table: np.ndarray) -> Reply:
    return made_reply(tensors={**made_reply().tensors, "table": table})


def spiked(value: float) -> Reply:
    table = np.zeros((4, 2), dtype=np.float32)
    table[3, 1] = value
    return with_table(table)


POISON = {
    "not-finite": [spiked(np.nan), spiked(np.inf), spiked(-np.inf)],
    "magnitude": [spiked(1e30), spiked(-1e30), spiked(3 * MAGNITUDE)],
    "shape": [
        with_table(np.zeros((2, 4), dtype=np.float32)),
        with_table(np.zeros(8, dtype=np.float32)),
        with_table(np.zeros((4, 3), dtype=np.float32)),
        with_table(np.zeros((0, 2), dtype=np.float32)),
    ],
    "dtype": [with_table(np.zeros((4, 2)))],
    "names": [
        made_reply(tensors={"table": made_reply().tensors["table"]}),
        made_reply(tensors={**made_reply().tensors, "loss": np.zeros(1, dtype=np.float32)}),
        made_reply(tensors={}),
    ],
    "replayed": [made_reply(round=2), made_reply(round=4), made_reply(run="other")],
    "order": [made_reply(order="other")],
    "users": [made_reply(users=n) for n in (1, 0, -60, 10**12)],
}


@pytest.mark.parametrize(
    ("reason", "reply"), [(reason, reply) for reason, bad in POISON.items() for reply in bad]
)
def test_poison_is_quarantined_and_leaves_no_trace(reason: str, reply: Reply) -> None:
    tally = Tally(dict.fromkeys(range(3), EXPECTED))
    assert tally.receive(0, made_reply(1.0)) is None
    assert tally.receive(1, reply) == reason
    assert tally.receive(2, made_reply(2.0)) is None
    tally.close()
    assert tally.quarantined == {reason: 1}
    assert (tally.users, tally.accepted) == (4, 2)
    assert np.array_equal(tally.total["table"], np.full((4, 2), 3.0))
    assert np.array_equal(tally.total["bias"], np.full(4, 3.0))


def test_one_reply_a_node() -> None:
    tally = Tally({1: EXPECTED})
    assert tally.receive(1, made_reply()) is None
    assert tally.receive(1, made_reply()) == "duplicate"
    assert tally.receive(9, made_reply()) == "stranger"
    assert np.array_equal(tally.total["bias"], np.ones(4))


def test_second_chance_is_not_given() -> None:
    tally = Tally({1: EXPECTED})
    assert tally.receive(1, spiked(np.nan)) == "not-finite"
    assert tally.receive(1, made_reply()) == "duplicate"
    assert tally.users == 0


def test_silent_nodes_are_counted() -> None:
    tally = Tally({1: EXPECTED, 2: EXPECTED})
    tally.receive(1, "schema")
    tally.close()
    assert tally.quarantined == {"schema": 1, "missing": 1}


def test_exhausted_only_when_every_node_says_budget() -> None:
    budget = Refusal(reason=Reason.BUDGET)
    tally = Tally({1: EXPECTED, 2: EXPECTED})
    assert tally.receive(1, budget) == "refused-budget"
    assert tally.receive(2, made_reply()) is None
    assert not tally.exhausted
    whole = Tally({1: EXPECTED, 2: EXPECTED})
    whole.receive(1, budget)
    whole.receive(2, budget)
    whole.close()
    assert whole.exhausted
    partly = Tally({1: EXPECTED, 2: EXPECTED})
    partly.receive(1, budget)
    partly.close()
    assert not partly.exhausted


def test_zero_is_a_total_like_any_other() -> None:
    tally = Tally({1: EXPECTED})
    assert tally.receive(1, made_reply(0.0)) is None
    assert not tally.total["table"].any()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["good", *POISON]), min_size=1, max_size=12))
def test_total_is_the_sum_of_the_honest(kinds: list[str]) -> None:
    tally = Tally(dict.fromkeys(range(len(kinds)), EXPECTED))
    for node, kind in enumerate(kinds):
        tally.receive(node, made_reply(node + 1.0) if kind == "good" else POISON[kind][0])
    honest = sum(node + 1.0 for node, kind in enumerate(kinds) if kind == "good")
    assert np.array_equal(tally.total["table"], np.full((4, 2), honest))
    assert tally.users == 2 * kinds.count("good")


def test_a_clipped_sum_above_its_users_bound_is_quarantined() -> None:
    bound = 2 * 0.5
    expected = replace(EXPECTED, norm=bound)
    value = bound / np.sqrt(12.0)
    assert Tally({5: expected}).receive(5, made_reply(value * 0.999)) is None
    tally = Tally({5: expected})
    assert tally.receive(5, made_reply(value * 1.001)) == "norm"
    assert not any(total.any() for total in tally.total.values())
