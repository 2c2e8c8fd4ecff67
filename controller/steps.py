"""Every step: which devices it commands, what it does, and what confirms it.

What a step requires, and what must hold while it runs, stands in controller/model/interlocks.py; docs/STEPS.md is
made from both. A step is confirmed by another signal than the command's own answer wherever the station has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from controller.confirmations import (
    Confirm,
    all_of,
    axis_at,
    bolts,
    charger_off,
    charging,
    fork_at,
    fork_loaded,
    heads,
    input_is,
    pack_checked,
    pack_identified,
    plug,
    stacker_there,
    vehicle_awake,
    vehicle_secured,
)
from controller.model.bolts import all_open, all_proven
from controller.model.intent import Step, StepKind
from controller.model.inventory import HandedOff, Inventory, InventoryRecord, PackLeft, PackMoved, PlaceUnknown
from controller.model.layout import (
    FORK,
    DockLayout,
    Layout,
    charger_of,
    connector_of,
    locks_of,
    pack_monitor_of,
)
from controller.model.snapshot import IO_AGE_S_MAX, MOTION_AGE_S_MAX, StationSnapshot
from hal.api import HalSet
from hal.types import BoltState, VehicleRequest


@dataclass(frozen=True, slots=True)
class Hands:
    """What a step may use to act."""

    hal: HalSet
    layout: Layout


Act = Callable[[Hands, Step, StationSnapshot], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One kind of step.

    ``commands``: the devices that it claims; ``witnesses``: the devices that are read afresh to judge it.
    ``confirm`` returns None when the step is proven done, else what is missing, for a person.
    """

    title: str
    commands: Callable[[Layout, Step], tuple[str, ...]]
    witnesses: Callable[[Layout, Step], tuple[str, ...]]
    act: Act
    does: str
    confirm: Confirm
    confirmed_by: str
    if_fails: str
    if_aborted: str


# --- who acts and who is asked -----------------------------------------------------------------------------------


def _dock(layout: Layout, step: Step) -> DockLayout:
    return layout.docks[step.dock]


def _role(*roles: str) -> Callable[[Layout, Step], tuple[str, ...]]:
    """Devices of the step's dock by role."""
    return lambda _layout, step: tuple(f"{step.dock}.{role}" for role in roles)


def _shuttle_and_locks(*roles: str) -> Callable[[Layout, Step], tuple[str, ...]]:
    """Devices of the dock by role, and the lock banks of all its mounts."""
    return lambda layout, step: (
        *(f"{step.dock}.{role}" for role in roles),
        *(locks_of(mount) for mount in layout.docks[step.dock].mounts),
    )


def _mount_locks(_layout: Layout, step: Step) -> tuple[str, ...]:
    return (locks_of(step.place),)


def _mount_witnesses(_layout: Layout, step: Step) -> tuple[str, ...]:
    return (locks_of(step.place), f"{step.dock}.shuttle_lift", f"{step.dock}.io", f"{step.dock}.safety")


def _stacker(*axes: str) -> Callable[[Layout, Step], tuple[str, ...]]:
    return lambda _layout, _step: axes


def _stacker_witnesses(layout: Layout, step: Step) -> tuple[str, ...]:
    dock = layout.dock_of(step.place)
    at_dock = (dock.device("io"), dock.device("shuttle_lift")) if dock else ()
    return ("stacker.x", "store.io", "store.safety", *at_dock)


def _slot(of: Callable[[str], str]) -> Callable[[Layout, Step], tuple[str, ...]]:
    return lambda _layout, step: (of(step.place),)


def _slot_witnesses(_layout: Layout, step: Step) -> tuple[str, ...]:
    return (connector_of(step.place), charger_of(step.place), "store.io", "store.safety")


# --- acts ----------------------------------------------------------------------------------------------------------


def _move(axis: str, target: Callable[[DockLayout, Step], float]) -> Act:
    async def act(hands: Hands, step: Step, _snapshot: StationSnapshot) -> None:
        await hands.hal.axes[f"{step.dock}.{axis}"].move_to(target(_dock(hands.layout, step), step))

    return act


