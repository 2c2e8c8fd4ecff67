"""Every shipped station swaps at every dock it has."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from controller.events import SwapEvent
from sim_hw.plant.packs import PackBirth
from sim_hw.plant.vehicle import Drive, VehiclePlant
from sim_hw.station_file import read_station
from tests.support.station_rig import STATIONS, StationRig, station_config, station_rig

FRESH_SOC_PCT = 80.0  # pack_soc_pct_min of all shipped stations

virtual = pytest.mark.asyncio(loop_factories=["virtual"])


def test_all_shipped_stations_load_on_both_sides(tmp_path: Path) -> None:
    """Controller and simulator read the same docks, slots and devices out of each shipped station file."""
    names = sorted(path.stem for path in STATIONS.glob("*.toml"))
    assert names == ["choco-swap", "demo", "evogo"]
    for name in names:
        config, file = station_config(name, tmp_path), read_station(STATIONS / f"{name}.toml")
        assert config.layout().places == (
            *(place for dock in file.docks.values() for place in (*dock.mounts, *dock.tables)),
            *file.slots,
            *file.quarantine,
        )
        assert {spec.device_id for spec in config.hal_spec().devices} == set(file.devices)


async def arrive(rig: StationRig, dock: str, packs: int) -> VehiclePlant:
    """Let a vehicle with so many nearly empty packs come to a dock; returns the vehicle."""
    births = [PackBirth(f"FIELD-{dock}-{number}", 24.0 + number) for number in range(1, packs + 1)]
    await rig.bring_vehicle(dock, approach_s=20.0, packs=births)
    vehicle = rig.plant.vehicles[dock]
    assert vehicle is not None
    return vehicle


def check_vehicle(rig: StationRig, vehicle: VehiclePlant, end: SwapEvent) -> None:
    """The vehicle has gone, every mount with a fresh pack of the station, each of its bolts proven."""
    assert end.result == "done", end
    assert vehicle.drive is Drive.GONE
    for mount in vehicle.mounts:
        assert mount.pack is not None, mount.place
        assert not mount.pack.serial.startswith("FIELD"), mount.pack.serial
        assert mount.pack.soc_pct >= FRESH_SOC_PCT
        window = rig.plant.locks[f"{mount.place}.locks"].window
        assert all(bolt.proven(window) for bolt in mount.bolts), mount.place


def check_packs(rig: StationRig, vehicles: list[VehiclePlant], stock: int) -> None:
    """Nothing is lost or doubled; each old pack is on charge in a slot of its own, in plant and books alike."""
    places = Counter(pack.place for pack in rig.plant.packs.values())
    left = sum(len(vehicle.mounts) for vehicle in vehicles)
    assert len(rig.plant.packs) == stock + left
    assert places.pop("") == left
    assert set(places) <= set(rig.app.layout.store.slots)
    assert set(places.values()) == {1}
    inventory = rig.app.station.parts.ledger.inventory
    assert {p.serial: p.place for p in rig.plant.packs.values() if p.place} == {
        pack: place for place, pack in inventory.contents.items()
    }
    assert not inventory.reserved
    old = [pack for serial, pack in rig.plant.packs.items() if serial.startswith("FIELD")]
    assert len(old) == left
    for pack in old:
        assert rig.plant.connectors[f"{pack.place}.connector"].engaged, pack.serial
        assert rig.plant.chargers[f"{pack.place}.charger"].output_current_a > 1.0, pack.serial


@virtual
async def test_choco_swap_swaps(tmp_path: Path) -> None:
    """One swap on the station with 30 slots ends DONE: a fresh pack proven locked, the old one on charge."""
    async with station_rig("choco-swap", tmp_path, stock=8) as rig:
        vehicle = await arrive(rig, "dock1", 1)
        check_vehicle(rig, vehicle, await rig.swap("dock1"))
        check_packs(rig, [vehicle], stock=8)


@virtual
@pytest.mark.timeout(240)
async def test_evogo_swaps_one_two_and_three_packs_at_three_docks_at_once(tmp_path: Path) -> None:
    """Three vehicles with 1, 2 and 3 packs, swapped at the same time by one stacker, all end DONE."""
    async with station_rig("evogo", tmp_path, stock=10) as rig:
        vehicles = {f"dock{n}": await arrive(rig, f"dock{n}", n) for n in (1, 2, 3)}
        swaps = {dock: str((await rig.app.service.swap_start(dock, None))["swap_id"]) for dock in vehicles}
        ends = {dock: await rig.swap_end(swap_id) for dock, swap_id in swaps.items()}
        for dock, vehicle in vehicles.items():
            check_vehicle(rig, vehicle, ends[dock])
        check_packs(rig, list(vehicles.values()), stock=10)
        stays = rig.plant.activity.windows
        together_at = max(stay.in_place_at for stay in stays)
        assert len(stays) == 3
        assert all(stay.released_at is not None and stay.released_at > together_at for stay in stays)
        await asyncio.sleep(5.0)
        assert {unit.state.name for unit in rig.app.station.units.values()} == {"SUSPENDED"}
