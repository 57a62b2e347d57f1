"""Dishonest servers, devices and networks: forged, replayed, doubled, reordered, two-faced."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from summing import Round, identity, session

from shared.errors import ProtocolError, RunError
from shared.privacy.secure_sum.device import Device
from shared.privacy.secure_sum.messages import (
    Delivery,
    KeyAdvert,
    KeyList,
    Openings,
    Proof,
    SealedShares,
    Survivors,
    Vote,
)


def altered(advert: KeyAdvert, **changes: Any) -> KeyAdvert:
    return replace(advert, **changes)


def listed(keys: KeyList, advert: KeyAdvert) -> KeyList:
    """The list with one device's keys exchanged."""
    others = [a for a in keys.adverts if a.sender != advert.sender]
    return KeyList(tag=keys.tag, adverts=tuple(sorted([*others, advert], key=lambda a: a.sender)))


def flipped(raw: bytes) -> bytes:
    return bytes([raw[0] ^ 1]) + raw[1:]


FORGERIES: dict[str, Any] = {
    "bad signature": lambda a, b: altered(a, signature=flipped(a.signature)),
    "other mask key": lambda a, b: altered(a, mask=b.mask),
    "other channel key": lambda a, b: altered(a, channel=b.channel),
    "swapped keys": lambda a, b: altered(a, mask=a.channel, channel=a.mask),
    "other commitment": lambda a, b: altered(a, commitment=b.commitment),
    "another's advert": lambda a, b: altered(b, sender=a.sender),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_forged_keys_are_refused_by_the_server_and_by_every_device(forge: Any) -> None:
    played = Round(session(5))
    adverts = [device.advertise() for device in played.devices.values()]
    forged = forge(adverts[1], adverts[2])
    with pytest.raises(ProtocolError, match="signed"):
        played.server.receive(forged)
    for advert in adverts:
        played.server.receive(advert)  # The refusal changed nothing.
    bad = listed(played.server.keys(), forged)
    for number, device in played.devices.items():
        with pytest.raises(ProtocolError, match="altered" if number == 1 else "signed"):
            device.share(bad)


def test_device_left_out_of_the_list_or_off_the_roster_is_noticed() -> None:
    played = Round(session(5)).until("advertise")
    without = KeyList(tag=played.keys.tag, adverts=played.keys.adverts[1:])
    with pytest.raises(ProtocolError, match="own keys"):
        played.devices[0].share(without)
    stranger = altered(played.keys.adverts[0], sender=9)
    more = KeyList(tag=played.keys.tag, adverts=(*played.keys.adverts, stranger))
    with pytest.raises(ProtocolError, match="roster"):
        played.devices[1].share(more)


def test_short_list_is_refused() -> None:
    played = Round(session(5)).until("advertise")
    short = KeyList(tag=played.keys.tag, adverts=played.keys.adverts[:2])
    with pytest.raises(RunError, match="nothing is revealed"):
        played.devices[0].share(short)


def test_wrong_question_closes_the_device() -> None:
    played = Round(session(5)).until("advertise")
    device = played.devices[0]
    with pytest.raises(RunError):
        device.share(KeyList(tag=played.keys.tag, adverts=played.keys.adverts[:2]))
    with pytest.raises(ProtocolError, match="left the round"):
        device.share(played.keys)
    assert device._keys is None


def test_device_answers_once() -> None:
    played = Round(session(5))
    device = played.devices[0]
    assert device.advertise() is device.advertise()
    played.until("vote")
    first = played.devices[0].unmask(played.proof)
    assert played.devices[0].unmask(played.proof).to_bytes() == first.to_bytes()
    assert played.devices[0]._keys is None
    with pytest.raises(ProtocolError, match="finished"):
        played.devices[0].unmask(Proof(tag=played.proof.tag, votes=played.proof.votes[1:]))


def test_repeated_delivery_gets_the_same_bytes_even_for_another_vector() -> None:
    played = Round(session(4)).until("share")
    device, delivery = played.devices[0], played.deliveries[0]
    first = device.mask(delivery, played.vectors[0])
    again = device.mask(delivery, played.vectors[1])
    assert again.to_bytes() == first.to_bytes()


def test_device_refuses_a_second_question_of_a_phase() -> None:
    played = Round(session(5)).until("vote")
    other = Survivors(tag=played.survivors.tag, devices=played.survivors.devices[1:])
    with pytest.raises(ProtocolError, match="'unmask'"):
        played.devices[2].vote(other)
    played.unmask()
    assert np.array_equal(played.server.total(), played.expected())


def test_reordered_questions_are_refused_and_change_nothing() -> None:
    played = Round(session(4)).until("share")
    late = Round(session(4)).until("vote")
    device = played.devices[0]
    with pytest.raises(ProtocolError, match="'mask', found 'vote'"):
        device.vote(late.survivors)
    with pytest.raises(ProtocolError, match="'mask', found 'unmask'"):
        device.unmask(late.proof)
    with pytest.raises(ProtocolError, match="'mask', found 'share'"):
        device.share(late.keys)
    for phase in ("mask", "vote", "unmask"):
        getattr(played, phase)()
    assert np.array_equal(played.server.total(), played.expected())


def test_question_of_another_round_is_refused_and_changes_nothing() -> None:
    played, foreign = Round(session(4)), Round(session(4, round=2)).until("vote")
    asked: list[tuple[str, Any]] = [
        ("advertise", lambda device: device.share(foreign.keys)),
        ("share", lambda device: device.mask(foreign.deliveries[0], foreign.vectors[0])),
        ("mask", lambda device: device.vote(foreign.survivors)),
        ("vote", lambda device: device.unmask(foreign.proof)),
    ]
    for phase, replay in asked:
        getattr(played, phase)()
        with pytest.raises(ProtocolError, match="of another was refused"):
            replay(played.devices[0])
    played.unmask()
    assert np.array_equal(played.server.total(), played.expected())


def test_device_needs_a_quorum() -> None:
    played = Round(session(7)).until("vote")
    assert played.session.quorum == 4
    votes, tag = played.proof.votes, played.proof.tag
    few, forged = votes[:3], tuple((i, flipped(vote)) for i, vote in votes)
    for number, (bad, found) in enumerate(((few, 3), (forged, 0), ((), 0))):
        device = played.devices[number]
        with pytest.raises(RunError, match=f"found {found}: nothing is opened"):
            device.unmask(Proof(tag=tag, votes=bad))
        assert device._keys is None
    enough = Proof(tag=tag, votes=votes[:4])
    assert len(played.devices[5].unmask(enough).seeds) == 6


def test_votes_do_not_count_under_another_name() -> None:
    played = Round(session(7)).until("vote")
    own = played.proof.votes[0][1]
    copied = Proof(tag=played.proof.tag, votes=tuple((i, own) for i in range(7)))
    with pytest.raises(RunError, match="found 1"):
        played.devices[3].unmask(copied)


def test_split_view_of_the_survivors_opens_nothing() -> None:
    played = Round(session(7, colluders=2, minimum=5)).until("mask")
    everyone = played.survivors.devices
    views = (everyone, tuple(i for i in everyone if i != 3))
    votes = {}
    for number, device in played.devices.items():
        seen = Survivors(tag=played.survivors.tag, devices=views[number % 2])
        votes[number] = device.vote(seen).signature
    proof = Proof(tag=played.survivors.tag, votes=tuple(sorted(votes.items())))
    for device in played.devices.values():
        with pytest.raises(RunError, match="different lists"):
            device.unmask(proof)


@given(devices=st.integers(3, 5000), data=st.data())
def test_two_agreements_cannot_both_have_a_quorum(devices: int, data: st.DataObject) -> None:
    # Honest devices sign once, colluders twice.
    colluders = data.draw(st.integers(0, (devices - 1) // 2))
    terms = session(3)
    object.__setattr__(terms, "roster", range(devices))
    object.__setattr__(terms, "colluders", colluders)
    assert 2 * terms.quorum > (devices - colluders) + 2 * colluders
    assert terms.quorum - colluders > (devices - colluders) / 2  # Most of the honest ones.
    assert terms.quorum <= devices


def test_split_view_of_the_key_list_opens_nothing() -> None:
    # Device 6 works with the server and signs two sets of keys; each half sees another one.
    played = Round(session(7, colluders=1))
    twin = Device(session=played.session, number=6, identity=identity(6))
    adverts = {i: device.advertise() for i, device in played.devices.items()}
    keys = KeyList(tag=played.session.tag, adverts=tuple(adverts[i] for i in range(7)))
    views = {i: keys if i < 3 else listed(keys, twin.advertise()) for i in range(6)}
    shares = {i: dict(played.devices[i].share(views[i]).boxes) for i in range(6)}
    everyone = tuple(range(7))
    for box in shares.values():
        assert set(box) <= set(everyone)
    votes = []
    for i in range(6):
        boxes = tuple((j, shares[j][i]) for j in range(6) if j != i)
        colluders = ((6, bytes(82)),)
        sent = Delivery(
            tag=played.session.tag, receiver=i, sharers=everyone, boxes=boxes + colluders
        )
        played.devices[i].mask(sent, played.vectors[i])
        survivors = Survivors(tag=played.session.tag, devices=everyone)
        votes.append((i, played.devices[i].vote(survivors).signature))
    proof = Proof(tag=played.session.tag, votes=tuple(votes))
    for i in range(6):
        with pytest.raises(RunError, match="found 3"):
            played.devices[i].unmask(proof)


def test_device_opens_one_kind() -> None:
    played = Round(session(7), {"mask": [2, 5]}).until("vote")
    for number, device in played.devices.items():
        openings = device.unmask(played.proof)
        seeds, keys = dict(openings.seeds), dict(openings.keys)
        assert set(seeds) == set(played.survivors.devices) - {number}
        assert set(keys) == {2, 5}


@pytest.mark.parametrize("devices", [(0, 1), (0, 1, 2, 9)])
def test_device_does_not_vote_for_few_or_foreign_survivors(devices: tuple[int, ...]) -> None:
    played = Round(session(5)).until("mask")
    with pytest.raises((RunError, ProtocolError)):
        played.devices[0].vote(Survivors(tag=played.session.tag, devices=devices))


def test_device_does_not_vote_for_a_cut_ring() -> None:
    terms = session(120, colluders=6, dropouts=12, minimum=64)
    played = Round(terms).until("mask")
    near = set(played.server._circle.graph.neighbours[5])
    alone = tuple(i for i in range(120) if i not in near)
    assert len(alone) >= terms.minimum
    with pytest.raises(RunError, match="ring"):
        played.devices[5].vote(Survivors(tag=terms.tag, devices=alone))


def deliveries(played: Round) -> dict[str, Delivery]:
    good = played.deliveries[0]
    return {
        "a box is missing": replace(good, boxes=good.boxes[1:]),
        "a sharer is missing": replace(good, sharers=good.sharers[:-1]),
        "another's": played.deliveries[1],
        "not a sharer": replace(good, sharers=good.sharers[1:]),
        "a stranger": replace(good, sharers=(*good.sharers, 77)),
    }


@pytest.mark.parametrize("case", range(5))
def test_contradictory_delivery_is_refused(case: int) -> None:
    played = Round(session(5)).until("share")
    bad = list(deliveries(played).values())[case]
    with pytest.raises(ProtocolError, match="a box from each neighbour"):
        played.devices[0].mask(bad, played.vectors[0])


def test_hidden_sharers_are_too_few() -> None:
    played = Round(session(5)).until("share")
    good = played.deliveries[0]
    few = replace(good, sharers=good.sharers[:2], boxes=good.boxes[:1])
    with pytest.raises(RunError, match="shared their secrets"):
        played.devices[0].mask(few, played.vectors[0])


def test_box_that_does_not_open_costs_one_share_only() -> None:
    played = Round(session(6)).until("share")
    good = played.deliveries[0]
    (sender, box), *others = good.boxes
    spoiled = replace(good, boxes=((sender, flipped(box)), *others))
    played.deliveries[0] = spoiled
    for phase in ("mask", "vote", "unmask"):
        getattr(played, phase)()
    assert sender not in dict(played.server._openings[0].seeds)
    assert np.array_equal(played.server.total(), played.expected())


def test_wrong_opening_is_mended_or_ends_the_round() -> None:
    for liars, mended in (((4,), True), ((1, 2, 3, 4, 5), False)):
        played = Round(session(7)).until("vote")
        for number, device in played.devices.items():
            openings = device.unmask(played.proof)
            if number in liars:
                seeds = tuple((i, bytes(33)) for i, _ in openings.seeds)
                openings = replace(openings, seeds=seeds)
            played.server.receive(openings)
        if mended:
            assert np.array_equal(played.server.total(), played.expected())
        else:
            with pytest.raises(RunError, match="no sum is revealed"):
                played.server.total()


def messages(played: Round) -> dict[str, Any]:
    """One message of each phase, from device 0 of a played round."""
    device = played.devices[0]
    return {
        "advertise": device.advertise,
        "share": lambda: device.share(played.keys),
        "mask": lambda: device.mask(played.deliveries[0], played.vectors[0]),
        "vote": lambda: device.vote(played.survivors),
        "unmask": lambda: device.unmask(played.proof),
    }


PHASES = ("advertise", "share", "mask", "vote", "unmask")


@pytest.mark.parametrize("place", range(5))
def test_server_refuses_without_change(place: int) -> None:
    """Early, late, doubled, foreign, and replayed from another round, in each phase."""
    phase = PHASES[place]
    played = Round(session(5))
    if place:
        played.until(PHASES[place - 1])
    foreign = Round(session(5, round=2))
    if place:
        foreign.until(PHASES[place - 1])
    message = messages(played)[phase]()
    replay = messages(foreign)[phase]()
    with pytest.raises(ProtocolError, match="another was refused"):
        played.server.receive(replay)
    if phase in {"advertise", "vote"}:
        disguised = replace(replay, tag=played.session.tag)
        with pytest.raises(ProtocolError):
            played.server.receive(disguised)
    with pytest.raises(ProtocolError, match="took part"):
        played.server.receive(replace(message, sender=44))
    wrong: Any = Vote(tag=played.session.tag, sender=0, signature=bytes(64))
    if phase == "vote":
        wrong = Openings(tag=played.session.tag, sender=0, seeds=(), keys=())
    with pytest.raises(ProtocolError, match="early or late"):
        played.server.receive(wrong)
    played.server.receive(message)
    played.server.receive(type(message).from_bytes(message.to_bytes()))
    with pytest.raises(ProtocolError, match="second differs"):
        played.server.receive(second(message))
    for later in PHASES[place:]:
        getattr(played, later)()
    assert np.array_equal(played.server.total(), played.expected())


def second(message: Any) -> Any:
    """Another message of the same kind and sender."""
    if hasattr(message, "words"):
        return replace(message, words=message.words + np.uint32(1))
    if hasattr(message, "signature"):
        return replace(message, signature=flipped(message.signature))
    return replace(message, **{"boxes" if hasattr(message, "boxes") else "seeds": ()})


def test_boxes_and_openings_reach_neighbours_only() -> None:
    played = Round(session(5)).until("advertise")
    good = played.devices[0].share(played.keys)
    bad: SealedShares = replace(good, boxes=good.boxes[1:])
    with pytest.raises(ProtocolError, match="one box for each neighbour"):
        played.server.receive(bad)
    played = Round(session(5), {"mask": [4]}).until("vote")
    opened = played.devices[0].unmask(played.proof)
    for wrong in (
        replace(opened, seeds=opened.keys, keys=()),
        replace(opened, seeds=((0, bytes(33)),)),
        replace(opened, keys=((77, bytes(33)),)),
    ):
        with pytest.raises(ProtocolError, match="of the kind that was asked"):
            played.server.receive(wrong)


def test_vector_of_another_length_is_refused() -> None:
    played = Round(session(5)).until("share")
    message = played.devices[0].mask(played.deliveries[0], played.vectors[0])
    with pytest.raises(ProtocolError, match="4 words"):
        played.server.receive(replace(message, words=message.words[:3]))


def test_server_takes_only_what_devices_send() -> None:
    played = Round(session(3)).until("advertise")
    downwards: Any = played.keys
    with pytest.raises(ProtocolError, match="that devices send"):
        played.server.receive(downwards)


def test_server_closes_phases_in_order() -> None:
    played = Round(session(5)).until("share")
    for early in (played.server.proof, played.server.total, played.server.keys):
        with pytest.raises(ProtocolError, match="in order"):
            early()
