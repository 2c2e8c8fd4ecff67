"""The contracts of Axis, LockBank and Connector, kept by the drivers over whole wires against physical truth."""

from __future__ import annotations

import asyncio

import pytest

from hal.api import Axis, Connector, LockBank
from hal.errors import DeviceRefused, MotionFailed, NoReply, NotReady, StopLatched
from hal.types import AxisState, BoltState, Lifecycle, Quality, VehicleRequest
from sim_hw.wire_modbus import WireFault, WireFaultKind
from tests.support.hal_station import Station, demo_station

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])


async def enabled(axis: Axis) -> None:
    """Energise an axis."""
    async with axis.claim("test"):
        await axis.enable()


def position(axis: Axis) -> float:
    """Where it says it is."""
    assert axis.reading.value is not None
    return axis.reading.value.position_mm


async def moved(axis: Axis, target_mm: float) -> None:
    """Enable and move."""
    async with axis.claim("test"):
        await axis.enable()
        await axis.move_to(target_mm)


async def test_axis_needs_enable_then_moves_to_where_the_plant_sees_it() -> None:
    """CONNECTED refuses to move; ENABLED moves; what is read is where the axis is, within its tolerance."""
    async with demo_station() as station:
        axis = station.hal.axes["dock1.clamp"]
        async with axis.claim("test"):
            with pytest.raises(NotReady):
                await axis.move_to(100.0)
            await axis.enable()
            await axis.move_to(100.0)
        truth = station.hardware.plant.axes["dock1.clamp"].position_mm
        assert (await axis.refresh()).quality is Quality.GOOD
        assert position(axis) == pytest.approx(truth, abs=0.01)
        assert truth == pytest.approx(100.0, abs=1.0)


async def test_axis_move_again_to_the_same_place_is_done_at_once() -> None:
    """Moving to where it stands returns within three fast polls."""
    async with demo_station() as station:
        axis = station.hal.axes["dock1.clamp"]
        await moved(axis, 100.0)
        began = asyncio.get_running_loop().time()
        await moved(axis, 100.0)
        assert asyncio.get_running_loop().time() - began < 0.25


async def test_axis_cancelled_stands_when_the_cancellation_comes_out() -> None:
    """A cancelled move has been stopped: the plant's axis does not move when CancelledError comes through."""
    async with demo_station() as station:
        axis, truth = station.hal.axes["dock1.clamp"], station.hardware.plant.axes["dock1.clamp"]
        await enabled(axis)
        task = asyncio.get_running_loop().create_task(moved(axis, 180.0))
        await asyncio.sleep(2.0)
        assert truth.moving
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert not truth.moving
        assert 0.0 < truth.position_mm < 180.0


async def test_axis_latch_stops_within_the_bound_and_the_heartbeat_ends() -> None:
    """Latched in mid-move the axis stands within 0.5 s; 1 s later the hardware has seen the heartbeat end."""
    async with demo_station() as station:
        axis, truth = station.hal.axes["dock1.clamp"], station.hardware.plant.axes["dock1.clamp"]
        await enabled(axis)
        task = asyncio.get_running_loop().create_task(moved(axis, 180.0))
        await asyncio.sleep(2.0)
        station.hal.latch_stop("emergency stop", ["dock1.clamp"])
        await asyncio.sleep(0.5)
        assert not truth.moving
        with pytest.raises(StopLatched):
            await task
        await station.until(lambda: axis.lifecycle is Lifecycle.FAULTED, 3.0)
        assert dict(station.hal.stop_latched) == {"dock1.clamp": "emergency stop"}


async def test_axis_after_latch_is_cleared_without_moving_and_works_again() -> None:
    """Clearing latch and fault leaves the axis without torque where it stood; enable and move work then."""
    async with demo_station() as station:
        axis, truth = station.hal.axes["dock1.clamp"], station.hardware.plant.axes["dock1.clamp"]
        await moved(axis, 50.0)
        station.hal.latch_stop("emergency stop", list(station.hal.axes))
        await station.until(lambda: axis.lifecycle is Lifecycle.FAULTED, 3.0)
        where = truth.position_mm
        station.hal.clear_stop_latch(list(station.hal.axes))
        await axis.clear_fault()
        assert axis.lifecycle is Lifecycle.CONNECTED
        assert truth.position_mm == where
        await moved(axis, 60.0)
        assert truth.position_mm == pytest.approx(60.0, abs=1.0)


async def test_axis_without_power_refuses_to_be_enabled() -> None:
    """With the emergency stop pressed, enable ends in a named error and the axis stays without torque."""
    async with demo_station() as station:
        axis = station.hal.axes["dock1.clamp"]
        station.hardware.plant.press_estop("dock1")
        await axis.refresh()
        async with axis.claim("test"):
            with pytest.raises((DeviceRefused, NotReady)):
                await axis.enable()
        assert (await axis.refresh()).value is not None
        assert axis.reading.value is not None
        assert axis.reading.value.state is AxisState.POWER_OFF


@pytest.mark.parametrize("kind", [WireFaultKind.DROP, WireFaultKind.DEAF, WireFaultKind.GARBLE, WireFaultKind.CLOSE])
async def test_axis_whose_line_fails_in_mid_move_ends_in_a_named_error_and_stands(kind: WireFaultKind) -> None:
    """However its unit stops answering, a move ends in NoReply and the drive stands by its own watchdog."""
    async with demo_station() as station:
        axis, truth = station.hal.axes["dock1.clamp"], station.hardware.plant.axes["dock1.clamp"]
        await enabled(axis)
        task = asyncio.get_running_loop().create_task(moved(axis, 180.0))
        await asyncio.sleep(2.0)
        station.hardware.wires["plc"].faults[1] = WireFault(kind)
        with pytest.raises(NoReply):
            await task
        await asyncio.sleep(3.0)
        assert not truth.moving
        del station.hardware.wires["plc"].faults[1]
        await station.until(lambda: axis.reading.quality is Quality.GOOD, 20.0)


