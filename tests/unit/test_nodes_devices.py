"""Lock banks, connectors, chargers, remote I/O, safety and zones: their registers, addressed by hand."""

from __future__ import annotations

import asyncio

import pytest

from hal.types import BoltState, ChargerState, ConnectorState, LockBankState
from sim_hw.codec import ExcCode
from sim_hw.plant.locks import Bolt
from sim_hw.world import ConnectorWorld
from tests.support.sim_station import Unit, demo_hardware, demo_world

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])


async def test_a_lock_bank_without_a_vehicle_refuses_to_turn() -> None:
    """Ten bolts of unknown state; without power no_enable, with it heads_not_engaged; a foreign mask is illegal."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "plc", 3)
        unit.write(16, [1, 5, 0x3FF])
        assert unit.inputs(16, 8) == [LockBankState.POWER_OFF, 0, 5, 6, 0, 0, 0, 10]
        async with unit.alive():
            unit.write(16, [1, 6, 0x3FF])
            assert unit.inputs(16, 8) == [LockBankState.READY, 0, 6, 1, 0, 0, 0, 10]
            assert unit.inputs(24, 4) == [BoltState.UNKNOWN, 0, 0, 0]
            assert unit.write(16, [1, 7, 0x400]) is ExcCode.ILLEGAL_VALUE


async def test_bolts_turn_and_show_torque_and_angle() -> None:
    """Unlock and lock run through moving to done; a closed bolt shows a torque of 100 to 140 Nm in tenths."""
    async with demo_hardware() as hardware:
        unit, bank = Unit(hardware, "plc", 3), hardware.plant.locks["dock1.mount_a.locks"]
        bank.attach([Bolt() for _ in range(10)])
        bank.engaged = bank.bearing = lambda: True
        async with unit.alive():
            unit.write(16, [1, 1, 0x3FF])
            await asyncio.sleep(1.0)
            assert unit.inputs(16, 6) == [LockBankState.TURNING, 1, 0, 0, 0, 1]
            assert unit.input(24) == BoltState.MOVING
            await asyncio.sleep(12.0)
            assert [unit.input(20), unit.input(24), unit.input(24 + 9 * 4)] == [
                1,
                BoltState.UNLOCKED,
                BoltState.UNLOCKED,
            ]
            unit.write(16, [2, 2, 0x3FF])
            await asyncio.sleep(17.0)
            state, result, torque, angle = unit.inputs(24, 4)
            assert (unit.input(20), state, result) == (2, BoltState.LOCKED, 1)
            assert 1000 <= torque <= 1400
            assert 1400 <= angle <= 2200


async def test_runners_stop_when_the_heartbeat_stands_still() -> None:
    """A bank in mid-turn stops with fault 7 and its bolts between the ends; a second bank's beat does not help."""
    async with demo_hardware() as hardware:
        unit, bank = Unit(hardware, "plc", 3), hardware.plant.locks["dock1.mount_a.locks"]
        bank.attach([Bolt() for _ in range(10)])
        bank.engaged = bank.bearing = lambda: True
        async with unit.alive():
            unit.write(16, [1, 1, 0x3FF])
            await asyncio.sleep(3.0)
        await asyncio.sleep(1.5)
        assert [unit.input(16), unit.input(22), unit.input(20)] == [LockBankState.POWER_OFF, 7, 0]
        assert unit.inputs(24, 2) == [BoltState.UNKNOWN, 5]


async def test_a_connector_disengages_and_engages_again() -> None:
    """Slot 1 starts plugged in: its switches go from engaged over neither to disengaged, and back."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "slots", 1)
        assert unit.inputs(0, 7) == [ConnectorState.READY, 0, 0, 0, 0, 0b01, 0]
        unit.write(0, [2, 1])
        await asyncio.sleep(4.0)
        assert unit.inputs(0, 6) == [ConnectorState.MOVING, 1, 0, 0, 0, 0b00]
        await asyncio.sleep(5.0)
        assert unit.inputs(0, 6) == [ConnectorState.READY, 1, 0, 0, 1, 0b10]
        unit.write(0, [1, 2])
        await asyncio.sleep(6.0)
        unit.write(0, [2, 3])
        assert unit.inputs(0, 6) == [ConnectorState.MOVING, 2, 3, 4, 1, 0b00]
        await asyncio.sleep(6.0)
        assert unit.inputs(0, 6) == [ConnectorState.READY, 2, 3, 4, 2, 0b01]


async def test_a_connector_of_an_empty_slot_refuses_to_engage() -> None:
    """Slot 8, block 7: no pack is refusal 8."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "slots", 1)
        unit.write(4 * 7, [1, 1])
        assert unit.inputs(8 * 7, 6) == [ConnectorState.READY, 0, 1, 8, 0, 0b10]


