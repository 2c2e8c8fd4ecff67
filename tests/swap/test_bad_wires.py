"""Wires that delay, lose, garble or break: what the station makes of it, and that it swaps again afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from controller.model.faults import FaultCode as F
from controller.model.intent import StepKind as K
from controller.model.phases import State
from hal.types import CanFrame
from sim_hw.wire_can import WireFault as CanFault
from sim_hw.wire_modbus import WireFaultKind as W
from tests.support.station_rig import station_rig
from tests.support.trouble import Story, Trouble, both, bus_down, can_fault, frames, injected, wire

virtual = pytest.mark.asyncio(loop_factories=["virtual"])

DOCK_OUT = {"dock1": State.ABORTED}
DOCK_HELD = {"dock1": State.HELD}
STORE_OUT = {"store": State.ABORTED}
ALL_OUT = {"dock1": State.ABORTED, "store": State.ABORTED}

# Units of the demo station's lines.
DOCK_AXES, STACKER, LOCKS, DOCK_IO, STORE_IO = 1, 2, 3, 4, 5
SAFETY, CONNECTORS, DETECTORS, EVERY_UNIT = 1, 1, 9, 0

FETCHING = (
    Trouble(K.DISENGAGE_CONNECTOR, 1.0, wire("slots", CONNECTORS, W.DELAY, delay_s=0.3), endures_s=4.0),
    Trouble(K.MOVE_STACKER, 1.0, wire("plc", STACKER, W.DEAF), (F.AXIS_SILENT,), STORE_OUT),
    Trouble(K.EXTEND_FORK, 1.0, wire("plc", STACKER, W.DELAY, delay_s=0.5), (F.AXIS_SILENT,), STORE_OUT),
    Trouble(K.LIFT_PACK, 0.8, wire("plc", STORE_IO, W.DROP), (F.IO_SILENT,), STORE_OUT),
    Trouble(K.RETRACT_FORK, 0.5, wire("plc", STACKER, W.CLOSE), (F.AXIS_SILENT, F.MODBUS_LINK_DOWN), ALL_OUT),
    Trouble(K.MOVE_STACKER, 0.5, wire("safety", SAFETY, W.DEAF), (F.SAFETY_STATUS_SILENT,), ALL_OUT),
    Trouble(K.SET_DOWN_PACK, 0.5, wire("plc", STACKER, W.LENGTH), (F.AXIS_SILENT,), STORE_OUT),
    Trouble(K.RETRACT_FORK, 0.5, wire("plc", STORE_IO, W.OTHER), (F.IO_SILENT,), STORE_OUT),
)
DOCKING = (
    Trouble(K.SECURE_VEHICLE, 3.0, injected("vehicle_silent", "dock1"), (F.VEHICLE_SILENT,), DOCK_HELD),
    Trouble(K.RAISE_VEHICLE, 2.0, wire("plc", DOCK_AXES, W.OTHER), (F.AXIS_SILENT,), DOCK_OUT),
    Trouble(K.RAISE_TABLE, 4.0, wire("plc", DOCK_AXES, W.EXCEPTION, code=4), (F.AXIS_SILENT,), DOCK_OUT),
    Trouble(K.UNLOCK_PACK, 3.0, wire("plc", LOCKS, W.DEAF), (F.LOCKS_SILENT,), DOCK_OUT),
    Trouble(K.UNLOCK_PACK, 2.0, wire("plc", DOCK_IO, W.EXCEPTION, code=6), (F.IO_SILENT,), DOCK_OUT),
    Trouble(K.LOWER_TABLE, 3.0, wire("plc", DOCK_IO, W.GARBLE), (F.IO_SILENT, F.MODBUS_LINK_DOWN), ALL_OUT),
    Trouble(K.LOCK_PACK, 4.0, wire("plc", LOCKS, W.EXCEPTION, code=6), (F.LOCKS_SILENT,), DOCK_OUT),
    Trouble(K.LOCK_PACK, 3.0, bus_down("can_dock1"), (F.VEHICLE_SILENT, F.CAN_LINK_DOWN), DOCK_HELD),
    Trouble(K.LOWER_TABLE, 3.0, wire("safety", SAFETY, W.CLOSE), (F.SAFETY_STATUS_SILENT,), ALL_OUT),
    Trouble(K.CHECK_PACK, 4.0, bus_down("can_dock1"), (F.VEHICLE_SILENT, F.CAN_LINK_DOWN), DOCK_HELD),
    Trouble(K.WAKE_VEHICLE, 4.0, can_fault("can_dock1", CanFault.DROP), (F.VEHICLE_SILENT,), DOCK_HELD),
)


def unknown_frame(number: int) -> CanFrame:
    """Return a frame that no device of the station sends: every other one of the highest priority."""
    if number % 2:
        return CanFrame(number % 64, bytes(8), extended=False)
    return CanFrame(0x1ABC_0000 + number % 256, bytes(8))


def short_frame(_number: int) -> CanFrame:
    """Return a state message, three bytes long, of the pack in slot04."""
    return CanFrame(0x1900_1004, b"\x01\x02\x03")


MUTE = injected("device_silent", "slot04.pack")  # the slot that the old pack goes to
HANDING_OFF = (
    Trouble(K.ENGAGE_CONNECTOR, 1.0, frames("can_packs", unknown_frame, 0.001), endures_s=3.0),
    Trouble(K.IDENTIFY_PACK, 0.0, both(MUTE, frames("can_packs", short_frame, 0.1)), (F.BMS_SILENT,)),
    Trouble(K.START_CHARGER, 2.0, bus_down("can_packs"), (F.CAN_LINK_DOWN, F.BMS_SILENT)),
    Trouble(K.START_CHARGER, 1.0, can_fault("can_packs", CanFault.CORRUPT), (F.BMS_SILENT,)),
    Trouble(K.START_CHARGER, 2.0, MUTE, (F.BMS_SILENT,)),
    Trouble(K.START_CHARGER, 2.0, wire("chargers", 4, W.DEAF), (F.CHARGER_SILENT,)),
    Trouble(K.START_CHARGER, 2.0, wire("chargers", 4, W.OTHER), (F.CHARGER_SILENT,)),
    Trouble(K.START_CHARGER, 1.0, wire("slots", CONNECTORS, W.DEAF), (F.CONNECTOR_SILENT,)),
)

ON_PLC = {DOCK_AXES: F.AXIS_SILENT, STACKER: F.AXIS_SILENT, LOCKS: F.LOCKS_SILENT, DOCK_IO: F.IO_SILENT}
OUT = {DOCK_AXES: DOCK_OUT, STACKER: STORE_OUT, LOCKS: DOCK_OUT, DOCK_IO: DOCK_OUT}


def refusing(code: int) -> Trouble:
    """Return one of the PLC's units, each in turn, that refuses everything with an exception code."""
    unit = (DOCK_AXES, STACKER, LOCKS, DOCK_IO)[code % 4]
    return Trouble(K.MOVE_STACKER, 0.0, wire("plc", unit, W.EXCEPTION, code=code), (ON_PLC[unit],), OUT[unit])