@pytest.mark.parametrize("kind", [WireFaultKind.DROP, WireFaultKind.DELAY, WireFaultKind.OTHER, WireFaultKind.GARBLE])
async def test_axis_bears_single_lost_or_wrong_answers(kind: WireFaultKind) -> None:
    """Now and then a lost, late, foreign or damaged answer: a move ends where it should, or in a named error."""
    async with demo_station() as station:
        axis, truth = station.hal.axes["dock1.clamp"], station.hardware.plant.axes["dock1.clamp"]
        station.hardware.wires["plc"].faults[1] = WireFault(kind, delay_s=0.6, probability=0.03)
        for target in (100.0, 50.0, 120.0, 0.0):
            try:
                await moved(axis, target)
            except (NoReply, MotionFailed, NotReady):
                await asyncio.sleep(2.0)
                assert not truth.moving
                if axis.lifecycle is Lifecycle.FAULTED:
                    await axis.clear_fault()
            else:
                assert truth.position_mm == pytest.approx(target, abs=1.0)
        assert axis.reading.value is not None
        assert position(axis) == pytest.approx(truth.position_mm, abs=0.1)


async def test_lock_bank_refuses_without_the_lift_under_it() -> None:
    """With no vehicle and the lift down the runners are not on the bolt heads: unlock is refused by that name."""
    async with demo_station() as station:
        bank = station.hal.locks["dock1.mount_a.locks"]
        async with bank.claim("test"):
            with pytest.raises(DeviceRefused, match="heads_not_engaged"):
                await bank.unlock()


async def under_the_mount(station: Station) -> LockBank:
    """Bring a vehicle, clamp and raise it, and bring an empty table up under its mount."""
    axes = station.hal.axes
    station.hardware.plant.bring_vehicle("dock1", approach_s=8.0)
    await station.until(lambda: bool((station.hal.io["dock1.io"].reading.value or {}).get("dock1.in_place")), 60.0)
    vehicle = station.hal.vehicles["dock1.vehicle"]
    for role, target in (("clamp", 180.0), ("vehicle_lift", 120.0)):
        await moved(axes[f"dock1.{role}"], target)
    async with vehicle.claim("test"):
        await vehicle.set_request(VehicleRequest.SECURE)
    await station.until(lambda: vehicle.reading.value is not None and vehicle.reading.value.high_voltage_off, 60.0)
    for role, target in (("shuttle_travel", 4000.0), ("shuttle_lift", 400.0)):
        await moved(axes[f"dock1.{role}"], target)
    return station.hal.locks["dock1.mount_a.locks"]


async def test_lock_bank_opens_and_closes_with_proof() -> None:
    """Under a raised table unlock opens every bolt, lock closes every bolt with proof; twice is done at once."""
    async with demo_station() as station:
        bank = await under_the_mount(station)
        async with bank.claim("test"):
            await bank.unlock()
            assert bank.reading.value is not None
            assert bank.reading.value.all_unlocked
            began = asyncio.get_running_loop().time()
            await bank.unlock()
            assert asyncio.get_running_loop().time() - began < 1.0
            await bank.lock()
        assert {bolt.state for bolt in bank.reading.value.bolts} == {BoltState.LOCKED}
        assert all(100.0 <= bolt.torque_nm <= 140.0 for bolt in bank.reading.value.bolts)


async def test_lock_bank_cancelled_stops_turning() -> None:
    """A cancelled unlock leaves the runners standing, and the bolts wherever they were."""
    async with demo_station() as station:
        bank = await under_the_mount(station)

        async def unlock() -> None:
            async with bank.claim("test"):
                await bank.unlock()

        task = asyncio.get_running_loop().create_task(unlock())
        await asyncio.sleep(3.0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        truth = station.hardware.plant.locks["dock1.mount_a.locks"]
        assert BoltState.MOVING not in {bolt.state for bolt in truth.bolts}


async def test_connector_plugs_and_unplugs() -> None:
    """Disengage and engage end with the end switches, which the plant confirms; asking again changes nothing."""
    async with demo_station() as station:
        connector: Connector = station.hal.connectors["slot01.connector"]
        truth = station.hardware.plant.connectors["slot01.connector"]
        async with connector.claim("test"):
            await connector.disengage()
            assert (truth.engaged, truth.disengaged) == (False, True)
            await connector.engage()
            await connector.engage()
            assert (truth.engaged, truth.disengaged) == (True, False)
        assert connector.reading.value is not None
        assert connector.reading.value.engaged


async def test_connector_stops_at_once() -> None:
    """Stop in mid-stroke ends the stroke; the running command reports MotionFailed, and the way back works."""
    async with demo_station() as station:
        connector = station.hal.connectors["slot01.connector"]

        async def disengage() -> None:
            async with connector.claim("test"):
                await connector.disengage()

        task = asyncio.get_running_loop().create_task(disengage())
        await asyncio.sleep(2.0)
        await connector.stop()
        with pytest.raises(MotionFailed):
            await task
        truth = station.hardware.plant.connectors["slot01.connector"]
        assert (truth.engaged, truth.disengaged) == (False, False)
        async with connector.claim("test"):
            await connector.engage()
        assert truth.engaged
