"""Words of protective noise come from the operating system or not at all."""

import os

import numpy as np
import pytest

from shared.privacy.keystream import OSWords, StandInWords


def test_os_words_never_repeat() -> None:
    drawn = np.concatenate([OSWords().words(1000) for _ in range(4)])
    assert drawn.dtype == np.uint64
    assert len(np.unique(drawn)) == 4000


def test_os_words_fail_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(size: int) -> bytes:
        raise NotImplementedError

    monkeypatch.setattr(os, "urandom", empty)
    with pytest.raises(OSError, match="nothing is released"):
        OSWords().words(3)


def test_os_words_have_no_seed_and_no_state() -> None:
    with pytest.raises(TypeError):
        OSWords(7)  # type: ignore[call-arg]
    assert vars(OSWords()) == {}


@pytest.mark.statistical
def test_os_words_are_uniform_in_each_bit() -> None:
    # 64 bits, 20,000 words: a fair source fails one bit at 6 sd with chance 64 * 2e-9 = 1.3e-7.
    words = OSWords().words(20_000)
    for bit in range(64):
        ones = int(((words >> np.uint64(bit)) & np.uint64(1)).sum())
        assert abs(ones - 10_000) < 6 * np.sqrt(20_000 / 4)


def test_stand_in_words_repeat_and_say_so() -> None:
    first, again = (StandInWords(3, "shares", 1).words(4096) for _ in range(2))
    assert np.array_equal(first, again)
    assert (first.dtype, StandInWords.private) == (np.uint64, False)
    for other in (StandInWords(4, "shares", 1), StandInWords(3, "shares", 2), StandInWords(3)):
        assert not np.array_equal(other.words(4096), first)
    source = StandInWords(3)
    assert not np.array_equal(source.words(8), source.words(8))
    # Each of 64 bits is set in half of 4,096 words, up to 6.5 sd of 32: 5e-9 together.
    bits = np.unpackbits(first.view(np.uint8)).reshape(4096, 64).sum(axis=0)
    assert np.abs(bits.astype(np.int64) - 2048).max() < 208
