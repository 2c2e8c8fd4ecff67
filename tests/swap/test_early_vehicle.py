"""A vehicle that stands in the dock before the station is reset."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.events import StepEvent
from tests.support.station_rig import station_rig

virtual = pytest.mark.asyncio(loop_factories=["virtual"])


@virtual
async def test_a_vehicle_in_the_dock_does_not_keep_the_station_from_being_reset(tmp_path: Path) -> None:
    """Its packs belong to no swap yet and are no contradiction; after the reset it is swapped as any other."""
    async with station_rig("demo", tmp_path, reset=False) as rig:
        await rig.bring_vehicle(approach_s=7.0)
        while not rig.app.station.parts.observer.snapshot().input("dock1.mount_a"):
            await rig.app.station.parts.observer.refresh(["dock1.io"])
        await rig.app.service.reset(None)
        assert not any(isinstance(event, StepEvent) for event in rig.events)
        assert (await rig.swap()).result == "done"
