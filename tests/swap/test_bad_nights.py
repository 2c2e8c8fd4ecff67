"""What goes wrong around a swap rather than in it: trips before a restart, the wrong vehicle, a disk that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.events import SwapEvent
from controller.local.protocol import ServiceRefused
from controller.records.database import StoreError
from controller.records.journal import Journal
from tests.support.station_rig import controller_on, station_rig

virtual = pytest.mark.asyncio(loop_factories=["virtual"])


@virtual
async def test_a_safety_trip_needs_the_key_also_after_a_restart(tmp_path: Path) -> None:
    """Without the on-site key neither Clear nor Reset is taken after an E-stop, by this controller or the next."""
    async with station_rig("demo", tmp_path) as rig:
        rig.plant.press_estop("dock1")
        await rig.until_unit("dock1", "ABORTED")
        rig.plant.release_estop("dock1")
        assert rig.plant.rearm("dock1")
        await asyncio.sleep(2.0)
        with pytest.raises(ServiceRefused, match="key"):
            await rig.app.service.clear("dock1")
        rig.running.cancel()
        await asyncio.wait({rig.running})
        async with controller_on(rig.hardware, "demo", tmp_path) as second:
            assert second.app.station.units["dock1"].state.name == "ABORTED"
            with pytest.raises(ServiceRefused, match="key"):
                await second.app.service.clear("dock1")
            rig.plant.safety["dock1"].key_on_site = True
            await asyncio.sleep(1.0)
            await second.app.service.clear("dock1")
            await second.app.service.reset("dock1")
            assert second.app.station.units["dock1"].state.name == "IDLE"
        async with controller_on(rig.hardware, "demo", tmp_path) as third:
            assert "safety trip" not in third.app.station.units["dock1"].cause


@virtual
async def test_an_order_ends_when_another_vehicle_comes(tmp_path: Path) -> None:
    """Nothing is done to a vehicle that was not ordered for: the order ends CANCELLED and its own can be given."""
    async with station_rig("demo", tmp_path) as rig:
        await rig.bring_vehicle(approach_s=40.0)
        await rig.app.service.swap_start("dock1", None)
        await asyncio.sleep(5.0)
        vehicle = rig.plant.vehicles["dock1"]
        assert vehicle is not None
        vehicle.vehicle_id = "OTHER01"
        end = await rig.until(lambda e: isinstance(e, SwapEvent) and bool(e.result))
        assert isinstance(end, SwapEvent)
        assert end.result == "cancelled"
        assert "OTHER01" in end.detail
        assert rig.plant.axes["dock1.clamp"].position_mm < 1.0
        assert (await rig.swap()).result == "done"


@virtual
async def test_a_disk_that_fails_in_a_reset_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit goes back to Stopped with the reason, nothing is energised, and a later Reset works."""
    async with station_rig("demo", tmp_path, reset=False) as rig:

        async def full(_journal: Journal, kind: str, _body: object) -> int:
            raise StoreError(tmp_path, f"disk full, {kind} not written")

        with monkeypatch.context() as broken:
            broken.setattr(Journal, "append", full)
            with pytest.raises(ServiceRefused, match="disk full"):
                await rig.app.service.reset("store")
        assert rig.app.station.units["store"].state.name == "STOPPED"
        assert rig.plant.axes["stacker.x"].state.name == "DISABLED"
        await rig.app.service.reset("store")
        assert rig.app.station.units["store"].state.name == "IDLE"
