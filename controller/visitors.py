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


class Visitors:
    """Notes who comes and who goes; moves nothing."""

    def __init__(self, parts: UnitParts) -> None:
        self._parts = parts

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
        if any(mount.pack_serial == "" for mount in vehicle.mounts):
            return  # a pack whose serial has not been heard whole yet
        records: list[InventoryRecord] = []
        packs: list[str] = []
        for mount, seen in zip(dock.mounts, vehicle.mounts, strict=False):
            if seen.pack_serial:
                packs.append(seen.pack_serial)
                records.append(PackArrived(seen.pack_serial, mount))
                records.append(PackNoted(seen.pack_serial, seen.pack_soc_pct, failed=False))
        await ledger.places(f"vehicle {vehicle.vehicle_id} arrived in {dock.dock_id}", records)
        await ledger.swap_changed(swap.order.swap_id, arrived=True, old_packs=packs)

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
        if not records:
            return
        await self._parts.ledger.places(f"the vehicle left {dock.dock_id}", records)
        for swap in list(self._parts.ledger.swaps.values()):
            if swap.order.dock == dock.dock_id and not swap.released:
                await self.released(swap)

    async def released(self, swap: Swap) -> None:
        """The vehicle has left: the next one must not be told to leave."""
        try:
            await self._parts.hal.vehicles[f"{swap.order.dock}.vehicle"].stop()
        except HalError as error:
            _log.warning("the request to leave could not be taken back: %s", error)
        left = [pack for pack in swap.old_packs if self._parts.ledger.inventory.place_of(pack) is not None]
        await self._parts.ledger.swap_changed(swap.order.swap_id, released=True, old_packs=left)
