"""The simulator's Modbus server: frames by hand from the standards, exceptions, and faults on the wire."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self

import pytest
from pymodbus.exceptions import ModbusIOException
from pymodbus.pdu import ModbusPDU

from hal.profiles import load_register_map
from hal.types import ModbusLinkSpec
from sim_hw.codec import ExcCode, UnitImage, Values, device_block
from sim_hw.wire_modbus import ModbusServer, WireFault, WireFaultKind, WireModbus, crc16, execute

TCP = ModbusLinkSpec("chargers", "modbus_tcp", 0.5, host="127.0.0.1", port=0)
RTU = ModbusLinkSpec("line", "modbus_rtu", 0.5, baud_rate=19200)
virtual = pytest.mark.asyncio(loop_factories=["virtual"])


class Charger:
    def __init__(self) -> None:
        self.written: list[dict[str, float]] = []

    def values(self) -> Values:
        return {"state": 3, "output_voltage": 351.2, "output_current": 80.0, "temperature": -10.0}

    def write(self, values: Values) -> ExcCode | None:
        if values.get("current_setpoint", 0.0) > 250.0:
            return ExcCode.ILLEGAL_VALUE
        self.written.append(dict(values))
        return None


def charger_wire(spec: ModbusLinkSpec) -> tuple[WireModbus, Charger]:
    """Return a line with one charger that answers as units 1 and 2."""
    profile, charger, image = load_register_map("chargers/generic_dc"), Charger(), UnitImage()
    image.add_device(profile, device_block(profile, 0, charger.values, charger.write))
    return WireModbus(spec, {1: image, 2: image}), charger


@pytest.mark.parametrize(
    ("request_hex", "answer_hex"),
    [
        ("04 0000 0006", "04 0C 0003 0DB8 0320 0000 0000 FF9C"),
        ("10 0000 0003 06 0001 0FA0 04B0", "10 0000 0003"),
        ("06 0002 0064", "06 0002 0064"),
        ("04 0000 000C", "84 02"),
        ("02 0000 0001", "82 02"),
        ("06 0003 0001", "86 02"),
        ("06 0002 09C5", "86 03"),
        ("03 0000 0000", "83 03"),
        ("03 0000 007E", "83 03"),
        ("10 0000 0002 02 0001", "90 03"),
        ("03 0000", "83 03"),
        ("01 0000 0001", "81 01"),
        ("05 0000 FF00", "85 01"),
        ("2B 0E 01 00", "AB 01"),
    ],
)
def test_each_request_gets_the_answer_that_the_standard_says(request_hex: str, answer_hex: str) -> None:
    """Reads, writes and every kind of illegal access answer with the bytes worked out by hand."""
    wire, _ = charger_wire(TCP)
    assert execute(wire.units[1], bytes.fromhex(request_hex)).hex() == answer_hex.replace(" ", "").lower()


def test_discrete_inputs_are_packed_lowest_bit_first() -> None:
    """Bit n of a discrete read is input n; the last byte is filled up with 0."""
    profile, image = load_register_map("io/remote_io"), UnitImage()
    values = {"inputs_1": 1.0, "inputs_3": 1.0, "inputs_10": 1.0}
    image.add_device(profile, device_block(profile, 0, lambda: values, lambda _values: None))
    assert execute(image, bytes.fromhex("02 0000 000A")) == bytes.fromhex("02 02 05 02")


def test_crc_is_that_of_the_published_example() -> None:
    """The frame of the Serial Line guide's usual example, 02 07, carries CRC 41 12."""
    assert crc16(b"\x02\x07").to_bytes(2, "little") == b"\x41\x12"


