"""Axes and their command handshake: done, refused, late, lost, rebooted, faulted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hal.errors import (
    DeviceFaulted,
    DeviceRefused,
    HalError,
    LinkDown,
    MotionFailed,
    NoReply,
    NotReady,
    Outcome,
    ProtocolError,
)
from hal.motion import ModbusAxis
from hal.profiles import load_register_map
from hal.types import AxisState, DeviceSpec, Lifecycle, LinkState, Quality, Table
from hal.unit import ModbusUnit
from tests.support.hal_peer import PeerLine, running
from tests.support.motion_rig import (
    CLEAR,
    DISABLE,
    ENABLE,
    MOVE,
    STANDSTILL,
    STOP,
    UNIT,
    axis_peer,
    rig,
)

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])


async def test_move_sends_one_write_and_returns_when_done_is_read() -> None:
    """A move is one write of command, new id, target and full speed; it returns within a fast poll of done."""
    async with rig() as r, r.axis.claim("swap-1"):
        began = asyncio.get_running_loop().time()
        await r.axis.move_to(123.456)
        took = asyncio.get_running_loop().time() - began
        assert r.peer.commands[-1][:2] == (MOVE, 1)
        words = [r.line.image[UNIT, Table.HOLDING, 16 + i] for i in range(5)]
        assert words == [MOVE, 1, 123456 >> 16, 123456 & 0xFFFF, 1000]
        assert 1.0 <= took <= 1.0 + 0.05 + 4 * 0.004


async def test_ids_go_on_from_what_stands_in_the_device() -> None:
    """After a restart of the station no id is used that the device holds, accepted, refused or has done last."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.line.image[UNIT, Table.HOLDING, 17] = 0xFFFE
        r.peer.show(1, 0xFFFF)
        r.peer.show(2, 1)
        r.peer.show(4, 2)
        await r.read()
        await r.axis.move_to(10.0)
        assert r.peer.commands[-1][1] == 3
        await r.axis.move_to(20.0)
        assert r.peer.commands[-1][1] == 4


async def test_refusal_names_the_reason() -> None:
    """A refused command raises DeviceRefused with the profile's name of the reason, and posts no stop."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.refuse = 2
        with pytest.raises(DeviceRefused, match="not_homed") as caught:
            await r.axis.move_to(1.0)
        assert (caught.value.code, caught.value.outcome) == (2, Outcome.REFUSED)
        assert [command for command, _, _ in r.peer.commands] == [MOVE]


@pytest.mark.parametrize("target", [-5.1, 250.1, float("nan"), float("inf")])
async def test_target_out_of_range_is_never_sent(target: float) -> None:
    """A target outside the axis' range is refused before anything is sent."""
    async with rig() as r, r.axis.claim("swap-1"):
        with pytest.raises(DeviceRefused):
            await r.axis.move_to(target)
        assert not r.peer.commands


@pytest.mark.parametrize("target", [-5.0, 250.0])
async def test_limits_of_the_range_are_inside(target: float) -> None:
    """Both ends of the range can be moved to."""
    async with rig() as r, r.axis.claim("swap-1"):
        await r.axis.move_to(target)


async def test_device_that_takes_no_notice_ends_in_no_reply_and_a_stop() -> None:
    """Neither accepted nor refused within 1 s is NoReply, and a stop is posted."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.deaf = True
        began = asyncio.get_running_loop().time()
        with pytest.raises(NoReply, match="neither accepted nor refused"):
            await r.axis.move_to(1.0)
        assert asyncio.get_running_loop().time() - began <= 1.0 + 0.5 + 0.1
        assert any(name.startswith("urgent") for name, _ in r.line.sent)


async def test_write_whose_answer_was_lost_is_resolved_by_reading() -> None:
    """If the device shows the id of an unanswered write, the command goes on to done."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.line.lose_answer = _once("write", NoReply("line", "write", "no answer"), lambda: bool(r.peer.commands))
        await r.axis.move_to(1.0)
        assert [command for command, _, _ in r.peer.commands] == [MOVE]


