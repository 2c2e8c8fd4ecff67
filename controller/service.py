"""What the local API offers, answered from the station, its books and its readings. The reads touch no device."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from enum import Enum
from typing import Any

from controller.clock import utc_now
from controller.events import Event, StepEvent
from controller.local.protocol import ErrorKind, ServiceRefused
from controller.model.goals import SwapRefused
from controller.model.inventory import UNKNOWN
from controller.model.layout import charger_of, connector_of, pack_monitor_of
from controller.model.phases import Command, stack_light
from controller.station import Station
from controller.units import Unit, UnitRefused
from hal.api import Monitor
from hal.types import ConnectorStatus, PackStatus, Reading

OFFERED = (Command.CLEAR, Command.RESET, Command.START, Command.STOP, Command.ABORT)  # what the local API has
COMMAND_LIMIT_S = 60.0  # for an acting state to end; the longest is Stopping, which waits for a step


@dataclass(frozen=True, slots=True)
class About:
    """What does not change while the controller runs, and what others know."""

    name: str
    version: str
    started_at: float
    links: Mapping[str, str]  # device → link
    health: Callable[[], dict[str, object]]
    uplink: Callable[[], dict[str, object] | None]


class Service:
    """Implements StationService. ``close()`` stops listening."""

    def __init__(self, station: Station, about: About) -> None:
        self._station = station
        self._parts = station.parts
        self._about = about
        self._steps: dict[tuple[str, str, str], StepEvent] = {}
        self.close = self._parts.events.subscribe(self._follow_steps)

    def _follow_steps(self, event: Event) -> None:
        if isinstance(event, StepEvent):
            key = (event.kind, event.dock, event.place)
            if event.state == "started":
                self._steps[key] = event
            elif event.state in {"done", "failed"}:
                self._steps.pop(key, None)

    # --- reads -----------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """See StationService."""
        now = asyncio.get_running_loop().time()
        station, snapshot = self._station, self._parts.observer.snapshot()
        starved = not station.orders()
        return {
            "schema": "swap-station/status/1",
            "station": self._parts.layout.station_id,
            "name": self._about.name,
            "version": self._about.version,
            "utc": utc_now(),
            "uptime_s": round(now - self._about.started_at, 1),
            "units": [_unit(unit, starved=starved) for unit in station.units.values()],
            "swaps": [
                {
                    "swap_id": swap.order.swap_id,
                    "dock": swap.order.dock,
                    "vehicle_id": swap.order.vehicle_id,
                    "phase": station.phase(swap, snapshot),
                    "elapsed_s": round(max(0.0, now - swap.order.ordered_at), 1),
                }
                for swap in self._parts.ledger.swaps.values()
            ],
            "steps": [
                {
                    "kind": step.kind,
                    "dock": step.dock,
                    "place": step.place,
                    "pack": step.pack,
                    "swap_id": step.swap_id,
                    "devices": list(step.devices),
                    "elapsed_s": round(now - step.at, 1),
                    "expected_s": step.expected_s,
                }
                for step in self._steps.values()
            ],
            "faults": [
                {
                    "number": fault.spec.number,
                    "name": fault.spec.name,
                    "device": fault.source,
                    "effect": fault.spec.effect.name,
                    "age_s": round(now - fault.since, 1),
                    "present": fault.present,
                    "acked": fault.acknowledged,
                    "detail": fault.detail,
                    "what_to_do": fault.spec.what_to_do,
                }
                for fault in station.watch.faults.active()
            ],
            "latched": dict(self._parts.hal.stop_latched),
            "uplink": self._about.uplink(),
            "health": self._about.health(),
        }

    def slots(self) -> dict[str, object]:
        """See StationService."""
        return {"schema": "swap-station/slots/1", "places": [self._place(p) for p in self._parts.layout.places]}

    def _place(self, place: str) -> dict[str, object]:
        layout, hal, inventory = self._parts.layout, self._parts.hal, self._parts.ledger.inventory
        content = inventory.at(place)
        row: dict[str, object] = {
            "place": place,
            "kind": self._kind_of(place),
            "pack": "UNKNOWN" if content is UNKNOWN else content,
            "present": self._input(place),
            "reserved_for": inventory.reserved.get(place),
            **dict.fromkeys(("soc_pct", "temperature_c_max", "charger", "voltage_v", "current_a", "connector")),
            "age_s": None,
            "quality": None,
        }
        if isinstance(content, str):
            row["soc_pct"] = inventory.note(content).soc_pct
        if not layout.is_slot(place):
            return row
        pack, charger = hal.packs[pack_monitor_of(place)].reading, hal.chargers[charger_of(place)].reading.value
        row.update(_age(pack))
        if isinstance(pack.value, PackStatus) and pack.value.serial == content:
            row.update(soc_pct=pack.value.soc_pct, temperature_c_max=pack.value.temperature_c_max)
        if charger is not None:
            row.update(
                charger=charger.state.name.lower(),
                voltage_v=charger.output_voltage_v,
                current_a=charger.output_current_a,
            )
        plug = hal.connectors[connector_of(place)].reading.value
        row["connector"] = _plug(plug) if plug is not None else None
        return row

    def _kind_of(self, place: str) -> str:
        layout = self._parts.layout
        if layout.is_slot(place):
            return "slot"
        if place in layout.store.quarantine:
            return "quarantine"
        dock = layout.dock_of(place)
        return "mount" if dock is not None and place in dock.mounts else "table"

    def _input(self, name: str) -> bool | None:
        reading = self._parts.observer.snapshot().inputs.get(name)
        return reading.value if reading is not None else None

    def devices(self) -> dict[str, object]:
        """See StationService."""
        hal = self._parts.hal
        groups: dict[str, Mapping[str, Monitor[Any]]] = {
            "axis": hal.axes,
            "lock_bank": hal.locks,
            "connector": hal.connectors,
            "charger": hal.chargers,
            "pack": hal.packs,
            "vehicle": hal.vehicles,
            "safety": hal.safety,
            "zone": hal.zones,
            "io": hal.io,
        }
        latched = hal.stop_latched
        rows = [
            {
                "device": device_id,
                "kind": kind,
                "link": self._about.links.get(device_id, ""),
                "lifecycle": monitor.lifecycle.value,
                **_age(monitor.reading),
                "latched": latched.get(device_id, ""),
                "value": _plain(monitor.reading.value),
            }
            for kind, group in groups.items()
            for device_id, monitor in group.items()
        ]
        return {"schema": "swap-station/devices/1", "devices": rows}

    def io(self) -> dict[str, object]:
        """See StationService."""
        snapshot = self._parts.observer.snapshot()
        inputs, outputs = [], []
        for device_id, io in self._parts.hal.io.items():
            for name, value in (io.reading.value or {}).items():
                row = {"name": name, "device": device_id, "value": value, **_age(io.reading)}
                inputs.append({**row, "stable_s": round(snapshot.input_stable_s(name), 1)})
            outputs += [{"name": name, "device": device_id, "value": value} for name, value in io.outputs.items()]
        return {"schema": "swap-station/io/1", "inputs": inputs, "outputs": outputs}

    def bus(self) -> dict[str, object]:
        """See StationService."""
        now = asyncio.get_running_loop().time()
        links = [
            {
                "link": report.link_id,
                "kind": self._about.links.get(report.link_id, ""),
                "state": report.state.value,
                "age_s": round(now - report.since, 1),
                "counters": dict(report.counters),
                "last_error": report.last_error,
            }
            for report in self._parts.hal.links()
        ]
        return {"schema": "swap-station/bus/1", "links": links}

    def subscribe(self, listener: Callable[[dict[str, object]], None]) -> Callable[[], None]:
        """See StationService."""
        return self._parts.events.subscribe(lambda event: listener(event.to_json()))

    # --- commands --------------------------------------------------------------------------------------------------

    async def swap_start(self, dock: str, goals: Mapping[str, str] | None) -> dict[str, object]:
        """See StationService."""
        try:
            order = await self._station.start_swap(dock, goals)
        except SwapRefused as error:
            raise ServiceRefused(ErrorKind(error.kind), str(error)) from error
        except UnitRefused as error:
            way_out = _takes(self._station.units[error.unit])
            raise ServiceRefused(ErrorKind.REFUSED, str(error), [*error.reasons, way_out]) from error
        return {
            "schema": "swap-station/swap-start/1",
            "swap_id": order.swap_id,
            "dock": order.dock,
            "goals": dict(order.goals),
        }

    async def stop(self, unit: str | None) -> dict[str, object]:
        """See StationService."""
        return await self._command(Command.STOP, unit)

    async def abort(self, unit: str | None) -> dict[str, object]:
        """See StationService."""
        return await self._command(Command.ABORT, unit)

    async def clear(self, unit: str | None) -> dict[str, object]:
        """See StationService."""
        return await self._command(Command.CLEAR, unit)

    async def reset(self, unit: str | None) -> dict[str, object]:
        """See StationService."""
        return await self._command(Command.RESET, unit)

    async def start(self, unit: str | None) -> dict[str, object]:
        """See StationService."""
        return await self._command(Command.START, unit)

    async def _command(self, command: Command, unit_id: str | None) -> dict[str, object]:
        """Give a command to one unit, or to every unit whose state takes it; refuse if none does."""
        units = self._station.units
        if unit_id is not None and unit_id not in units:
            raise ServiceRefused(ErrorKind.NOT_FOUND, f"there is no unit {unit_id!r}", [f"units: {', '.join(units)}"])
        chosen = (
            [units[unit_id]] if unit_id is not None else [u for u in units.values() if command.name in u.allowed()]
        )
        if not chosen:
            states = [f"{u.unit_id} is {u.state.name}: {u.cause}; {_takes(u)}" for u in units.values()]
            raise ServiceRefused(ErrorKind.REFUSED, f"no unit takes {command.name.lower()} now", states)
        reasons: list[str] = []
        for unit in chosen:
            try:
                unit.fire(command, f"{command.name.lower()} by command")
            except UnitRefused as error:
                reasons += error.reasons
        try:
            async with asyncio.timeout(COMMAND_LIMIT_S):
                for unit in chosen:
                    reasons += await _settled(unit)
        except TimeoutError as error:
            states = [f"{u.unit_id} is still {u.state.name}" for u in chosen]
            raise ServiceRefused(ErrorKind.TIMEOUT, f"not done after {COMMAND_LIMIT_S:.0f} s", states) from error
        if reasons:
            raise ServiceRefused(_kind(command), f"{command.name.lower()} refused: {reasons[0]}", reasons)
        return {"schema": "swap-station/command/1", "units": [_unit(u, starved=True) for u in chosen]}


def _takes(unit: Unit) -> str:
    """Say which commands that a person can give here lead on from a unit's state."""
    allowed = [command.name.lower() for command in OFFERED if command.name in unit.allowed()]
    return f"{unit.unit_id} takes {' and '.join(allowed) or 'no command'} now"


