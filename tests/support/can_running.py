"""Running a CAN port inside a test, and waiting for what it says and hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from hal.can_port import CanPort
from hal.types import CanFrame, LinkState

PATIENCE_S = 20.0  # far beyond what any of these waits takes; a hang fails here and not in the runner


async def reached(port: CanPort, wanted: LinkState) -> None:
    """Wait until the port is in a state."""
    event = asyncio.Event()
    stop = port.on_state(lambda state: event.set() if state is wanted else None)
    try:
        if port.state is not wanted:
            await asyncio.wait_for(event.wait(), PATIENCE_S)
    finally:
        stop()


@asynccontextmanager
async def running(port: CanPort, until: LinkState = LinkState.UP) -> AsyncIterator[CanPort]:
    """Run a port for as long as the context lasts, which begins once the port is in the given state."""
    task = asyncio.create_task(port.run())
    try:
        await reached(port, until)
        yield port
        assert not task.done(), "a port never ends by itself"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Inbox:
    """Frames that a port or node heard, and a way to wait for a number of them."""

    def __init__(self) -> None:
        self.frames: list[CanFrame] = []
        self._changed = asyncio.Event()

    def __call__(self, frame: CanFrame) -> None:
        self.frames.append(frame)
        self._changed.set()

    async def wait_for(self, count: int) -> list[CanFrame]:
        """Wait until at least so many frames were heard, and return all of them."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.frames) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.frames