async def test_write_that_never_arrived_is_no_reply_with_a_stop() -> None:
    """If the device does not show the id of an unanswered write, the outcome is UNKNOWN and a stop is posted."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.line.fail = _once("write", NoReply("line", "write", "no answer"), lambda: r.axis.busy)
        with pytest.raises(NoReply, match="shows no such command") as caught:
            await r.axis.move_to(1.0)
        assert caught.value.outcome is Outcome.UNKNOWN
        assert [command for command, _, _ in r.peer.commands] == [STOP]


async def test_stop_whose_answer_is_lost_is_repeated() -> None:
    """A stop that nobody answers is sent three times in all."""
    async with rig() as r:
        r.line.lose_answer = lambda name: NoReply("l", "w", "none") if name.startswith("urgent") else None
        with pytest.raises(NoReply):
            await r.axis.stop()
        assert [command for command, _, _ in r.peer.commands] == [STOP] * 3


async def test_fault_in_mid_move_is_device_faulted() -> None:
    """A fault of the drive ends the move with DeviceFaulted, the profile's name and code; the axis is FAULTED."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.duration_s = 10.0

        def fail() -> None:
            r.peer.reboot(6)
            r.peer.show(1, 1)
            r.peer.show(9, 2)

        asyncio.get_running_loop().call_later(0.3, fail)
        with pytest.raises(DeviceFaulted, match="stall") as caught:
            await r.axis.move_to(1.0)
        assert caught.value.code == 2
        assert r.axis.lifecycle is Lifecycle.FAULTED


async def test_move_that_ends_short_is_motion_failed_with_the_position() -> None:
    """Standing without done is MotionFailed naming the position, never taken as completion."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.never_done = True
        r.peer.show(7, 0xC350)  # 50 000 um
        with pytest.raises(MotionFailed, match=r"50\.0 mm"):
            await r.axis.move_to(100.0)


async def test_power_taken_away_in_mid_move_is_motion_failed() -> None:
    """POWER_OFF without a fault code in mid-move is MotionFailed at once."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.duration_s = 10.0
        asyncio.get_running_loop().call_later(0.3, lambda: r.peer.show(0, 0))
        with pytest.raises(MotionFailed, match="power was taken away"):
            await r.axis.move_to(1.0)


async def test_reboot_in_mid_move_is_motion_failed() -> None:
    """A drive that restarts in mid-move has forgotten the command: MotionFailed; the next id is new to it."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.duration_s = 10.0
        asyncio.get_running_loop().call_later(0.3, lambda: r.peer.reboot(STANDSTILL))
        with pytest.raises(MotionFailed, match="ended short"):
            await r.axis.move_to(1.0)
        r.peer.duration_s = 0.2
        await r.axis.move_to(1.0)


async def test_line_lost_in_mid_move_is_no_reply_and_the_stop_follows_when_it_is_back() -> None:
    """A line that goes down in mid-move ends it with NoReply at once; the stop is sent as soon as the line is up."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.duration_s = 10.0
        task = asyncio.get_running_loop().create_task(r.axis.move_to(1.0))
        await asyncio.sleep(0.3)
        r.line.state = LinkState.DOWN
        r.unit.link_changed(LinkState.DOWN)
        with pytest.raises(NoReply, match="lost") as caught:
            await task
        assert "lost" in caught.value.__notes__[0]
        assert r.peer.moving
        r.line.state = LinkState.UP
        r.unit.link_changed(LinkState.UP)
        await r.read()
        assert not r.peer.moving


async def test_command_on_a_dead_line_is_link_down() -> None:
    """With the line down a command raises LinkDown (NOT_SENT) and nothing is sent later."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.line.state = LinkState.DOWN
        r.unit.link_changed(LinkState.DOWN)
        assert r.axis.reading.quality is Quality.LOST
        with pytest.raises(LinkDown):
            await r.axis.move_to(1.0)
        with pytest.raises(LinkDown):
            await r.axis.stop()
        with pytest.raises(LinkDown):
            await r.axis.refresh()


async def test_silent_device_is_lost_within_its_time_out_and_found_again() -> None:
    """Unanswered polls keep the last value, turn it LOST after 1 s, and the first answer makes it GOOD again."""
    async with rig() as r:
        value = r.axis.reading.value
        r.line.fail = lambda name: NoReply("l", "r", "none") if name.startswith("read") else None
        with pytest.raises(NoReply) as caught:
            await r.axis.refresh()
        assert caught.value.device == "dock1.clamp"
        assert r.axis.reading.quality is Quality.GOOD
        await asyncio.sleep(1.3)
        assert (r.axis.reading.quality, r.axis.reading.value) == (Quality.LOST, value)
        assert r.axis.lifecycle is Lifecycle.UNCONFIGURED
        r.line.fail = lambda _name: None
        await r.read()
        assert r.axis.reading.quality is Quality.GOOD


async def test_dead_controller_behind_a_living_network_card_is_lost() -> None:
    """A cycle counter that stands still for the watchdog's time is a lost reading, and refresh says so."""
    async with rig() as r:
        r.peer.alive = False
        await r.read()
        await asyncio.sleep(2.1)
        assert r.axis.reading.quality is Quality.LOST
        with pytest.raises(NoReply, match="stands still"):
            await r.axis.refresh()
        r.peer.alive = True
        await r.read()


