"""Who signs a ledger: an Ed25519 key made at first use, in a file that only its owner can read."""

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Self

from shared.errors import RunError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["Identity", "verified"]


class Identity:
    """A key that signs.

    Guarantees:
        The file is readable and writable by its owner only, and complete or absent.
        A file that others can read is refused.
        The private key is in no message, and in no file but its own.
    """

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw().hex()

    @classmethod
    def make(cls, path: Path) -> Self:
        """Return the key in a file; a new one is written where there is none.

        Raises:
            RunError: It cannot be written, or what is there is no key or not private.
        """
        if not path.exists():
            _write(path)
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the key in a file.

        Raises:
            RunError: The file is missing, no Ed25519 key, or readable by others.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise RunError(f"Key {path} can be read by others; run chmod 600 on it.")
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise RunError(
                f"Cannot read key {path}: {error.strerror}; put back the file that belongs to the "
                "ledger, or begin another ledger."
            ) from error
        except (ValueError, TypeError) as error:
            raise RunError(f"{path} holds no key; put back the one of the ledger.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise RunError(f"{path} holds a key of another kind; put back the one of the ledger.")
        return cls(key)

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of a message, 64 bytes."""
        return self._key.sign(message)


def verified(public_key: str, message: bytes, signature: bytes) -> bool:
    """Return whether a signature is by the holder of a public key (hex)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _write(path: Path) -> None:
    """Write a new key aside and give it its name, unless another process was first."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    made = Ed25519PrivateKey.generate()
    text = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    aside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        aside.unlink(missing_ok=True)
        number = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces a key that is already in use.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(aside)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise RunError(f"Cannot write key {path}: {error.strerror}; free it.") from error
    finally:
        aside.unlink(missing_ok=True)
