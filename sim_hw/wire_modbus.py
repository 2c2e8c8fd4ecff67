"""Modbus lines of the simulated station: a server of our own over TCP, a pty, or pymodbus' in-memory transport.

Framing and function codes are written from the standards (MODBUS Application Protocol V1.1b3; MODBUS over Serial
Line V1.02; MODBUS Messaging on TCP/IP V1.0b), so that the driver's library is not checked against itself. Requests of
one line are processed one after the other, each after the unit's processing time; an answer keeps the transaction id
of its own request however late it is. Faults act on the wire, per unit. All time is loop time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import struct
import tty
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, cast

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.client.base import ModbusBaseClient
from pymodbus.transport import NULLMODEM_HOST, ModbusProtocol
from pymodbus.transport.transport import NullModem

from hal.types import ModbusLinkSpec, Table
from sim_hw.codec import ExcCode, UnitImage

_READS = {2: (Table.DISCRETE, 2000), 3: (Table.HOLDING, 125), 4: (Table.INPUT, 125)}  # V1.1b3, 6.2 to 6.4
_WRITE_ONE, _WRITE_MANY, _WRITE_MANY_MAX = 6, 16, 123  # V1.1b3, 6.6 and 6.12
_MBAP = struct.Struct(">HHHB")  # transaction, protocol 0, length of what follows, unit
_ADU_MAX = 260  # the longest Modbus TCP frame
_RTU_GAP_CHARS = 3.5  # Serial Line V1.02, 2.5.1.1
_RTU_STALE_S = 0.05  # part of a frame this old is dropped; a loaded host must not cut a frame in two
_NOISE = 0.2  # processing times vary by this share


class WireFaultKind(StrEnum):
    """What can go wrong between a request and its answer."""

    DELAY = "delay"  # the answer comes delay_s late
    DROP = "drop"  # executed, but the answer is lost
    DEAF = "deaf"  # the request is lost: not executed
    GARBLE = "garble"  # the answer is damaged so that its frame cannot be valid
    EXCEPTION = "exception"  # not executed; answered with the exception code
    LENGTH = "length"  # one register too few, the frame itself being valid
    OTHER = "other"  # an answer of another transaction (TCP) or of another unit (RTU)
    CLOSE = "close"  # the connection breaks instead of an answer (TCP)


@dataclass(frozen=True, slots=True)
class WireFault:
    """A fault of one unit's answers. ``until`` is loop time; ``code`` is the exception code to answer with."""

    kind: WireFaultKind
    delay_s: float = 0.0
    code: int = ExcCode.DEVICE_FAILURE
    probability: float = 1.0
    until: float = float("inf")


def execute(image: UnitImage, pdu: bytes) -> bytes:
    """Run one request PDU against a unit and return the answer's PDU."""
    function = pdu[0]
    result: bytes | ExcCode
    if function in _READS and len(pdu) == 5:
        result = _read(image, function, *struct.unpack(">HH", pdu[1:]))
    elif function == _WRITE_ONE and len(pdu) == 5:
        address, value = struct.unpack(">HH", pdu[1:])
        result = image.write(address, [value]) or pdu[1:]
    elif function == _WRITE_MANY and len(pdu) >= 8:
        result = _write_many(image, pdu)
    else:
        known = function in _READS or function in {_WRITE_ONE, _WRITE_MANY}
        result = ExcCode.ILLEGAL_VALUE if known else ExcCode.ILLEGAL_FUNCTION
    return exception_pdu(function, result) if isinstance(result, ExcCode) else bytes([function]) + result


def exception_pdu(function: int, code: int) -> bytes:
    """Return the PDU that says no."""
    return bytes([function | 0x80, code])


