"""The exception tree: one sentence for the person, one exit code for the shell.

FedrecError                  1  something failed
├── InputError               2  bad usage, bad configuration or bad data
│   ├── ConfigError          2  a setting that is unknown, impossible or contradictory
│   ├── DataError            2  a file, line or table that cannot be used
│   └── MissingExtraError    2  a feature whose optional dependency is not installed
├── ProtocolError            1  a message that does not follow the wire schema
├── RunError                 1  a run that cannot go on (quorum, checkpoint, disk)
├── BudgetError              3  the privacy budget is exhausted, or consent is missing
└── VerificationError        4  a claim that does not survive recomputation

Every message says what, where, why and what to do, in one sentence, and never holds a user's
datum: an item id, a rating, a row count of one person. A file name, a line number and the name of
a setting are allowed.
"""

from typing import ClassVar

__all__ = [
    "BudgetError",
    "ConfigError",
    "DataError",
    "FedrecError",
    "InputError",
    "MissingExtraError",
    "ProtocolError",
    "RunError",
    "VerificationError",
]


class FedrecError(Exception):
    """Root of the tree; `exit_code` is what the command returns to the shell."""

    exit_code: ClassVar[int] = 1


class InputError(FedrecError):
    """Bad usage, configuration or data: the caller can mend it."""

    exit_code: ClassVar[int] = 2


class ConfigError(InputError):
    """A setting is unknown, impossible or contradicts another one."""


class DataError(InputError):
    """A file, a line or a table cannot be used as interactions."""


class MissingExtraError(InputError):
    """An optional dependency is not installed; the message names the install line."""


class ProtocolError(FedrecError):
    """A message does not follow the wire schema."""


class RunError(FedrecError):
    """A run cannot go on."""


class BudgetError(FedrecError):
    """The privacy budget is exhausted, or consent is missing."""

    exit_code: ClassVar[int] = 3


class VerificationError(FedrecError):
    """A claim does not survive recomputation."""

    exit_code: ClassVar[int] = 4