def _ask(request: VehicleRequest) -> Act:
    async def act(hands: Hands, step: Step, _snapshot: StationSnapshot) -> None:
        await hands.hal.vehicles[f"{step.dock}.vehicle"].set_request(request)

    return act


async def _unlock(hands: Hands, step: Step, _snapshot: StationSnapshot) -> None:
    await hands.hal.locks[locks_of(step.place)].unlock()


async def _lock(hands: Hands, step: Step, _snapshot: StationSnapshot) -> None:
    await hands.hal.locks[locks_of(step.place)].lock()


async def _move_stacker(hands: Hands, step: Step, snapshot: StationSnapshot) -> None:
    """Both axes at once; the first error stops the other axis and is the one reported."""
    at = hands.layout.stacker.places[step.place]
    z_mm = at.z_mm + (hands.layout.stacker.carry_offset_mm if fork_loaded(snapshot) else 0.0)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(hands.hal.axes["stacker.x"].move_to(at.x_mm))
            group.create_task(hands.hal.axes["stacker.z"].move_to(z_mm))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors


def _lift_z(*, carrying: bool) -> Act:
    async def act(hands: Hands, step: Step, _snapshot: StationSnapshot) -> None:
        stacker = hands.layout.stacker
        offset_mm = stacker.carry_offset_mm if carrying else 0.0
        await hands.hal.axes["stacker.z"].move_to(stacker.places[step.place].z_mm + offset_mm)

    return act


async def _extend(hands: Hands, step: Step, _snapshot: StationSnapshot) -> None:
    await hands.hal.axes[FORK].move_to(hands.layout.stacker.places[step.place].fork_mm)


async def _retract(hands: Hands, _step: Step, _snapshot: StationSnapshot) -> None:
    await hands.hal.axes[FORK].move_to(hands.layout.stacker.fork_retracted_mm)


async def _stop_charger(hands: Hands, step: Step, _snapshot: StationSnapshot) -> None:
    await hands.hal.chargers[charger_of(step.place)].stop()


async def _engage(hands: Hands, step: Step, _snapshot: StationSnapshot) -> None:
    await hands.hal.connectors[connector_of(step.place)].engage()


async def _disengage(hands: Hands, step: Step, _snapshot: StationSnapshot) -> None:
    await hands.hal.connectors[connector_of(step.place)].disengage()


async def _hear_pack(hands: Hands, step: Step, _snapshot: StationSnapshot) -> None:
    await hands.hal.packs[pack_monitor_of(step.place)].refresh()


async def _start_charger(hands: Hands, step: Step, snapshot: StationSnapshot) -> None:
    pack = snapshot.pack(pack_monitor_of(step.place))
    charger = hands.hal.chargers[charger_of(step.place)]
    await charger.enable(pack.charge_voltage_v_max, pack.charge_current_a_max)


# --- the table ------------------------------------------------------------------------------------------