def _read(image: UnitImage, function: int, address: int, count: int) -> bytes | ExcCode:
    table, most = _READS[function]
    if not 1 <= count <= most:
        return ExcCode.ILLEGAL_VALUE
    values = image.read(table, address, count)
    if isinstance(values, ExcCode):
        return values
    if table is Table.DISCRETE:
        packed = sum(bit << i for i, bit in enumerate(values))
        body = packed.to_bytes((count + 7) // 8, "little")
    else:
        body = struct.pack(f">{count}H", *values)
    return bytes([len(body)]) + body


def _write_many(image: UnitImage, pdu: bytes) -> bytes | ExcCode:
    address, count, size = struct.unpack(">HHB", pdu[1:6])
    if not 1 <= count <= _WRITE_MANY_MAX or size != 2 * count or len(pdu) != 6 + size:
        return ExcCode.ILLEGAL_VALUE
    return image.write(address, struct.unpack(f">{count}H", pdu[6:])) or pdu[1:5]


def crc16(data: bytes) -> int:
    """Return the CRC of an RTU frame (Serial Line V1.02, 6.2.2), low byte first on the wire."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def _shorter(pdu: bytes) -> bytes:
    """Return a read answer with its last register missing; other answers lose nothing."""
    if pdu[0] in _READS and pdu[1] >= 2:
        return bytes([pdu[0], pdu[1] - 2]) + pdu[2:-2]
    return pdu


@dataclass(frozen=True, slots=True)
class _Request:
    unit: int
    pdu: bytes
    transaction: int  # 0 on RTU


class _Framer(Protocol):
    """Bytes to requests and answers to bytes; ``overhead`` is what a frame has beyond its PDU."""

    overhead: int

    def requests(self, buffer: bytearray) -> list[_Request] | None:
        """Take whole requests out of the buffer; None when it can make no sense of it."""
        ...

    def answer(self, request: _Request, pdu: bytes) -> bytes:
        """Frame an answer."""
        ...

    def other(self, request: _Request) -> _Request:
        """Return another request, whose answer this one's must not be taken for."""
        ...


class TcpFramer:
    """MBAP header, as of Modbus on TCP/IP."""

    overhead = _MBAP.size

    def requests(self, buffer: bytearray) -> list[_Request] | None:
        """Take whole requests; None (the connection is closed then) for a header that is not Modbus."""
        found: list[_Request] = []
        while len(buffer) > _MBAP.size:
            transaction, protocol, length, unit = _MBAP.unpack_from(buffer)
            if protocol != 0 or not 2 <= length <= _ADU_MAX - 6:
                return None
            if len(buffer) < 6 + length:
                break
            found.append(_Request(unit, bytes(buffer[_MBAP.size : 6 + length]), transaction))
            del buffer[: 6 + length]
        return found

    def answer(self, request: _Request, pdu: bytes) -> bytes:
        """Frame an answer with the transaction id of its request."""
        return _MBAP.pack(request.transaction, 0, len(pdu) + 1, request.unit) + pdu

    def other(self, request: _Request) -> _Request:
        """Return the same request with another transaction id."""
        return _Request(request.unit, request.pdu, request.transaction ^ 0x5555)


class RtuFramer:
    """Unit, PDU, CRC; a frame's length follows from its function code."""

    overhead = 3

    def requests(self, buffer: bytearray) -> list[_Request] | None:
        """Take whole requests; None (the buffer is dropped then) for a bad CRC or an unknown function."""
        found: list[_Request] = []
        while len(buffer) >= 4:
            function = buffer[1]
            if function == _WRITE_MANY and len(buffer) < 7:
                break
            size = 9 + buffer[6] if function == _WRITE_MANY else 8
            if function not in _READS and function not in {_WRITE_ONE, _WRITE_MANY}:
                size = len(buffer)  # one frame is all there is between two silences
            if len(buffer) < size:
                break
            frame = bytes(buffer[:size])
            if crc16(frame[:-2]) != int.from_bytes(frame[-2:], "little"):
                return None
            del buffer[:size]
            found.append(_Request(frame[0], frame[1:-2], 0))
        return found

    def answer(self, request: _Request, pdu: bytes) -> bytes:
        """Frame an answer."""
        body = bytes([request.unit]) + pdu
        return body + crc16(body).to_bytes(2, "little")

    def other(self, request: _Request) -> _Request:
        """Return the same request to the next unit."""
        return _Request(request.unit % 247 + 1, request.pdu, 0)


@dataclass(slots=True)
class WireModbus:
    """One Modbus line with its units and faults, before it is put on a transport.

    ``faults`` maps a unit (0: every unit) to what its answers suffer. ``latency_s`` is the units' processing time,
    ``is_silent`` tells of dead units.
    Noise and fault chances come from the seed, so that the same requests meet the same answers.
    """

    spec: ModbusLinkSpec
    units: Mapping[int, UnitImage]
    seed: int = 0
    latency_s: float = 0.005
    is_silent: Callable[[int], bool] = lambda _unit: False
    faults: dict[int, WireFault] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=lambda: {"requests": 0, "faults": 0, "broken": 0})
    _random: random.Random = field(init=False)
    _busy_until: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.seed}/wire/{self.spec.link_id}")  # noqa: S311  # not for secrets

    @property
    def is_rtu(self) -> bool:
        """Whether this is a serial line."""
        return self.spec.kind == "modbus_rtu"

    def framer(self) -> _Framer:
        """Return a framer for one connection."""
        return RtuFramer() if self.is_rtu else TcpFramer()

    def wire_time_s(self, size: int) -> float:
        """Return how long ``size`` bytes and the gap after them take: 10 bits each, 11 with parity; 0 on TCP."""
        if not self.is_rtu:
            return 0.0
        bits = 10 if self.spec.parity == "N" else 11
        return (size + _RTU_GAP_CHARS) * bits / self.spec.baud_rate

    def accept(self, connection: Connection, request: _Request) -> None:
        """Schedule a request: it waits for its turn on the line, its bytes' time and the unit's processing time."""
        loop = asyncio.get_running_loop()
        self.counters["requests"] += 1
        noise = 1.0 + self._random.uniform(-_NOISE, _NOISE)
        took_s = self.wire_time_s(len(request.pdu) + connection.framer.overhead) + self.latency_s * noise
        self._busy_until = max(loop.time(), self._busy_until) + took_s
        loop.call_at(self._busy_until, self._process, connection, request)

    def _fault(self, unit: int) -> WireFault | None:
        fault = self.faults.get(unit) or self.faults.get(0)
        if fault is None or asyncio.get_running_loop().time() >= fault.until:
            return None
        if fault.probability < 1.0 and self._random.random() >= fault.probability:
            return None
        self.counters["faults"] += 1
        return fault

    def _process(self, connection: Connection, request: _Request) -> None:
        image = self.units.get(request.unit)
        if self.is_silent(request.unit) or (image is None and self.is_rtu):
            return  # dead, or absent from a serial line, where nobody answers in its place
        fault = self._fault(request.unit)
        kind = fault.kind if fault else None
        if kind is WireFaultKind.DEAF:
            return
        if image is None:
            pdu = exception_pdu(request.pdu[0], ExcCode.GATEWAY_NO_RESPONSE)
        elif fault and kind is WireFaultKind.EXCEPTION:
            pdu = exception_pdu(request.pdu[0], fault.code)
        else:
            pdu = execute(image, request.pdu)
        if kind is WireFaultKind.DROP:
            return
        if kind is WireFaultKind.CLOSE:
            connection.close()
            return
        self._send(connection, request, pdu, fault)

    def _send(self, connection: Connection, request: _Request, pdu: bytes, fault: WireFault | None) -> None:
        kind = fault.kind if fault else None
        if kind is WireFaultKind.LENGTH:
            pdu = _shorter(pdu)
        if kind is WireFaultKind.OTHER:
            request = connection.framer.other(request)
        frame = connection.framer.answer(request, pdu)
        if kind is WireFaultKind.GARBLE:
            frame = self._garbled(frame)
        loop = asyncio.get_running_loop()
        on_wire_s = self.wire_time_s(len(frame))
        self._busy_until = max(self._busy_until, loop.time() + on_wire_s)
        late_s = fault.delay_s if fault and kind is WireFaultKind.DELAY else 0.0
        if on_wire_s + late_s > 0.0:
            loop.call_later(on_wire_s + late_s, connection.send, frame)
        else:
            connection.send(frame)

    def _garbled(self, frame: bytes) -> bytes:
        """Damage one byte: any of a serial frame, as its CRC tells; on TCP the protocol id, as only that tells."""
        at = self._random.randrange(len(frame)) if self.is_rtu else self._random.randrange(2, 4)
        return frame[:at] + bytes([frame[at] ^ self._random.randrange(1, 256)]) + frame[at + 1 :]


