"""An independent Modbus device, written by hand from the Modbus standards: no pymodbus, no code of this project.

It reads real requests and answers them, or does what the test scripts for the next one. The same peer speaks Modbus
TCP or RTU, on a real socket, on a pty, or on pymodbus' in-memory transport (for virtual time).
"""

from __future__ import annotations

import asyncio
import os
import struct
import tty
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

WAIT_LIMIT_S = 20.0
CLOSE = None  # the action that breaks the connection


@dataclass(frozen=True)
class PeerRequest:
    """One request as it stood on the wire. ``values`` are those of a write."""

    unit: int
    function: int
    address: int
    count: int
    values: tuple[int, ...] = ()
    transaction: int = 0


Action = bytes | float | None  # bytes to send, seconds to wait, or CLOSE
Script = Callable[["ModbusPeer", PeerRequest], Sequence[Action]]


def register_value(unit: int, address: int) -> int:
    """What every register holds: another value in each unit and at each address."""
    return (unit * 1009 + address * 7 + 3) & 0xFFFF


def bit_value(unit: int, address: int) -> int:
    """What every coil and discrete input holds."""
    return int(register_value(unit, address) % 3 == 0)


def crc(data: bytes) -> bytes:
    """The CRC of Modbus over Serial Line V1.02, appendix B, bit by bit, in the order it is sent."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ 0xA001 if value & 1 else value >> 1
    return struct.pack("<H", value)


def right_pdu(request: PeerRequest) -> bytes:
    """The correct answer: function code and data."""
    if request.function in {1, 2}:
        data = bytearray((request.count + 7) // 8)
        for i in range(request.count):
            data[i // 8] |= bit_value(request.unit, request.address + i) << (i % 8)
        return bytes([request.function, len(data)]) + data
    if request.function in {3, 4}:
        values = [register_value(request.unit, request.address + i) for i in range(request.count)]
        return struct.pack(f">BB{request.count}H", request.function, 2 * request.count, *values)
    return struct.pack(">BHH", request.function, request.address, request.count)


def tcp_frame(transaction: int, unit: int, pdu: bytes) -> bytes:
    """A Modbus TCP frame."""
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


def rtu_frame(unit: int, pdu: bytes) -> bytes:
    """A Modbus RTU frame."""
    return bytes([unit]) + pdu + crc(bytes([unit]) + pdu)


class Wire(Protocol):
    """What a connection can do."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class ModbusPeer:
    """The device: keeps what it was asked, answers rightly, or as scripted for the next request.

    Each request is answered on its own, so that a late answer may come after a later request.
    """

    def __init__(self, *, rtu: bool) -> None:
        self.rtu = rtu
        self.requests: list[PeerRequest] = []
        self.scripts: deque[Script] = deque()
        self.default: Script = lambda peer, request: [peer.answer(request)]
        self.connections = 0
        self.wires: list[Wire] = []
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def frame(self, request: PeerRequest, pdu: bytes, unit: int | None = None) -> bytes:
        """Any PDU, framed as an answer to ``request``."""
        unit = request.unit if unit is None else unit
        return rtu_frame(unit, pdu) if self.rtu else tcp_frame(request.transaction, unit, pdu)

    def answer(self, request: PeerRequest) -> bytes:
        """The right answer to ``request``."""
        return self.frame(request, right_pdu(request))

    async def saw(self, count: int) -> None:
        """Return once ``count`` requests have come."""
        await self._until(lambda: len(self.requests) >= count)

    async def connected(self, count: int) -> None:
        """Return once ``count`` connections have been made."""
        await self._until(lambda: self.connections >= count)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_LIMIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def opened(self, wire: Wire) -> None:
        """Note a connection."""
        self.connections += 1
        self.wires.append(wire)
        self._changed.set()

    def feed(self, wire: Wire, buffer: bytearray) -> None:
        """Take whole requests out of ``buffer`` and answer them."""
        while request := (take_rtu(buffer) if self.rtu else take_tcp(buffer)):
            self.requests.append(request)
            self._changed.set()
            script = self.scripts.popleft() if self.scripts else self.default
            task = asyncio.get_running_loop().create_task(self._act(wire, script(self, request)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _act(self, wire: Wire, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, bytes):
                wire.write(action)
            elif action is CLOSE:
                wire.close()
            else:
                await asyncio.sleep(action)

    async def end(self) -> None:
        """Stop answering."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.sleep(0)


def take_tcp(buffer: bytearray) -> PeerRequest | None:
    """Take one request off a TCP stream."""
    if len(buffer) < 8:
        return None
    transaction, protocol, length, unit = struct.unpack_from(">HHHB", buffer)
    assert protocol == 0, "the driver sent a wrong protocol identifier"
    if len(buffer) < 6 + length:
        return None
    pdu = bytes(buffer[7 : 6 + length])
    del buffer[: 6 + length]
    return parse(unit, pdu, transaction)


def take_rtu(buffer: bytearray) -> PeerRequest | None:
    """Take one request off a serial line; its length follows from its function code."""
    if len(buffer) < 8:
        return None
    size = 8 if buffer[1] in {1, 2, 3, 4} else 9 + buffer[6]
    if len(buffer) < size:
        return None
    frame = bytes(buffer[:size])
    del buffer[:size]
    assert crc(frame[:-2]) == frame[-2:], "the driver sent a wrong CRC"
    return parse(frame[0], frame[1:-2], 0)


def parse(unit: int, pdu: bytes, transaction: int) -> PeerRequest:
    """Read a request's PDU; functions 1 to 4 and 16 are all that the driver may send."""
    function, address, count = struct.unpack_from(">BHH", pdu)
    if function in {1, 2, 3, 4}:
        assert len(pdu) == 5, "a read has five bytes"
        return PeerRequest(unit, function, address, count, (), transaction)
    assert function == 16, f"unexpected function {function}"
    assert pdu[5] == 2 * count, "the byte count of a write"
    assert len(pdu) == 6 + 2 * count, "the length of a write"
    return PeerRequest(unit, function, address, count, struct.unpack_from(f">{count}H", pdu, 6), transaction)


# --- where it listens ------------------------------------------------------------------------------------------


class _TcpProtocol(asyncio.Protocol):
    def __init__(self, peer: ModbusPeer) -> None:
        self._peer = peer
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._peer.opened(transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._peer.feed(self._transport, self._buffer)


@asynccontextmanager
async def tcp_peer(port: int = 0) -> AsyncIterator[tuple[ModbusPeer, int]]:
    """A Modbus TCP device on 127.0.0.1; yields it and its port."""
    peer = ModbusPeer(rtu=False)
    server = await asyncio.get_running_loop().create_server(lambda: _TcpProtocol(peer), "127.0.0.1", port)
    try:
        yield peer, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for wire in peer.wires:
            wire.close()
        await peer.end()
        await server.wait_closed()


class _Master:
    """The device's end of a pty."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def close(self) -> None:
        """A serial line has no connection to break."""


@asynccontextmanager
async def pty_peer() -> AsyncIterator[tuple[ModbusPeer, str]]:
    """A Modbus RTU device on a pty, which knows no baud rate and no parity; yields it and its path."""
    peer = ModbusPeer(rtu=True)
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    loop = asyncio.get_running_loop()
    wire, buffer = _Master(master), bytearray()

    def readable() -> None:
        buffer.extend(os.read(master, 4096))
        peer.feed(wire, buffer)

    loop.add_reader(master, readable)
    peer.opened(wire)
    try:
        yield peer, os.ttyname(slave)
    finally:
        await peer.end()
        loop.remove_reader(master)
        os.close(master)
        os.close(slave)


class _MemoryProtocol:
    """The device's end of pymodbus' in-memory transport, which wants these three methods of a protocol."""

    def __init__(self, peer: ModbusPeer) -> None:
        self._peer = peer
        self._buffer = bytearray()
        self._wire: Wire | None = None

    def handle_new_connection(self) -> _MemoryProtocol:
        return _MemoryProtocol(self._peer)

    def connection_made(self, transport: Wire) -> None:
        self._wire = transport
        self._peer.opened(transport)

    def data_received(self, data: bytes) -> None:
        assert self._wire is not None
        self._buffer += data
        self._peer.feed(self._wire, self._buffer)

    def connection_lost(self, error: Exception | None) -> None:
        """Nothing is kept that would have to go."""


@asynccontextmanager
async def memory_peer(port: int, *, rtu: bool) -> AsyncIterator[ModbusPeer]:
    """A device on the in-memory transport, for virtual time."""
    # Only this in-memory pipe is pymodbus', and only here, so that a real peer needs nothing of it.
    from pymodbus.transport.transport import NullModem  # noqa: PLC0415 - see above

    peer = ModbusPeer(rtu=rtu)
    listener = NullModem.set_listener(port, _MemoryProtocol(peer))  # type: ignore[arg-type]  # duck-typed
    try:
        yield peer
    finally:
        await peer.end()
        listener.close()
        for wire in peer.wires:
            wire.close()
