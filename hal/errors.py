"""Errors that end a device call. Each says whether the thing asked for happened.

Faults, which are conditions with a lifetime, live in controller/model/faults.py. Libraries' own errors are
mapped to these in can_port.py and modbus_link.py only, with the original kept as ``__cause__``.

    HalError
    ├─ LinkDown          NOT_SENT   the bus or socket cannot carry messages
    ├─ NoReply           UNKNOWN    sent, nothing came back: it may have happened
    ├─ ProtocolError     UNKNOWN    an answer came that cannot be trusted
    ├─ DeviceRefused     REFUSED    the device said no, with a reason
    ├─ DeviceFaulted     FAILED     the device reports a fault of its own
    ├─ MotionFailed      FAILED     stopped short of the target; the position is known
    ├─ StaleReading      NOT_SENT   too old to decide on
    ├─ NotClaimed        REFUSED    commanded without the claim, or claimed by another
    ├─ NotReady          REFUSED    the lifecycle state does not allow the command
    └─ StopLatched       REFUSED    a stop is latched: nothing but stop is accepted
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Outcome(StrEnum):
    """The answer to "did it happen?"."""

    NOT_SENT = "not_sent"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    FAILED = "failed"


class HalError(Exception):
    """A device call ended without success.

    Attributes:
        device: id of the device or link, for example ``dock1.clamp``.
        operation: what was asked, for example ``move_to``.
        detail: one sentence for a person.
    """

    outcome: ClassVar[Outcome] = Outcome.UNKNOWN

    def __init__(self, device: str, operation: str, detail: str) -> None:
        super().__init__(f"{device}: {operation}: {detail}")
        self.device = device
        self.operation = operation
        self.detail = detail


class LinkDown(HalError):
    """The bus or socket cannot carry messages; nothing was sent."""

    outcome = Outcome.NOT_SENT


class NoReply(HalError):
    """Sent, and no answer in time: it may or may not have happened. Read the device before trying again."""

    outcome = Outcome.UNKNOWN


class ProtocolError(HalError):
    """An answer came that cannot be trusted (length, checksum, counter, another unit's)."""

    outcome = Outcome.UNKNOWN


class DeviceRefused(HalError):
    """The device said no. ``code`` is the device's own reason (Modbus exception code or refusal register)."""

    outcome = Outcome.REFUSED

    def __init__(self, device: str, operation: str, detail: str, code: int) -> None:
        super().__init__(device, operation, detail)
        self.code = code


class DeviceFaulted(HalError):
    """The device reports a fault of its own. ``code`` is the vendor's."""

    outcome = Outcome.FAILED

    def __init__(self, device: str, operation: str, detail: str, code: int) -> None:
        super().__init__(device, operation, detail)
        self.code = code


class MotionFailed(HalError):
    """The axis or bolt stopped short of its goal and its position is known."""

    outcome = Outcome.FAILED


class StaleReading(HalError):
    """The newest reading is too old, or of bad quality, to decide on."""

    outcome = Outcome.NOT_SENT


class NotClaimed(HalError):
    """Commanded without holding the claim, or the claim belongs to another."""

    outcome = Outcome.REFUSED


class NotReady(HalError):
    """The device's lifecycle state does not allow the command (not connected, not enabled)."""

    outcome = Outcome.REFUSED


class StopLatched(HalError):
    """A stop is latched: the HAL refuses every command but stop until the latch is cleared."""

    outcome = Outcome.REFUSED


class InvariantError(Exception):
    """A bug of ours. Never caught below the composition root."""


def invariant(condition: object, why: str) -> None:
    """Raise InvariantError unless ``condition`` holds. Unlike ``assert`` it is there under ``-O`` too."""
    if not condition:
        raise InvariantError(why)
