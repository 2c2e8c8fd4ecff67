"""Where a swap is, for people and the cloud. Pure: read off the packs' places and the vehicle, never remembered."""

from __future__ import annotations

from controller.model.intent import Goal, SwapOrder
from controller.model.inventory import Inventory
from controller.model.layout import DockLayout, Layout
from controller.model.phases import SwapPhase, least_advanced
from controller.model.snapshot import StationSnapshot
from controller.model.transfers import near
from hal.errors import StaleReading


def phase_of(order: SwapOrder, *, inventory: Inventory, snapshot: StationSnapshot, layout: Layout) -> SwapPhase:
    """Return the phase of the least advanced mount of a vehicle that stands in the dock, its packs in the books."""
    dock = layout.docks[order.dock]
    try:
        return least_advanced(_mount_phase(m, goal, dock, inventory, snapshot) for m, goal in order.goals)
    except StaleReading:
        return SwapPhase.DOCKING


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
        return SwapPhase.LOCKING if _lifted_under(mount, dock, inventory, snapshot) else SwapPhase.EXCHANGING
    index = dock.mounts.index(mount)
    seen = snapshot.vehicle(dock.device("vehicle")).mounts
    return SwapPhase.RELEASING if index < len(seen) and seen[index].pack_ok else SwapPhase.LOCKING


def _held(dock: DockLayout, snapshot: StationSnapshot) -> bool:
    clamped = near(snapshot.axis(dock.device("clamp")).position_mm, dock.clamp_closed_mm)
    return clamped and snapshot.vehicle(dock.device("vehicle")).high_voltage_off


def _lifted_under(mount: str, dock: DockLayout, inventory: Inventory, snapshot: StationSnapshot) -> bool:
    """Whether the lift holds a pack for the mount under it: one that did not just come out of a vehicle."""
    lifted = near(snapshot.axis(dock.device("shuttle_lift")).position_mm, dock.shuttle_lift_up_mm)
    travel_mm = snapshot.axis(dock.device("shuttle_travel")).position_mm
    fresh = [table for table, pack in inventory.contents.items() if pack not in inventory.arrived_on]
    return lifted and any(near(travel_mm, dock.align_mm[mount, table]) for table in dock.tables if table in fresh)
