"""Runs a ModbusLink against the independent peer: on real sockets, on a pty, or in memory under virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hal.errors import HalError
from hal.modbus_link import ModbusLink
from hal.types import LinkState, ModbusLinkSpec, Table
from tests.support.modbus_peer import ModbusPeer, memory_peer, pty_peer, register_value, tcp_peer

MEMORY_HOST = "__pymodbus_nullmodem"  # pymodbus.transport.NULLMODEM_HOST
DEVICE = "slot01.charger"
UNIT = 7
WAIT_LIMIT_S = 20.0


def tcp_spec(port: int, timeout_s: float, host: str = "127.0.0.1") -> ModbusLinkSpec:
    """A Modbus TCP line."""
    return ModbusLinkSpec("line", "modbus_tcp", timeout_s, host=host, port=port)


def rtu_spec(path: str, timeout_s: float, quiet_time_s: float, parity: str = "N") -> ModbusLinkSpec:
    """A Modbus RTU line at 19200 bit/s."""
    return ModbusLinkSpec(
        *("line", "modbus_rtu", timeout_s),
        serial_port=path,
        baud_rate=19200,
        parity=parity,
        quiet_time_s=quiet_time_s,
    )


@asynccontextmanager
async def running(link: ModbusLink) -> AsyncIterator[asyncio.Task[None]]:
    """Run the line's owner."""
    task = asyncio.get_running_loop().create_task(link.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def reached(link: ModbusLink, state: LinkState) -> None:
    """Return once the line is in ``state``."""
    changed = asyncio.Event()
    stop = link.on_state(lambda _: changed.set())
    try:
        async with asyncio.timeout(WAIT_LIMIT_S):
            while link.state is not state:
                changed.clear()
                await changed.wait()
    finally:
        stop()


@dataclass
class Line:
    """A line that is up, and the device at its other end."""

    link: ModbusLink
    peer: ModbusPeer
    spec: ModbusLinkSpec

    async def outcome(self, address: int = 5, count: int = 3) -> HalError | None:
        """Read; return the error, or None after the right values. Wrong values fail the test."""
        try:
            values = await self.link.read(UNIT, Table.HOLDING, address, count, device=DEVICE)
        except HalError as error:
            return error
        assert values == [register_value(UNIT, address + i) for i in range(count)]
        return None


@asynccontextmanager
async def memory_line(*, rtu: bool, timeout_s: float = 0.5, quiet_time_s: float = 0.4) -> AsyncIterator[Line]:
    """A line in memory; nothing of it takes real time."""
    spec = tcp_spec(1, timeout_s, MEMORY_HOST)
    if rtu:
        spec = rtu_spec(f"{MEMORY_HOST}:1", timeout_s, quiet_time_s)
    async with memory_peer(1, rtu=rtu) as peer:
        link = ModbusLink(spec)
        async with running(link):
            await reached(link, LinkState.UP)
            yield Line(link, peer, spec)


@asynccontextmanager
async def tcp_line(timeout_s: float = 0.25) -> AsyncIterator[Line]:
    """A line on a real socket."""
    async with tcp_peer() as (peer, port):
        spec = tcp_spec(port, timeout_s)
        link = ModbusLink(spec)
        async with running(link):
            await reached(link, LinkState.UP)
            yield Line(link, peer, spec)


@asynccontextmanager
async def pty_line(timeout_s: float = 0.25, quiet_time_s: float = 0.15) -> AsyncIterator[Line]:
    """A line on a real serial port."""
    async with pty_peer() as (peer, path):
        spec = rtu_spec(path, timeout_s, quiet_time_s)
        link = ModbusLink(spec)
        async with running(link):
            await reached(link, LinkState.UP)
            yield Line(link, peer, spec)
