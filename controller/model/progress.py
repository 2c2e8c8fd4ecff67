"""Where a swap is, for people and the cloud. Pure: read off the packs' places and the vehicle, never remembered."""

from __future__ import annotations

from controller.model.intent import Goal, SwapOrder
from controller.model.inventory import Inventory
from controller.model.layout import DockLayout, Layout
from controller.model.phases import SwapPhase, least_advanced
from controller.model.snapshot import StationSnapshot
from controller.model.transfers import near
from hal.errors import StaleReading


def phase_of(
    order: SwapOrder, *, released: bool, inventory: Inventory, snapshot: StationSnapshot, layout: Layout
) -> SwapPhase:
    """Return the phase of the least advanced mount; ADMITTED until a vehicle stands in the dock."""
    if released:
        return SwapPhase.HANDING_OFF
    dock = layout.docks[order.dock]
    try:
        if not snapshot.input(dock.device("in_place")):
            return SwapPhase.ADMITTED
        return least_advanced(_mount_phase(m, goal, dock, inventory, snapshot) for m, goal in order.goals)
    except StaleReading:
        return SwapPhase.ADMITTED if not order.goals else SwapPhase.DOCKING


def _mount_phase(
    mount: str, goal: Goal, dock: DockLayout, inventory: Inventory, snapshot: StationSnapshot
) -> SwapPhase:
    pack = inventory.at(mount)
    old = isinstance(pack, str) and inventory.arrived_on.get(pack) == mount
    if goal is Goal.KEEP or (goal is Goal.EMPTY and pack is None):
        return SwapPhase.RELEASING
    if old or (goal is Goal.ADD and pack is None):
        return SwapPhase.UNLOCKING if old and _held(dock, snapshot) else SwapPhase.DOCKING
    if not isinstance(pack, str):
        return SwapPhase.LOCKING if _lifted_under(mount, dock, snapshot) else SwapPhase.EXCHANGING
    index = dock.mounts.index(mount)
    seen = snapshot.vehicle(dock.device("vehicle")).mounts
    return SwapPhase.RELEASING if index < len(seen) and seen[index].pack_ok else SwapPhase.LOCKING


def _held(dock: DockLayout, snapshot: StationSnapshot) -> bool:
    clamped = near(snapshot.axis(dock.device("clamp")).position_mm, dock.clamp_closed_mm)
    return clamped and snapshot.vehicle(dock.device("vehicle")).high_voltage_off


def _lifted_under(mount: str, dock: DockLayout, snapshot: StationSnapshot) -> bool:
    lifted = near(snapshot.axis(dock.device("shuttle_lift")).position_mm, dock.shuttle_lift_up_mm)
    travel_mm = snapshot.axis(dock.device("shuttle_travel")).position_mm
    tables = [table for table in dock.tables if inventory_loaded(table, snapshot)]
    return lifted and any(near(travel_mm, dock.align_mm[mount, table]) for table in tables)


def inventory_loaded(table: str, snapshot: StationSnapshot) -> bool:
    """Whether the table's own sensor sees a pack."""
    return snapshot.input(table)