async def _settled(unit: Unit) -> list[str]:
    try:
        await unit.settled()
    except UnitRefused as error:
        return error.reasons
    return []


def _kind(command: Command) -> ErrorKind:
    return ErrorKind.INTERLOCK if command in {Command.CLEAR, Command.RESET} else ErrorKind.REFUSED


def _unit(unit: Unit, *, starved: bool) -> dict[str, object]:
    light = stack_light(unit.state, starved=starved)
    lamps = {colour: getattr(light, colour) for colour in ("red", "amber", "green", "blue")}
    shown = [f"{colour} flashing" if lamp.name == "FLASHING" else colour for colour, lamp in lamps.items() if lamp]
    return {
        "unit": unit.unit_id,
        "state": unit.state.name,
        "state_no": unit.state.value,
        "mode": unit.mode,
        "cause": unit.cause,
        "light": ", ".join(shown) or "off",
    }


def _plug(plug: ConnectorStatus) -> str:
    if plug.engaged == plug.disengaged:
        return "moving" if not plug.engaged else "both switches"
    return "engaged" if plug.engaged else "disengaged"


def _age(reading: Reading[Any]) -> dict[str, object]:
    age_s = asyncio.get_running_loop().time() - reading.measured_at
    return {"age_s": None if reading.value is None else round(age_s, 3), "quality": reading.quality.value}


def _plain(value: object) -> object:
    """Return a reading's value as JSON: enumerations by name, tuples as lists."""
    if isinstance(value, Enum):
        return value.name.lower()
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(item) for key, item in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