STEPS: dict[StepKind, StepSpec] = {
    StepKind.CLAMP_VEHICLE: StepSpec(
        "Clamp the vehicle",
        commands=_role("clamp"),
        witnesses=_role("clamp", "io", "safety"),
        act=_move("clamp", lambda dock, _: dock.clamp_closed_mm),
        does="closes the clamp on the wheels",
        confirm=all_of(
            axis_at("clamp", lambda dock, _: dock.clamp_closed_mm), input_is(lambda s: f"{s.dock}.in_place", True)
        ),
        confirmed_by="clamp encoder at closed, vehicle still in place",
        if_fails="the dock is held; the clamp may be anywhere, its position is known",
        if_aborted="the clamp stops and holds; the next reset may open or close it",
    ),
    StepKind.RAISE_VEHICLE: StepSpec(
        "Raise the vehicle",
        commands=_role("vehicle_lift"),
        witnesses=_role("vehicle_lift", "clamp", "io", "safety"),
        act=_move("vehicle_lift", lambda dock, _: dock.vehicle_lift_up_mm or 0.0),
        does="takes the vehicle's weight off its suspension",
        confirm=all_of(
            axis_at("vehicle_lift", lambda dock, _: dock.vehicle_lift_up_mm or 0.0),
            input_is(lambda s: f"{s.dock}.in_place", True),
        ),
        confirmed_by="lift encoder at up, vehicle still in place",
        if_fails="the dock is held with the vehicle clamped",
        if_aborted="the lift stops and its brake holds",
    ),
    StepKind.SECURE_VEHICLE: StepSpec(
        "Secure the vehicle",
        commands=_role("vehicle"),
        witnesses=_role("vehicle"),
        act=_ask(VehicleRequest.SECURE),
        does="asks the vehicle for park, brake and high voltage off, and goes on asking",
        confirm=vehicle_secured,
        confirmed_by="the vehicle's own status of each, and its echo of the request",
        if_fails="the dock is held; nothing has moved",
        if_aborted="nothing moves; the request stands",
    ),
    StepKind.ALIGN_SHUTTLE: StepSpec(
        "Bring a table under a mount",
        commands=_role("shuttle_travel"),
        witnesses=_shuttle_and_locks("shuttle_travel", "shuttle_lift", "io", "safety"),
        act=_move("shuttle_travel", lambda dock, s: dock.align_mm[s.place, s.table]),
        does="drives the shuttle, lift down, until the table stands under the mount",
        confirm=axis_at("shuttle_travel", lambda dock, s: dock.align_mm[s.place, s.table]),
        confirmed_by="travel encoder at the taught position, read afresh",
        if_fails="the dock is held; the shuttle's position is known",
        if_aborted="the shuttle stops and brakes",
    ),
    StepKind.RETURN_SHUTTLE: StepSpec(
        "Bring the shuttle to the exchange",
        commands=_role("shuttle_travel"),
        witnesses=_shuttle_and_locks("shuttle_travel", "shuttle_lift", "io", "safety"),
        act=_move("shuttle_travel", lambda dock, _: dock.shuttle_exchange_mm),
        does="drives the shuttle, lift down, to where the stacker reaches its tables",
        confirm=axis_at("shuttle_travel", lambda dock, _: dock.shuttle_exchange_mm),
        confirmed_by="travel encoder at the exchange, read afresh",
        if_fails="the dock is held; the shuttle's position is known",
        if_aborted="the shuttle stops and brakes",
    ),
    StepKind.RAISE_TABLE: StepSpec(
        "Raise the table to the mount",
        commands=_role("shuttle_lift"),
        witnesses=_mount_witnesses,
        act=_move("shuttle_lift", lambda dock, _: dock.shuttle_lift_up_mm),
        does="raises the table until it bears the pack and the runners sit on the bolt heads",
        confirm=all_of(axis_at("shuttle_lift", lambda dock, _: dock.shuttle_lift_up_mm), heads(engaged=True)),
        confirmed_by="lift encoder at up, and the lock bank's own heads-engaged signal",
        if_fails="the dock is held with the lift where it stopped",
        if_aborted="the lift stops and its brake holds",
    ),
    StepKind.LOWER_TABLE: StepSpec(
        "Lower the table",
        commands=_role("shuttle_lift"),
        witnesses=_shuttle_and_locks("shuttle_lift", "io", "safety"),
        act=_move("shuttle_lift", lambda dock, _: dock.shuttle_lift_down_mm),
        does="lowers the table, with the pack that is on it or without",
        confirm=all_of(axis_at("shuttle_lift", lambda dock, _: dock.shuttle_lift_down_mm), heads(engaged=False)),
        confirmed_by="lift encoder at down, and no runner on a bolt head",
        if_fails="the dock is held with the lift where it stopped",
        if_aborted="the lift stops and its brake holds",
    ),
    StepKind.UNLOCK_PACK: StepSpec(
        "Unlock the pack",
        commands=_mount_locks,
        witnesses=_mount_witnesses,
        act=_unlock,
        does="opens every bolt of the mount; the lift bears the pack",
        confirm=bolts(BoltState.UNLOCKED),
        confirmed_by="each bolt's end sensor and the result of its turn; from here the pack is on the table",
        if_fails="the dock is held, lift up; the pack counts as in the mount until every bolt is open",
        if_aborted="the runners stop; bolts stay as they are, lift up; the next plan locks or unlocks all of them",
    ),
    StepKind.LOCK_PACK: StepSpec(
        "Lock the pack",
        commands=_mount_locks,
        witnesses=_mount_witnesses,
        act=_lock,
        does="closes every bolt of the mount to torque and angle",
        confirm=bolts(BoltState.LOCKED),
        confirmed_by="each bolt's end sensor and the result of its turn; from here the pack is in the mount",
        if_fails="the dock is held, lift up; the pack counts as on the table until every bolt is proven",
        if_aborted="the runners stop; bolts stay as they are, lift up; the next plan locks or unlocks all of them",
    ),
    StepKind.CHECK_PACK: StepSpec(
        "Let the vehicle check its pack",
        commands=_role("vehicle"),
        witnesses=_role("vehicle"),
        act=_ask(VehicleRequest.CHECK),
        does="asks the vehicle to check the pack that was locked in",
        confirm=pack_checked,
        confirmed_by="the vehicle names the pack's serial and accepts it",
        if_fails="the dock is held with the pack locked in",
        if_aborted="nothing moves; the vehicle stays secured",
    ),
    StepKind.WAKE_VEHICLE: StepSpec(
        "Wake the vehicle",
        commands=_role("vehicle"),
        witnesses=_role("vehicle"),
        act=_ask(VehicleRequest.WAKE),
        does="asks the vehicle to switch high voltage on and check itself",
        confirm=vehicle_awake,
        confirmed_by="the vehicle says that it is ready to drive",
        if_fails="the dock is held with the vehicle clamped",
        if_aborted="nothing moves; the vehicle finishes or stays as it is, clamped",
    ),
    StepKind.LOWER_VEHICLE: StepSpec(
        "Lower the vehicle",
        commands=_role("vehicle_lift"),
        witnesses=_role("vehicle_lift", "shuttle_lift", "io", "safety"),
        act=_move("vehicle_lift", lambda dock, _: dock.vehicle_lift_down_mm or 0.0),
        does="sets the vehicle back on its wheels",
        confirm=axis_at("vehicle_lift", lambda dock, _: dock.vehicle_lift_down_mm or 0.0),
        confirmed_by="lift encoder at down, read afresh",
        if_fails="the dock is held with the vehicle clamped",
        if_aborted="the lift stops and its brake holds",
    ),
    StepKind.UNCLAMP_VEHICLE: StepSpec(
        "Unclamp the vehicle",
        commands=_role("clamp"),
        witnesses=_role("clamp", "vehicle", "io", "safety"),
        act=_move("clamp", lambda dock, _: dock.clamp_open_mm),
        does="opens the clamp",
        confirm=axis_at("clamp", lambda dock, _: dock.clamp_open_mm),
        confirmed_by="clamp encoder at open, read afresh",
        if_fails="the dock is held; the vehicle may not be released",
        if_aborted="the clamp stops and holds",
    ),
    StepKind.RELEASE_VEHICLE: StepSpec(
        "Release the vehicle",
        commands=_role("vehicle"),
        witnesses=_shuttle_and_locks("vehicle", "clamp", "shuttle_lift", "io", "safety"),
        act=_ask(VehicleRequest.LEAVE),
        does="tells the vehicle that it may drive out, and waits for the lane to be clear",
        confirm=all_of(
            input_is(lambda s: f"{s.dock}.in_place", False), input_is(lambda s: f"{s.dock}.exit_clear", True)
        ),
        confirmed_by="vehicle no longer in place, exit clear",
        if_fails="the dock is held until the lane is clear",
        if_aborted="nothing moves; the vehicle was free to go",
    ),
    StepKind.MOVE_STACKER: StepSpec(
        "Move the stacker",
        commands=_stacker("stacker.x", "stacker.z"),
        witnesses=_stacker_witnesses,
        act=_move_stacker,
        does="moves the stacker, fork retracted, to a place: under the pack when empty, above when carrying",
        confirm=all_of(stacker_there, fork_at(extended=False)),
        confirmed_by="both encoders at the taught position, fork retracted, read afresh",
        if_fails="the store is held; the positions are known",
        if_aborted="both axes stop and brake",
    ),
    StepKind.EXTEND_FORK: StepSpec(
        "Extend the fork",
        commands=_stacker(FORK),
        witnesses=_stacker_witnesses,
        act=_extend,
        does="extends the fork into a place: under its pack when empty, above it when carrying",
        confirm=fork_at(extended=True),
        confirmed_by="fork encoder at the taught position, read afresh",
        if_fails="the store is held with the fork where it stopped",
        if_aborted="the fork stops; the next plan retracts it, or goes on if it stands at its goal",
    ),
    StepKind.LIFT_PACK: StepSpec(
        "Lift the pack onto the fork",
        commands=_stacker("stacker.z"),
        witnesses=_stacker_witnesses,
        act=_lift_z(carrying=True),
        does="raises z until the fork bears the pack",
        confirm=all_of(input_is(lambda _: FORK, True), input_is(lambda s: s.place, False)),
        confirmed_by="the fork's load sensor sees the pack and the place's sensor does not",
        if_fails="the pack is where exactly one of the two sensors sees it, else both places are UNKNOWN",
        if_aborted="z stops; the sensors decide as above",
    ),
    StepKind.SET_DOWN_PACK: StepSpec(
        "Set the pack down",
        commands=_stacker("stacker.z"),
        witnesses=_stacker_witnesses,
        act=_lift_z(carrying=False),
        does="lowers z until the place bears the pack",
        confirm=all_of(input_is(lambda _: FORK, False), input_is(lambda s: s.place, True)),
        confirmed_by="the place's sensor sees the pack and the fork's load sensor does not",
        if_fails="the pack is where exactly one of the two sensors sees it, else both places are UNKNOWN",
        if_aborted="z stops; the sensors decide as above",
    ),
    StepKind.RETRACT_FORK: StepSpec(
        "Retract the fork",
        commands=_stacker(FORK),
        witnesses=_stacker_witnesses,
        act=_retract,
        does="retracts the fork, with the pack on it or without",
        confirm=fork_at(extended=False),
        confirmed_by="fork encoder at retracted, read afresh",
        if_fails="the store is held with the fork where it stopped",
        if_aborted="the fork stops; the next plan retracts it first",
    ),
    StepKind.STOP_CHARGER: StepSpec(
        "Stop the charger",
        commands=_slot(charger_of),
        witnesses=_slot_witnesses,
        act=_stop_charger,
        does="takes the charger to zero and off; returns only at safe current",
        confirm=charger_off,
        confirmed_by="the charger's measured current, and the pack's own where it is heard",
        if_fails="the slot keeps its pack; another is chosen",
        if_aborted="the stop stands",
    ),
    StepKind.DISENGAGE_CONNECTOR: StepSpec(
        "Unplug the pack",
        commands=_slot(connector_of),
        witnesses=_slot_witnesses,
        act=_disengage,
        does="pulls the slot's plug",
        confirm=plug(engaged=False),
        confirmed_by="both end switches",
        if_fails="the slot keeps its pack; another is chosen",
        if_aborted="the plug stops where it is; the pack may not be carried",
    ),
    StepKind.ENGAGE_CONNECTOR: StepSpec(
        "Plug the pack in",
        commands=_slot(connector_of),
        witnesses=_slot_witnesses,
        act=_engage,
        does="drives the slot's plug in",
        confirm=plug(engaged=True),
        confirmed_by="both end switches",
        if_fails="the slot is isolated with its pack",
        if_aborted="the plug stops where it is; the charger stays off",
    ),
    StepKind.IDENTIFY_PACK: StepSpec(
        "Identify the pack",
        commands=lambda _layout, _step: (),
        witnesses=_slot(pack_monitor_of),
        act=_hear_pack,
        does="waits for the pack's BMS to be heard with its serial",
        confirm=pack_identified,
        confirmed_by="the serial is that of the pack that was put here",
        if_fails="the slot is isolated: silent BMS, or another pack than expected",
        if_aborted="nothing moves",
    ),
    StepKind.START_CHARGER: StepSpec(
        "Start the charger",
        commands=_slot(charger_of),
        witnesses=_slot(charger_of),
        act=_start_charger,
        does="enables the charger within the limits that the BMS asks for",
        confirm=charging,
        confirmed_by="read-back equal to the set-point and, above zero, current measured by the pack itself",
        if_fails="the charger is off, the slot is isolated",
        if_aborted="the charger goes to zero",
    ),
}