class Connection(asyncio.Protocol):
    """One client of a line: bytes in, answers out, over whatever transport it was given."""

    def __init__(self, wire: WireModbus, on_lost: Callable[[Connection], None]) -> None:
        self.framer = wire.framer()
        self._wire = wire
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._heard_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the base class fixes the name
        """Forget the transport; answers still due are dropped."""
        self._transport = None
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        """Collect bytes and hand whole requests to the line."""
        now = asyncio.get_running_loop().time()
        if self._wire.is_rtu and now - self._heard_at > _RTU_STALE_S:
            self._buffer.clear()  # silence ends a frame
        self._heard_at = now
        self._buffer += data
        requests = self.framer.requests(self._buffer)
        if requests is None:
            self._wire.counters["broken"] += 1
            self._buffer.clear()
            if not self._wire.is_rtu:
                self.close()
            return
        for request in requests:
            self._wire.accept(self, request)

    def send(self, frame: bytes) -> None:
        """Send an answer, unless the client has gone."""
        if self._transport is not None:
            self._transport.write(frame)

    def close(self) -> None:
        """Break the connection."""
        if self._transport is not None:
            self._transport.close()


class _PtyTransport(asyncio.Transport):
    """The master side of a pty as a transport. The slave side stays open, so that a client may come and go."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__()
        self._protocol = protocol
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._master, self._readable)
        protocol.connection_made(self)

    @property
    def name(self) -> str:
        """The device file that a client opens."""
        return os.ttyname(self._slave)

    def _readable(self) -> None:
        try:
            data = os.read(self._master, 4096)
        except BlockingIOError:
            return
        self._protocol.data_received(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write at once; what does not fit because nobody reads is lost, as on a real line."""
        try:
            os.write(self._master, data)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EIO}:
                raise

    def close(self) -> None:
        """Close both ends."""
        if self._master < 0:
            return
        self._loop.remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)
        self._master = -1
        self._protocol.connection_lost(None)


