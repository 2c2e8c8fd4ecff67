"""The demo station's HAL against its simulated hardware, in process and in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hal.api import HalSet
from hal.factory import build_hal
from hal.types import HalSpec, Lifecycle
from sim_hw.hardware import SimulatedHardware
from sim_hw.station_file import StationFile, read_station
from tests.support.hal_peer import running
from tests.support.sim_station import DEMO, demo_hardware

UP_LIMIT_S = 5.0
SETTLED_S = 2.0  # by then every device has been polled


@dataclass
class Station:
    """A HAL and the hardware at the other end of its wires."""

    hal: HalSet
    hardware: SimulatedHardware

    async def until(self, condition: Callable[[], bool], limit_s: float) -> None:
        """Return once ``condition`` holds; it is looked at after each reading."""
        changed = asyncio.Event()
        unsubscribe = self.hal.on_reading(lambda _device: changed.set())
        try:
            async with asyncio.timeout(limit_s):
                while not condition():
                    changed.clear()
                    await changed.wait()
        finally:
            unsubscribe()


def hal_spec(station: StationFile) -> HalSpec:
    """What the station file declares."""
    return HalSpec(tuple(station.links.values()), tuple(station.devices.values()))


@asynccontextmanager
async def demo_station() -> AsyncIterator[Station]:
    """The demo station, up: everything read, and the hardware has seen the heartbeats."""
    spec = hal_spec(read_station(DEMO))
    async with demo_hardware() as hardware:
        hal = build_hal(spec, open_bus=hardware.open_bus, open_client=hardware.open_client)
        station = Station(hal, hardware)
        async with running(hal.run()):
            await station.until(
                lambda: all(device.lifecycle is Lifecycle.ENABLED for device in hal.locks.values()), UP_LIMIT_S
            )
            await asyncio.sleep(SETTLED_S)
            yield station
        assert hardware.plant.violations == []
