"""The demo station's simulated hardware for tests of nodes: addresses by hand, time virtual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hal.types import Table
from sim_hw.codec import ExcCode
from sim_hw.hardware import SimulatedHardware
from sim_hw.station_file import StationFile, read_station
from sim_hw.world import World, load_world, world_path

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "deploy" / "stations" / "demo.toml"


def demo_world(seed: int = 1, **changes: Any) -> World:
    """Return the demo station's world, with fields replaced."""
    return replace(load_world(world_path("demo"), seed), **changes)


@asynccontextmanager
async def demo_hardware(
    world: World | None = None, station: StationFile | None = None
) -> AsyncIterator[SimulatedHardware]:
    """Run the demo station in process."""
    async with SimulatedHardware(station or read_station(DEMO), world or demo_world()).in_process() as hardware:
        yield hardware


class Unit:
    """One unit's registers, reached past the wire."""

    def __init__(self, hardware: SimulatedHardware, link_id: str, unit: int) -> None:
        self.image = hardware.wires[link_id].units[unit]
        self._beat = 0

    def inputs(self, address: int, count: int) -> list[int]:
        """Return input registers."""
        return self._good(self.image.read(Table.INPUT, address, count))

    def input(self, address: int) -> int:
        """Return one input register."""
        return self.inputs(address, 1)[0]

    def bits(self, address: int, count: int) -> list[int]:
        """Return discrete inputs."""
        return self._good(self.image.read(Table.DISCRETE, address, count))

    def write(self, address: int, values: Sequence[int]) -> ExcCode | None:
        """Write holding registers."""
        return self.image.write(address, values)

    @staticmethod
    def _good(values: list[int] | ExcCode) -> list[int]:
        assert isinstance(values, list), f"exception {values!r}"
        return values

    def beat(self) -> None:
        """Write the next heartbeat into register 0."""
        self._beat = (self._beat + 1) & 0xFFFF
        assert self.write(0, [self._beat]) is None

    async def _beat_on(self) -> None:
        while True:
            self.beat()
            await asyncio.sleep(0.25)

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Keep the heartbeat going."""
        task = asyncio.create_task(self._beat_on())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
