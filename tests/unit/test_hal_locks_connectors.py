"""Lock banks and connectors: done is not success, and every bolt that is not as it should be is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hal.connector import ModbusConnector
from hal.errors import DeviceFaulted, DeviceRefused, MotionFailed, StopLatched
from hal.locks import ModbusLockBank
from hal.profiles import load_register_map
from hal.types import BoltState, DeviceSpec, Lifecycle, LockBankState, Table
from hal.unit import ModbusUnit
from tests.support.hal_peer import HandshakePeer, PeerLine, running

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])

LOCKED, UNLOCKED = 1, 2
NONE, OK, TORQUE_LOW = 0, 1, 2


class Bank(HandshakePeer):
    """Ten bolts, all locked and proven."""

    def __init__(self, line: PeerLine) -> None:
        super().__init__(line, 3, 16, 1, ends={1: 1, 2: 1, 4: 1}, moves={1: 2, 2: 2}, stop=3, still=1)
        self.show(5, 1)
        for bolt in range(10):
            self.bolt(bolt, LOCKED, OK, 120.0, 1800)

    def bolt(self, number: int, state: int, result: int, torque_nm: float, angle_deg: int) -> None:
        """Set one bolt, counted from 0. Torque in 0.1 Nm, angle in degrees."""
        for offset, value in enumerate((state, result, round(torque_nm * 10), angle_deg)):
            self.show(8 + 4 * number + offset, value)

    def open_all(self, _command: int) -> None:
        """All bolts end open and well."""
        for bolt in range(10):
            self.bolt(bolt, UNLOCKED, OK, 0.0, 1800)


@asynccontextmanager
async def lock_rig() -> AsyncIterator[tuple[ModbusLockBank, Bank]]:
    """A bank of ten bolts under polling."""
    line = PeerLine()
    peer = Bank(line)
    unit = ModbusUnit(line, 3, load_register_map("locks/lock_bank"))
    bank = ModbusLockBank(DeviceSpec("m.locks", "lock_bank", "locks/lock_bank", "plc", 3, 0, {"bolts": 10}), unit)
    async with running(line.run(), *unit.runners()):
        await asyncio.sleep(0)
        await bank.refresh()
        yield bank, peer


@asynccontextmanager
async def connector_rig() -> AsyncIterator[tuple[ModbusConnector, HandshakePeer]]:
    """The second connector of a unit, disengaged."""
    line = PeerLine()
    peer = HandshakePeer(line, 1, 0, 1, ends={1: 1, 2: 1, 4: 1}, moves={1: 2, 2: 2}, stop=3, still=1)
    peer.show(5, 0b10)
    unit = ModbusUnit(line, 1, load_register_map("connectors/slot_connector"))
    connector = ModbusConnector(
        DeviceSpec("slot01.connector", "connector", "connectors/slot_connector", "slots", 1, 0), unit
    )
    async with running(line.run(), *unit.runners()):
        await asyncio.sleep(0)
        await connector.refresh()
        yield connector, peer


async def test_unlock_of_all_bolts_succeeds_and_only_the_banks_bolts_are_read() -> None:
    """With every bolt open and OK, unlock returns; a bank of ten shows ten bolts and asks for ten."""
    async with lock_rig() as (bank, peer), bank.claim("swap-1"):
        peer.on_done = peer.open_all
        await bank.unlock()
        value = bank.reading.value
        assert value is not None
        assert value.all_unlocked
        assert len(value.bolts) == 10
        assert peer.line.image[3, Table.HOLDING, 18] == 0b1111111111


async def test_bolts_that_failed_are_named_though_the_command_is_done() -> None:
    """Done with a stuck and a stripped bolt is MotionFailed naming both, with result, torque and angle."""
    async with lock_rig() as (bank, peer), bank.claim("swap-1"):

        def end(_command: int) -> None:
            peer.bolt(3, LOCKED, TORQUE_LOW, 12.5, 2300)
            peer.bolt(9, 0, 4, 0.0, 0)

        peer.on_done = end
        with pytest.raises(MotionFailed, match=r"bolt 4 locked torque_low 12\.5 Nm 2300 deg; bolt 10 unknown stuck"):
            await bank.lock()


@pytest.mark.parametrize(
    ("torque_nm", "angle_deg", "proven"),
    [
        (100.0, 1400, True),
        (140.0, 2200, True),
        (99.9, 1800, False),
        (140.1, 1800, False),
        (120.0, 1399, False),
        (120.0, 2201, False),
    ],
)
async def test_a_closed_bolt_is_proven_by_torque_and_angle(torque_nm: float, angle_deg: int, *, proven: bool) -> None:
    """Both ends of both windows prove a bolt; one step beyond any of them does not, whatever its result says."""
    async with lock_rig() as (bank, peer), bank.claim("swap-1"):
        peer.on_done = lambda _c: peer.bolt(0, LOCKED, OK, torque_nm, angle_deg)
        if proven:
            await bank.lock()
        else:
            with pytest.raises(MotionFailed, match="bolt 1 "):
                await bank.lock()


async def test_runners_not_on_the_heads_refuse() -> None:
    """The bank's own refusal comes through by name."""
    async with lock_rig() as (bank, peer), bank.claim("swap-1"):
        peer.refuse = 1
        with pytest.raises(DeviceRefused, match="heads_not_engaged"):
            await bank.unlock()


