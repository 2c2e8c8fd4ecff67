"""What ends an axis' command early: another owner, a stop, the latch, a cancellation at any instant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from hal.errors import (
    MotionFailed,
    NotClaimed,
    NotReady,
    StopLatched,
)
from hal.types import AxisState, Table
from tests.support.motion_rig import (
    MOVING,
    STOP,
    rig,
)

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])


async def test_second_command_is_refused_while_one_runs() -> None:
    """Two commands at a time are refused, also under one claim; the first goes on."""
    async with rig() as r, r.axis.claim("swap-1"):
        task = asyncio.get_running_loop().create_task(r.axis.move_to(1.0))
        await asyncio.sleep(0.3)
        with pytest.raises(NotReady, match="still running"):
            await r.axis.move_to(2.0)
        await task


async def test_commands_need_the_claim_and_reading_does_not() -> None:
    """Without the claim, or in a task outside of it, a command is NotClaimed; child tasks of the holder have it."""
    async with rig() as r:
        with pytest.raises(NotClaimed):
            await r.axis.move_to(1.0)
        gate = asyncio.Event()
        outsider = asyncio.get_running_loop().create_task(_after(gate, lambda: r.axis.move_to(1.0)))
        async with r.axis.claim("swap-1"):
            with pytest.raises(NotClaimed, match="swap-1"):
                async with r.axis.claim("cli"):
                    pass
            gate.set()
            with pytest.raises(NotClaimed, match="swap-1"):
                await outsider
            await asyncio.get_running_loop().create_task(r.axis.move_to(1.0))
            await r.axis.refresh()
        with pytest.raises(NotClaimed):
            await r.axis.move_to(1.0)


async def test_stop_from_elsewhere_ends_the_move_as_motion_failed() -> None:
    """stop() needs no claim, returns when the axis stands, and the stopped command reports MotionFailed."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.duration_s = 10.0
        r.peer.stopping_s = 0.4
        task = asyncio.get_running_loop().create_task(r.axis.move_to(1.0))
        await asyncio.sleep(0.3)
        await r.axis.stop()
        assert r.axis.reading.value is not None
        assert r.axis.reading.value.state is AxisState.STANDSTILL
        with pytest.raises(MotionFailed):
            await task


async def test_axis_that_does_not_stop_is_reported() -> None:
    """A stop that the drive answers but does not obey is MotionFailed after 5 s."""
    async with rig() as r:
        r.peer.show(0, MOVING)
        r.peer.stopping_s = 60.0
        with pytest.raises(MotionFailed, match="does not stand still"):
            await r.axis.stop()


async def test_latched_axis_refuses_everything_but_stop() -> None:
    """With a stop latched every command is StopLatched, the first reason stays, and stop() is obeyed."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.axis.latch("emergency stop")
        r.axis.latch("second")
        for command in (r.axis.enable, r.axis.disable, r.axis.home, r.axis.clear_fault):
            with pytest.raises(StopLatched, match="emergency stop"):
                await command()
        with pytest.raises(StopLatched):
            await r.axis.move_to(1.0)
        await r.axis.stop()
        assert {command for command, _, _ in r.peer.commands} == {STOP}
        r.axis.unlatch()
        await r.axis.move_to(1.0)


async def test_latch_ends_a_running_move_and_stops_it() -> None:
    """Latch in mid-move: the stop is the next thing on the line, the move raises StopLatched, the axis stands."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.duration_s = 10.0
        task = asyncio.get_running_loop().create_task(r.axis.move_to(1.0))
        await asyncio.sleep(0.3)
        done_so_far = len(r.line.sent)
        r.axis.latch("emergency stop")
        with pytest.raises(StopLatched):
            await task
        assert not r.peer.moving
        names = [name for name, _ in r.line.sent[done_so_far:]]
        assert "urgent 1" in names[:2]  # a read may have been on the wire


async def test_latch_takes_back_a_move_that_is_still_queued() -> None:
    """A move that waits in the line's queue when the stop is latched is never sent."""
    async with rig() as r, r.axis.claim("swap-1"):
        await r.axis.move_to(1.0)
        r.peer.commands.clear()
        blockers = [asyncio.ensure_future(r.line.read(9, Table.INPUT, 0, 1, device="x")) for _ in range(20)]
        task = asyncio.get_running_loop().create_task(r.axis.move_to(2.0))
        await asyncio.sleep(0.01)
        r.axis.latch("emergency stop")
        with pytest.raises(StopLatched):
            await task
        await asyncio.wait(blockers)
        await r.read()
        assert {command for command, _, _ in r.peer.commands} == {STOP}


async def test_heartbeat_runs_and_ends_in_the_very_turn_of_the_latch() -> None:
    """The heartbeat comes every 0.25 s; once latched none follows, not even one that was queued; then it resumes."""
    async with rig() as r:
        await asyncio.sleep(2.0)
        gaps = [b - a for a, b in zip(r.peer.beats, r.peer.beats[1:], strict=False)]
        assert len(r.peer.beats) >= 8
        assert max(gaps) <= 0.3
        blockers = [asyncio.ensure_future(r.line.read(9, Table.INPUT, 0, 1, device="x")) for _ in range(100)]
        await asyncio.sleep(0.3)  # a beat waits behind them now
        r.axis.latch("emergency stop")
        latched_at = asyncio.get_running_loop().time()
        await asyncio.sleep(2.0)
        await asyncio.wait(blockers)
        assert [at for at in r.peer.beats if at > latched_at] == []
        r.axis.unlatch()
        await asyncio.sleep(0.6)
        assert r.peer.beats[-1] > latched_at


async def test_cancelled_at_every_await_the_axis_stands() -> None:
    """Cancelled at any of its awaits, a move ends in CancelledError and the axis stands; nothing moves later."""
    at = 0
    finished = False
    while not finished:
        at += 1
        async with rig() as r, r.axis.claim("swap-1"):
            r.peer.duration_s = 0.2
            r.peer.stopping_s = 0.1
            task = asyncio.get_running_loop().create_task(_cancelled(r.axis.move_to(50.0), at))
            await asyncio.wait({task})
            finished = not task.cancelled()
            if not finished:
                assert not r.peer.moving
                await asyncio.sleep(0.5)
                assert not r.peer.moving
                assert not r.axis.busy
    assert at > 5


async def test_cancelled_at_any_instant_the_axis_stands() -> None:
    """Cancelled at any instant, with the write queued, on the wire or answered, a move leaves the axis standing."""
    for at_ms in range(60):
        async with rig() as r, r.axis.claim("swap-1"):
            r.peer.duration_s = 10.0
            task = asyncio.get_running_loop().create_task(r.axis.move_to(50.0))
            await asyncio.sleep(at_ms / 1000)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert not r.peer.moving
            await asyncio.sleep(0.5)
            assert not r.peer.moving
            assert at_ms == 0 or r.peer.commands[-1][0] == STOP


async def test_second_cancellation_does_not_cut_the_stop_short() -> None:
    """Cancelled again and again while it stops the axis, a move ends only once the axis stands."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.duration_s = 10.0
        r.peer.stopping_s = 0.3
        task = asyncio.get_running_loop().create_task(r.axis.move_to(50.0))
        await asyncio.sleep(0.3)
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0.02)
            assert not task.done()
        await asyncio.wait({task})
        assert task.cancelled()
        assert not r.peer.moving


async def test_limit_of_the_caller_stops_the_axis_first() -> None:
    """A caller's asyncio.timeout ends in TimeoutError with the axis at a standstill."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.duration_s = 10.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await r.axis.move_to(50.0)
        assert not r.peer.moving


async def test_standstill_is_waited_for_no_longer_than_half_a_second() -> None:
    """An axis that does not stop holds a cancelled move up for 0.5 s, and the error says so."""
    async with rig() as r, r.axis.claim("swap-1"):
        r.peer.duration_s = 60.0
        r.peer.stopping_s = 60.0
        task = asyncio.get_running_loop().create_task(r.axis.move_to(50.0))
        await asyncio.sleep(0.3)
        began = asyncio.get_running_loop().time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.5)
        assert "not seen standing" in caught.value.__notes__[0]


async def _after(gate: asyncio.Event, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await gate.wait()
    await act()


class _Counted:
    """Await a coroutine and cancel the task at its n-th suspension."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], at: int) -> None:
        self._coroutine = coroutine
        self._at = at

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._coroutine.__await__()
        task = asyncio.current_task()
        assert task is not None
        count = 0
        error: BaseException | None = None
        while True:
            try:
                waited_for = steps.throw(error) if error else steps.send(None)
            except StopIteration:
                return
            error = None
            count += 1
            if count == self._at:
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield waited_for
            except BaseException as caught:  # noqa: BLE001  # it is thrown into the coroutine above
                error = caught


async def _cancelled(coroutine: Coroutine[Any, Any, None], at: int) -> None:
    await _Counted(coroutine, at)
