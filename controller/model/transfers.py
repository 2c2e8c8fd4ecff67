"""The next step of a move, from where things are now. Pure; what an axis-driven carrier does with a transfer.

Asking again after every step makes a move that was cut short and one that starts afresh the same thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from controller.model.bolts import all_open, all_proven
from controller.model.intent import Move, MoveKind, Step, StepKind
from controller.model.layout import (
    FORK,
    DockLayout,
    Layout,
    StackerPlace,
    charger_of,
    connector_of,
    locks_of,
    pack_monitor_of,
)
from controller.model.snapshot import SLOT_AGE_S_MAX, StationSnapshot
from hal.types import ChargerState, VehicleRequest, VehicleStatus

STORE = "store"  # the unit that owns slots and stacker

POSITION_TOLERANCE_MM = 2.0  # twice the drive's own in-position window (profiles/motion/positioning_axis.toml)


class PackPlaces(Protocol):
    """What this module must know of the inventory."""

    def at(self, place: str) -> object:
        """Return the serial of the pack in a place, None, or UNKNOWN."""
        ...


class MoveImpossible(Exception):
    """No step leads on from here: a person must look. Carries one sentence."""


def near(actual_mm: float, target_mm: float) -> bool:
    """Whether an axis stands at a taught position."""
    return abs(actual_mm - target_mm) <= POSITION_TOLERANCE_MM


def next_step(move: Move, snapshot: StationSnapshot, places: PackPlaces, layout: Layout) -> Step | None:
    """Return the step that brings ``move`` on, or None when it is finished.

    Raises:
        MoveImpossible: the pack is neither at its origin, on the way, nor at its destination, or an axis
            stands where no step of this move may begin.
        StaleReading: a position that this depends on is not known.
    """
    if move.kind is MoveKind.TRANSFER:
        if layout.dock_of(move.origin) and layout.dock_of(move.destination):
            return _shuttle_step(move, snapshot, places, layout)
        return _stacker_step(move, snapshot, places, layout)
    return _SIMPLE[move.kind](move, snapshot, layout)


# --- shuttle: between a mount and a table ------------------------------------------------------------------------


def _shuttle_step(move: Move, snapshot: StationSnapshot, places: PackPlaces, layout: Layout) -> Step | None:
    dock = _dock(move, layout)
    putting_in = move.destination in dock.mounts
    mount, table = (move.destination, move.origin) if putting_in else (move.origin, move.destination)
    step = partial(_step, move=move, place=mount, table=table, goes_to=move.destination)
    if not putting_in and places.at(mount) != move.pack and places.at(table) != move.pack:
        raise MoveImpossible(f"{move.pack} is neither in {mount} nor on {table}")
    if putting_in and places.at(table) != move.pack and places.at(mount) != move.pack:
        raise MoveImpossible(f"{move.pack} is neither on {table} nor in {mount}")
    bank = snapshot.lock_bank(locks_of(mount))
    turned = all_proven(bank, dock.lock_banks.get(mount)) if putting_in else all_open(bank)
    # A pack that is out of the mount is out whatever the bolts did since; one that is in must be proven to be.
    arrived = places.at(move.destination) == move.pack and (turned or not putting_in)
    lift_mm = snapshot.axis(dock.device("shuttle_lift")).position_mm
    if near(lift_mm, dock.shuttle_lift_down_mm):
        if arrived:
            return None
        aligned = near(snapshot.axis(dock.device("shuttle_travel")).position_mm, dock.align_mm[mount, table])
        return step(StepKind.RAISE_TABLE if aligned else StepKind.ALIGN_SHUTTLE)
    if arrived and turned:
        return step(StepKind.LOWER_TABLE)
    if near(lift_mm, dock.shuttle_lift_up_mm):
        return step(StepKind.LOCK_PACK if putting_in else StepKind.UNLOCK_PACK)
    return step(StepKind.RAISE_TABLE)


# --- stacker: between slots, tables and quarantine ---------------------------------------------------------------


def _stacker_step(move: Move, snapshot: StationSnapshot, places: PackPlaces, layout: Layout) -> Step | None:
    stacker = layout.stacker
    loaded = places.at(FORK) == move.pack
    arrived = places.at(move.destination) == move.pack
    if not loaded and not arrived and places.at(move.origin) != move.pack:
        raise MoveImpossible(f"{move.pack} is not in {move.origin}, on the fork or in {move.destination}")
    if not near(snapshot.axis(FORK).position_mm, stacker.fork_retracted_mm):
        return _fork_out(move, snapshot, places, layout)
    if arrived:
        return None
    goal = move.destination if loaded else move.origin
    if goal == FORK:
        raise MoveImpossible(f"the fork does not carry {move.pack}")
    at = stacker.places[goal]
    z_goal_mm = at.z_mm + (stacker.carry_offset_mm if loaded else 0.0)
    there = near(snapshot.axis("stacker.x").position_mm, at.x_mm)
    there = there and near(snapshot.axis("stacker.z").position_mm, z_goal_mm)
    kind = StepKind.EXTEND_FORK if there else StepKind.MOVE_STACKER
    return _store_step(kind, move, place=goal, pack=move.pack)


def _fork_out(move: Move, snapshot: StationSnapshot, places: PackPlaces, layout: Layout) -> Step:
    """Do the work where the fork is, or finish a half-done lift or set-down there; then it may come back."""
    stacker = layout.stacker
    carried, offset_mm = places.at(FORK), stacker.carry_offset_mm
    here = next((name for name, at in stacker.places.items() if stacker_at(snapshot, at, offset_mm)), None)
    if here is None:
        return _store_step(StepKind.RETRACT_FORK, move, place=move.origin, pack=move.pack)
    extended = near(snapshot.axis(FORK).position_mm, stacker.places[here].fork_mm)
    over_mm = snapshot.axis("stacker.z").position_mm - stacker.places[here].z_mm
    resting = places.at(here)
    if isinstance(carried, str):
        if extended and carried == move.pack and here == move.destination:
            return _store_step(StepKind.SET_DOWN_PACK, move, place=here, pack=carried)
        if not near(over_mm, offset_mm):
            return _store_step(StepKind.LIFT_PACK, move, place=here, pack=carried)
    elif isinstance(resting, str):
        if extended and resting == move.pack and here == move.origin:
            return _store_step(StepKind.LIFT_PACK, move, place=here, pack=resting)
        if not near(over_mm, 0.0):
            return _store_step(StepKind.SET_DOWN_PACK, move, place=here, pack=resting)
    return _store_step(StepKind.RETRACT_FORK, move, place=here, pack=move.pack)


def _store_step(kind: StepKind, move: Move, *, place: str, pack: str) -> Step:
    return Step(kind, STORE, place=place, goes_to=move.destination, pack=pack, swap_id=move.swap_id)


# --- everything that is not a transfer -----------------------------------------------------------------------------


def _clamp(move: Move, snapshot: StationSnapshot, layout: Layout) -> Step | None:
    dock = _dock(move, layout)
    step = partial(_step, move=move)
    if not near(snapshot.axis(dock.device("clamp")).position_mm, dock.clamp_closed_mm):
        return step(StepKind.CLAMP_VEHICLE)
    up_mm = dock.vehicle_lift_up_mm
    if up_mm is not None and not near(snapshot.axis(dock.device("vehicle_lift")).position_mm, up_mm):
        return step(StepKind.RAISE_VEHICLE)
    return None


def _unclamp(move: Move, snapshot: StationSnapshot, layout: Layout) -> Step | None:
    dock = _dock(move, layout)
    step = partial(_step, move=move)
    down_mm = dock.vehicle_lift_down_mm
    if down_mm is not None and not near(snapshot.axis(dock.device("vehicle_lift")).position_mm, down_mm):
        return step(StepKind.LOWER_VEHICLE)
    if not near(snapshot.axis(dock.device("clamp")).position_mm, dock.clamp_open_mm):
        return step(StepKind.UNCLAMP_VEHICLE)
    return None


def _secure(move: Move, snapshot: StationSnapshot, layout: Layout) -> Step | None:
    vehicle = snapshot.vehicle(_dock(move, layout).device("vehicle"))
    asked = vehicle.acknowledged in {VehicleRequest.SECURE, VehicleRequest.CHECK}
    secured = asked and vehicle.park_applied and vehicle.brake_applied and vehicle.high_voltage_off
    return None if secured else _step(StepKind.SECURE_VEHICLE, move)


def _check(move: Move, snapshot: StationSnapshot, layout: Layout) -> Step | None:
    dock = _dock(move, layout)
    vehicle = snapshot.vehicle(dock.device("vehicle"))
    index = dock.mounts.index(move.origin)
    accepted = index < len(vehicle.mounts) and vehicle.mounts[index].pack_ok
    return None if accepted else _step(StepKind.CHECK_PACK, move, move.origin)


def _wake(move: Move, snapshot: StationSnapshot, layout: Layout) -> Step | None:
    vehicle = snapshot.vehicle(_dock(move, layout).device("vehicle"))
    return None if is_awake(vehicle) else _step(StepKind.WAKE_VEHICLE, move)


def _release(move: Move, snapshot: StationSnapshot, layout: Layout) -> Step | None:
    in_place = snapshot.input(_dock(move, layout).device("in_place"))
    return _step(StepKind.RELEASE_VEHICLE, move) if in_place else None


def _align(move: Move, snapshot: StationSnapshot, layout: Layout) -> Step | None:
    dock = _dock(move, layout)
    step = partial(_step, move=move, place=move.origin, table=move.destination)
    if not near(snapshot.axis(dock.device("shuttle_lift")).position_mm, dock.shuttle_lift_down_mm):
        return step(StepKind.LOWER_TABLE)
    target_mm = dock.align_mm[move.origin, move.destination]
    aligned = near(snapshot.axis(dock.device("shuttle_travel")).position_mm, target_mm)
    return None if aligned else step(StepKind.ALIGN_SHUTTLE)


def _return(move: Move, snapshot: StationSnapshot, layout: Layout) -> Step | None:
    dock = _dock(move, layout)
    step = partial(_step, move=move)
    if not near(snapshot.axis(dock.device("shuttle_lift")).position_mm, dock.shuttle_lift_down_mm):
        return step(StepKind.LOWER_TABLE)
    home = near(snapshot.axis(dock.device("shuttle_travel")).position_mm, dock.shuttle_exchange_mm)
    return None if home else step(StepKind.RETURN_SHUTTLE)


def _free_slot(move: Move, snapshot: StationSnapshot, layout: Layout) -> Step | None:
    del layout
    step = partial(_step, move=replace(move, dock=STORE), place=move.origin)
    if not charger_is_off(snapshot, move.origin):
        return step(StepKind.STOP_CHARGER)
    connector = snapshot.connector(connector_of(move.origin))
    free = connector.disengaged and not connector.engaged
    return None if free else step(StepKind.DISENGAGE_CONNECTOR)


def _hand_off(move: Move, snapshot: StationSnapshot, layout: Layout) -> Step | None:
    del layout
    slot = move.origin
    step = partial(_step, move=replace(move, dock=STORE), place=slot)
    connector = snapshot.connector(connector_of(slot))
    if not connector.engaged or connector.disengaged:
        return step(StepKind.ENGAGE_CONNECTOR)
    pack = snapshot.packs.get(pack_monitor_of(slot))
    heard = pack is not None and pack.is_fresh(snapshot.taken_at, SLOT_AGE_S_MAX)
    if pack is None or not heard or pack.value is None or pack.value.serial != move.pack:
        return step(StepKind.IDENTIFY_PACK)
    charging = snapshot.charger(charger_of(slot)).state is ChargerState.CHARGING
    return None if charging else step(StepKind.START_CHARGER)


def is_awake(vehicle: VehicleStatus) -> bool:
    """Whether the vehicle is ready to drive and was asked to be: one that is told to secure itself soon is not."""
    return vehicle.ready_to_drive and vehicle.acknowledged in {VehicleRequest.WAKE, VehicleRequest.LEAVE}


def charger_is_off(snapshot: StationSnapshot, slot: str) -> bool:
    """Whether a slot's charger says it is off or in standby, and delivers nothing."""
    charger = snapshot.charger(charger_of(slot))
    return charger.state in {ChargerState.OFF, ChargerState.STANDBY} and charger.output_current_a <= SAFE_CURRENT_A


