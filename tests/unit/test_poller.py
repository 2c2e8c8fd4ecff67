"""Polling: its periods, refresh, and that a failing device never ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from hal.errors import HalError, LinkDown, NoReply
from hal.poller import Poller

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])


class Device:
    """Notes when it is read; takes its time; fails on request."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.takes_s = 0.0
        self.error: Exception | None = None

    async def read(self) -> None:
        self.began.append(round(asyncio.get_running_loop().time(), 6))
        await asyncio.sleep(self.takes_s)
        if self.error:
            raise self.error


@asynccontextmanager
async def _polling(device: Device) -> AsyncIterator[Poller]:
    poller = Poller("dock1.clamp", device.read, 0.05, 0.25)
    task = asyncio.get_running_loop().create_task(poller.run())
    await asyncio.sleep(0)
    try:
        yield poller
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_slow_fast_and_slow_again() -> None:
    """It polls at the slow period, at the fast one from the moment anybody needs it, and slowly after that."""
    device = Device()
    async with _polling(device) as poller:
        await asyncio.sleep(0.6)
        with poller.fast(), poller.fast():
            await asyncio.sleep(0.12)
        await asyncio.sleep(0.3)
    assert device.began == [0.0, 0.25, 0.5, 0.6, 0.65, 0.7, 0.95]
    assert poller.polls == 7


async def test_missed_periods_are_skipped() -> None:
    """After a read that lasted several periods there is no burst: the next one comes at the next whole period."""
    device = Device()
    async with _polling(device):
        device.takes_s = 0.6
        await asyncio.sleep(0.3)
        device.takes_s = 0.0
        await asyncio.sleep(1.0)
    assert device.began == [0.0, 0.25, 1.0, 1.25]


async def test_a_refresh_never_shares_a_read_that_had_begun() -> None:
    """A refresh waits for a read that began after it, and those that wait together share one."""
    device = Device()
    device.takes_s = 0.1
    loop = asyncio.get_running_loop()
    async with _polling(device) as poller:
        await asyncio.sleep(0.03)
        async with asyncio.TaskGroup() as group:
            group.create_task(poller.refresh())
            group.create_task(poller.refresh())
        assert round(loop.time(), 6) == 0.2
    assert device.began == [0.0, 0.1]


async def test_a_cancelled_refresh_disturbs_nobody() -> None:
    """One caller's cancellation ends its own wait only."""
    device = Device()
    device.takes_s = 0.1
    async with _polling(device) as poller:
        loop = asyncio.get_running_loop()
        first, second = loop.create_task(poller.refresh()), loop.create_task(poller.refresh())
        await asyncio.sleep(0.15)
        first.cancel()
        await second
        assert first.cancelled()


async def test_a_failing_device_is_polled_on_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Errors are kept and counted, refresh passes them on, and each change is one log line."""
    caplog.set_level(logging.INFO, "hal.poller")
    device = Device()
    async with _polling(device) as poller:
        device.error = NoReply("dock1.clamp", "read", "nothing came")
        await asyncio.sleep(1.1)
        with pytest.raises(NoReply):
            await poller.refresh()
        assert poller.last_error is device.error
        device.error = None
        await poller.refresh()
        assert poller.last_error is None
    assert poller.failures == 6
    texts = [record.getMessage() for record in caplog.records]
    assert [text.split(": ")[1] for text in texts] == ["polling fails", "polling works again"]


@pytest.mark.parametrize("end", ["before", "during", "after"])
async def test_a_refresh_without_polling_is_refused_not_left_hanging(end: str) -> None:
    """Where nobody polls, before, during or after the task's life, refresh raises LinkDown."""
    device = Device()
    device.takes_s = 0.1
    poller = Poller("dock1.clamp", device.read, 0.05, 0.25)
    waiters: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    if end != "before":
        task = loop.create_task(poller.run())
        await asyncio.sleep(0.05)
        if end == "during":
            waiters.append(loop.create_task(poller.refresh()))
            await asyncio.sleep(0.1)
            waiters.append(loop.create_task(poller.refresh()))
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task, *waiters])
    for waiter in waiters or [loop.create_task(poller.refresh())]:
        with pytest.raises(LinkDown, match="does not run"):
            await waiter


async def test_a_bug_in_a_driver_is_not_hidden() -> None:
    """An error that is no HalError ends the polling, so that it is seen; who waits gets an answer."""
    device = Device()
    poller = Poller("dock1.clamp", device.read, 0.05, 0.25)
    device.error = ZeroDivisionError("a bug")
    task = asyncio.get_running_loop().create_task(poller.run())
    with pytest.raises(ZeroDivisionError):
        await task
    with pytest.raises(HalError):
        await poller.refresh()


async def test_fast_is_counted_not_switched() -> None:
    """Two users, one leaves: the other still has the fast period, also when the first left by an error."""

    def fails(run: Callable[[], None]) -> None:
        with pytest.raises(ZeroDivisionError):
            run()

    poller = Poller("dock1.clamp", Device().read, 0.05, 0.25)

    def first() -> None:
        with poller.fast():
            raise ZeroDivisionError

    with poller.fast():
        fails(first)
        assert poller._due(0.0, 0.0) == 0.05
    assert poller._due(0.0, 0.0) == 0.25
