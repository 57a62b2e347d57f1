"""The bytes of a secure sum, counted against a real one."""

import pytest
from summing import Round, session, wire

from shared.privacy.secure_sum.traffic import traffic


@pytest.mark.parametrize(
    ("devices", "dimension", "colluders", "dropouts"), [(5, 40, 0, 0), (120, 30, 6, 6)]
)
def test_traffic_is_that_of_a_real_sum(
    devices: int, dimension: int, colluders: int, dropouts: int
) -> None:
    """What one device says and hears, to the byte; 120 devices are joined on a ring."""
    terms = session(devices, dimension=dimension, colluders=colluders, dropouts=dropouts)
    played = Round(terms)
    device, server = played.devices[0], played.server
    played.advertise()
    up, down = [device.advertise()], [played.keys]
    played.share()
    up, down = [*up, device.share(played.keys)], [*down, played.deliveries[0]]
    near = len(played.deliveries[0].boxes)
    assert near == devices - 1 if devices <= 100 else near < devices - 1
    for number, other in played.devices.items():
        masked = other.mask(played.deliveries[number], played.vectors[number])
        server.receive(wire(masked))
        up += [masked] if number == 0 else []
    played.survivors = wire(server.survivors())
    played.vote()
    up, down = [*up, device.vote(played.survivors)], [*down, played.survivors, played.proof]
    played.unmask()
    up.append(device.unmask(played.proof))
    assert (server.total() == played.expected()).all()
    roster = 32 * devices
    found = traffic(devices=devices, dimension=dimension, colluders=colluders, dropouts=dropouts)
    assert found == (
        sum(len(m.to_bytes()) for m in up),
        sum(len(m.to_bytes()) for m in down) + roster,
    )
