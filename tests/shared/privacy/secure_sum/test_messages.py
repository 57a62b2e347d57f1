"""The wire: each message has one spelling, and nothing else is read."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.privacy.secure_sum.messages import (
    Delivery,
    KeyAdvert,
    KeyList,
    MaskedVector,
    Openings,
    Proof,
    SealedShares,
    Survivors,
    Vote,
)

device = st.integers(0, 2**32 - 1)
tags = st.binary(min_size=16, max_size=16)


def pairs(size: int) -> st.SearchStrategy[Any]:
    parts = st.dictionaries(device, st.binary(min_size=size, max_size=size), max_size=4)
    return parts.map(lambda found: tuple(sorted(found.items())))


numbers = st.sets(device, max_size=6).map(lambda found: tuple(sorted(found)))
key = st.binary(min_size=32, max_size=32)
signature = st.binary(min_size=64, max_size=64)


def adverts(tag: bytes) -> st.SearchStrategy[KeyAdvert]:
    return st.builds(
        KeyAdvert,
        tag=st.just(tag),
        sender=device,
        mask=key,
        channel=key,
        commitment=key,
        signature=signature,
    )


def lists(tag: bytes) -> st.SearchStrategy[KeyList]:
    some = st.lists(adverts(tag), max_size=3, unique_by=lambda advert: advert.sender)
    return some.map(
        lambda found: KeyList(tag=tag, adverts=tuple(sorted(found, key=lambda a: a.sender)))
    )


def openings(tag: bytes) -> st.SearchStrategy[Openings]:
    return st.tuples(device, pairs(33), pairs(33)).map(
        lambda parts: Openings(
            tag=tag,
            sender=parts[0],
            seeds=parts[1],
            keys=tuple(p for p in parts[2] if p[0] not in dict(parts[1])),
        )
    )


messages = st.one_of(
    tags.flatmap(adverts),
    tags.flatmap(lists),
    tags.flatmap(openings),
    st.builds(SealedShares, tag=tags, sender=device, boxes=pairs(82)),
    st.builds(Delivery, tag=tags, receiver=device, sharers=numbers, boxes=pairs(82)),
    st.builds(Survivors, tag=tags, devices=numbers),
    st.builds(Vote, tag=tags, sender=device, signature=signature),
    st.builds(Proof, tag=tags, votes=pairs(64)),
    st.builds(
        MaskedVector,
        tag=tags,
        sender=device,
        words=st.lists(device, max_size=9).map(lambda words: np.array(words, dtype=np.uint32)),
    ),
)


@settings(deadline=None, max_examples=60)
@given(message=messages)
def test_messages_survive_the_wire(message: Any) -> None:
    raw = message.to_bytes()
    again = type(message).from_bytes(raw)
    assert again.to_bytes() == raw
    if not isinstance(message, MaskedVector):
        assert again == message


@settings(deadline=None, max_examples=60)
@given(message=messages, data=st.data())
def test_every_other_length_is_refused(message: Any, data: st.DataObject) -> None:
    raw = message.to_bytes()
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ProtocolError):
        type(message).from_bytes(raw[:cut])
    with pytest.raises(ProtocolError):
        type(message).from_bytes(raw + data.draw(st.binary(min_size=1, max_size=5)))


@settings(deadline=None, max_examples=60)
@given(message=messages, data=st.data())
def test_a_changed_byte_is_refused_or_read_as_it_stands(message: Any, data: st.DataObject) -> None:
    raw = bytearray(message.to_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        again = type(message).from_bytes(bytes(raw))
    except ProtocolError:
        return
    assert again.to_bytes() == bytes(raw)


@settings(deadline=None, max_examples=40)
@given(raw=st.binary(max_size=300), kind=st.integers(1, 9))
def test_noise_is_refused_or_read_as_it_stands(raw: bytes, kind: int) -> None:
    kinds = (KeyAdvert, KeyList, SealedShares, Delivery, MaskedVector, Survivors, Vote, Proof)
    reader: Any = {k.KIND: k for k in (*kinds, Openings)}[kind]
    text = bytes((kind, 1)) + raw
    try:
        assert reader.from_bytes(text).to_bytes() == text
    except ProtocolError:
        return


def test_a_huge_count_is_refused_before_memory_is_taken() -> None:
    raw = bytes((6, 1)) + bytes(16) + b"\xff\xff\xff\xff"
    with pytest.raises(ProtocolError, match="cut short"):
        Survivors.from_bytes(raw)


def test_other_kind_is_refused() -> None:
    vote = Vote(tag=bytes(16), sender=1, signature=bytes(64))
    with pytest.raises(ProtocolError, match="kind or version"):
        Survivors.from_bytes(vote.to_bytes())
    with pytest.raises(ProtocolError, match="kind or version"):
        Vote.from_bytes(bytes((7, 2)) + vote.to_bytes()[2:])


def test_lists_name_nobody_twice_and_are_sorted() -> None:
    for devices in ((2, 1), (1, 1)):
        with pytest.raises(ProtocolError, match="rising"):
            Survivors(tag=bytes(16), devices=devices)


def test_openings_cannot_hold_both_kinds() -> None:
    share = ((3, bytes(33)),)
    with pytest.raises(ProtocolError, match="never both"):
        Openings(tag=bytes(16), sender=1, seeds=share, keys=share)


def test_secrets_do_not_print() -> None:
    vector = MaskedVector(tag=bytes(16), sender=1, words=np.arange(3, dtype=np.uint32))
    assert "array" not in repr(vector)
