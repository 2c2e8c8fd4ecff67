"""The positioning controller's registers, addressed by hand.

Unit 1 of line ``plc`` has the clamp in block 0: holding 16 command, 17 id, 18 and 19 target, 20 speed; input 16
state, 17 accepted, 18 refused, 19 refusal, 20 done, 21 flags, 22 and 23 position, 24 torque, 25 fault.
"""

from __future__ import annotations

import asyncio

import pytest

from hal.types import AxisState
from sim_hw.codec import ExcCode
from tests.support.sim_station import Unit, demo_hardware

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])

MOVE, STOP, HOME, ENABLE, DISABLE, CLEAR = 1, 2, 3, 4, 5, 6
MM_180 = [0x0002, 0xBF20]  # 180.000 mm = 180000 = 0x2BF20


async def test_enable_and_move_go_through_accepted_and_done_to_the_target() -> None:
    """A move is accepted at once, shows as moving, and is done where the target register says, in position."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "plc", 1)
        async with unit.alive():
            assert unit.input(16) == AxisState.DISABLED
            assert unit.write(16, [ENABLE, 7, 0, 0, 0]) is None
            assert unit.inputs(16, 5) == [AxisState.STANDSTILL, 7, 0, 0, 7]
            assert unit.write(16, [MOVE, 8, *MM_180, 1000]) is None
            assert unit.inputs(16, 5) == [AxisState.MOVING, 8, 0, 0, 7]
            await asyncio.sleep(3.0)
            assert 0 < unit.input(23) + (unit.input(22) << 16) < 180000
            assert unit.input(24) > 0
            await asyncio.sleep(5.0)
            assert unit.inputs(16, 5) == [AxisState.STANDSTILL, 8, 0, 0, 8]
            assert unit.inputs(22, 2) == MM_180
            assert unit.input(21) == 0b011  # homed and in position, brake open


async def test_a_command_is_taken_when_its_id_changes_and_only_then() -> None:
    """The same id again does nothing, whatever the command; id 0 is none."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "plc", 1)
        async with unit.alive():
            unit.write(16, [ENABLE, 7])
            unit.write(16, [DISABLE, 7])
            unit.write(16, [DISABLE, 0])
            assert unit.inputs(16, 5) == [AxisState.STANDSTILL, 7, 0, 0, 7]


async def test_every_refusal_has_its_reason() -> None:
    """Not enabled, out of range, busy, unknown and no enable are refused under their own codes; nothing moves."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "plc", 1)
        unit.write(16, [ENABLE, 1])
        assert unit.inputs(16, 5) == [AxisState.POWER_OFF, 0, 1, 6, 0]  # before the first heartbeat
        async with unit.alive():
            unit.write(16, [MOVE, 2, *MM_180, 1000])
            assert unit.inputs(17, 4) == [0, 2, 1, 0]
            unit.write(16, [ENABLE, 3])
            unit.write(16, [MOVE, 4, 0x0010, 0x0000, 1000])  # 1048.576 mm; the clamp ends at 250
            assert unit.inputs(17, 4) == [3, 4, 3, 3]
            unit.write(16, [99, 5])
            assert unit.inputs(17, 4) == [3, 5, 7, 3]
            unit.write(16, [MOVE, 6, *MM_180, 1000])
            unit.write(16, [MOVE, 7, 0, 0, 1000])
            assert unit.inputs(17, 4) == [6, 7, 4, 3]


async def test_a_stop_is_obeyed_at_any_time_and_the_stopped_move_is_never_done() -> None:
    """A stop with an old id stops; one with a new id is done at standstill; the move's id never shows as done."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "plc", 1)
        async with unit.alive():
            unit.write(16, [ENABLE, 1])
            unit.write(16, [MOVE, 2, *MM_180, 1000])
            await asyncio.sleep(2.0)
            unit.write(16, [STOP])
            assert unit.input(16) == AxisState.STOPPING
            await asyncio.sleep(1.0)
            assert unit.inputs(16, 5) == [AxisState.STANDSTILL, 2, 0, 0, 1]
            unit.write(16, [MOVE, 3, 0, 0, 1000])
            await asyncio.sleep(0.5)
            unit.write(16, [STOP, 4])
            assert unit.inputs(17, 4) == [4, 0, 0, 1]
            await asyncio.sleep(1.0)
            assert unit.inputs(17, 4) == [4, 0, 0, 4]


async def test_a_heartbeat_that_stands_still_drops_enable_of_every_axis() -> None:
    """After 1 s without a change all axes of the unit are off with fault 7; only beat and clear bring one back."""
    async with demo_hardware() as hardware:
        unit, other = Unit(hardware, "plc", 1), Unit(hardware, "plc", 2)
        async with other.alive():
            async with unit.alive():
                unit.write(16, [ENABLE, 1])
                unit.write(32, [ENABLE, 1])
                unit.write(16, [MOVE, 2, *MM_180, 1000])
                await asyncio.sleep(1.1)
            await asyncio.sleep(0.7)
            assert unit.input(1) == 0
            unit.write(0, [unit._beat])  # the same counter is no beat
            await asyncio.sleep(0.5)
            assert unit.input(1) == 1
            assert [unit.input(16), unit.input(25), unit.input(32)] == [AxisState.POWER_OFF, 7, AxisState.POWER_OFF]
            assert other.input(1) == 0
            unit.write(16, [CLEAR, 3])
            assert unit.inputs(17, 3) == [2, 3, 6]
        async with unit.alive():
            for index in range(4):
                unit.write(16 + 16 * index, [CLEAR, 4])
            assert unit.inputs(16, 5) == [AxisState.DISABLED, 4, 3, 6, 4]
            assert unit.input(1) == 0


async def test_the_controllers_own_counter_advances_with_time() -> None:
    """heartbeat_out changes well within the watchdog's second, without anybody writing."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "plc", 1)
        first = unit.input(0)
        await asyncio.sleep(0.1)
        assert unit.input(0) != first


@pytest.mark.parametrize("speed", [0, 1001, 65535])
async def test_a_move_at_an_impossible_speed_is_an_illegal_value(speed: int) -> None:
    """Speeds outside of 0.1 to 100 % are refused by the register itself, for a move only."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "plc", 1)
        async with unit.alive():
            assert unit.write(16, [MOVE, 1, *MM_180, speed]) is ExcCode.ILLEGAL_VALUE
            assert unit.write(16, [ENABLE, 2, 0, 0, speed]) is None
            assert unit.inputs(17, 4) == [2, 0, 0, 2]


async def test_a_drive_fault_shows_and_refuses_until_cleared() -> None:
    """A stall is state fault with code 2; commands are refused as faulted; clear ends it without energising."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "plc", 1)
        async with unit.alive():
            hardware.plant.axes["dock1.clamp"].fail("stall")
            assert [unit.input(16), unit.input(25)] == [AxisState.FAULT, 2]
            unit.write(16, [ENABLE, 1])
            assert unit.inputs(17, 3) == [0, 1, 5]
            unit.write(16, [CLEAR, 2])
            assert unit.inputs(16, 5) == [AxisState.DISABLED, 2, 1, 5, 2]
