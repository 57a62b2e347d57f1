"""What every entry of a registry has to do, written once.

A model's or a reader's own test file says what is special about it; these suites say what is not.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.algorithms.base import Algorithm
from shared.data.events import RawEvents
from shared.data.interactions import Interactions
from shared.data.readers import Request
from shared.errors import DataError
from shared.models.base import Model

__all__ = ["check_algorithm", "check_model", "check_reader"]

Tensors = Mapping[str, NDArray[np.float64]]


def perturbed(model: Model) -> dict[str, NDArray[np.float64]]:
    """Global tensors that are no longer all zero or all equal."""
    rng = np.random.default_rng(5)
    start = model.initial(0)
    return {name: value + 0.1 * rng.standard_normal(value.shape) for name, value in start.items()}


def check_model(model: Model, histories: Interactions) -> None:
    """Shapes, finite scores, a data-independent start, determinism, rows that do not mix.

    Args:
        model: Built for the catalogue of `histories`.
        histories: Any histories; an empty one is added here.
    """
    start = model.initial(3)
    assert {name: value.shape for name, value in start.items()} == dict(model.global_shapes)
    assert not set(model.local_shapes) & set(model.global_shapes)
    for name, value in model.initial(3).items():
        assert value.dtype == np.float64
        np.testing.assert_array_equal(value, start[name])
    for tensors in (start, perturbed(model)):
        check_scores(model, tensors, histories)


def check_scores(model: Model, tensors: Tensors, histories: Interactions) -> None:
    """Scores are finite, repeatable, of the right shape, and one person's history is enough."""
    scores = model.score(tensors, histories)
    assert scores.shape == (histories.n_users, histories.n_items)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(model.score(tensors, histories), scores)
    for user in range(min(histories.n_users, 5)):
        alone = model.score(tensors, histories.select(np.array([user])))
        np.testing.assert_allclose(alone[0], scores[user], rtol=1e-4, atol=1e-6)
    nobody = Interactions.from_histories([[]], n_items=histories.n_items)
    assert np.isfinite(model.score(tensors, nobody)).all()


def check_algorithm(algorithm: Algorithm) -> None:
    """A start and a memory that know no data; public constants in their range."""
    one, two = algorithm.start(9), algorithm.start(9)
    assert one.round == 0
    assert set(one.tensors) == set(algorithm.model.global_shapes)
    for name, value in one.tensors.items():
        np.testing.assert_array_equal(value, two.tensors[name])
    assert 0 < algorithm.sampling_rate <= 1
    assert algorithm.local_steps >= 1
    keys = np.array([4, 1, 7], dtype=np.int64)
    memory = algorithm.memory(keys, 9)
    assert {name: value.shape[1:] for name, value in memory.items()} == dict(
        algorithm.model.local_shapes
    )
    alone = algorithm.memory(keys[1:2], 9)
    for name, value in memory.items():
        np.testing.assert_array_equal(alone[name][0], value[1])


def check_reader(read: Callable[[Path, Request], RawEvents], path: Path) -> None:
    """Aligned columns in file order; a file cut short or made of noise is refused in one sentence.

    Args:
        read: An entry of `READERS`.
        path: A good file with the events (1, 10), (2, 10), (1, 20) in this order.
    """
    events = read(path, Request())
    users = [events.user_ids[n] for n in events.users]
    items = [events.item_ids[n] for n in events.items]
    assert list(zip(users, items, strict=True)) == [("1", "10"), ("2", "10"), ("1", "20")]
    assert len(events.values) == len(events.kinds) == 3
    assert events.times is None or events.times.dtype == np.int64
    for content in (b"", b"\x00\xff\xfe secret-title \x00"):
        path.write_bytes(content)
        message = refusal(read, path)
        assert path.name in message
        assert "secret-title" not in message
    path.unlink()
    assert path.name in refusal(read, path)


def refusal(read: Callable[[Path, Request], RawEvents], path: Path) -> str:
    """The sentence with which a reader refuses a file."""
    with pytest.raises(DataError) as caught:
        read(path, Request())
    assert "\n" not in str(caught.value)
    return str(caught.value)
