"""One order, one digest, for every party."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.vocabulary import Vocabulary
from shared.errors import DataError

ids = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=8)


@given(names=ids, seed=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_order_depends_on_the_set_alone(names: list[str], seed: object) -> None:
    shuffled = [*names, *names]
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    vocabulary = Vocabulary.from_ids(names)
    assert Vocabulary.from_ids(shuffled) == vocabulary
    assert vocabulary.indices(vocabulary.ids).tolist() == list(range(len(vocabulary)))


def test_integers_are_ordered_by_number_and_text_by_code_point() -> None:
    assert Vocabulary.from_ids(["10", "9", "-1", "09"]).ids == ("-1", "09", "9", "10")
    assert Vocabulary.from_ids(["10", "9", "a"]).ids == ("10", "9", "a")


@given(one=ids, other=ids)
@settings(deadline=None, max_examples=60)
def test_digest_tells_vocabularies_apart(one: list[str], other: list[str]) -> None:
    first, second = Vocabulary.from_ids(one), Vocabulary.from_ids(other)
    assert (first.digest == second.digest) == (first.ids == second.ids)


def test_digest_depends_on_order_and_borders() -> None:
    digests = {Vocabulary(ids).digest for ids in [("a", "b"), ("b", "a"), ("ab",), ("a", "b", "")]}
    assert len(digests) == 4
    canonical = "fedrec vocabulary 1\n1:a2:é".encode()
    assert Vocabulary(("a", "é")).digest == hashlib.sha256(canonical).hexdigest()


def test_unknown_and_repeated_ids_are_refused_without_being_named() -> None:
    vocabulary = Vocabulary(("a",))
    with pytest.raises(DataError) as caught:
        vocabulary.index("secret")
    assert "secret" not in str(caught.value)
    assert "secret" not in vocabulary
    with pytest.raises(DataError):
        Vocabulary(("a", "a"))
