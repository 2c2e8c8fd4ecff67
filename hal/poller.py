"""Reads one device again and again: slowly, fast while something is under command, and at once when asked.

A device that fails does not end the polling, and each change between working and failing is logged once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from hal.errors import HalError, LinkDown

# A loop runs timers that are due within its clock's resolution (1 ns) without time having passed: waiting again for
# the rest would spin.
SAME_INSTANT_S = 1e-6

_log = logging.getLogger(__name__)


class Poller:
    """One task that polls one device.

    ``read`` is called once per period, never twice at a time; it blocks as long as the link does. Periods that passed
    meanwhile are skipped, not caught up with: the phase is kept.

    Attributes:
        name: the device's id.
        polls: reads ended, well or not.
        failures: reads that ended with a HalError.
        last_error: the newest read's error; None after a good one.
    """

    def __init__(
        self, name: str, read: Callable[[], Awaitable[None]], period_fast_s: float, period_slow_s: float
    ) -> None:
        self.name = name
        self.polls = 0
        self.failures = 0
        self.last_error: HalError | None = None
        self._read = read
        self._period_fast_s = period_fast_s
        self._period_slow_s = period_slow_s
        self._fast_users = 0
        self._running = False
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []  # for the next poll to start

    @contextmanager
    def fast(self) -> Iterator[None]:
        """Poll at the fast period for as long as at least one such context is open."""
        self._fast_users += 1
        self._wake.set()
        try:
            yield
        finally:
            self._fast_users -= 1

    async def refresh(self) -> None:
        """Return after a poll that began after this call; callers that wait at the same time share one.

        Blocks at most two reads: the one that is running and the one it asks for.

        Raises:
            LinkDown: NOT_SENT, polling does not run. Any other HalError: that poll's, with its outcome.
        """
        if not self._running:
            raise self._not_running()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._wake.set()
        await waiter

    async def run(self) -> None:
        """Poll until cancelled. Ends by itself only if ``read`` raises something else than a HalError: a bug."""
        loop = asyncio.get_running_loop()
        self._running = True
        served: list[asyncio.Future[None]] = []
        try:
            while True:
                began = loop.time()
                served, self._waiting = self._waiting, []
                self._wake.clear()
                error = await self._poll()
                _resolve(served, error)
                ended = loop.time()
                while not self._waiting and (due := self._due(began, ended)) > loop.time() + SAME_INSTANT_S:
                    await self._wake_or(due)
        finally:
            self._running = False
            _resolve([*served, *self._waiting], self._not_running())
            self._waiting = []

    async def _poll(self) -> HalError | None:
        error: HalError | None = None
        try:
            await self._read()
        except HalError as caught:
            error = caught
            self.failures += 1
        self.polls += 1
        if error and not self.last_error:
            _log.warning("%s: polling fails: %s", self.name, error, extra={"device": self.name})
        if self.last_error and not error:
            _log.info("%s: polling works again", self.name, extra={"device": self.name})
        self.last_error = error
        return error

    def _due(self, began: float, ended: float) -> float:
        """Return when to poll next: the first whole period after ``began`` that is not over yet."""
        period_s = self._period_fast_s if self._fast_users else self._period_slow_s
        return began + period_s * max(1, math.ceil((ended - began) / period_s))

    async def _wake_or(self, due: float) -> None:
        """Wait until ``due``, or until the period changes or a refresh is asked for."""
        timer = asyncio.get_running_loop().call_at(due, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    def _not_running(self) -> HalError:
        return LinkDown(self.name, "refresh", "polling does not run")


def _resolve(waiters: list[asyncio.Future[None]], error: HalError | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error:
            waiter.set_exception(error)
        else:
            waiter.set_result(None)
