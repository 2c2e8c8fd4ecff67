"""A dock and a store in which a step may begin, to be spoilt one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from controller.config import load_station
from controller.model.intent import Step, StepKind
from controller.model.interlocks import Violation, holds_violations, requires_violations
from controller.model.layout import FORK, Layout, charger_of, connector_of, locks_of, pack_monitor_of
from controller.model.snapshot import StationSnapshot
from hal.types import (
    AxisState,
    AxisStatus,
    BoltResult,
    BoltState,
    BoltStatus,
    ChargerState,
    ChargerStatus,
    ConnectorState,
    ConnectorStatus,
    LockBankState,
    LockBankStatus,
    MountStatus,
    PackStatus,
    Quality,
    Reading,
    SafetyInputs,
    VehicleRequest,
    VehicleStatus,
    ZoneStatus,
)
from tests.support.config_files import DEMO

NOW = 1000.0
DOCK, MOUNT, TABLE, OTHER_TABLE, SLOT = "dock1", "dock1.mount_a", "dock1.table_1", "dock1.table_2", "slot03"
OLD, FRESH = "PACK-OLD", "PACK-FRESH"
UNKNOWN = object()

CLOSED = BoltStatus(BoltState.LOCKED, BoltResult.OK, 120.0, 1800.0)
OPEN = BoltStatus(BoltState.UNLOCKED, BoltResult.OK, 0.0, 1800.0)


@dataclass
class Packs:
    """An inventory that a test writes by hand."""

    where: dict[str, object] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def reserved(self) -> Mapping[str, str]:
        return self.kept

    def at(self, place: str) -> object:
        return self.where.get(place)


@cache
def demo_layout() -> Layout:
    """Return the demo station's layout."""
    return load_station(DEMO).layout()