# --- where packs are afterwards ------------------------------------------------------------------------------------


def places_after(step: Step, layout: Layout, inventory: Inventory) -> tuple[InventoryRecord, ...]:
    """Return what the inventory must record once this step is confirmed."""
    if step.kind is StepKind.RELEASE_VEHICLE:
        mounted = ((inventory.at(mount), mount) for mount in layout.docks[step.dock].mounts)
        return tuple(PackLeft(pack, mount) for pack, mount in mounted if isinstance(pack, str))
    if step.kind is StepKind.START_CHARGER:
        return (HandedOff(step.place, step.pack),)
    moved = _MOVED.get(step.kind)
    if moved is None or inventory.at(moved(step)[0]) != step.pack:
        return ()  # a step done over again, after it was cut short: the pack has moved already
    return (PackMoved(step.pack, *moved(step)),)


def places_after_failure(
    step: Step, layout: Layout, inventory: Inventory, snapshot: StationSnapshot
) -> tuple[InventoryRecord, ...]:
    """Return what the inventory must record of a step that did not end well, by what the sensors say now.

    A pack changes hands with the last bolt, or with its weight. Where the sensors do not say which side of that
    it is on, both places are UNKNOWN.
    """
    moved = _MOVED.get(step.kind)
    if moved is None:
        return ()
    origin, destination = moved(step)
    if inventory.at(origin) != step.pack:
        return ()
    if step.kind in {StepKind.UNLOCK_PACK, StepKind.LOCK_PACK}:
        bank = snapshot.locks.get(locks_of(step.place))
        if bank is None or bank.value is None or not bank.is_fresh(snapshot.taken_at, MOTION_AGE_S_MAX):
            return ()
        dock = layout.docks[step.dock]
        unlocking = step.kind is StepKind.UNLOCK_PACK
        done = all_open(bank.value) if unlocking else all_proven(bank.value, dock.lock_banks.get(step.place))
        return (PackMoved(step.pack, origin, destination),) if done else ()
    sensed = [place for place in (origin, destination) if _senses(snapshot, place)]
    dark = [place for place in (origin, destination) if _senses(snapshot, place) is None]
    if dark or len(sensed) != 1:
        why = f"{step.kind} of {step.pack} was cut short and the sensors do not say where it is"
        return (PlaceUnknown(origin, why), PlaceUnknown(destination, why))
    return (PackMoved(step.pack, origin, destination),) if sensed == [destination] else ()


def _senses(snapshot: StationSnapshot, place: str) -> bool | None:
    reading = snapshot.inputs.get(place)
    if reading is None or not reading.is_fresh(snapshot.taken_at, IO_AGE_S_MAX):
        return None
    return reading.value


_MOVED: dict[StepKind, Callable[[Step], tuple[str, str]]] = {
    StepKind.UNLOCK_PACK: lambda step: (step.place, step.table),
    StepKind.LOCK_PACK: lambda step: (step.table, step.place),
    StepKind.LIFT_PACK: lambda step: (step.place, FORK),
    StepKind.SET_DOWN_PACK: lambda step: (FORK, step.place),
}