@pytest.mark.parametrize(("asked", "switches"), [(False, 0b00), (True, 0b10)])
async def test_a_plug_stops_when_nobody_asks_for_ten_seconds(asked: bool, switches: int) -> None:
    """A stroke of 30 s is broken off 10 s after the last request, and goes on while requests come."""
    async with demo_hardware(demo_world(connectors=ConnectorWorld(30.0, 30.0))) as hardware:
        unit = Unit(hardware, "slots", 1)
        unit.write(0, [2, 1])
        for _ in range(8):
            await asyncio.sleep(5.0)
            if asked:
                unit.input(0)
        assert unit.inputs(4, 2) == [int(asked), switches]


async def test_a_charger_follows_its_set_points_and_reads_them_back() -> None:
    """Enable, 460.0 V and 50.0 A in one write: current flows, set-points read back, off ends it."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "chargers", 1)
        async with asyncio.timeout(60):
            while unit.input(0) != ChargerState.CHARGING or abs(unit.input(2) - 500) > 20:
                assert unit.write(0, [1, 4600, 500]) is None
                await asyncio.sleep(1.0)
        assert unit.inputs(3, 2) == [4600, 500]
        assert unit.inputs(6, 2) == [0, 0]
        assert 4000 < unit.input(1) <= 4600
        unit.write(0, [0, 0, 0])
        await asyncio.sleep(10.0)
        assert unit.input(2) <= 10


async def test_a_charger_stops_by_itself_when_set_points_stop_coming() -> None:
    """More than 10 s after the last write the output is at zero and says why; the next write ends that."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "chargers", 1)
        for _ in range(10):
            unit.write(0, [1, 4600, 500])
            await asyncio.sleep(2.0)
        assert unit.input(2) > 100
        await asyncio.sleep(15.0)
        assert unit.input(2) <= 10
        assert unit.input(6) == 1
        unit.write(0, [0, 0, 0])
        assert unit.input(6) == 0


@pytest.mark.parametrize("values", [[1, 5001, 0], [1, 4200, 2501], [3, 0, 0]], ids=["voltage", "current", "enable"])
async def test_a_charger_refuses_what_it_cannot_do(values: list[int]) -> None:
    """Above 500.0 V, above 250.0 A or an unknown wanted state is an illegal value and leaves all as it was."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "chargers", 1)
        assert unit.write(0, values) is ExcCode.ILLEGAL_VALUE
        assert unit.inputs(3, 2) == [0, 0]


async def test_a_charger_fault_shows_until_cleared() -> None:
    """A mains fault is code 4 in state fault; writing 2 to enable clears it and leaves the output off."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "chargers", 1)
        hardware.plant.chargers["slot01.charger"].fail("mains")
        assert [unit.input(0), unit.input(7)] == [ChargerState.FAULT, 4]
        assert unit.write(0, [2]) is None
        assert [unit.input(0), unit.input(7)] == [ChargerState.STANDBY, 0]


async def test_inputs_stand_at_their_channels() -> None:
    """The store's presence inputs show six packs in slots 1 to 6, none in 7, 8 and on the fork; the rest is 0."""
    async with demo_hardware() as hardware:
        await asyncio.sleep(1.0)  # until no sensor bounces
        assert Unit(hardware, "plc", 5).bits(0, 64) == [1] * 6 + [0] * 58


async def test_outputs_reach_the_plant_and_bad_ones_are_illegal() -> None:
    """Off, on and flashing are all an output can be; what was written can be read back."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "plc", 4)
        assert unit.write(2, [2]) is None
        assert hardware.plant.outputs["dock1.light_green"] == 2
        assert unit.write(2, [3]) is ExcCode.ILLEGAL_VALUE
        assert unit.write(9, [1]) is None
        assert hardware.plant.outputs["dock1.light_green"] == 2


async def test_safety_bits_follow_the_zone() -> None:
    """Zone by block of 16: an E-stop clears estop_ok and drives_enabled there and nowhere else."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "safety", 1)
        assert unit.bits(0, 8)[:5] == [1, 1, 1, 0, 0]
        assert unit.bits(6, 2) == [1, 0]
        hardware.plant.press_estop("dock1")
        assert [unit.bits(0, 1), unit.bits(6, 1)] == [[0], [0]]
        assert [unit.bits(16, 1), unit.bits(22, 1)] == [[1], [1]]
        assert unit.write(0, [1]) is ExcCode.ILLEGAL_ADDRESS


async def test_detectors_stand_at_their_bits() -> None:
    """Smoke, gas and water of the store's zone are bits 8, 9 and 10."""
    async with demo_hardware() as hardware:
        unit = Unit(hardware, "slots", 9)
        hardware.plant.zones["store"].gas = True
        assert unit.bits(0, 3) == [0, 0, 0]
        assert unit.bits(8, 3) == [0, 1, 0]
