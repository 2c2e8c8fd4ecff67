"""``python -m sim_hw run`` as a process of its own, talked to over its sockets by hand."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sim_hw.can_plugin import SwapBus
from tests.support.sim_station import DEMO, ROOT

PORT = 15951  # the test's own ports, clear of the stations'


def own_station(tmp_path: Path) -> Path:
    """Write the demo station with ports, channels and one serial line of this test's own."""
    text = DEMO.read_text(encoding="utf-8")
    for offset, port in enumerate((15021, 15022, 15023, 15024)):
        text = text.replace(f"port = {port}", f"port = {PORT + offset}")
    text = text.replace("@demo.", f"@test{os.getpid()}.")
    serial = f'kind = "modbus_rtu"\nserial_port = "{tmp_path}/slots"\nbaud_rate = 115200\nquiet_time_s = 0.05'
    text = re.sub(rf'kind = "modbus_tcp"\nhost = "127.0.0.1"\nport = {PORT + 2}', serial, text)
    path = tmp_path / "station.toml"
    path.write_text(text, encoding="utf-8")
    return path


@asynccontextmanager
async def simulator(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the simulator and wait until it says that it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sim_hw", "run", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line == b"sim_hw: demo ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ask(port: int, unit: int, pdu: bytes) -> bytes:
    """Send one request over a plain socket and return the answer's PDU."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(struct.pack(">HHHB", 0x1234, 0, len(pdu) + 1, unit) + pdu)
    transaction, protocol, length, answered = struct.unpack(">HHHB", await reader.readexactly(7))
    assert (transaction, protocol, answered) == (0x1234, 0, unit)
    answer = await reader.readexactly(length - 1)
    writer.close()
    await writer.wait_closed()
    return answer


async def hear(bus: SwapBus, wanted: int) -> bytes:
    """Wait for a frame with this identifier."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(bus.fileno(), readable.set)
    try:
        while True:
            while (message := bus.recv(0)) is not None:
                if message.arbitration_id == wanted:
                    return bytes(message.data)
            readable.clear()
            await readable.wait()
    finally:
        loop.remove_reader(bus.fileno())


async def ask_serial(port: Path, frame: bytes, size: int) -> bytes:
    """Send one RTU frame over the linked serial port and wait for ``size`` bytes."""
    loop, full, heard = asyncio.get_running_loop(), asyncio.Event(), bytearray()
    handle = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)

    def readable() -> None:
        heard.extend(os.read(handle, 256))
        if len(heard) >= size:
            full.set()

    loop.add_reader(handle, readable)
    try:
        os.write(handle, frame)
        await full.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    return bytes(heard)


async def test_the_process_serves_every_kind_of_wire(tmp_path: Path) -> None:
    """Modbus TCP, Modbus RTU and CAN all reach the simulated devices, and SIGTERM ends it with 0 and no leftovers."""
    path = own_station(tmp_path)
    async with asyncio.timeout(40), simulator("--config", str(path)) as process:
        assert await ask(PORT, 5, bytes.fromhex("02 0006 0003")) == bytes.fromhex("02 01 00")
        assert await ask(PORT + 1, 1, bytes.fromhex("02 0000 0003")) == bytes.fromhex("02 01 07")
        assert await ask(PORT + 3, 1, bytes.fromhex("10 0000 0003 06 0000 0FA0 0064")) == bytes.fromhex(
            "10 0000 0003"
        )
        assert await ask(PORT + 3, 1, bytes.fromhex("04 0003 0002")) == bytes.fromhex("04 04 0FA0 0064")
        assert await ask(PORT + 3, 77, bytes.fromhex("04 0003 0002")) == bytes.fromhex("84 0B")
        switches = await ask_serial(tmp_path / "slots", bytes.fromhex("01 04 0005 0001 21CB"), 7)
        assert switches == bytes.fromhex("01 04 02 0001 78F0")
        bus = SwapBus(f"@test{os.getpid()}.packs")
        state = await hear(bus, 0x19001003)
        bus.shutdown()
        check = 0xA5 ^ 0x19 ^ 0x00 ^ 0x10 ^ 0x03
        for byte in state[:7]:
            check ^= byte
        assert state[7] == check
        assert 8400 <= int.from_bytes(state[:2], "little") <= 9800
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert not (tmp_path / "slots").is_symlink()


async def test_vehicles_come_by_themselves_when_asked_for(tmp_path: Path) -> None:
    """With --vehicle-every, and time running faster, a vehicle is heard on the dock's bus."""
    path = own_station(tmp_path)
    arguments = ("--config", str(path), "--speed", "10", "--vehicle-every", "1", "--seed", "3")
    async with asyncio.timeout(40), simulator(*arguments):
        bus = SwapBus(f"@test{os.getpid()}.dock1")
        part = await hear(bus, 0x19002101)
        bus.shutdown()
        assert part[0] in {0, 1, 2}


async def test_a_bad_station_file_is_exit_78(tmp_path: Path) -> None:
    """A file that is no station is refused with the reason, and the exit code of a bad configuration."""
    bad = tmp_path / "bad.toml"
    bad.write_text("[station]\nid = 5\n", encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sim_hw", "run", "--config", str(bad), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 78
    assert errors.startswith(b"sim_hw: ")


async def test_an_address_in_use_ends_the_process_with_the_reason(tmp_path: Path) -> None:
    """A second simulator of the same station says what is taken and fails."""
    path = own_station(tmp_path)
    async with asyncio.timeout(40), simulator("--config", str(path)):
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sim_hw", "run", "--config", str(path), cwd=ROOT, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await second.communicate()
        assert second.returncode == 1
        assert b"in use" in errors


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "--config", "x", "--speed", "0"], ["fly"]])
async def test_bad_usage_is_exit_2(arguments: list[str]) -> None:
    """Missing or impossible arguments are a usage error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sim_hw", *arguments, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