class Scene:
    """All readings of the demo station, fresh and good; ``change`` changes one device's, ``age`` makes it old."""

    def __init__(self, step: Step, layout: Layout | None = None) -> None:
        self.layout = layout or demo_layout()
        self.step = step
        self.packs = Packs()
        self.values: dict[str, dict[str, Any]] = {}
        self.ages: dict[str, float] = {}
        self.in_place_for_s = 60.0
        dock = self.layout.docks[DOCK]
        safe = SafetyInputs(True, True, True, False, False, True, True, False)
        self.values["safety"] = {f"{zone}.safety": safe for zone in (*self.layout.docks, "store")}
        self.values["zones"] = {
            f"{zone}.zone": ZoneStatus(False, False, False) for zone in (*self.layout.docks, "store")
        }
        self.values["axes"] = {
            dock.device("clamp"): _axis(dock.clamp_closed_mm),
            dock.device("vehicle_lift"): _axis(dock.vehicle_lift_up_mm or 0.0),
            dock.device("shuttle_travel"): _axis(dock.align_mm[MOUNT, TABLE]),
            dock.device("shuttle_lift"): _axis(dock.shuttle_lift_down_mm),
            "stacker.x": _axis(self.layout.stacker.places[SLOT].x_mm),
            "stacker.z": _axis(self.layout.stacker.places[SLOT].z_mm),
            FORK: _axis(self.layout.stacker.fork_retracted_mm),
        }
        bolts = self.layout.docks[DOCK].lock_banks[MOUNT].bolts
        bank = LockBankStatus(LockBankState.READY, False, 1, 0, 0, 1, 0, (CLOSED,) * bolts)
        self.values["locks"] = {locks_of(MOUNT): bank}
        mount = MountStatus(OLD, 20.0, True)
        secured = VehicleStatus("CAR-1", True, True, True, True, 0.0, False, 1234.5, (mount,), VehicleRequest.SECURE)
        self.values["vehicles"] = {dock.device("vehicle"): secured}
        plug = ConnectorStatus(ConnectorState.READY, False, True, 1, 0, 0, 1, 0)
        off = ChargerStatus(ChargerState.OFF, 0.0, 0.0, 0.0, 0.0, 25.0, False, 0)
        self.values["connectors"] = {connector_of(s): plug for s in self.layout.store.slots}
        self.values["chargers"] = {charger_of(s): off for s in self.layout.store.slots}
        self.values["packs"] = {}
        self.values["inputs"] = dict.fromkeys((*self.layout.places, FORK), False)
        self.values["inputs"] |= {dock.device("in_place"): True, dock.device("gate_closed"): True}
        self.put(OLD, MOUNT)

    def put(self, pack: str, place: str) -> Scene:
        """Put a pack in a place, by inventory and sensor."""
        self.packs.where[place] = pack
        self.values["inputs"][place] = True
        return self

    def take(self, place: str) -> Scene:
        """Take the pack out of a place, by inventory and sensor."""
        del self.packs.where[place]
        self.values["inputs"][place] = False
        return self

    def keep(self, place: str, pack: str) -> Scene:
        """Reserve a place for a pack."""
        self.packs.kept[place] = pack
        return self

    def put_unknown(self, place: str) -> Scene:
        """Let nobody know what is in a place."""
        self.packs.where[place] = UNKNOWN
        return self

    def change(self, device: str, **fields: object) -> Scene:
        """Change fields of a device's reading."""
        group = self.group_of(device)
        group[device] = replace(group[device], **fields)
        return self

    def at(self, axis: str, position_mm: float) -> Scene:
        """Place an axis."""
        return self.change(axis, position_mm=position_mm)

    def input(self, name: str, value: bool) -> Scene:
        """Set an input."""
        self.values["inputs"][name] = value
        return self

    def bolts(self, *bolts: BoltStatus) -> Scene:
        """Set the bolts of the mount; one stands for all."""
        count = self.layout.docks[DOCK].lock_banks[MOUNT].bolts
        return self.change(locks_of(MOUNT), bolts=bolts * count if len(bolts) == 1 else bolts)

    def pack(self, slot: str, serial: str, **fields: Any) -> Scene:
        """Let a slot's pack be heard."""
        status = PackStatus(serial, 50.0, 98.0, 380.0, 0.0, 420.0, 100.0, 3.7, 3.6, 25.0, 24.0, 2000.0, True, 0)
        self.values["packs"][pack_monitor_of(slot)] = replace(status, **fields)
        return self

    def plug(self, slot: str, engaged: bool, disengaged: bool) -> Scene:
        """Set both end switches of a slot's connector."""
        return self.change(connector_of(slot), engaged=engaged, disengaged=disengaged)

    def age(self, device: str, age_s: float) -> Scene:
        """Make a reading old."""
        self.ages[device] = age_s
        return self

    def group_of(self, device: str) -> dict[str, Any]:
        """Return the readings among which a device's is."""
        return next(group for group in self.values.values() if device in group)

    def forget(self, device: str) -> Scene:
        """Let a device never have been read."""
        del self.group_of(device)[device]
        return self

    def devices(self) -> list[str]:
        """Every device and input that has a reading."""
        return [device for group in self.values.values() for device in group]

    def snapshot(self) -> StationSnapshot:
        """Return what the rules look at."""
        readings = {
            name: {
                device: Reading(device, value, NOW - self.ages.get(device, 0.0), Quality.GOOD)
                for device, value in group.items()
            }
            for name, group in self.values.items()
        }
        changed_at = {f"{DOCK}.in_place": NOW - self.in_place_for_s}
        return StationSnapshot(NOW, **readings, input_changed_at=changed_at)

    def requires(self) -> tuple[Violation, ...]:
        """Return which requirements are not met."""
        return requires_violations(self.snapshot(), self.step, self.layout, self.packs)

    def holds(self) -> tuple[Violation, ...]:
        """Return what does not hold."""
        return holds_violations(self.snapshot(), self.step, self.layout, self.packs)

    def names(self) -> set[str]:
        """Return the names of requirements that are not met."""
        return {violation.rule for violation in self.requires()}


def _axis(position_mm: float) -> AxisStatus:
    return AxisStatus(AxisState.STANDSTILL, position_mm, 0.0, True, 1, 0, 0, 1, 0)


