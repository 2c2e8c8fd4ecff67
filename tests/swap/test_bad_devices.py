"""Devices that fail and people who interfere: what the station makes of it, and that it swaps again afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from controller.model.faults import FaultCode as F
from controller.model.intent import StepKind as K
from controller.model.phases import State
from tests.support.station_rig import station_rig
from tests.support.trouble import Story, Trouble, heartbeat_unseen, injected, other_serial

virtual = pytest.mark.asyncio(loop_factories=["virtual"])

DOCK_OUT = {"dock1": State.ABORTED}
DOCK_HELD = {"dock1": State.HELD}
STORE_OUT = {"store": State.ABORTED}
STORE_HELD = {"store": State.HELD}
ALL_OUT = {"dock1": State.ABORTED, "store": State.ABORTED}
BOLTS = "dock1.mount_a.locks"
LIFT_STALL = injected("axis_stall", "dock1.shuttle_lift", at_mm=200.0)

SAFETY = (
    Trouble(K.MOVE_STACKER, 1.0, injected("guard", "store"), (F.GUARD_OPEN,), STORE_OUT),
    Trouble(K.LIFT_PACK, 0.5, injected("estop", "store"), (F.ESTOP_OPEN,), STORE_OUT),
    Trouble(K.EXTEND_FORK, 1.0, injected("water", "store"), (F.WATER,), STORE_OUT),
    Trouble(K.CLAMP_VEHICLE, 3.5, injected("estop", "dock1"), (F.ESTOP_OPEN,), DOCK_OUT),
    Trouble(K.RAISE_TABLE, 4.0, injected("vehicle_door", "dock1"), (F.VEHICLE_MOVED,), DOCK_OUT),
    Trouble(K.UNLOCK_PACK, 3.0, injected("vehicle_moved", "dock1"), (F.VEHICLE_MOVED,), DOCK_OUT),
    Trouble(K.LOWER_TABLE, 3.0, injected("curtain", "dock1"), (F.DRIVES_OFF,), DOCK_OUT),
    Trouble(K.LOCK_PACK, 4.0, injected("fire", "dock1"), (F.FIRE,), ALL_OUT),
    Trouble(K.LOWER_TABLE, 2.0, injected("smoke", "store"), (F.SMOKE,), ALL_OUT),
    Trouble(K.WAKE_VEHICLE, 3.0, injected("guard", "dock1"), (F.GUARD_OPEN,), DOCK_OUT),
    Trouble(K.UNCLAMP_VEHICLE, 1.0, injected("vehicle_unparked", "dock1"), (F.VEHICLE_MOVED,), DOCK_OUT),
)
DRIVES = (
    Trouble(K.MOVE_STACKER, 1.0, injected("axis_following_error", "stacker.x"), (F.AXIS_FAULT,), STORE_OUT),
    Trouble(K.EXTEND_FORK, 0.5, injected("axis_drive", "stacker.fork"), (F.AXIS_FAULT,), STORE_OUT),
    Trouble(K.MOVE_STACKER, 1.0, heartbeat_unseen("stacker.x"), (F.AXIS_FAULT,), STORE_OUT),
    Trouble(K.CLAMP_VEHICLE, 3.5, injected("axis_drive", "dock1.clamp"), (F.AXIS_FAULT,), DOCK_OUT),
    Trouble(K.RAISE_VEHICLE, 1.0, LIFT_STALL, (F.AXIS_FAULT,), DOCK_OUT),
    Trouble(K.RAISE_TABLE, 1.0, injected("bolt_stuck", BOLTS, bolt=3), (F.BOLT_NOT_PROVEN,), DOCK_HELD),
    Trouble(K.UNLOCK_PACK, 0.5, heartbeat_unseen("dock1.clamp"), (F.DRIVES_OFF,), DOCK_OUT),
    Trouble(K.LOWER_TABLE, 1.0, injected("bolt_cross_threaded", BOLTS, bolt=7), (F.BOLT_NOT_PROVEN,), DOCK_HELD),
    Trouble(K.LOCK_PACK, 1.0, injected("lock_drive", BOLTS), (F.LOCKS_FAULT,), DOCK_OUT),
    Trouble(K.LOWER_VEHICLE, 1.0, injected("axis_encoder", "dock1.vehicle_lift"), (F.AXIS_FAULT,), DOCK_OUT),
)
SLOT = "slot04"  # that the old pack goes to
SLOTS = (
    Trouble(K.WAKE_VEHICLE, 0.0, injected("connector_jammed", f"{SLOT}.connector"), (F.CONNECTOR_FAULT,)),
    Trouble(K.IDENTIFY_PACK, 0.0, other_serial(SLOT), (F.PACK_ID_MISMATCH,)),
    Trouble(K.START_CHARGER, 2.0, injected("charger_fault", f"{SLOT}.charger"), (F.CHARGER_FAULT,)),
    Trouble(K.START_CHARGER, 1.0, injected("estop", "store"), (F.ESTOP_OPEN,), STORE_OUT),
)


@virtual
@pytest.mark.parametrize("troubles", [SAFETY, DRIVES, SLOTS], ids=["safety", "drives", "slots"])
async def test_a_swap_survives_its_devices(tmp_path: Path, troubles: Sequence[Trouble]) -> None:
    """Each trouble ends in its named fault and unit state; the swap goes on to DONE, and so does a next."""
    async with station_rig("demo", tmp_path) as rig:
        await Story(rig).tell(troubles)
        if troubles is SAFETY:  # the longest story stands for the others
            await Story(rig).tell(())
