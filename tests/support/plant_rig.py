"""A plant on a clock that a test winds by hand, with the station's heartbeat kept alive."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hal.types import VehicleRequest
from sim_hw.plant import Plant, VehiclePlant
from sim_hw.station_file import StationFile, read_station
from sim_hw.world import load_world, world_path

STATIONS = Path(__file__).parents[2] / "deploy" / "stations"
ALL_BOLTS = 0xFFFF


@dataclass(order=True)
class HandTimer:
    """A planned event; equal times run in the order in which they were planned."""

    when: float
    number: int
    callback: Callable[[], object] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class HandClock:
    """Loop time that moves only when a test says so."""

    def __init__(self) -> None:
        self._now = 0.0
        self._numbers = 0
        self._events: list[HandTimer] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], object], /) -> HandTimer:
        self._numbers += 1
        timer = HandTimer(max(when, self._now), self._numbers, callback)
        heapq.heappush(self._events, timer)
        return timer

    def run_for(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds)

    def run_until(self, reached: Callable[[], bool], limit_s: float) -> bool:
        """Run events until ``reached()``, at most for ``limit_s``; says whether it was reached."""
        end = self._now + limit_s
        while not reached():
            if not self._events or self._events[0].when > end:
                self._now = end
                return reached()
            timer = heapq.heappop(self._events)
            self._now = timer.when
            if not timer.cancelled:
                timer.callback()
        return True


class Rig:
    """A plant, its clock, and what a controller would do to it, without any wire."""

    def __init__(self, station: str = "demo", seed: int = 1, file: StationFile | None = None) -> None:
        self.clock = HandClock()
        file = file if file is not None else read_station(STATIONS / f"{station}.toml")
        self.plant = Plant(file, load_world(world_path(station), seed), self.clock)
        self.beating = True
        self._beat()
        for axis in self.plant.axes.values():
            axis.enable()

    def _beat(self) -> None:
        if self.beating:
            for axis in self.plant.axes.values():
                axis.feed()
            for bank in self.plant.locks.values():
                bank.feed()
            self.clock.call_at(self.clock.time() + 0.25, self._beat)

    def wait(self, reached: Callable[[], bool], limit_s: float = 120.0) -> None:
        assert self.clock.run_until(reached, limit_s), f"not reached by {self.clock.time():.1f} s"
        self.clock.run_for(0.0)  # what the plant throws in this very moment

    def act(self, *commands: Callable[[Callable[[], None]], str | None]) -> None:
        """Start commands together and wait until every one is done."""
        done: list[bool] = []
        for command in commands:
            refusal = command(lambda: done.append(True))
            assert refusal is None, refusal
        self.wait(lambda: len(done) == len(commands))

    def move(self, **targets: float) -> None:
        """Move axes together: ``dock1_clamp`` stands for ``dock1.clamp``."""
        self.act(*(self.to(name.replace("_", ".", 1), target) for name, target in targets.items()))

    def to(self, axis: str, target_mm: float) -> Callable[[Callable[[], None]], str | None]:
        return lambda done: self.plant.axes[axis].move(target_mm, done=done)

    def vehicle_in(self, approach_s: float = 10.0) -> VehiclePlant:
        """Bring the drawn vehicle to dock1 and wait until it stands and the lane door is closed."""
        vehicle = self.plant.bring_vehicle("dock1", approach_s=approach_s)
        self.wait(lambda: self.plant.input("dock1.gate_closed") and self.plant.input("dock1.in_place"))
        return vehicle

    def prepare(self) -> VehiclePlant:
        """Bring a vehicle in; clamp, raise and secure it."""
        vehicle = self.vehicle_in()
        vehicle.request(VehicleRequest.SECURE)
        self.move(dock1_clamp=180.0)
        self.move(dock1_vehicle_lift=120.0)
        self.wait(lambda: vehicle.high_voltage_off)
        return vehicle

    def raise_table(self, table: str) -> None:
        """Align a table under the mount and raise it."""
        self.move(dock1_shuttle_travel={"table_1": 4000.0, "table_2": 5500.0}[table])
        self.move(dock1_shuttle_lift=400.0)

    def turn(self, what: str) -> None:
        """Unlock or lock every bolt of the mount."""
        bank = self.plant.locks["dock1.mount_a.locks"]
        command = bank.unlock if what == "unlock" else bank.lock
        self.act(lambda done: command(ALL_BOLTS, done))

    def stand_before(self, place: str, *, carry: bool) -> None:
        """Move the stacker before a place, at pick or carry height."""
        taught, offset = self.plant.station.stacker_places[place], self.plant.station.carry_offset_mm
        self.move(stacker_x=taught.x_mm, stacker_z=taught.z_mm + (offset if carry else 0.0))

    def pick(self, place: str) -> None:
        self.stand_before(place, carry=False)
        self._reach(place, self.plant.station.carry_offset_mm)

    def put(self, place: str) -> None:
        self.stand_before(place, carry=True)
        self._reach(place, 0.0)

    def _reach(self, place: str, height_mm: float) -> None:
        taught = self.plant.station.stacker_places[place]
        self.move(stacker_fork=taught.fork_mm)
        self.move(stacker_z=taught.z_mm + height_mm)
        self.move(stacker_fork=0.0)

    def swap(self) -> VehiclePlant:
        """A whole swap, one act after the other: slot01's pack in, the vehicle's into slot01 and plugged."""
        connector = self.plant.connectors["slot01.connector"]
        self.act(connector.disengage)
        self.pick("slot01")
        self.put("dock1.table_2")
        vehicle = self.prepare()
        self.raise_table("table_1")
        self.turn("unlock")
        self.move(dock1_shuttle_lift=0.0)
        self.raise_table("table_2")
        self.turn("lock")
        vehicle.request(VehicleRequest.CHECK)
        self.move(dock1_shuttle_lift=0.0)
        self.move(dock1_shuttle_travel=0.0)
        self.wait(lambda: vehicle.status().mounts[0].pack_ok)
        vehicle.request(VehicleRequest.WAKE)
        self.wait(lambda: vehicle.status().ready_to_drive)
        self.move(dock1_vehicle_lift=0.0)
        self.move(dock1_clamp=0.0)
        vehicle.request(VehicleRequest.LEAVE)
        self.wait(lambda: self.plant.vehicles["dock1"] is None)
        self.pick("dock1.table_1")
        self.put("slot01")
        self.act(connector.engage)
        return vehicle

    def laws_broken(self) -> list[str]:
        return [violation.law.name for violation in self.plant.violations]
