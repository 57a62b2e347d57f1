"""Masks and pair keys: both ends make the same, they cancel, and nobody else opens a box."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.privacy.secure_sum.keys import agreed, derived, mask_key, open_sealed, seal
from shared.privacy.secure_sum.masks import add_mask, subtract_mask


@settings(deadline=None, max_examples=30)
@given(key=st.binary(min_size=32, max_size=32), size=st.integers(0, 70_000))
def test_masks_cancel(key: bytes, size: int) -> None:
    plain = np.random.default_rng(size).integers(0, 2**32, size, dtype=np.uint32)
    total = plain.copy()
    add_mask(total, key)
    assert size < 4 or not np.array_equal(total, plain)
    subtract_mask(total, key)
    assert np.array_equal(total, plain)


def test_mask_is_the_standard_keystream() -> None:
    # In one piece, by the library alone: blocks of ours must join without a seam.
    key, size = bytes(range(32)), 40_001
    cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    whole = np.frombuffer(cipher.update(bytes(4 * size)), dtype="<u4")
    total = np.zeros(size, dtype=np.uint32)
    add_mask(total, key)
    assert np.array_equal(total, whole)


def pair() -> tuple[X25519PrivateKey, X25519PrivateKey]:
    return X25519PrivateKey.generate(), X25519PrivateKey.generate()


def test_both_ends_make_the_same_key() -> None:
    one, other = pair()
    publics = [key.public_key().public_bytes_raw() for key in (one, other)]
    first = mask_key(one, publics[1], session=b"s" * 32, pair={4, 9})
    second = mask_key(other, publics[0], session=b"s" * 32, pair={9, 4})
    assert first == second
    assert len(first) == 32


def test_keys_differ_by_session_purpose_and_pair() -> None:
    terms = {"session": b"s" * 32, "purpose": "share box", "first": 1, "second": 2}
    changes = [{}, {"session": b"t" * 32}, {"purpose": "pair mask"}, {"first": 2, "second": 1}]
    keys = {derived(b"x" * 32, **{**terms, **change}) for change in changes}  # type: ignore[arg-type]
    assert len(keys) == len(changes)


def test_key_of_low_order_is_refused() -> None:
    with pytest.raises(ProtocolError, match="X25519"):
        agreed(X25519PrivateKey.generate(), bytes(32))


def test_box_opens_only_whole_and_with_its_key() -> None:
    box = seal(b"k" * 32, b"share" * 10)
    assert open_sealed(b"k" * 32, box) == b"share" * 10
    assert open_sealed(b"q" * 32, box) is None
    for place in (0, 30, len(box) - 1):
        forged = bytearray(box)
        forged[place] ^= 1
        assert open_sealed(b"k" * 32, bytes(forged)) is None
