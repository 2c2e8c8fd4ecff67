"""What the Modbus line costs: requests per second, CPU per request beside the bare library, share of a wire."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
import time
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from pymodbus.client import AsyncModbusTcpClient

from hal.modbus_link import ModbusLink
from hal.types import LinkState, Table
from tests.bench.row import Row
from tests.support.modbus_lines import DEVICE, reached, rtu_spec, running, tcp_spec
from tests.support.modbus_peer import PeerRequest, right_pdu, rtu_frame, tcp_frame

UNIT = 1
REGISTERS = 10
REQUESTS = 2000
ROUNDS = 3
WIRE_REQUESTS = 60
BAUD_RATE = 19200
CHAR_S = 10 / BAUD_RATE  # 8N1
GAP_S = 3.5 * 11 / BAUD_RATE  # MODBUS over Serial Line V1.02, 2.5.1.1
ANSWER = right_pdu(PeerRequest(UNIT, 3, 0, REGISTERS))
WIRE_S = (8 + len(ANSWER) + 3) * CHAR_S + 2 * GAP_S  # request, answer, and a gap behind each


@contextmanager
def _tcp_device() -> Iterator[int]:
    """Answer on a thread of its own, so that its CPU time is not the client's; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                while request := connection.recv(260):
                    connection.sendall(tcp_frame(int.from_bytes(request[:2], "big"), UNIT, ANSWER))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5.0)


@contextmanager
def _paced_rtu_device() -> Iterator[str]:
    """Answer on a pty exactly when the last bit of the answer would be on a wire; yields the port."""
    master, slave = os.openpty()
    tty.setraw(slave)
    answer = rtu_frame(UNIT, ANSWER)
    stop_read, stop_write = os.pipe()

    def serve() -> None:
        while select.select([master, stop_read], [], [])[0] == [master]:
            due = time.perf_counter() + (8 + len(answer)) * CHAR_S + GAP_S
            os.read(master, 256)
            while (rest_s := due - time.perf_counter()) > 0:
                select.select([], [], [], rest_s)
            os.write(master, answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield os.ttyname(slave)
    finally:
        os.write(stop_write, b"x")
        thread.join(5.0)
        for descriptor in (master, slave, stop_read, stop_write):
            os.close(descriptor)


@asynccontextmanager
async def _our_reader(port: int) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    link = ModbusLink(tcp_spec(port, 2.0))
    async with running(link):
        await reached(link, LinkState.UP)
        yield lambda: link.read(UNIT, Table.HOLDING, 0, REGISTERS, device=DEVICE)


@asynccontextmanager
async def _bare_reader(port: int) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=2.0, retries=0)
    await client.connect()
    try:
        yield lambda: client.read_holding_registers(0, count=REGISTERS, device_id=UNIT)
    finally:
        client.close()


async def _timed(read: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return wall and this thread's CPU seconds per request."""
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in range(REQUESTS):
        await read()
    return (time.perf_counter() - wall) / REQUESTS, (time.thread_time() - cpu) / REQUESTS


async def _tcp() -> tuple[float, float, float]:
    """Return our wall and CPU seconds per request and the bare client's CPU: the best of rounds taken in turns."""
    ours: list[tuple[float, float]] = []
    bare: list[float] = []
    with _tcp_device() as port:
        for _ in range(ROUNDS):
            async with _our_reader(port) as read:
                ours.append(await _timed(read))
            async with _bare_reader(port) as read:
                bare.append((await _timed(read))[1])
    return min(wall for wall, _ in ours), min(cpu for _, cpu in ours), min(bare)


async def _rtu() -> float:
    """Return the wall seconds per request on a paced serial line."""
    with _paced_rtu_device() as port:
        link = ModbusLink(rtu_spec(port, 1.0, 0.02))
        async with running(link):
            await reached(link, LinkState.UP)
            await link.read(UNIT, Table.HOLDING, 0, REGISTERS, device=DEVICE)
            began = time.perf_counter()
            for _ in range(WIRE_REQUESTS):
                await link.read(UNIT, Table.HOLDING, 0, REGISTERS, device=DEVICE)
            return (time.perf_counter() - began) / WIRE_REQUESTS


def run() -> list[Row]:
    """Measure; takes about five seconds."""
    wall_s, cpu_s, bare_s = asyncio.run(_tcp())
    rtu_s = asyncio.run(_rtu())
    wire = f"the wire's {1 / WIRE_S:.1f} requests/s at {BAUD_RATE} 8N1"
    return [
        Row("modbus.requests_per_s", 1 / wall_s, "1/s", 2000.0, "higher", "TCP loopback, 10 registers"),
        Row("modbus.cpu_per_request_us", 1e6 * cpu_s, "us", 250.0, "lower", f"pymodbus alone {1e6 * bare_s:.0f} us"),
        Row("modbus.cpu_ratio_to_pymodbus", cpu_s / bare_s, "", 1.75, "lower", "pymodbus' own client, same run"),
        Row("modbus.rtu_share_of_wire", WIRE_S / rtu_s, "", 0.9, "higher", wire),
    ]