async def test_unknown_state_word_is_invalid_not_guessed() -> None:
    """A state that the profile does not name is a ProtocolError and turns the reading INVALID."""
    async with rig() as r:
        r.peer.show(0, 99)
        with pytest.raises(ProtocolError, match="99"):
            await r.axis.refresh()
        await asyncio.sleep(1.3)
        assert r.axis.reading.quality is Quality.INVALID


async def test_enable_and_disable_use_the_handshake_and_are_idempotent() -> None:
    """Enable and disable are sent once; asking again for what already is sends nothing."""
    async with rig() as r, r.axis.claim("swap-1"):
        await r.axis.enable()
        assert not r.peer.commands
        await r.axis.disable()
        assert r.axis.reading.value is not None
        assert r.axis.reading.value.state is AxisState.DISABLED
        await r.axis.disable()
        with pytest.raises(NotReady, match="connected"):
            await r.axis.move_to(1.0)
        await r.axis.enable()
        assert r.axis.lifecycle is Lifecycle.ENABLED
        assert [command for command, _, _ in r.peer.commands] == [DISABLE, ENABLE]


async def test_clear_fault_needs_no_claim_and_moves_nothing() -> None:
    """clear_fault sends clear once, leaves the axis CONNECTED, and sends nothing without a fault."""
    async with rig() as r:
        await r.axis.clear_fault()
        assert not r.peer.commands
        r.peer.reboot(6)
        r.peer.show(9, 2)
        r.peer.on_done = lambda _command: r.peer.show(9, 0)
        await r.axis.clear_fault()
        assert r.axis.lifecycle is Lifecycle.CONNECTED
        assert [command for command, _, _ in r.peer.commands] == [CLEAR]


async def test_clear_fault_with_the_cause_still_there_is_device_faulted() -> None:
    """A fault that stays after clear raises DeviceFaulted with its name."""
    async with rig() as r:
        r.peer.reboot(6)
        r.peer.show(9, 5)
        r.peer.ends[CLEAR] = 6
        with pytest.raises(DeviceFaulted, match="encoder"):
            await r.axis.clear_fault()


async def test_two_axes_of_a_unit_are_read_in_one_request() -> None:
    """All axes of a unit share one read and one instant of measurement."""
    line = PeerLine()
    axis_peer(line)
    unit = ModbusUnit(line, UNIT, load_register_map("motion/positioning_axis"))
    axes = [
        ModbusAxis(
            DeviceSpec(f"a.{index}", "axis", "motion/positioning_axis", "plc", UNIT, index, {"range_mm": (0, 9)}),
            unit,
        )
        for index in range(4)
    ]
    line.image[UNIT, Table.INPUT, 16 + 3 * 16 + 6] = 0xFFFF  # position of the fourth: -1 um
    line.image[UNIT, Table.INPUT, 16 + 3 * 16 + 7] = 0xFFFF
    async with running(line.run(), unit.poller.run()):
        await asyncio.sleep(0)
        await axes[0].refresh()
        assert len({axis.reading.measured_at for axis in axes}) == 1
        assert axes[3].reading.value is not None
        assert axes[3].reading.value.position_mm == -0.001
        assert len([name for name, _ in line.sent if name.startswith("read")]) <= 2


def _once(kind: str, error: HalError, when: Callable[[], bool]) -> Callable[[str], HalError | None]:
    """Fail the first request of a kind for which ``when`` holds."""
    used: list[str] = []

    def judge(name: str) -> HalError | None:
        if used or not name.startswith(kind) or not when():
            return None
        used.append(name)
        return error

    return judge
