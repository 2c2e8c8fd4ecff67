"""CAN frames as the kernel writes them, and what its error frames mean. Pure."""

from __future__ import annotations

import struct
from typing import NamedTuple

import can

from hal.types import CanFrame, LinkState

# linux/can.h and linux/can/error.h, version 6.1.
EXTENDED, REMOTE, ERROR = 0x8000_0000, 0x4000_0000, 0x2000_0000
EXTENDED_IDS, STANDARD_IDS = 0x1FFF_FFFF, 0x7FF
FRAME = struct.Struct("=IB3x8s")
BUS_OFF, RESTARTED, CONTROLLER, COUNTERS = 0x40, 0x100, 0x04, 0x200
PASSIVE, NOT_PASSIVE = 0x30, 0x4C  # controller flags: rx or tx passive; rx or tx warning, active
ERROR_CLASSES = {
    0x01: "tx_timeouts",
    0x02: "arbitration_lost",
    0x08: "protocol_errors",
    0x10: "transceiver_errors",
    0x20: "no_acknowledge",
    0x40: "bus_off",
    0x80: "bus_errors",
    0x100: "restarts",
}
CONTROLLER_FLAGS = {
    0x01: "rx_overflows",
    0x02: "tx_overflows",
    0x04: "error_warning",
    0x08: "error_warning",
    0x10: "error_passive",
    0x20: "error_passive",
}


class QueueFull(Exception):
    """A transport cannot take the frame now; the bus itself is all right."""


class RawFrame(NamedTuple):
    """A received frame: identifier with the flags of ``struct can_frame``, length code, data, loop time."""

    can_id: int
    dlc: int
    data: bytes
    at: float


class ControllerEvent(NamedTuple):
    """What an error frame says. ``state`` is None where it says nothing about the controller's state."""

    counters: tuple[str, ...]
    state: LinkState | None
    tec: int | None
    rec: int | None


def decode_error_frame(can_id: int, data: bytes) -> ControllerEvent:
    """Decode an error frame (linux/can/error.h): class in the identifier, details in the data."""
    detail = data.ljust(8, b"\0")
    flags = detail[1] if can_id & CONTROLLER else 0
    names = [name for bit, name in ERROR_CLASSES.items() if can_id & bit]
    names += dict.fromkeys(name for bit, name in CONTROLLER_FLAGS.items() if flags & bit)
    state = None
    if can_id & BUS_OFF:
        state = LinkState.BUS_OFF
    elif flags & PASSIVE:
        state = LinkState.ERROR_PASSIVE
    elif can_id & RESTARTED or flags & NOT_PASSIVE:
        state = LinkState.UP
    counted = bool(can_id & COUNTERS)
    return ControllerEvent(tuple(names), state, detail[6] if counted else None, detail[7] if counted else None)


def raw_frame(message: can.Message, at: float) -> RawFrame:
    """Return what python-can read, as the kernel would write it."""
    flags = (
        (EXTENDED if message.is_extended_id else 0)
        | (REMOTE if message.is_remote_frame else 0)
        | (ERROR if message.is_error_frame else 0)
    )
    return RawFrame(message.arbitration_id | flags, message.dlc, bytes(message.data), at)


def can_message(frame: CanFrame) -> can.Message:
    """Return a frame as python-can sends it."""
    return can.Message(arbitration_id=frame.can_id, data=frame.data, is_extended_id=frame.extended)