class ModbusServer:
    """A line on a transport: ``start_in_memory``, ``start_tcp`` or ``start_pty``, then ``close``."""

    def __init__(self, wire: WireModbus) -> None:
        self.wire = wire
        self._connections: list[Connection] = []
        self._stop: Callable[[], None] | None = None
        self._memory_port = 0

    def handle_new_connection(self) -> Connection:
        """Return the protocol of a new client; the in-memory transport and the TCP server call this."""
        connection = Connection(self.wire, self._connections.remove)
        self._connections.append(connection)
        return connection

    def start_in_memory(self) -> None:
        """Listen on pymodbus' in-memory transport, on a free port number of its own."""
        port = next(n for n in range(1, 65536) if n not in NullModem.listeners)
        listener = NullModem.set_listener(port, cast("ModbusProtocol", self))  # it calls handle_new_connection only
        self._memory_port = port
        self._stop = listener.close

    def open_client(self) -> ModbusBaseClient:
        """Return a pymodbus client for the in-memory transport, with neither retries nor reconnecting of its own."""
        spec = self.wire.spec
        if self.wire.is_rtu:
            return AsyncModbusSerialClient(
                f"{NULLMODEM_HOST}:{self._memory_port}",
                name=spec.link_id,
                baudrate=spec.baud_rate,
                parity=spec.parity,
                timeout=spec.timeout_s,
                retries=0,
                reconnect_delay=0.0,
            )
        return AsyncModbusTcpClient(
            NULLMODEM_HOST,
            port=self._memory_port,
            name=spec.link_id,
            timeout=spec.timeout_s,
            retries=0,
            reconnect_delay=0.0,
        )

    async def start(self) -> None:
        """Serve where the spec says: ``start_pty`` for a serial line, ``start_tcp`` otherwise."""
        if self.wire.is_rtu:
            self.start_pty()
        else:
            await self.start_tcp()

    async def start_tcp(self) -> None:
        """Listen on the spec's host and port; raises ValueError for any host but 127.0.0.1, OSError when taken."""
        spec = self.wire.spec
        if spec.host != "127.0.0.1":
            raise ValueError(f"{spec.link_id}: simulated hardware listens on 127.0.0.1 only, not on {spec.host!r}")
        server = await asyncio.get_running_loop().create_server(self.handle_new_connection, spec.host, spec.port)
        self._stop = server.close

    def start_pty(self) -> None:
        """Open a pty and link it at the spec's serial port; raises FileExistsError where something else is there."""
        link = Path(self.wire.spec.serial_port)
        if link.exists() and not link.is_symlink():
            raise FileExistsError(f"{self.wire.spec.link_id}: {link} exists and is not a link of ours")
        transport = _PtyTransport(self.handle_new_connection())
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(transport.name)
        self._stop = lambda: link.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop listening and break every connection."""
        if self._stop is not None:
            self._stop()
            self._stop = None
        for connection in list(self._connections):
            connection.close()
