"""A device in the secure sums of its run: one session at a time, five phases each.

Secrets of a session live in memory alone. What keeps a device from taking part twice is its
ledger: `participant` reserves a charge before the device says anything, and notes it as used up
before the masked vector leaves. From then on the same order is refused, whatever became of the
sum; before, nothing that depends on data left, so it may be taken up again after a crash.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.algorithms.base import Algorithm, Memory
from shared.errors import ProtocolError
from shared.privacy.distributed import Veiled
from shared.privacy.secure_sum.device import Device
from shared.privacy.secure_sum.messages import Delivery, KeyList, Proof, Survivors
from shared.privacy.secure_sum.session import Session
from shared.protocol import Order, Step

__all__ = ["Admitted", "SecureSums"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Admitted:
    """An order that passed every check and is paid for.

    Attributes:
        order: The order.
        algorithm: Its learning method.
        reservation: The charge in the ledger.
    """

    order: Order
    algorithm: Algorithm
    reservation: int


@dataclass(kw_only=True, slots=True, eq=False)
class _Session:
    admitted: Admitted
    device: Device = field(repr=False)
    masked: tuple[Step, Step, Memory] | None = field(default=None, repr=False)


class SecureSums:
    """The sessions of one device.

    Guarantees:
        A repeated message of a phase gets the same bytes; noise is never redrawn.
        Nothing but the masked vector depends on the device's data.
    """

    def __init__(self) -> None:
        self._identity = Ed25519PrivateKey.generate()
        self._session: _Session | None = None

    @property
    def identity(self) -> bytes:
        """The device's Ed25519 public key, 32 bytes."""
        return self._identity.public_key().public_bytes_raw()

    def knows(self, order: Order) -> bool:
        """Whether the present session is of this order."""
        return self._session is not None and self._session.admitted.order.digest == order.digest

    def number(self, roster: tuple[bytes, ...]) -> int:
        """Return the place of this device in a roster.

        Raises:
            ProtocolError: It is not named there.
        """
        if self.identity not in roster:
            raise ProtocolError("The roster does not name this device; enrol it first.")
        return roster.index(self.identity)

    def begin(self, admitted: Admitted, session: Session) -> Step:
        """Begin a session and return the device's fresh keys; again, the same ones.

        Raises:
            ProtocolError: The roster does not name this device, or the session was begun otherwise.
        """
        if not self.knows(admitted.order):
            number = self.number(session.roster)
            device = Device(session=session, number=number, identity=self._identity)
            self._session = _Session(admitted=admitted, device=device)
        advert = self._open.device.advertise()
        if advert.tag != session.tag:
            raise ProtocolError("The order came with another roster before; it is not begun anew.")
        return self._step("keys", advert.to_bytes())

    @property
    def _open(self) -> _Session:
        if self._session is None:
            raise ProtocolError("Expected an invitation before any other phase of a secure sum.")
        return self._session

    def admitted(self, step: Step) -> Admitted:
        """Return the order that a message belongs to.

        Raises:
            ProtocolError: It is not the present session's.
        """
        admitted = self._open.admitted
        if (step.run, step.round) != (admitted.order.run, admitted.order.round):
            raise ProtocolError("Expected a message of this round's secure sum; it is another's.")
        return admitted

    def mask(self, step: Step, work: Callable[[], tuple[Veiled, Memory]]) -> tuple[Step, Memory]:
        """Return the masked vector and the memory after the work, which is done once.

        Raises:
            ProtocolError: Out of order, or the delivery contradicts what was seen before.
            RunError: Too few devices shared.
        """
        open_ = self._open
        if open_.masked is not None and open_.masked[0] == step:
            return open_.masked[1:]
        if open_.masked is not None:
            raise ProtocolError("The vector was masked for another delivery; it is not made anew.")
        delivery = Delivery.from_bytes(step.message)
        veiled, memory = work()
        masked = open_.device.mask(delivery, veiled.words)
        reply = self._step("mask", masked.to_bytes())
        open_.masked = (step, reply, memory)
        return reply, memory

    def answer(self, step: Step) -> Step:
        """Return the answer of a phase that needs none of the data.

        Raises:
            ProtocolError: Out of order, or the message contradicts what was seen before.
            RunError: A threshold is missed; the session is over and nothing is revealed.
        """
        self.admitted(step)
        device = self._open.device
        answers: dict[str, Callable[[], bytes]] = {
            "share": lambda: device.share(KeyList.from_bytes(step.message)).to_bytes(),
            "vote": lambda: device.vote(Survivors.from_bytes(step.message)).to_bytes(),
            "open": lambda: device.unmask(Proof.from_bytes(step.message)).to_bytes(),
        }
        if step.phase not in answers:
            raise ProtocolError("Expected a phase that needs no order and no data.")
        return self._step(step.phase, answers[step.phase]())

    def _step(self, phase: str, message: bytes) -> Step:
        order = self._open.admitted.order
        return Step(run=order.run, round=order.round, phase=phase, message=message)
