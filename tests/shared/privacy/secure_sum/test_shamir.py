"""Shares: any threshold of them gives the secret, fewer say nothing."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shared.errors import ProtocolError
from shared.privacy.secure_sum import shamir
from shared.privacy.secure_sum.shamir import PRIME, SHARE_BYTES, join, split


@settings(deadline=None, max_examples=40)
@given(
    secret=st.binary(min_size=32, max_size=32),
    holders=st.sets(st.integers(0, 2**32 - 1), min_size=1, max_size=12),
    data=st.data(),
)
def test_any_threshold_of_shares_gives_the_secret(
    secret: bytes, holders: set[int], data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(1, len(holders)))
    shares = split(secret, holders=sorted(holders), threshold=threshold)
    chosen = data.draw(st.permutations(sorted(holders)))[:threshold]
    assert join({holder: shares[holder] for holder in chosen}) == secret
    assert all(len(share) == SHARE_BYTES for share in shares.values())


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_extreme_secrets_fit_the_field(secret: bytes) -> None:
    shares = split(secret, holders=(0, 5, 9), threshold=2)
    for pair in itertools.combinations(shares, 2):
        assert join({holder: shares[holder] for holder in pair}) == secret


def test_modulus_is_prime() -> None:
    assert PRIME == 2**256 + 297
    # Fermat to twelve bases; a composite of this size passing all is not known to exist by chance.
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in range(2, 14))


@pytest.mark.statistical
def test_fewer_shares_than_the_threshold_say_nothing() -> None:
    # Two of three shares of a constant secret: their top bytes are uniform (alarm 1e-6 each run).
    rows = [split(bytes(32), holders=(0, 1, 2), threshold=3) for _ in range(2000)]
    for holder in (0, 1):
        counts = [0] * 16
        for row in rows:
            counts[row[holder][31] >> 4] += 1
        assert stats.chisquare(counts).pvalue > 5e-7
    # And every secret is possible: some third share completes two given ones to any secret.
    two = {holder: rows[0][holder] for holder in (0, 1)}
    guesses = {join({**two, 2: third.to_bytes(33, "little")}) for third in good_thirds(two)}
    assert len(guesses) == 20


def good_thirds(two: dict[int, bytes]) -> list[int]:
    """Third shares that complete two given ones to the secrets 0 .. 19."""
    one, other = (int.from_bytes(two[holder], "little") for holder in (0, 1))
    # Lagrange at 0 with places 1, 2, 3: secret = 3 a - 3 b + c.
    return [(secret - 3 * one + 3 * other) % PRIME for secret in range(20)]


def test_foreign_shares_are_refused() -> None:
    top = (PRIME - 1).to_bytes(33, "little")
    with pytest.raises(ProtocolError, match="one 32-byte secret"):
        join({0: top})


def test_impossible_threshold_is_refused() -> None:
    for threshold in (0, 3):
        with pytest.raises(ValueError, match="threshold"):
            split(bytes(32), holders=(1, 2), threshold=threshold)
    with pytest.raises(ValueError, match="32 bytes"):
        split(bytes(31), holders=(1, 2), threshold=1)


def test_coefficients_come_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def dry(bound: int) -> int:
        raise OSError("no entropy")

    monkeypatch.setattr(shamir.secrets, "randbelow", dry)
    with pytest.raises(OSError, match="no entropy"):
        split(bytes(32), holders=(1, 2), threshold=2)