async def test_cancelled_unlock_stops_the_runners() -> None:
    """A cancelled unlock leaves no runner turning."""
    async with lock_rig() as (bank, peer), bank.claim("swap-1"):
        peer.duration_s = 10.0
        task = asyncio.get_running_loop().create_task(bank.unlock())
        await asyncio.sleep(0.5)
        assert peer.moving
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert not peer.moving


async def test_latched_bank_stops_and_loses_its_heartbeat() -> None:
    """A latch on a lock bank stops its runners and its unit's heartbeat."""
    async with lock_rig() as (bank, peer), bank.claim("swap-1"):
        peer.duration_s = 10.0
        task = asyncio.get_running_loop().create_task(bank.unlock())
        await asyncio.sleep(0.5)
        bank.latch("guard opened")
        with pytest.raises(StopLatched):
            await task
        assert not peer.moving
        beats = len(peer.beats)
        await asyncio.sleep(1.0)
        assert len(peer.beats) == beats


async def test_lifecycle_of_a_bank_is_what_it_says() -> None:
    """POWER_OFF is CONNECTED, READY is ENABLED, FAULT is FAULTED."""
    async with lock_rig() as (bank, peer):
        for state, lifecycle in ((0, Lifecycle.CONNECTED), (1, Lifecycle.ENABLED), (3, Lifecycle.FAULTED)):
            peer.show(0, state)
            await bank.refresh()
            assert bank.lifecycle is lifecycle
        assert bank.reading.value is not None
        assert bank.reading.value.state is LockBankState.FAULT
        assert bank.reading.value.bolts[0].state is BoltState.LOCKED


async def test_connector_engages_and_disengages() -> None:
    """Engage and disengage are commands 1 and 2 and end with done."""
    async with connector_rig() as (connector, peer), connector.claim("swap-1"):
        await connector.engage()
        await connector.disengage()
        assert [command for command, _, _ in peer.commands] == [1, 2]


async def test_connector_refuses_under_current() -> None:
    """The drive's own refusal under current comes through by name."""
    async with connector_rig() as (connector, peer), connector.claim("swap-1"):
        peer.refuse = 9
        with pytest.raises(DeviceRefused, match="current_flows"):
            await connector.disengage()


async def test_jammed_plug_is_device_faulted() -> None:
    """A plug that jams on its way ends the command with the fault's name."""
    async with connector_rig() as (connector, peer), connector.claim("swap-1"):
        peer.never_done = True
        peer.ends[1] = 3
        peer.on_done = lambda _c: peer.show(6, 1)
        with pytest.raises(DeviceFaulted, match="jammed"):
            await connector.engage()


async def test_both_end_switches_at_once_is_a_fault() -> None:
    """Engaged and disengaged at the same time makes a connector FAULTED, whatever its state word says."""
    async with connector_rig() as (connector, peer):
        peer.show(5, 0b11)
        await connector.refresh()
        assert connector.lifecycle is Lifecycle.FAULTED
        with pytest.raises(DeviceFaulted, match="both end switches"):
            await connector.clear_fault()