@asynccontextmanager
async def tcp(wire: WireModbus) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve on loopback, on whatever port is free, and connect a plain socket."""
    server = ModbusServer(wire)
    listener = await asyncio.get_running_loop().create_server(server.handle_new_connection, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()
        listener.close()
        await listener.wait_closed()


async def test_raw_tcp_frames_are_answered_in_order_with_their_transaction_ids() -> None:
    """Two requests in one packet, one of them cut in two, get two answers with the right transaction ids."""
    wire, _ = charger_wire(TCP)
    async with asyncio.timeout(5), tcp(wire) as (reader, writer):
        first, second = (
            bytes.fromhex("0102 0000 0006 01 04 0000 0001"),
            bytes.fromhex("7FFF 0000 0006 09 04 0000 0001"),
        )
        writer.write(first + second[:5])
        await writer.drain()
        writer.write(second[5:])
        assert await reader.readexactly(11) == bytes.fromhex("0102 0000 0005 01 04 02 0003")
        assert await reader.readexactly(9) == bytes.fromhex("7FFF 0000 0003 09 84 0B")


async def test_a_tcp_header_that_is_not_modbus_ends_the_connection() -> None:
    """Garbage on a TCP connection closes it; the server lives on."""
    wire, _ = charger_wire(TCP)
    async with asyncio.timeout(5), tcp(wire) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
    assert wire.counters["broken"] == 1


@contextmanager
def pty_line(wire: WireModbus, at: Path) -> Iterator[int]:
    """Serve on a pty and open the linked port as a plain file."""
    server = ModbusServer(wire)
    server.wire.spec = ModbusLinkSpec("line", "modbus_rtu", 0.5, serial_port=str(at), baud_rate=115200)
    server.start_pty()
    port = os.open(at, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    tty.setraw(port)
    try:
        yield port
    finally:
        os.close(port)
        server.close()


async def exchange(port: int, request: bytes, size: int) -> bytes:
    """Write a request and wait for ``size`` bytes."""
    loop, done, heard = asyncio.get_running_loop(), asyncio.Event(), bytearray()

    def readable() -> None:
        heard.extend(os.read(port, 256))
        if len(heard) >= size:
            done.set()

    loop.add_reader(port, readable)
    try:
        os.write(port, request)
        await asyncio.wait_for(done.wait(), 5)
    finally:
        loop.remove_reader(port)
    return bytes(heard)


async def test_raw_rtu_frames_over_a_pty(tmp_path: Path) -> None:
    """A frame by hand at the linked serial port is answered; a damaged one and an absent unit's are not."""
    wire, _ = charger_wire(RTU)
    absent, bad = bytes.fromhex("07 04 0000 0001 31AC"), bytes.fromhex("01 04 0000 0001 0000")
    good = bytes.fromhex("01 04 0000 0001 31CA")
    with pty_line(wire, tmp_path / "line") as port:
        os.write(port, absent)
        os.write(port, bad)
        async with asyncio.timeout(5):
            while not wire.counters["broken"]:  # noqa: ASYNC110  # the server has no event to wait on
                await asyncio.sleep(0)
        assert await exchange(port, good, 7) == bytes.fromhex("01 04 02 0003 F931")
    assert not (tmp_path / "line").exists()


async def test_a_pty_does_not_replace_a_file(tmp_path: Path) -> None:
    """A serial port path at which something else lies is refused."""
    (tmp_path / "line").write_text("mine")
    wire, _ = charger_wire(
        ModbusLinkSpec("line", "modbus_rtu", 0.5, serial_port=str(tmp_path / "line"), baud_rate=9600)
    )
    with pytest.raises(FileExistsError):
        ModbusServer(wire).start_pty()


async def test_only_loopback_is_served() -> None:
    """A link on any address but 127.0.0.1 is refused."""
    wire, _ = charger_wire(ModbusLinkSpec("plc", "modbus_tcp", 0.5, host="0.0.0.0", port=15021))  # noqa: S104  # refused
    with pytest.raises(ValueError, match=r"127\.0\.0\.1"):
        await ModbusServer(wire).start_tcp()


class Line:
    """A pymodbus client on the in-memory transport of a served line."""

    def __init__(self, spec: ModbusLinkSpec) -> None:
        self.wire, self.charger = charger_wire(spec)
        self.server = ModbusServer(self.wire)

    async def __aenter__(self) -> Self:
        self.server.start_in_memory()
        self.client = self.server.open_client()
        assert await self.client.connect()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.client.close()
        self.server.close()

    async def read(self, unit: int = 1, address: int = 0, count: int = 3) -> ModbusPDU:
        return await self.client.read_input_registers(address, count=count, device_id=unit)


