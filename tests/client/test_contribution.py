"""The work of a node under distributed trust: blocks, keys and memory do not show in the sum."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from counting import CATALOGUE, Counting, made_population
from masked import made_plan

from client import contribution
from client.contribution import Work
from shared import protocol
from shared.privacy.quantisation import signed
from shared.privacy.release import LocalUpdate
from shared.protocol import Order

POPULATION = made_population()


def made_work(people: list[int], algorithm: Counting | None = None, **changes: Any) -> Work:
    made = Counting(n_items=8) if algorithm is None else algorithm
    tensors = {n: v.astype(np.float32) for n, v in made.model.initial(1).items()}
    order = Order(
        run="run",
        round=1,
        place=0,
        seed=1,
        model="table",
        algorithm="counting",
        settings="{}",
        plan=replace(made_plan(), **changes),
        catalogue=CATALOGUE,
        participants=np.array(people),
        tensors=tensors,
        state=protocol.state_digest(tensors),
    )
    return Work(
        algorithm=made,
        order=order,
        histories=POPULATION.histories,
        keys=POPULATION.keys,
        memory=made.memory(POPULATION.keys, 1),
    )


def test_blocks_do_not_show_in_a_veiled_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, memory = made_work([0, 1, 2, 3, 5]).veiled()
    for size in (1, 2, 4):
        monkeypatch.setattr(contribution, "BLOCK_USERS", size)
        cut, learned = made_work([0, 1, 2, 3, 5]).veiled()
        assert np.array_equal(cut.words, whole.words)
        assert np.array_equal(learned["visits"], memory["visits"])
    assert memory["visits"].ravel().tolist() == [1, 1, 1, 1, 0, 1]
    assert (whole.users, whole.private) == (5, False)


def test_a_sum_is_that_of_its_devices() -> None:
    whole, _ = made_work([0, 1, 2, 3, 4, 5]).veiled()
    alone = [made_work([user]).veiled()[0].words for user in range(6)]
    assert np.array_equal(np.sum(alone, axis=0, dtype=np.uint32), whole.words)


def test_noise_covers_items_nobody_met() -> None:
    """Each of 16 values is 0 with chance below 1e-4: all others noised, none left out."""
    veiled, _ = made_work([0], noise="os").veiled()
    again, _ = made_work([0], noise="os").veiled()
    assert veiled.private
    assert np.count_nonzero(signed(veiled.words)) >= 14
    assert np.count_nonzero(veiled.words == again.words) <= 2


def test_a_partial_sum_is_the_veiled_one() -> None:
    reply, _ = made_work([1, 4]).reply()
    veiled, _ = made_work([1, 4]).veiled()
    assert np.array_equal(reply.tensors["table"].ravel(), signed(veiled.words).astype(np.float64))
    assert (reply.users, reply.private) == (2, False)


class Broken(Counting):
    """Its contribution is not a number."""

    def contribute(self, *args: Any) -> Any:
        update, memory = super().contribute(*args)
        rows = {
            name: replace(value, values=value.values * np.nan)
            for name, value in update.tensors.items()
        }
        return LocalUpdate(tensors=rows, users=update.users), memory


def test_a_device_that_fails_to_learn_still_adds_its_noise() -> None:
    plain, _ = made_work([0], Broken(n_items=8)).veiled()
    assert not plain.words.any()
    noised, _ = made_work([0], Broken(n_items=8), noise="os").veiled()
    assert np.count_nonzero(noised.words) >= 14
