"""What a CAN frame costs: our port and pack drivers beside python-can's Notifier with cantools."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress

import can
import cantools
from cantools.database.can import Database

from hal.bms.dbc import DbcPack
from hal.can_port import CanPort
from hal.profiles import dbc_path
from hal.types import CanFrame, CanLinkSpec, DeviceSpec, LinkState
from sim_hw import can_codec
from sim_hw.can_plugin import pack
from sim_hw.wire_can import raw_frame
from tests.bench.row import Row

PACKS = 40
SECONDS = 2.0
RATE = 4000.0  # frames/s: what 500 kbit/s carries, if barely
ROUNDS = 3
PROFILE = "packs/generic_pack"
ADDRESS_MASK = 0x1FFFFF00


def _frames(count: int) -> list[CanFrame]:
    """Return what charging packs send in their cycle: every current new, state of charge now and then."""
    frames: list[CanFrame] = []
    tick = 0
    while len(frames) < count:
        for address in range(1, PACKS + 1):
            state = can_codec.pack_state(50.0 + tick // 10 * 0.01, 98.0, 0, contactors=True)
            electric = can_codec.pack_electric(400.0, 100.0 + tick % 50 * 0.1, 5000.0)
            limits = can_codec.pack_limits(450.0, 200.0)
            frames.append(can_codec.checked(can_codec.PACK_STATE | address, state, tick))
            frames.append(can_codec.checked(can_codec.PACK_ELECTRIC | address, electric, tick))
            frames.append(can_codec.checked(can_codec.PACK_LIMITS | address, limits, tick))
            if tick % 5 == 0:
                cells = can_codec.pack_cells(3.7, 3.6, 30.0, 28.0)
                frames.append(can_codec.checked(can_codec.PACK_CELLS | address, cells, tick // 5))
            if tick % 2 == 0:
                part = tick // 2 % can_codec.TEXT_PARTS
                text = f"PACK{address:017d}"
                frames.append(can_codec.text_part(can_codec.PACK_IDENTITY | address, part, text, part))
        tick += 1
    return frames[:count]


@contextmanager
def _feeder(frames: list[CanFrame], rate: float) -> Iterator[str]:
    """Start the process that sends the frames; yields its channel."""
    channel = f"@bench-{os.getpid()}-{os.urandom(4).hex()}"
    command = [sys.executable, "-m", "tests.bench.can_feeder", channel, str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the feeder has no pipes")
        process.stdin.write(b"".join(pack(raw_frame(frame)) for frame in frames))
        process.stdin.close()
        process.stdout.readline()
        try:
            yield channel
        finally:
            process.wait(10)


GO = CanFrame(0, b"")
Client = Callable[[str], AbstractAsyncContextManager[Callable[[], int]]]


def _database() -> Database:
    database = cantools.database.load_file(dbc_path(PROFILE), frame_id_mask=ADDRESS_MASK)
    if not isinstance(database, Database):
        raise TypeError("no CAN database")
    return database


@asynccontextmanager
async def _running(port: CanPort) -> AsyncIterator[Callable[[], int]]:
    up = asyncio.Event()
    port.on_state(lambda state: up.set() if state is LinkState.UP else None)
    task = asyncio.create_task(port.run())
    await up.wait()
    port.send(GO)
    yield lambda: port.report().counters.get("frames_received", 0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def _with_drivers(channel: str) -> AsyncIterator[Callable[[], int]]:
    """CanPort with one pack driver per pack: counters, checksums, time-outs and readings included."""
    port = CanPort(_spec(channel))
    packs = [
        DbcPack(DeviceSpec(f"slot{address}.pack", "pack", PROFILE, "bench", address), port)
        for address in range(1, PACKS + 1)
    ]
    async with _running(port) as received:
        yield received
    for driver in packs:
        driver.close()


@asynccontextmanager
async def _port_and_cantools(channel: str) -> AsyncIterator[Callable[[], int]]:
    """CanPort, and cantools for every frame: the same work as python-can's side does."""
    port, database = CanPort(_spec(channel)), _database()

    def decode(frame: CanFrame) -> None:
        database.decode_message(frame.can_id & ADDRESS_MASK, frame.data, decode_choices=False)

    for message in database.messages:
        port.subscribe(message.frame_id, ADDRESS_MASK, decode)
    async with _running(port) as received:
        yield received
    if port.report().counters.get("callback_errors"):
        raise RuntimeError(port.report().last_error)


def _spec(channel: str) -> CanLinkSpec:
    return CanLinkSpec("bench", "swapbus", channel, 500_000)


@asynccontextmanager
async def _notifier_and_cantools(channel: str) -> AsyncIterator[Callable[[], int]]:
    """python-can's Notifier in the loop, and cantools for every frame: signals, and nothing checked."""
    database = _database()
    heard = 0

    def decode(message: can.Message) -> None:
        nonlocal heard
        database.decode_message(message.arbitration_id & ADDRESS_MASK, bytes(message.data), decode_choices=False)
        heard += 1

    with can.Bus(channel, interface="swapbus", ignore_config=True) as bus:
        notifier = can.Notifier(bus, [decode], loop=asyncio.get_running_loop())  # noqa: TID251 - what we measure beside
        bus.send(can.Message(arbitration_id=0, data=b""))
        yield lambda: heard
        notifier.stop()


async def _measure(client: Client, channel: str, total: int) -> tuple[int, float, float]:
    """Return frames received, CPU time and wall time, until all are there or nothing new came for two seconds."""
    async with client(channel) as received:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        count, idle = 0, 0
        while count < total and idle < 200:
            await asyncio.sleep(0.01)
            idle = idle + 1 if received() == count else 0
            count = received()
        return count, time.process_time() - cpu_s, time.perf_counter() - wall_s


def _round(client: Client, frames: list[CanFrame], rate: float) -> tuple[int, float, float]:
    with _feeder(frames, rate) as channel:
        return asyncio.run(_measure(client, channel, len(frames)))


def run() -> list[Row]:
    """Measure in turn, so that what else the machine does meets all; the median round counts."""
    frames = _frames(int(RATE * SECONDS))
    lost, sent = 0, 0
    times: dict[Client, list[float]] = {_with_drivers: [], _port_and_cantools: [], _notifier_and_cantools: []}
    for _ in range(ROUNDS):
        for client, cpu_times in times.items():
            received, cpu_s, _ = _round(client, frames, RATE)
            cpu_times.append(1e6 * cpu_s / received)
            if client is not _notifier_and_cantools:
                lost += len(frames) - received
                sent += len(frames)
    received, _, wall_s = _round(_with_drivers, frames, 0)
    lost += len(frames) - received
    sent += len(frames)
    drivers_us, port_us, notifier_us = (statistics.median(cpu_times) for cpu_times in times.values())
    mix = f"{PACKS} packs, {RATE:g} frames/s"
    same = f"{port_us:.0f} to {notifier_us:.0f} us, same decoding, same run"
    more = f"as above, but with all checks and readings beside bare decoding: {drivers_us:.0f} us"
    return [
        Row("can.lost_frames", lost, "", 0, "lower", f"of {sent}, {mix}"),
        Row("can.cpu_per_frame_us", drivers_us, "us", 100.0, "lower", f"port and pack drivers, {mix}"),
        Row("can.cpu_ratio_to_notifier_cantools", port_us / notifier_us, "", 1.0, "lower", same),
        Row("can.cpu_ratio_with_drivers", drivers_us / notifier_us, "", None, "lower", more),
        Row(
            "can.frames_per_s", received / wall_s, "1/s", 2 * RATE, "higher", "port and drivers, as fast as they come"
        ),
    ]