IDLE = (
    *(refusing(code) for code in range(1, 12)),
    Trouble(K.MOVE_STACKER, 0.0, wire("safety", SAFETY, W.EXCEPTION, code=2), (F.SAFETY_STATUS_SILENT,), ALL_OUT),
    Trouble(K.MOVE_STACKER, 0.0, wire("safety", SAFETY, W.GARBLE), (F.SAFETY_STATUS_SILENT,), ALL_OUT),
    Trouble(K.MOVE_STACKER, 0.0, wire("slots", DETECTORS, W.DEAF), (F.DETECTORS_SILENT,)),
    Trouble(K.MOVE_STACKER, 0.0, wire("slots", CONNECTORS, W.GARBLE), (F.CONNECTOR_SILENT,)),
    Trouble(K.MOVE_STACKER, 0.0, wire("slots", EVERY_UNIT, W.CLOSE), (F.CONNECTOR_SILENT, F.MODBUS_LINK_DOWN)),
    Trouble(K.MOVE_STACKER, 0.0, wire("chargers", EVERY_UNIT, W.CLOSE), (F.CHARGER_SILENT, F.MODBUS_LINK_DOWN)),
    Trouble(K.MOVE_STACKER, 0.0, wire("plc", EVERY_UNIT, W.DELAY, delay_s=0.2), (F.DRIVES_OFF,), ALL_OUT),
)


@virtual
@pytest.mark.parametrize("troubles", [FETCHING, DOCKING, HANDING_OFF], ids=["fetching", "docking", "handing off"])
async def test_a_swap_survives_its_wires(tmp_path: Path, troubles: Sequence[Trouble]) -> None:
    """Each trouble ends in its named faults and unit states; the swap goes on to DONE, and so does a next."""
    async with station_rig("demo", tmp_path) as rig:
        await Story(rig).tell(troubles)
        if troubles is DOCKING:  # the longest story stands for the others
            await Story(rig).tell(())


@virtual
async def test_bad_wires_at_idle_leave_a_station_that_swaps(tmp_path: Path) -> None:
    """Each trouble ends in its named faults and unit states while nothing goes on; a swap afterwards is DONE."""
    async with station_rig("demo", tmp_path) as rig:
        story = Story(rig)
        await story.idle(IDLE)
        await story.tell(())
