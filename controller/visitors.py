"""Vehicles in the books: the packs that one brings, and those that leave with it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from controller.model.inventory import InventoryRecord, PackArrived, PackLeft, PackNoted
from controller.model.layout import DockLayout
from controller.model.snapshot import StationSnapshot
from controller.model.transfers import near
from controller.records.ledger import Swap
from controller.units import UnitParts
from hal.errors import HalError, StaleReading

_log = logging.getLogger(__name__)

MISSED_S = 120.0  # a vehicle that is heard no more for so long before it arrived has turned round


class Visitors:
    """Notes who comes and who goes; moves nothing."""

    def __init__(self, parts: UnitParts) -> None:
        self._parts = parts
        self._heard_at: dict[str, float] = {}  # swap → when its vehicle was last heard, before it arrived

    async def note(self, snapshot: StationSnapshot, busy: Callable[[str], bool]) -> None:
        """Enter the packs of a vehicle that stands in place; take out those of one that has gone by itself.

        ``busy`` says whether moves are running in a dock: what they see of the vehicle is theirs to tell.
        """
        for dock in self._parts.layout.docks.values():
            try:
                in_place = snapshot.input(dock.device("in_place"))
                if in_place and snapshot.input_stable_s(dock.device("in_place")) >= 1.0:
                    await self._vehicle_stands(dock, snapshot)
                elif not in_place and not busy(dock.dock_id) and self._is_gone(dock, snapshot):
                    await self._vehicle_gone(dock)
            except StaleReading:
                continue  # unknown: neither arrived nor gone

    async def _vehicle_stands(self, dock: DockLayout, snapshot: StationSnapshot) -> None:
        ledger = self._parts.ledger
        swap = next((s for s in ledger.swaps.values() if s.order.dock == dock.dock_id and not s.released), None)
        if swap is None or swap.arrived:
            return
        vehicle = snapshot.vehicle(dock.device("vehicle"))
        if vehicle.vehicle_id != swap.order.vehicle_id or any(m.pack_serial == "" for m in vehicle.mounts):
            return  # another vehicle than was ordered for, or a serial that has not been heard whole yet
        records: list[InventoryRecord] = []
        packs: list[str] = []
        for mount, seen in zip(dock.mounts, vehicle.mounts, strict=False):
            if seen.pack_serial:
                packs.append(seen.pack_serial)
                records.append(PackArrived(seen.pack_serial, mount))
                records.append(PackNoted(seen.pack_serial, seen.pack_soc_pct, failed=False))
        arrived = {"swap_id": swap.order.swap_id, "arrived": True, "old_packs": packs}
        await ledger.places(f"vehicle {vehicle.vehicle_id} arrived in {dock.dock_id}", records, arrived)

    def _is_gone(self, dock: DockLayout, snapshot: StationSnapshot) -> bool:
        """Whether a vehicle that is not in place has left: nothing holds it, and it is heard no more, or another is.

        One that rolled or was shaken off the sensor, half unlocked perhaps, is still there. Raises StaleReading.
        """
        if not near(snapshot.axis(dock.device("clamp")).position_mm, dock.clamp_open_mm):
            return False
        try:
            heard = snapshot.vehicle(dock.device("vehicle")).vehicle_id
        except StaleReading:
            return True
        swaps = self._parts.ledger.swaps.values()
        return all(swap.order.vehicle_id != heard for swap in swaps if swap.order.dock == dock.dock_id)

    async def _vehicle_gone(self, dock: DockLayout) -> None:
        """A vehicle that was not being swapped has left: its packs left with it."""
        inventory = self._parts.ledger.inventory
        mounted = [(inventory.at(mount), mount) for mount in dock.mounts]
        records = [PackLeft(pack, mount) for pack, mount in mounted if isinstance(pack, str)]
        swaps = self._parts.ledger.swaps.values()
        swap = next((s for s in swaps if s.order.dock == dock.dock_id and s.arrived and not s.released), None)
        if not records and swap is None:
            return
        change = {"swap_id": swap.order.swap_id, "released": True} if swap else None
        await self._parts.ledger.places(f"the vehicle left {dock.dock_id}", records, change)
        await self.forget(dock.dock_id)

    async def forget(self, dock: str) -> None:
        """The vehicle has left: the next one must not be told to leave."""
        try:
            await self._parts.hal.vehicles[f"{dock}.vehicle"].stop()
        except HalError as error:
            _log.warning("the request to leave could not be taken back: %s", error)

    def missed(self, snapshot: StationSnapshot) -> list[tuple[Swap, str]]:
        """Return the swaps whose vehicle will not come, with why: another stands there, or it is heard no more."""
        found = []
        for swap in self._parts.ledger.swaps.values():
            if swap.arrived or swap.released:
                continue
            dock, wanted = swap.order.dock, swap.order.vehicle_id
            try:
                heard = snapshot.vehicle(f"{dock}.vehicle").vehicle_id
                standing = snapshot.input(f"{dock}.in_place")
            except StaleReading:
                heard, standing = "", False
            if heard == wanted:
                self._heard_at[swap.order.swap_id] = snapshot.taken_at
            elif heard and standing:
                found.append((swap, f"{heard} stands in {dock}, {wanted} was ordered for"))
            elif snapshot.taken_at - self._heard_at.setdefault(swap.order.swap_id, snapshot.taken_at) > MISSED_S:
                found.append((swap, f"{wanted} has not been heard for {MISSED_S:.0f} s"))
        return found