def _lift_up(scene: Scene) -> Scene:
    dock = scene.layout.docks[DOCK]
    scene.at(dock.device("shuttle_lift"), dock.shuttle_lift_up_mm)
    return scene.change(locks_of(MOUNT), heads_engaged=True)


def _free(scene: Scene) -> Scene:
    """The vehicle stands on its wheels, awake, clamp open."""
    dock = scene.layout.docks[DOCK]
    scene.at(dock.device("clamp"), dock.clamp_open_mm).at(
        dock.device("vehicle_lift"), dock.vehicle_lift_down_mm or 0.0
    )
    return scene.change(
        dock.device("vehicle"), ready_to_drive=True, high_voltage_off=False, acknowledged=VehicleRequest.WAKE
    )


def _fork_in(scene: Scene, place: str) -> Scene:
    return scene.at(FORK, scene.layout.stacker.places[place].fork_mm)


def _unlock(kind: StepKind) -> Scene:
    scene = _lift_up(Scene(Step(kind, DOCK, MOUNT, TABLE, goes_to=TABLE, pack=OLD)))
    return scene.keep(TABLE, OLD).keep(SLOT, OLD)


def _lock(kind: StepKind) -> Scene:
    scene = _lift_up(Scene(Step(kind, DOCK, MOUNT, TABLE, goes_to=MOUNT, pack=FRESH)))
    return scene.take(MOUNT).put(FRESH, TABLE).keep(MOUNT, FRESH).bolts(OPEN)


def _unclamp(kind: StepKind) -> Scene:
    scene = _free(Scene(Step(kind, DOCK)))
    return scene.at(f"{DOCK}.clamp", scene.layout.docks[DOCK].clamp_closed_mm)


def _fetch(kind: StepKind) -> Scene:
    return Scene(Step(kind, "store", SLOT, goes_to=TABLE, pack=FRESH)).put(FRESH, SLOT).keep(TABLE, FRESH)


def _set_down(kind: StepKind) -> Scene:
    scene = Scene(Step(kind, "store", SLOT, goes_to=SLOT, pack=FRESH)).put(FRESH, FORK).keep(SLOT, FRESH)
    stacker = scene.layout.stacker
    return _fork_in(scene, SLOT).at("stacker.z", stacker.places[SLOT].z_mm + stacker.carry_offset_mm)


def _empty_slot(kind: StepKind) -> Scene:
    return Scene(Step(kind, "store", SLOT, pack=FRESH))


def _plugged(kind: StepKind) -> Scene:
    return _empty_slot(kind).put(FRESH, SLOT).plug(SLOT, True, False).pack(SLOT, FRESH)


_SCENES: Mapping[StepKind, Callable[[StepKind], Scene]] = {
    StepKind.UNLOCK_PACK: _unlock,
    StepKind.LOCK_PACK: _lock,
    StepKind.CHECK_PACK: lambda kind: Scene(Step(kind, DOCK, MOUNT, pack=OLD)),
    StepKind.UNCLAMP_VEHICLE: _unclamp,
    StepKind.RELEASE_VEHICLE: lambda kind: _free(Scene(Step(kind, DOCK))),
    StepKind.EXTEND_FORK: _fetch,
    StepKind.LIFT_PACK: lambda kind: _fork_in(_fetch(kind), SLOT),
    StepKind.SET_DOWN_PACK: _set_down,
    StepKind.RETRACT_FORK: lambda kind: _fork_in(_empty_slot(kind), SLOT),
    StepKind.MOVE_STACKER: _empty_slot,
    StepKind.STOP_CHARGER: _empty_slot,
    StepKind.ENGAGE_CONNECTOR: lambda kind: _empty_slot(kind).put(FRESH, SLOT),
    StepKind.DISENGAGE_CONNECTOR: _plugged,
    StepKind.IDENTIFY_PACK: _plugged,
    StepKind.START_CHARGER: _plugged,
}


def scene_for(kind: StepKind) -> Scene:
    """Return a scene in which a step of this kind may begin and go on."""
    return _SCENES[kind](kind) if kind in _SCENES else Scene(Step(kind, DOCK, MOUNT, TABLE))
