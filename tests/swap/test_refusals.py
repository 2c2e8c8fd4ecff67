"""What the station does not take on: a clear refusal with a reason, nothing changed, and the next swap works."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller.events import Event, SwapEvent
from sim_hw.plant.packs import PackBirth
from sim_hw.plant.vehicle import Drive, VehiclePlant
from tests.support.api import RawClient
from tests.support.station_rig import StationRig, station_rig

virtual = pytest.mark.asyncio(loop_factories=["virtual"])

OLD = PackBirth("FIELD-1", 25.0)
OLD_TOO = PackBirth("FIELD-2", 26.0)


@dataclass
class Counter:
    """The station as somebody with a client sees it, and its books as they are on disk."""

    rig: StationRig
    client: RawClient
    scratch: Path

    async def ask(self, dock: str, **goals: str) -> dict[str, Any]:
        """Ask for a swap over the local API; returns the answer as it came."""
        answer = await self.client.ask("swap_start", dock=dock, **({"goals": goals} if goals else {}))
        assert isinstance(answer, dict)
        return answer

    async def refused(self, dock: str, kind: str, reason: str, **goals: str) -> None:
        """Ask for a swap that is not possible: refused with that reason, nothing changed but the audit.

        While a swap goes on, its own steps are written meanwhile: then no swap was ordered or changed.
        """
        before, told, asked = self.books(), self.station(), self.audit()
        answer = await self.ask(dock, **goals)
        assert answer["ok"] is False, answer
        assert answer["error"]["kind"] == kind, answer
        assert reason in answer["error"]["message"], answer
        assert (self.books(), self.station()) == (before, told)
        assert [entry["outcome"] for entry in self.audit()[len(asked) :]] == [
            "asked",
            f"{kind}: {answer['error']['message']}",
        ]

    def books(self) -> list[tuple[str, str]]:
        """What the journal on disk says of swaps; while no swap is open, of everything but the audit."""
        kept = "swap_" if self.rig.app.station.parts.ledger.swaps else ""
        return [(kind, body) for kind, body in self._entries() if kind != "audit" and kind.startswith(kept)]

    def audit(self) -> list[dict[str, Any]]:
        """The audit records on disk."""
        return [json.loads(body) for kind, body in self._entries() if kind == "audit"]

    def _entries(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(f"file:{self.scratch}/data/journal.db?mode=ro", uri=True)) as database:
            return database.execute("SELECT kind, body FROM entry ORDER BY seq").fetchall()

    def station(self) -> tuple[object, ...]:
        """Which swaps are open, which state every unit is in, and, while none is open, where every pack is."""
        ledger = self.rig.app.station.parts.ledger
        states = {unit.unit_id: unit.state for unit in self.rig.app.station.units.values()}
        return dict(ledger.swaps), states, None if ledger.swaps else ledger.inventory

    def vehicle(self, dock: str = "dock1") -> VehiclePlant:
        """The vehicle in or before a dock."""
        vehicle = self.rig.plant.vehicles[dock]
        assert vehicle is not None
        return vehicle

    async def swapped(self, dock: str = "dock1", **goals: str) -> str:
        """Have a swap made; returns its result."""
        answer = await self.ask(dock, **goals)
        assert answer["ok"], answer
        return (await self.rig.swap_end(answer["result"]["swap_id"])).result


@asynccontextmanager
async def counter(name: str, scratch: Path, stock: int, *, reset: bool = True) -> AsyncIterator[Counter]:
    """Run a station and connect to its local API."""
    async with station_rig(name, scratch, stock=stock, reset=reset) as rig:
        client = await RawClient.connect(rig.app.config.local_api.socket)
        try:
            yield Counter(rig, client, scratch)
        finally:
            await client.close()


@virtual
async def test_what_does_not_exist_or_is_not_there_is_refused_and_a_swap_works_after_it(tmp_path: Path) -> None:
    """Unknown dock, mount and goal, no vehicle, a mount of another dock, a vehicle left without a pack: refused."""
    async with counter("demo", tmp_path, stock=3) as station:
        await station.refused("dock9", "not_found", "there is no dock 'dock9'; docks: dock1")
        await station.refused("dock1", "refused", "no vehicle is heard at dock1")
        await station.rig.bring_vehicle(approach_s=15.0)
        await station.refused("dock1", "not_found", "no mount dock1.mount_b; mounts: dock1.mount_a", mount_b="fresh")
        await station.refused("dock1", "not_found", "there is no mount dock2.mount_a", **{"dock2.mount_a": "fresh"})
        await station.refused("dock1", "usage", "'full' is not a valid Goal; goals: fresh, keep", mount_a="full")
        await station.refused("dock1", "refused", "would be left without a pack", mount_a="empty")
        assert await station.swapped() == "done"


@virtual
async def test_a_busy_dock_is_refused_and_its_swap_goes_on(tmp_path: Path) -> None:
    """A second order is refused from admission to release, of two at once one is taken, and it ends DONE."""
    async with counter("demo", tmp_path, stock=3) as station:
        await station.rig.bring_vehicle(approach_s=15.0)
        service = station.rig.app.service
        both = [asyncio.ensure_future(service.swap_start("dock1", None)) for _ in range(2)]
        await asyncio.wait(both)
        assert [task.exception() is None for task in both] == [True, False]
        assert "dock1 is busy with swap swap-1" in str(both[1].exception())
        phases = []

        def phase_or_end(event: Event) -> bool:
            return isinstance(event, SwapEvent) and event.phase not in phases

        while "handing_off" not in phases:
            event = await station.rig.until(phase_or_end)
            assert isinstance(event, SwapEvent)
            phases.append(event.phase)
            if event.phase != "handing_off":
                await station.refused("dock1", "refused", "dock1 is busy with swap swap-1")
        assert phases[-2:] == ["releasing", "handing_off"]
        assert (await station.rig.swap_end("swap-1")).result == "done"


@virtual
async def test_no_charged_pack_is_refused_and_two_docks_are_not_promised_the_same(tmp_path: Path) -> None:
    """One charged pack: refused to a vehicle that wants two, given to one, refused to the next."""
    async with counter("evogo", tmp_path, stock=2) as station:
        next(iter(station.rig.plant.packs.values())).soc_pct = 60.0
        await asyncio.sleep(5.0)  # its BMS says so
        await station.rig.bring_vehicle("dock1", approach_s=15.0, packs=[OLD, OLD_TOO])
        await station.rig.bring_vehicle("dock2", approach_s=15.0, packs=[PackBirth("FIELD-3", 25.0)])
        await station.refused("dock1", "refused", "no charged pack: 2 wanted, 1 ready and not promised")
        assert (await station.ask("dock1", mount_b="keep"))["ok"]
        await station.refused("dock2", "refused", "no charged pack: 1 wanted, 0 ready and not promised")
        vehicle = station.vehicle()
        assert (await station.rig.swap_end("swap-1")).result == "done"
        assert [mount.pack and mount.pack.serial for mount in vehicle.mounts] == ["EVOGO-0002", "FIELD-2"]
        assert "FIELD-1" in station.rig.app.station.parts.ledger.inventory.contents.values()


@virtual
async def test_a_unit_that_is_not_ready_is_refused_until_it_is_reset(tmp_path: Path) -> None:
    """Stopped after power-up, and stopped by a person: refused with unit and state; after a reset a swap works."""
    async with counter("demo", tmp_path, stock=3, reset=False) as station:
        await station.rig.bring_vehicle(approach_s=15.0)
        await station.refused("dock1", "refused", "dock1: START refused: it is STOPPED: power-up")
        await station.rig.app.service.reset("dock1")
        await station.refused("dock1", "refused", "store: START refused: it is STOPPED: power-up")
        await station.rig.app.service.reset("store")
        await station.rig.app.service.stop("dock1")
        await station.refused("dock1", "refused", "dock1: START refused: it is STOPPED: stop by command")
        await station.rig.app.service.reset("dock1")
        assert await station.swapped() == "done"


@virtual
async def test_an_open_swap_keeps_its_goals(tmp_path: Path) -> None:
    """After stop and reset the open swap is taken up as it was ordered; other goals for it are refused."""
    async with counter("demo", tmp_path, stock=3) as station:
        await station.rig.bring_vehicle(approach_s=15.0)
        swap_id = (await station.ask("dock1"))["result"]["swap_id"]
        await station.rig.until(station.rig.step_is("unlock_pack"))
        await station.rig.app.service.stop(None)
        await station.rig.app.service.reset(None)
        await station.refused("dock1", "refused", f"{swap_id} is open in dock1 and keeps its goals", mount_a="keep")
        answer = await station.ask("dock1")
        assert answer["result"]["swap_id"] == swap_id
        assert answer["result"]["goals"] == {"dock1.mount_a": "fresh"}
        assert (await station.rig.swap_end(swap_id)).result == "done"


@virtual
async def test_a_vehicle_that_keeps_its_pack_leaves_with_it(tmp_path: Path) -> None:
    """Goal keep: the vehicle is released with its own pack, which no bolt of was turned."""
    async with counter("demo", tmp_path, stock=3) as station:
        await station.rig.bring_vehicle(approach_s=15.0, packs=[OLD])
        vehicle = station.vehicle()
        assert await station.swapped(mount_a="keep") == "done"
        assert vehicle.drive is Drive.GONE
        assert vehicle.mounts[0].pack is station.rig.plant.packs["FIELD-1"]
        assert not any(event.what.startswith("dock1.mount_a.locks") for event in station.rig.plant.trace)


@virtual
async def test_a_vehicle_leaves_with_fewer_or_more_packs_as_asked(tmp_path: Path) -> None:
    """Goals empty and add: one vehicle gives a pack up, another gets one more, none goes where no mount is."""
    async with counter("evogo", tmp_path, stock=3) as station:
        await station.rig.bring_vehicle("dock1", approach_s=15.0, packs=[OLD, OLD_TOO])
        await station.rig.bring_vehicle("dock2", approach_s=15.0, packs=[None, PackBirth("FIELD-3", 40.0)])
        await station.refused("dock1", "refused", "EV00001 has no mount_c, only mount_a, mount_b", mount_c="add")
        fewer, more = station.vehicle("dock1"), station.vehicle("dock2")
        assert (await station.ask("dock1", mount_a="empty", mount_b="keep"))["ok"]
        assert (await station.ask("dock2", mount_a="add", mount_b="keep"))["ok"]
        assert (await station.rig.swap_end("swap-1")).result == "done"
        assert (await station.rig.swap_end("swap-2")).result == "done"
        assert [mount.pack and mount.pack.serial for mount in fewer.mounts] == [None, "FIELD-2"]
        assert "FIELD-1" in station.rig.app.station.parts.ledger.inventory.contents.values()
        serials = [mount.pack.serial for mount in more.mounts if mount.pack is not None]
        assert serials[0].startswith("EVOGO")
        assert serials[1] == "FIELD-3"
