"""What every message is made of: tensors as raw bytes, settings of exact keys and types.

Reading is strict: the schema version, the exact keys and their types, the declared size of every
tensor against its bytes, before anything is allocated.
"""

import hashlib
from collections.abc import Mapping
from math import prod

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from shared.errors import ProtocolError

__all__ = [
    "SCHEMA",
    "TYPES",
    "Tensors",
    "arrays",
    "config",
    "config_fields",
    "message_bytes",
    "only",
    "pack",
    "state_digest",
    "unpack",
]

SCHEMA = 1
RAW = "raw-little-endian"
TYPES: dict[str, np.dtype[np.floating]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}

Floats = NDArray[np.floating]
Tensors = Mapping[str, Floats]


def pack(tensors: Mapping[str, NDArray[np.floating]]) -> ArrayRecord:
    """Pack float tensors as raw bytes; the name order is sorted, so equal input, equal bytes.

    Raises:
        ProtocolError: A tensor is neither float32 nor float64.
    """
    return ArrayRecord({name: _packed(name, tensors[name]) for name in sorted(tensors)})


def _packed(name: str, tensor: NDArray[np.floating]) -> Array:
    kind = str(tensor.dtype)
    if kind not in TYPES:
        raise ProtocolError(f"Tensor {name} is {kind}; only float32 and float64 travel.")
    data = np.asarray(tensor, TYPES[kind]).tobytes()
    return Array(kind, tuple(int(n) for n in tensor.shape), RAW, data)


def unpack(record: ArrayRecord) -> dict[str, Floats]:
    """Return read-only views of the packed tensors; sizes are checked before any view is made.

    Raises:
        ProtocolError: Another serialisation, number type or size than declared.
    """
    return {str(name): _unpacked(array) for name, array in record.items()}


def _unpacked(array: Array) -> Floats:
    kind = TYPES.get(array.dtype)
    if array.stype != RAW or kind is None:
        raise ProtocolError("A tensor is not packed as raw float32 or float64; resend it so.")
    if any(n < 0 for n in array.shape) or prod(array.shape) * kind.itemsize != len(array.data):
        raise ProtocolError("A tensor's bytes do not match its declared shape; resend it whole.")
    return np.frombuffer(array.data, kind).reshape(array.shape)


def state_digest(tensors: Tensors) -> str:
    """Return the SHA-256 (hex) of names, shapes, types and bytes."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        whole.update(f"{name}:{value.dtype}:{value.shape};".encode())
        whole.update(np.ascontiguousarray(value).data)
    return whole.hexdigest()


def message_bytes(records: RecordDict) -> int:
    """Return the payload of a message: tensor bytes, config values and names, no framing."""
    size = 0
    for record in records.values():
        for name, value in record.items():
            size += len(str(name))
            if isinstance(value, Array):
                size += len(value.data)
            else:
                size += len(value) if isinstance(value, (str, bytes)) else 8
    return size


def config(values: Mapping[str, object]) -> ConfigRecord:
    """Return a settings record."""
    return ConfigRecord(dict(values))  # type: ignore[arg-type]


def only(records: RecordDict, names: set[str]) -> None:
    """Refuse a message with other records than these; ProtocolError."""
    if set(records) != names:
        raise ProtocolError(f"Expected the records {sorted(names)} and no other in a message.")


def arrays(records: RecordDict, name: str) -> ArrayRecord:
    """Return one record of tensors; ProtocolError if it is something else."""
    record = records[name]
    if not isinstance(record, ArrayRecord):
        raise ProtocolError(f"Expected tensors in the record {name} of a message.")
    return record


def config_fields(
    records: RecordDict, name: str, kinds: Mapping[str, type], *, versioned: bool = True
) -> dict[str, object]:
    """Return one config record whose keys and types are exactly `kinds`."""
    record = records.get(name)
    if not isinstance(record, ConfigRecord):
        raise ProtocolError(f"Expected the settings record {name} in a message.")
    found: dict[str, object] = dict(record)
    # By type too: True equals 1.
    schema = found.pop("schema", None) if versioned else SCHEMA
    if type(schema) is not int or schema != SCHEMA:
        raise ProtocolError(f"Expected wire schema {SCHEMA}; run the same version on both ends.")
    if set(found) != set(kinds) or any(type(found[key]) is not kinds[key] for key in kinds):
        raise ProtocolError(f"Expected the keys {sorted(kinds)} with their types in {name}.")
    return found
