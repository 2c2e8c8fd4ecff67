"""What all devices share: readings and their listeners, claims, the stop latch, and writes that a stop takes back.

No wire here. ``unit.py`` adds Modbus, ``streams.py`` adds CAN, ``handshake.py`` the three-legged command.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar

from hal.errors import (
    DeviceFaulted,
    DeviceRefused,
    HalError,
    MotionFailed,
    NotClaimed,
    Outcome,
    StopLatched,
)
from hal.types import Lifecycle, Quality, Reading, never_read

S = TypeVar("S")

# A loop runs timers that are due within its clock's resolution (1 ns) without time having passed: whoever waits again
# for the rest would spin.
SHORTEST_WAIT_S = 1e-6

# Claims held by the running task and by the tasks it starts: device id → the claim's own token. A context variable,
# because a command does not say who gives it, and a swap's steps run in child tasks of the one that claimed.
_held: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar("held_claims")


async def finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Await a bounded clean-up to its end, however often the caller is cancelled, then let the cancellation through.

    Raises:
        CancelledError: the caller was cancelled meanwhile; the clean-up is over all the same.
    """
    task = asyncio.get_running_loop().create_task(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        retrieve(task)
        raise cancelled
    task.result()


def retrieve(future: asyncio.Future[Any]) -> BaseException | None:
    """Return a finished future's exception and mark it as seen; None where it was cancelled or went well."""
    return None if future.cancelled() else future.exception()


def stands(error: BaseException) -> bool:
    """Whether an error proves that the command which it ended moves nothing: not sent, refused, or seen standing."""
    if isinstance(error, StopLatched) or not isinstance(error, HalError):
        return False
    return error.outcome is not Outcome.UNKNOWN


def addressed(error: HalError, device: str, operation: str) -> HalError:
    """Return an equal error that names this device: a shared read fails for each device that it was made for."""
    if isinstance(error, DeviceRefused | DeviceFaulted):
        return type(error)(device, operation, error.detail, error.code)
    return type(error)(device, operation, error.detail)


class Device(Generic[S]):
    """A device that can be read: the newest reading, and who wants to hear of it."""

    def __init__(self, device_id: str) -> None:
        self._device_id = device_id
        self._reading: Reading[S] = never_read(device_id)
        self._listeners: list[Callable[[str], None]] = []
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def device_id(self) -> str:
        """The dotted id of the station file."""
        return self._device_id

    @property
    def reading(self) -> Reading[S]:
        """The newest reading."""
        return self._reading

    @property
    def lifecycle(self) -> Lifecycle:
        """CONNECTED while it can be read."""
        return Lifecycle.CONNECTED if self._reading.quality is Quality.GOOD else Lifecycle.UNCONFIGURED

    def on_reading(self, listener: Callable[[str], None]) -> None:
        """Call ``listener(device_id)`` after every new reading or quality change."""
        self._listeners.append(listener)

    def publish(self, value: S, measured_at: float) -> None:
        """Take a good value measured at this loop time, and tell."""
        self._reading = Reading(self._device_id, value, measured_at, Quality.GOOD)
        self.tell()

    def degrade(self, quality: Quality) -> None:
        """Keep the last value with a worse quality, and tell. A device never heard of stays NEVER."""
        if self._reading.quality not in (quality, Quality.NEVER):
            self._reading = replace(self._reading, quality=quality)
            self.tell()

    def tell(self) -> None:
        """Tell the listeners, and wake whoever waits in ``changed``."""
        for listener in self._listeners:
            listener(self._device_id)
        self.wake()

    def wake(self) -> None:
        """Wake whoever waits in ``changed``."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self, within_s: float) -> bool:
        """Wait for the next reading, quality change or stop; False if nothing came ``within_s``."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        done, _ = await asyncio.wait({waiter}, timeout=max(within_s, SHORTEST_WAIT_S))
        if not done:
            self._waiters = [other for other in self._waiters if other is not waiter]
        return bool(done)


class Revocable:
    """Writes that can be taken back for as long as they are queued."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[None]] = set()

    async def send(self, write: Coroutine[Any, Any, None]) -> bool:
        """Await a write; False if it was taken back. Cancelling the caller takes it back too.

        A request that is on the wire already goes to its end there; only what is queued is dropped.

        Raises:
            HalError: what the write raises.
        """
        task = asyncio.get_running_loop().create_task(write)
        task.add_done_callback(retrieve)
        self._open.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._open.discard(task)
            task.cancel()
        if task.cancelled():
            return False
        task.result()
        return True

    def revoke(self) -> None:
        """Take back all that is queued, in this loop turn."""
        for task in self._open:
            task.cancel()


class Guard:
    """Who may command a device now: the claim and the stop latch; and the writes that a stop takes back."""

    def __init__(self, device_id: str) -> None:
        self._device_id = device_id
        self._owner: str | None = None
        self._claims = 0
        self._token: object = None
        self._writes = Revocable()
        self.latched: str | None = None
        self.begun = 0  # commands begun so far: a late repetition of a stop must not hit a newer command

    def claim(self, owner: str) -> AbstractAsyncContextManager[None]:
        """Hold the device for ``owner``, who may claim it again; NotClaimed at once if another holds it."""
        return self._claim(owner)

    @asynccontextmanager
    async def _claim(self, owner: str) -> AsyncIterator[None]:
        if self._owner not in (None, owner):
            raise NotClaimed(self._device_id, "claim", f"{owner} asks for it, {self._owner} holds it")
        if self._claims == 0:
            self._owner, self._token = owner, object()
        self._claims += 1
        before = _held.get({}).get(self._device_id)
        _held.set({**_held.get({}), self._device_id: self._token})
        try:
            yield
        finally:
            _held.set({**_held.get({}), self._device_id: before})
            self._claims -= 1
            if self._claims == 0:
                self._owner, self._token = None, None

    def check_latch(self, operation: str) -> None:
        """Raise StopLatched while a stop is latched."""
        if self.latched is not None:
            raise StopLatched(self._device_id, operation, f"a stop is latched: {self.latched}")

    def check(self, operation: str) -> None:
        """Raise StopLatched while a stop is latched, and NotClaimed unless the running task holds the claim."""
        self.check_latch(operation)
        if self._token is None:
            raise NotClaimed(self._device_id, operation, "nobody holds the claim")
        if _held.get({}).get(self._device_id) is not self._token:
            raise NotClaimed(self._device_id, operation, f"the claim is {self._owner}'s")

    async def send(self, operation: str, write: Coroutine[Any, Any, None]) -> None:
        """Await a command's write.

        Raises:
            StopLatched: a stop was latched first. MotionFailed: ``stop()`` came first. HalError: the write's own.
        """
        self.begun += 1
        if not await self._writes.send(write):
            self.check_latch(operation)
            raise MotionFailed(self._device_id, operation, "a stop came first")

    def latch(self, reason: str) -> None:
        """Refuse every command from here on and take back those still queued. The first reason stays."""
        self.latched = self.latched or reason
        self._writes.revoke()

    def revoke(self) -> None:
        """Take back commands still queued."""
        self._writes.revoke()