SAFE_CURRENT_A = 1.0  # profiles/chargers/generic_dc.toml: at or below, the plug may be pulled

_SIMPLE: dict[MoveKind, Callable[[Move, StationSnapshot, Layout], Step | None]] = {
    MoveKind.CLAMP: _clamp,
    MoveKind.UNCLAMP: _unclamp,
    MoveKind.SECURE: _secure,
    MoveKind.CHECK: _check,
    MoveKind.WAKE: _wake,
    MoveKind.RELEASE: _release,
    MoveKind.ALIGN: _align,
    MoveKind.RETURN: _return,
    MoveKind.FREE_SLOT: _free_slot,
    MoveKind.HAND_OFF: _hand_off,
}


def _dock(move: Move, layout: Layout) -> DockLayout:
    return layout.docks[move.dock or move.origin.split(".", 1)[0]]


def _step(kind: StepKind, move: Move, place: str = "", table: str = "", goes_to: str = "") -> Step:
    dock = move.dock or move.origin.split(".", 1)[0]
    return Step(kind, dock, place, table, goes_to, move.pack, move.swap_id)


def stacker_at(snapshot: StationSnapshot, place: StackerPlace, carry_offset_mm: float) -> bool:
    """Whether the stacker stands at a place, at any height from under the pack to carrying it."""
    z_mm = snapshot.axis("stacker.z").position_mm
    within = place.z_mm - POSITION_TOLERANCE_MM <= z_mm <= place.z_mm + carry_offset_mm + POSITION_TOLERANCE_MM
    return within and near(snapshot.axis("stacker.x").position_mm, place.x_mm)
