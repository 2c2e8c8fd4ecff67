"""A whole swap on the shipped stations, in one process under virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.station_rig import station_rig

virtual = pytest.mark.asyncio(loop_factories=["virtual"])


@virtual
async def test_a_vehicle_gets_a_fresh_pack_and_its_old_one_is_on_charge(tmp_path: Path) -> None:
    """One swap ends DONE: a fresh pack in the vehicle that left, the old one in a slot, charging, no law broken."""
    async with station_rig("demo", tmp_path) as rig:
        await rig.bring_vehicle()
        old = rig.plant.vehicles["dock1"].mounts[0].pack.serial  # type: ignore[union-attr] # it is there
        end = await rig.swap()
        assert end.result == "done", end
        place = rig.app.station.parts.ledger.inventory.place_of(old)
        assert place is not None
        assert place.startswith("slot")
        assert rig.plant.chargers[f"{place}.charger"].output_current_a > 1.0