@virtual
@pytest.mark.parametrize("spec", [TCP, RTU], ids=["tcp", "rtu"])
async def test_a_pymodbus_client_reads_and_writes_in_memory(spec: ModbusLinkSpec) -> None:
    """The foreign client understands the server on both framings."""
    async with Line(spec) as line:
        assert list((await line.read()).registers) == [3, 3512, 800]
        assert not (await line.client.write_registers(0, [1, 4000, 1200])).isError()
        assert line.charger.written == [{"enable": 1, "voltage_setpoint": 400.0, "current_setpoint": 120.0}]
        assert (await line.read(address=99)).exception_code == ExcCode.ILLEGAL_ADDRESS


@virtual
async def test_a_serial_line_takes_the_time_of_its_bytes() -> None:
    """At 19200 8N1, 8 bytes out and 11 back plus the gaps take 13.5 ms, and the unit's processing comes on top."""
    async with Line(RTU) as line:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await line.read()
        assert 26 * 10 / 19200 + 0.004 <= loop.time() - started <= 26 * 10 / 19200 + 0.006


@virtual
@pytest.mark.parametrize("kind", [WireFaultKind.DROP, WireFaultKind.DEAF, WireFaultKind.GARBLE, WireFaultKind.OTHER])
@pytest.mark.parametrize("spec", [TCP, RTU], ids=["tcp", "rtu"])
async def test_an_answer_that_cannot_be_used_is_a_time_out_and_the_next_is_right(
    spec: ModbusLinkSpec, kind: WireFaultKind
) -> None:
    """Lost, damaged and foreign answers leave the client waiting; once the fault ends, answers are right again."""
    async with Line(spec) as line:
        line.wire.faults[1] = WireFault(kind)
        with pytest.raises(ModbusIOException):
            await line.read()
        line.wire.faults.clear()
        assert list((await line.read()).registers) == [3, 3512, 800]


@virtual
async def test_a_lost_answer_was_executed_and_a_lost_request_was_not() -> None:
    """What happened behind a time-out differs: drop loses the answer, deaf the request."""
    async with Line(TCP) as line:
        for kind, writes in [(WireFaultKind.DEAF, 0), (WireFaultKind.DROP, 1)]:
            line.wire.faults[0] = WireFault(kind)
            with pytest.raises(ModbusIOException):
                await line.client.write_registers(0, [0, 0, 0])
            assert len(line.charger.written) == writes


@virtual
async def test_a_late_tcp_answer_keeps_its_own_transaction_id() -> None:
    """An answer that comes after its request was given up is not taken for the next one's."""
    async with Line(TCP) as line:
        line.wire.faults[1] = WireFault(WireFaultKind.DELAY, delay_s=0.7)
        with pytest.raises(ModbusIOException):
            await line.read(address=0, count=1)
        line.wire.faults[1] = WireFault(WireFaultKind.DELAY, delay_s=0.3)
        assert list((await line.read(address=1, count=1)).registers) == [3512]


@virtual
async def test_the_other_faults_of_the_wire() -> None:
    """An exception code, an answer of the wrong length, a broken connection: each is what it says."""
    async with Line(TCP) as line:
        line.wire.faults[1] = WireFault(WireFaultKind.EXCEPTION, code=6)
        assert (await line.read()).exception_code == 6
        line.wire.faults[1] = WireFault(WireFaultKind.LENGTH)
        assert len((await line.read()).registers) == 2
        assert len((await line.read(unit=2)).registers) == 3
        line.wire.faults[1] = WireFault(WireFaultKind.CLOSE)
        with pytest.raises(ModbusIOException):
            await line.read()
        assert not line.client.connected


@virtual
async def test_a_fault_ends_at_its_time_and_its_chance_comes_from_the_seed() -> None:
    """A fault is over at ``until``; which answers a chance hits is the same for the same seed."""

    async def failures() -> list[int]:
        async with Line(TCP) as line:
            until = asyncio.get_running_loop().time() + 10.0
            line.wire.faults[1] = WireFault(WireFaultKind.EXCEPTION, probability=0.5, until=until)
            result = [(await line.read()).exception_code for _ in range(40)]
            await asyncio.sleep(10.0)
            assert (await line.read()).exception_code == 0
            return result

    first = await failures()
    assert 0 < sum(map(bool, first)) < 40
    assert await failures() == first
