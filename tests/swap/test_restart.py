"""The controller ends in the middle of a swap and another one starts on the same books and the same hardware."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.events import StepEvent
from controller.model.intent import StepKind
from tests.support.station_rig import controller_on, station_rig
from tests.swap.test_abort import check_books

virtual = pytest.mark.asyncio(loop_factories=["virtual"])


@virtual
@pytest.mark.parametrize(
    "kind",
    [StepKind.LIFT_PACK, StepKind.UNLOCK_PACK, StepKind.LOWER_TABLE, StepKind.LOCK_PACK, StepKind.ENGAGE_CONNECTOR],
)
async def test_a_swap_goes_on_under_another_controller(tmp_path: Path, kind: StepKind) -> None:
    """Ended in mid-step, the next controller moves nothing before a reset, then finishes the very same swap."""
    async with station_rig("demo", tmp_path) as rig:
        await rig.bring_vehicle(approach_s=15.0)
        first = await rig.app.service.swap_start("dock1", None)
        step = await rig.until(rig.step_is(kind))
        assert isinstance(step, StepEvent)
        await asyncio.sleep(step.expected_s / 3)
        rig.running.cancel()
        await asyncio.wait({rig.running})
        assert not any(axis.moving for axis in rig.plant.axes.values())
        async with controller_on(rig.hardware, "demo", tmp_path) as second:
            check_books(second)
            before = {device: axis.position_mm for device, axis in rig.plant.axes.items()}
            await asyncio.sleep(30.0)
            moved = [d for d, at in before.items() if abs(rig.plant.axes[d].position_mm - at) > 0.5]
            assert not moved, f"moved before a reset: {moved}"
            if any(unit.state.name == "ABORTED" for unit in second.app.station.units.values()):
                await second.app.service.clear(None)
            await second.app.service.reset(None)
            swap = second.app.station.parts.ledger.swaps[str(first["swap_id"])]
            if swap.released:
                await second.app.service.start("store")
            else:
                assert (await second.app.service.swap_start("dock1", None))["swap_id"] == first["swap_id"]
            assert (await second.swap_end(str(first["swap_id"]))).result == "done"
            check_books(second)
