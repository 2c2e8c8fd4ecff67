"""Abort at every step of a swap: it stops, every pack is accounted for, and the station swaps again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.events import Event, StepEvent, SwapEvent, UnitEvent
from controller.model.intent import StepKind
from controller.model.inventory import UNKNOWN
from hal.types import AxisState
from sim_hw.plant.packs import PackBirth
from tests.support.station_rig import StationRig, station_rig

virtual = pytest.mark.asyncio(loop_factories=["virtual"])

STOP_BOUND_S = 0.5  # one queued request, the brake's 0.15 s, a poll
STANDING = {AxisState.POWER_OFF, AxisState.DISABLED, AxisState.STANDSTILL, AxisState.FAULT}


async def abort_and_recover(rig: StationRig) -> None:
    """Abort everything, check what must hold, then clear and reset as a person would."""
    await rig.app.service.abort(None)
    await asyncio.sleep(STOP_BOUND_S)
    moving = [device for device, axis in rig.plant.axes.items() if axis.moving or axis.state not in STANDING]
    assert not moving, moving
    check_books(rig)
    await rig.app.service.clear(None)
    assert not any(axis.moving for axis in rig.plant.axes.values()), "clear moved something"
    await rig.app.service.reset(None)
    assert not any(axis.moving for axis in rig.plant.axes.values()), "reset moved something"
    check_books(rig)


def check_books(rig: StationRig) -> None:
    """Every pack of the plant is where the ledger has it, or in a place that the ledger calls UNKNOWN."""
    inventory = rig.app.station.parts.ledger.inventory
    known = rig.app.station.parts.ledger.inventory.contents
    for serial, pack in rig.plant.packs.items():
        place = pack.place
        if place in rig.app.layout.places or place == "stacker.fork":
            noted = inventory.at(place)
            waiting = rig.app.layout.dock_of(place) is not None and serial not in known.values()
            assert noted in (serial, UNKNOWN) or waiting, f"{serial} is in {place}, the ledger has {noted}"


async def resume(rig: StationRig) -> str:
    """Order the swap of the dock again: the open one is taken up."""
    answer = await rig.app.service.swap_start("dock1", None)
    return str(answer["swap_id"])


# The stock is idle at the start of a day: its chargers need not be stopped (test_a_charging_pack_... does that).
ABORTED = set(StepKind) - {StepKind.STOP_CHARGER}


@virtual
@pytest.mark.parametrize("share", [0.0, 0.5, pytest.param(0.8, marks=pytest.mark.nightly)])
async def test_abort_in_every_step_in_turn_and_the_swap_is_still_finished(tmp_path: Path, share: float) -> None:
    """Swaps, aborted once in each kind of step at this share of its expected time, end DONE; so does one without."""
    async with station_rig("demo", tmp_path) as rig:
        for _ in range(4):
            if aborted_kinds(rig) >= ABORTED:
                break
            await rig.bring_vehicle(approach_s=15.0)
            await swap_with_aborts(rig, share)
        assert aborted_kinds(rig) >= ABORTED, ABORTED - aborted_kinds(rig)
        await rig.bring_vehicle(approach_s=15.0)
        assert (await rig.swap()).result == "done"


# Steps that are often much faster than expected: at a share of that they would be over.
SHORT_S = {
    StepKind.IDENTIFY_PACK: 2.0,
    StepKind.MOVE_STACKER: 2.4,
    StepKind.START_CHARGER: 4.0,
    StepKind.RELEASE_VEHICLE: 12.0,
}


def aborted_kinds(rig: StationRig) -> set[str]:
    """Kinds of steps that an abort has cut short so far."""
    return {e.kind for e in rig.events if isinstance(e, StepEvent) and e.state == "failed" and e.detail == "aborted"}


async def swap_with_aborts(rig: StationRig, share: float) -> None:
    """Run a swap to DONE; each kind of step that was never aborted is, at this share of its expected time."""
    swap_id = await resume(rig)
    seen = len(rig.events)

    def fresh_step(event: Event) -> bool:
        return isinstance(event, StepEvent) and event.state == "started" and event.kind not in aborted_kinds(rig)

    while True:
        event = next((e for e in rig.events[seen:] if fresh_step(e) or ends(e, swap_id)), None)
        seen = len(rig.events)
        if event is None:
            event = await rig.until(lambda e: fresh_step(e) or ends(e, swap_id), 900.0)
        if not isinstance(event, StepEvent):
            assert isinstance(event, SwapEvent), event
            assert event.result == "done", event
            return
        lasts_s = SHORT_S.get(StepKind(event.kind), event.expected_s)
        await asyncio.sleep(max(0.0, event.at + share * lasts_s - asyncio.get_running_loop().time()))
        seen = len(rig.events)
        await abort_and_recover(rig)
        if swap_id not in rig.app.station.parts.ledger.swaps:
            return
        if rig.app.station.parts.ledger.swaps[swap_id].released:
            await rig.app.service.start("store")
        else:
            await resume(rig)


def ends(event: Event, swap_id: str) -> bool:
    """Whether a swap is over, or a unit stopped by itself."""
    over = isinstance(event, SwapEvent) and event.swap_id == swap_id and bool(event.result)
    return over or (isinstance(event, UnitEvent) and event.state == "HELD")


@virtual
async def test_a_charging_pack_is_stopped_for_its_swap_and_an_abort_there_is_got_over(tmp_path: Path) -> None:
    """The only charged pack is on charge: its charger is stopped first; aborted in that, the swap is still DONE."""
    async with station_rig("demo", tmp_path, stock=1) as rig:
        await rig.bring_vehicle(approach_s=15.0, packs=[PackBirth("FULL-0001", 88.0)])
        assert (await rig.swap()).result == "done"
        await rig.bring_vehicle(approach_s=15.0)
        swap_id = await resume(rig)
        step = next((e for e in rig.events if rig.step_is(StepKind.STOP_CHARGER)(e)), None)
        step = step or await rig.until(rig.step_is(StepKind.STOP_CHARGER))
        assert isinstance(step, StepEvent)
        assert step.pack == "FULL-0001"
        await abort_and_recover(rig)
        assert StepKind.STOP_CHARGER in aborted_kinds(rig)
        assert not [c for c, charger in rig.plant.chargers.items() if charger.output_current_a > 1.0]
        await resume(rig)
        assert (await rig.swap_end(swap_id)).result == "done"
