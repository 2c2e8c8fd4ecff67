"""What the planner knows: places, vehicles, shuttles, stacker and slots as they are now, read from a snapshot.

A reading that is stale or missing becomes UNKNOWN or "not so", never a guess: it blocks what depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from controller.model.bolts import proves_closed
from controller.model.intent import SwapOrder
from controller.model.inventory import UNKNOWN, Inventory
from controller.model.layout import (
    FORK,
    DockLayout,
    Layout,
    LockBankLayout,
    charger_of,
    connector_of,
    locks_of,
    pack_monitor_of,
)
from controller.model.plan_state import Lock
from controller.model.snapshot import StationSnapshot
from controller.model.transfers import is_awake, near, stacker_at
from hal.errors import StaleReading
from hal.types import (
    BoltState,
    ChargerState,
    LockBankStatus,
    PackStatus,
    VehicleRequest,
    VehicleStatus,
)

T = TypeVar("T")

EXCHANGE = "exchange"
"""Where the stacker reaches the tables of a shuttle."""


class VehicleAt(StrEnum):
    """Where the vehicle of a dock is."""

    NONE = "none"
    COMING = "coming"  # there is an order and no vehicle yet
    IN_PLACE = "in_place"
    UNKNOWN = "unknown"


class At(StrEnum):
    """Which of its two taught positions an axis stands at."""

    HOME = "home"  # open, down, retracted
    WORK = "work"  # closed, up, extended
    BETWEEN = "between"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DockFacts:
    """One dock.

    ``noted``: the inventory has every pack that the vehicle says it carries. ``lifted`` is the vehicle lift (HOME
    where the dock has none), ``lift`` the shuttle's. ``locks``: per mount, None where the bolts cannot be read.
    ``shuttle``: EXCHANGE, (mount, table), or None: at no taught position, or not to be read (then
    ``shuttle_known`` is False).
    """

    vehicle: VehicleAt
    noted: bool
    clamp: At
    lifted: At
    secured: bool
    awake: bool
    locks: Mapping[str, Lock | None]
    checked: Mapping[str, bool]
    shuttle: str | tuple[str, str] | None
    shuttle_known: bool
    lift: At


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """One slot. ``plugged`` and ``unplugged`` are both False on the way, and where nothing can be read.

    ``hand_off_due``: its pack is to be plugged in, identified and put on charge.
    """

    plugged: bool
    unplugged: bool
    hand_off_due: bool
    in_service: bool


@dataclass(frozen=True, slots=True)
class PackFacts:
    """One pack in the station. ``deliverable``: charged enough, not failed, and its state of charge is known."""

    soc_pct: float | None
    deliverable: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class StackerFacts:
    """The stacker. ``at``: the place that it stands at, None: between places or not to be read."""

    fork: At
    at: str | None


@dataclass(frozen=True, slots=True)
class StationFacts:
    """All that the planner decides on."""

    layout: Layout
    inventory: Inventory
    docks: Mapping[str, DockFacts]
    slots: Mapping[str, SlotFacts]
    packs: Mapping[str, PackFacts]
    stacker: StackerFacts
    orders: tuple[SwapOrder, ...]


def facts_from(
    layout: Layout,
    inventory: Inventory,
    snapshot: StationSnapshot,
    orders: Sequence[SwapOrder],
    out_of_service: Collection[str] = (),
) -> StationFacts:
    """Read the facts. Never raises for a reading.

    Args:
        layout: the station.
        inventory: where packs are, and what was noted of them while they could be heard.
        snapshot: all readings.
        orders: the swaps that are accepted and not finished.
        out_of_service: slots and docks that take no part: isolated, faulted, or in maintenance.
    """
    ordered = {order.dock for order in orders}
    docks = {
        dock_id: _dock_facts(dock, inventory, snapshot, ordered=dock_id in ordered)
        for dock_id, dock in layout.docks.items()
    }
    slots = {
        slot: _slot_facts(slot, layout, inventory, snapshot, in_service=slot not in out_of_service)
        for slot in layout.store.slots
    }
    packs = {
        pack: _pack_facts(pack, place, layout, inventory, snapshot) for place, pack in inventory.contents.items()
    }
    return StationFacts(layout, inventory, docks, slots, packs, _stacker_facts(layout, snapshot), tuple(orders))


def _read(reader: Callable[[], T]) -> T | None:
    try:
        return reader()
    except StaleReading:
        return None


def _dock_facts(dock: DockLayout, inventory: Inventory, snapshot: StationSnapshot, *, ordered: bool) -> DockFacts:
    vehicle = _vehicle(dock, snapshot)
    secured = vehicle is not None and vehicle.acknowledged in {VehicleRequest.SECURE, VehicleRequest.CHECK}
    if vehicle is not None:
        secured = secured and vehicle.park_applied and vehicle.brake_applied and vehicle.high_voltage_off
    known, shuttle = _shuttle(dock, snapshot)
    if dock.vehicle_lift_down_mm is None or dock.vehicle_lift_up_mm is None:
        lifted = At.HOME
    else:
        lifted = _axis_at(snapshot, dock.device("vehicle_lift"), dock.vehicle_lift_down_mm, dock.vehicle_lift_up_mm)
    return DockFacts(
        vehicle=_vehicle_at(dock, snapshot, ordered=ordered),
        noted=_noted(dock, inventory, vehicle),
        clamp=_axis_at(snapshot, dock.device("clamp"), dock.clamp_open_mm, dock.clamp_closed_mm),
        lifted=lifted,
        secured=secured,
        awake=vehicle is not None and is_awake(vehicle),
        locks={mount: _lock(snapshot, mount, dock.lock_banks.get(mount)) for mount in dock.mounts},
        checked={mount: _checked(mount, index, inventory, vehicle) for index, mount in enumerate(dock.mounts)},
        shuttle=shuttle,
        shuttle_known=known,
        lift=_axis_at(snapshot, dock.device("shuttle_lift"), dock.shuttle_lift_down_mm, dock.shuttle_lift_up_mm),
    )


def _vehicle_at(dock: DockLayout, snapshot: StationSnapshot, *, ordered: bool) -> VehicleAt:
    in_place = _read(lambda: snapshot.input(dock.device("in_place")))
    if in_place is None:
        return VehicleAt.UNKNOWN
    if in_place:
        return VehicleAt.IN_PLACE
    return VehicleAt.COMING if ordered else VehicleAt.NONE


def _vehicle(dock: DockLayout, snapshot: StationSnapshot) -> VehicleStatus | None:
    return _read(lambda: snapshot.vehicle(dock.device("vehicle")))


def _noted(dock: DockLayout, inventory: Inventory, vehicle: VehicleStatus | None) -> bool:
    """Every pack that the vehicle carries is in the books; one whose serial it has yet to say, by its mount.

    Of a vehicle that is not heard any more, the books have said what it brought.
    """
    if vehicle is None:
        return any(mount in dock.mounts for mount in inventory.arrived_on.values())
    known = set(inventory.contents.values())
    said = zip(dock.mounts, vehicle.mounts, strict=False)
    return all(
        inventory.at(mount) is not None if there.pack_serial == "" else there.pack_serial in known
        for mount, there in said
        if there.pack_serial is not None
    )


def _checked(mount: str, index: int, inventory: Inventory, vehicle: VehicleStatus | None) -> bool:
    """The vehicle accepts the pack, and it is the one that the inventory has there."""
    if vehicle is None or index >= len(vehicle.mounts):
        return False
    said = vehicle.mounts[index]
    return said.pack_ok and said.pack_serial == inventory.at(mount)


def _axis_at(snapshot: StationSnapshot, device: str, home_mm: float, work_mm: float) -> At:
    status = _read(lambda: snapshot.axis(device))
    if status is None or not status.homed:
        return At.UNKNOWN
    if near(status.position_mm, home_mm):
        return At.HOME
    return At.WORK if near(status.position_mm, work_mm) else At.BETWEEN


def _shuttle(dock: DockLayout, snapshot: StationSnapshot) -> tuple[bool, str | tuple[str, str] | None]:
    status = _read(lambda: snapshot.axis(dock.device("shuttle_travel")))
    if status is None or not status.homed:
        return False, None
    if near(status.position_mm, dock.shuttle_exchange_mm):
        return True, EXCHANGE
    under = (at for at, position_mm in dock.align_mm.items() if near(status.position_mm, position_mm))
    return True, next(under, None)


def _lock(snapshot: StationSnapshot, mount: str, window: LockBankLayout | None) -> Lock | None:
    bank = _read(lambda: snapshot.lock_bank(locks_of(mount)))
    return None if bank is None else lock_of(bank, window)


def lock_of(bank: LockBankStatus, window: LockBankLayout | None) -> Lock:
    """Return what a lock bank's bolts are together; one that is at neither end makes it PARTIAL.

    PROVEN as the interlocks have it: torque and angle of every bolt inside ``window``; with none, never.
    """
    states = {bolt.state for bolt in bank.bolts}
    if states == {BoltState.UNLOCKED}:
        return Lock.OPEN
    if states == {BoltState.LOCKED}:
        whole = window is not None and len(bank.bolts) == window.bolts
        proven = whole and window is not None and all(proves_closed(bolt, window) for bolt in bank.bolts)
        return Lock.PROVEN if proven else Lock.CLOSED
    return Lock.PARTIAL


def _heard(slot: str, snapshot: StationSnapshot) -> PackStatus | None:
    return _read(lambda: snapshot.pack(pack_monitor_of(slot)))


def _slot_facts(
    slot: str, layout: Layout, inventory: Inventory, snapshot: StationSnapshot, *, in_service: bool
) -> SlotFacts:
    connector = _read(lambda: snapshot.connector(connector_of(slot)))
    charger = _read(lambda: snapshot.charger(charger_of(slot)))
    pack = inventory.at(slot)
    heard = _heard(slot, snapshot)
    stranger = heard is not None and heard.serial != pack
    plugged = connector is not None and connector.engaged and not connector.disengaged
    unplugged = connector is not None and connector.disengaged and not connector.engaged
    charging = charger is not None and charger.state is ChargerState.CHARGING
    # After an abort or a restart a charger stands still that nobody stopped for good: its pack is handed off again.
    low = heard is not None and heard.soc_pct < layout.store.pack_soc_pct_min
    pending = (slot in inventory.to_hand_off or low) and not charging
    due = isinstance(pack, str) and connector is not None and (not plugged or pending)
    return SlotFacts(plugged, unplugged, due, in_service and not stranger and pack is not UNKNOWN)


def _pack_facts(pack: str, place: str, layout: Layout, inventory: Inventory, snapshot: StationSnapshot) -> PackFacts:
    note = inventory.note(pack)
    heard = _heard(place, snapshot) if layout.is_slot(place) else None
    soc_pct = heard.soc_pct if heard is not None and heard.serial == pack else note.soc_pct
    charged = soc_pct is not None and soc_pct >= layout.store.pack_soc_pct_min
    return PackFacts(soc_pct, deliverable=charged and not note.failed, failed=note.failed)


def _stacker_facts(layout: Layout, snapshot: StationSnapshot) -> StackerFacts:
    fork = _read(lambda: snapshot.axis(FORK))
    retracted_mm = layout.stacker.fork_retracted_mm
    if fork is None or not fork.homed:
        return StackerFacts(At.UNKNOWN, None)
    offset_mm = layout.stacker.carry_offset_mm
    at = _read(
        lambda: next(
            (place for place, taught in layout.stacker.places.items() if stacker_at(snapshot, taught, offset_mm)),
            None,
        )
    )
    return StackerFacts(At.HOME if near(fork.position_mm, retracted_mm) else At.WORK, at)
