"""Modbus answers: cut from the bytes of a line and held against the one request that is on the wire.

Pure: no I/O, no clock. Total: any bytes give an answer, a problem, or the wish for more bytes; nothing raises.

Standards cited: "spec" is MODBUS Application Protocol V1.1b3, "serial" is MODBUS over Serial Line V1.02,
"messaging" is MODBUS Messaging on TCP/IP Implementation Guide V1.0b.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

READ_COILS, READ_DISCRETE, READ_HOLDING, READ_INPUT, WRITE_REGISTERS = 1, 2, 3, 4, 16  # spec 6.1 to 6.4, 6.12
_BITS = (READ_COILS, READ_DISCRETE)

HEADER_BYTES = 7  # messaging 3.1.3: transaction, protocol, length, unit
SHORTEST_RTU = 5  # serial 2.5.1: unit, function, exception code, CRC
LONGEST_RTU = 256  # serial 2.5.1
NOISE_BYTES = 8  # what a line's turn-around may put in front of a frame

# spec 7
EXCEPTION_TEXTS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledged, still working on it",
    6: "device busy",
    7: "negative acknowledge",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target failed to respond",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """The request on the wire, as far as its answer depends on it."""

    unit: int
    function: int
    address: int
    count: int
    transaction: int  # 0 on RTU, which has none

    @property
    def data_bytes(self) -> int:
        """How many data bytes the answer to this read carries (spec 6.1 to 6.4)."""
        return (self.count + 7) // 8 if self.function in _BITS else 2 * self.count


@dataclass(frozen=True, slots=True)
class Answer:
    """Values (none after a write), or the device's refusal code, or why the bytes cannot be trusted."""

    values: Sequence[int] = ()
    refusal: int | None = None
    problem: str = ""


def judge(ask: Ask, unit: int, pdu: bytes) -> Answer:
    """Hold a whole answer, function code and data, against its request."""
    if len(pdu) == 2 and pdu[0] == ask.function | 0x80 and unit == ask.unit:
        return Answer(refusal=pdu[1])
    if problem := _mismatch(ask, unit, pdu):
        return Answer(problem=problem)
    if ask.function == WRITE_REGISTERS:
        return Answer()
    if ask.function in _BITS:
        return Answer([pdu[2 + i // 8] >> i % 8 & 1 for i in range(ask.count)])
    return Answer(struct.unpack_from(f">{ask.count}H", pdu, 2))


def _mismatch(ask: Ask, unit: int, pdu: bytes) -> str:
    if unit != ask.unit:
        return f"answer of unit {unit}, asked was {ask.unit}"
    if pdu[0] != ask.function:
        return f"answer to function {pdu[0]}, asked was {ask.function}"
    if ask.function == WRITE_REGISTERS:
        right = pdu[1:] == struct.pack(">HH", ask.address, ask.count)
        return "" if right else f"the echo of the write does not match: {pdu.hex()}"
    size = ask.data_bytes
    if len(pdu) != 2 + size or pdu[1] != size:
        return f"{size} data bytes were expected, not {pdu[1:].hex()}"
    return ""


class Stream(Protocol):
    """The received bytes of one connection. ``unread`` did not become an answer yet.

    Attributes:
        unasked: bytes (RTU) or frames (TCP) that belong to no request, since it was last set to 0.
        broken: why nothing more can be read from this connection; empty while it is good.
    """

    unread: bytearray
    unasked: int
    broken: str

    def take(self, data: bytes, ask: Ask | None) -> Answer | None:
        """Take new bytes; return the answer to ``ask`` once it is whole."""
        ...

    def settle(self) -> None:
        """Note that the request has ended, with or without its answer."""
        ...


class TcpStream:
    """Cuts by the length in the header; a frame of another transaction is a late answer and is skipped.

    TCP frames carry no checksum. What can be seen is a header that does not fit, or that the bytes behind an answer
    are no frame: then one was cut short or padded, an answer may have been put together of two, and the connection is
    of no more use.
    """

    def __init__(self) -> None:
        self.unread = bytearray()
        self.unasked = 0
        self.broken = ""

    def take(self, data: bytes, ask: Ask | None) -> Answer | None:
        """Take new bytes; what is kept is never longer than one frame."""
        self.unread += data
        answer: Answer | None = None
        while len(self.unread) >= HEADER_BYTES:
            transaction, protocol, length, unit = struct.unpack_from(">HHHB", self.unread)
            if protocol or not 2 <= length <= 254:
                return self._break(f"not a Modbus header: {self.unread[:HEADER_BYTES].hex()}")
            if len(self.unread) < 6 + length:
                break
            pdu = bytes(self.unread[HEADER_BYTES : 6 + length])
            del self.unread[: 6 + length]
            if not ask or answer or transaction != ask.transaction:
                self.unasked += 1
                continue
            answer = judge(ask, unit, pdu)
            if unit != ask.unit:  # no header of ours: it may have been put together of two
                return self._break(answer.problem)
        if answer and self.unread:
            return self._break(f"bytes behind the answer: {self.unread[:HEADER_BYTES].hex()}")
        return answer

    def _break(self, problem: str) -> Answer:
        self.broken = problem
        self.unread.clear()
        return Answer(problem=problem)

    def settle(self) -> None:
        """Keep what is unread: the next frame starts behind it."""


class RtuStream:
    """Looks for the one frame that can be the answer: unit, function, length and CRC all fit (serial 2.5.1)."""

    def __init__(self) -> None:
        self.unread = bytearray()
        self.unasked = 0
        self.broken = ""  # a serial line has no state that could break

    def take(self, data: bytes, ask: Ask | None) -> Answer | None:
        """Take new bytes; bytes that nobody asked for are only counted."""
        if ask is None:
            self.unasked += len(data)
            return None
        self.unread += data[: 2 * LONGEST_RTU]
        del self.unread[2 * LONGEST_RTU :]
        whole = 8 if ask.function == WRITE_REGISTERS else 5 + ask.data_bytes
        sizes = {ask.function: whole, ask.function | 0x80: SHORTEST_RTU}
        for start in range(min(len(self.unread) - SHORTEST_RTU, NOISE_BYTES) + 1):
            size = sizes.get(self.unread[start + 1], 0)
            surplus = len(self.unread) - start - size
            if self.unread[start] != ask.unit or not size or surplus < 0:
                continue
            frame = bytes(self.unread[start : start + size])
            if crc16(frame):
                continue
            self.unread.clear()
            self.unasked += surplus
            if surplus >= SHORTEST_RTU:  # a late answer and the right one may look the same: trust neither
                return Answer(problem=f"{surplus} more bytes followed the answer")
            return judge(ask, frame[0], frame[1:-2])
        return None

    def settle(self) -> None:
        """Drop what is unread: it is no part of the next answer."""
        self.unread.clear()


def _crc_row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)  # the polynomial of serial appendix B, reflected
    return byte


_CRC_TABLE = tuple(_crc_row(byte) for byte in range(256))


def crc16(data: bytes) -> int:
    """Return the CRC of serial 2.5.1.2, sent low byte first; over a frame with its CRC it is 0."""
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc
