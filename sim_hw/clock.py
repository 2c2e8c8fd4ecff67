"""Event loops with a time of their own: virtual for tests and scenarios, scaled for the demo.

All timing of the project is asyncio's (``loop.time()``), so the loop alone decides what time is. Both loops here
move their clock only when the loop has nothing left to run, and never past the next timer: a slow host makes the
clock slower, it cannot make a time-out fire.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Events = list[tuple[selectors.SelectorKey, int]]

RESOLUTION_S = 1e-9  # timers this close together fire in one turn; a bit on a 1 Mbit/s bus lasts 1e-6 s
SPIN_LIMIT = 1_000_000  # turns at one instant of virtual time: no program of ours needs a thousandth of it
REAL_WAIT_S = 5.0  # how long a virtual loop without timers waits for a real descriptor
POLL_TURNS = 16  # how often descriptors are looked at while the loop is busy; it also polls before time moves
CATCH_UP_S = 0.02  # wall time of lag that a scaled loop makes up for; what is more is dropped
BUSY_LIMIT = 1000  # turns without rest after which a scaled loop lets due timers fire all the same


class Deadlock(RuntimeError):
    """Nothing can ever happen again: a real program would hang here for ever."""


class _HookedSelector(selectors.DefaultSelector):
    """A selector that leaves the waiting to its loop; ``poll`` is the plain wait on descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self.wait: Callable[[float | None], Events] = self.poll

    def select(self, timeout: float | None = None) -> Events:
        return self.wait(timeout)

    def poll(self, timeout: float | None) -> Events:
        return super().select(timeout)


class _OwnTimeLoop(asyncio.SelectorEventLoop):
    """What both loops share: the clock is a number, and the selector asks the loop how to wait."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._waiter = _HookedSelector()
        super().__init__(self._waiter)
        self._waiter.wait = self._wait
        self._clock_resolution = RESOLUTION_S

    def time(self) -> float:
        return self._now_s

    def _wait(self, timeout: float | None) -> Events:
        raise NotImplementedError

    def _next_timer(self) -> float:
        """When the earliest timer is due. The heap is asyncio's own: (3.11 to 3.13) base_events, ``_scheduled``."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined] # private
        return scheduled[0].when() if scheduled else math.inf

    def _set_time(self, now_s: float) -> None:
        self._now_s = now_s
        # Beyond 97 days a nanosecond is less than one step of a float, and a timer due now would never fire.
        self._clock_resolution = max(RESOLUTION_S, 2 * math.ulp(now_s))


class VirtualClockLoop(_OwnTimeLoop):
    """Time jumps to the next timer when nothing is runnable; work takes no time at all.

    Deterministic: executors run in place, and threads may not call in. Real descriptors may be registered: they
    come before any timer, but a peer outside of this process gets no time to answer while a timer is pending.

    Raises:
        Deadlock: out of ``run_*``, when no timer is left and nothing is ready (with a descriptor registered: for
            5 s of wall time), or when a million turns pass without time moving.
    """

    def __init__(self) -> None:
        self._turns = 0
        self._moved_at_turn = 0
        super().__init__()

    def _wait(self, timeout: float | None) -> Events:
        self._turns += 1
        every_so_often = self._turns % POLL_TURNS == 0
        if timeout == 0 and not every_so_often:
            return []
        alone = len(self._waiter.get_map()) <= 1  # only the loop's own wake-up pipe, which only signals write to
        if not alone or every_so_often or timeout is None:
            events = self._waiter.poll(0)
            if not events and timeout is None:
                events = self._wait_for_real(alone=alone)
            if events:
                return events
        if self._turns - self._moved_at_turn > SPIN_LIMIT:
            self._moved_at_turn = self._turns
            raise Deadlock(f"the loop spins: {SPIN_LIMIT} turns at {self._now_s} s and nothing waits")
        if timeout:
            self._moved_at_turn = self._turns
            self._set_time(max(self._now_s, min(self._next_timer(), self._now_s + timeout)))
        return []

    def _wait_for_real(self, *, alone: bool) -> Events:
        events = [] if alone else self._waiter.poll(REAL_WAIT_S)
        if not events:
            waiting = ", ".join(sorted(task.get_name() for task in asyncio.all_tasks(self)))
            raise Deadlock(f"no timer and nothing ready at {self._now_s} s; waiting: {waiting}")
        return events

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As ``call_soon``; raises RuntimeError when another thread calls while the loop runs."""
        if self._thread_id not in {None, threading.get_ident()}:  # type: ignore[attr-defined] # private
            raise RuntimeError("a thread calls into virtual time, which nothing can order; use run_in_executor")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run ``func`` here and now; its result is there one turn later, as if a thread had taken no time."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to whoever awaits the future
            self.call_soon(_settle, future, future.set_exception, error)
        else:
            self.call_soon(_settle, future, future.set_result, result)
        return future


def _settle(future: asyncio.Future[T], setter: Callable[[Any], None], value: object) -> None:
    if not future.done():
        setter(value)


class ScaledLoop(_OwnTimeLoop):
    """Time runs ``speed`` times as fast as the wall clock, and slower where the host cannot keep up.

    The clock moves only while nothing in the process is ready, and to a timer only once the wall time for it passed.
    Lag up to 20 ms of wall time is made up for; lag beyond that is lost, so that a stall delays everything alike.

    Args:
        speed: above 0.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._busy_turns = 0
        super().__init__()
        self._seen_s = self._wall()  # wall time up to which the clock has been moved, less the lag to make up for

    def _wall(self) -> float:
        return super(_OwnTimeLoop, self).time()

    def _wait(self, timeout: float | None) -> Events:
        wall = self._wall()
        self._seen_s = max(self._seen_s, wall - CATCH_UP_S)
        next_timer = self._next_timer()
        events = self._waiter.poll(0)
        if events or timeout == 0:
            self._busy_turns += 1
            if self._busy_turns >= BUSY_LIMIT:
                self._busy_turns = 0
                self._advance(wall, next_timer)
            return events
        self._busy_turns = 0
        due = self._seen_s + (next_timer - self._now_s) / self.speed
        if due > wall:
            events = self._waiter.poll(None if math.isinf(due) else due - wall)
            wall = min(self._wall(), due + CATCH_UP_S)
        self._advance(wall, next_timer - 2 * self._clock_resolution if events else next_timer)
        return events

    def _advance(self, wall: float, ceiling: float) -> None:
        moved_to = max(self._now_s, min(self._now_s + (wall - self._seen_s) * self.speed, ceiling))
        self._seen_s += (moved_to - self._now_s) / self.speed
        self._set_time(moved_to)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end under a new virtual clock that starts at 0."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)
