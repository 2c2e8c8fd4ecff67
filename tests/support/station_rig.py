"""A whole station in one process: simulated hardware on in-memory wires, the real controller on the real drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from controller.app import StationApp, Wires
from controller.config import StationConfig, load_station
from controller.events import Event, StepEvent, SwapEvent, UnitEvent
from sim_hw.hardware import SimulatedHardware
from sim_hw.plant import Plant
from sim_hw.plant.packs import PackBirth
from sim_hw.station_file import read_station
from sim_hw.world import load_world, world_path

STATIONS = Path(__file__).resolve().parents[2] / "deploy" / "stations"


@dataclass
class StationRig:
    """The running station and what it has told so far."""

    app: StationApp
    hardware: SimulatedHardware
    running: asyncio.Task[None]
    events: list[Event] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, event: Event) -> None:
        """Note an event and wake whoever waits for one."""
        self.events.append(event)
        self._arrived.set()

    @property
    def plant(self) -> Plant:
        """The physical truth."""
        return self.hardware.plant

    async def until(self, what: Callable[[Event], bool], limit_s: float = 600.0) -> Event:
        """Return the first event from now on that fits; raises TimeoutError with what was told last."""
        seen = len(self.events)
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    while seen < len(self.events):
                        event = self.events[seen]
                        seen += 1
                        if what(event):
                            return event
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            last = "\n".join(str(event) for event in self.events[-15:])
            raise TimeoutError(f"not seen in {limit_s} s; the last events were\n{last}") from None

    async def until_unit(self, unit: str, *states: str, limit_s: float = 120.0) -> None:
        """Wait until a unit is in one of the states."""
        if self.app.station.units[unit].state.name in states:
            return
        await self.until(lambda e: isinstance(e, UnitEvent) and e.unit == unit and e.state in states, limit_s)

    async def bring_vehicle(
        self, dock: str = "dock1", approach_s: float | None = None, packs: Sequence[PackBirth | None] | None = None
    ) -> str:
        """Let a vehicle come and wait until it is heard; returns its id. ``packs``: per mount, else drawn."""
        vehicle = self.plant.bring_vehicle(dock, packs=packs, approach_s=approach_s)
        async with asyncio.timeout(60.0):
            while not self.app.station.vehicle_heard(dock):
                await self.app.station.parts.observer.refresh([f"{dock}.vehicle"])
        return vehicle.vehicle_id

    async def swap(self, dock: str = "dock1", goals: Mapping[str, str] | None = None) -> SwapEvent:
        """Order a swap for the vehicle at a dock and wait for its end."""
        answer = await self.app.service.swap_start(dock, goals)
        return await self.swap_end(str(answer["swap_id"]))

    async def swap_end(self, swap_id: str, limit_s: float = 900.0) -> SwapEvent:
        """Wait for a swap's end; a unit that is held or aborted meanwhile is an error at once."""

        def over(event: Event) -> bool:
            ended = isinstance(event, SwapEvent) and event.swap_id == swap_id and bool(event.result)
            return ended or (isinstance(event, UnitEvent) and event.state in {"HELD", "ABORTED"})

        for event in self.events:
            if isinstance(event, SwapEvent) and event.swap_id == swap_id and event.result:
                return event
        event = await self.until(over, limit_s)
        if not isinstance(event, SwapEvent):
            failed = [e for e in self.events if isinstance(e, StepEvent) and e.state == "failed"]
            raise AssertionError(f"{event}\nfailed steps: {failed}")  # noqa: TRY004 - what a test fails with
        return event

    def step_is(self, kind: str, state: str = "started") -> Callable[[Event], bool]:
        """Return a filter for a kind of step."""
        return lambda event: isinstance(event, StepEvent) and event.kind == kind and event.state == state


def station_config(name: str, scratch: Path) -> StationConfig:
    """Return a shipped station whose journal and socket are in ``scratch``; it asks for no groups of people."""
    config = load_station(STATIONS / f"{name}.toml")
    own_api = {"socket": scratch / "s.sock", "operators_group": None, "technicians_group": None}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"directory": scratch / "data"}),
            "local_api": config.local_api.model_copy(update=own_api),
            "mqtt": None,
        }
    )


@asynccontextmanager
async def station_rig(
    name: str, scratch: Path, seed: int = 1, *, reset: bool = True, stock: int | None = None
) -> AsyncIterator[StationRig]:
    """Run a station; with ``reset`` it is in Idle when the context begins. No law of physics may break in it.

    ``stock``: how many packs are in the slots at the start, if not as many as the world file has.
    """
    file = STATIONS / f"{name}.toml"
    station = read_station(file)
    world = load_world(world_path(station.station_id), seed)
    hardware = SimulatedHardware(station, world if stock is None else replace(world, stock_packs=stock))
    async with hardware.in_process(), controller_on(hardware, name, scratch) as rig:
        if reset:
            await rig.app.service.reset(None)
        yield rig
    assert not hardware.plant.violations, hardware.plant.violations


@asynccontextmanager
async def controller_on(hardware: SimulatedHardware, name: str, scratch: Path) -> AsyncIterator[StationRig]:
    """Run a controller on hardware that is being served, with the books that an earlier one may have left."""
    wires = Wires({"open_bus": hardware.open_bus, "open_client": hardware.open_client})
    app = StationApp(station_config(name, scratch), wires)
    running = asyncio.get_running_loop().create_task(app.run())
    rig = StationRig(app, hardware, running)
    app.events.subscribe(rig.take)
    ready = asyncio.get_running_loop().create_task(app.ready.wait())
    try:
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED, timeout=60.0)
        if running.done():
            running.result()
        yield rig
    finally:
        ready.cancel()
        running.cancel()
        await asyncio.wait({running, ready})
    if not running.cancelled():
        running.result()
