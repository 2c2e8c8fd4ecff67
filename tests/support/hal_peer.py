"""A Modbus line and devices on it as plain Python, for tests of the drivers' own logic.

The line keeps the promises of ``hal.unit.RegisterLink``: one request at a time, urgent ones first, a cancelled one
that still waits is never sent. The devices are written from the meaning in the profiles, with numbers of their own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hal.errors import HalError, LinkDown
from hal.types import LinkState, Table

ANSWER_S = 0.004


@asynccontextmanager
async def running(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these beside the test, and end them with it."""
    tasks = [asyncio.get_running_loop().create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@dataclass(eq=False)
class _Job:
    """One request: what it does when it is its turn."""

    act: Callable[[], list[int]]
    name: str
    future: asyncio.Future[list[int]]


class PeerLine:
    """A Modbus line in Python.

    Attributes:
        image: registers and bits by (unit, table, address).
        live: the same, for those whose value is worked out when they are read.
        on_write: by unit, called with (address, values) when a write is carried out.
        fail: called with the request's name ("read 1") before it is carried out; returns an error or None.
        lose_answer: the same, after it was carried out: the device did it and nobody hears of it.
        sent: names of the requests that were carried out, and when.
    """

    def __init__(self) -> None:
        self.state = LinkState.UP
        self.image: dict[tuple[int, Table, int], int] = {}
        self.live: dict[tuple[int, Table, int], Callable[[], int]] = {}
        self.on_write: dict[int, Callable[[int, list[int]], None]] = {}
        self.fail: Callable[[str], HalError | None] = lambda _name: None
        self.lose_answer: Callable[[str], HalError | None] = lambda _name: None
        self.sent: list[tuple[str, float]] = []
        self._queue: deque[_Job] = deque()
        self._urgent: deque[_Job] = deque()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Carry out requests, one at a time."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._urgent and not self._queue:
                self._wake.clear()
                await self._wake.wait()
            job = (self._urgent or self._queue).popleft()
            if job.future.done() and not job.name.startswith("urgent"):
                continue
            await asyncio.sleep(ANSWER_S / 2)
            error = self.fail(job.name)
            answer: list[int] = []
            if error is None:
                self.sent.append((job.name, loop.time()))
                answer = job.act()
                error = self.lose_answer(job.name)
            await asyncio.sleep(ANSWER_S / 2)
            if job.future.done():
                continue
            if error is not None:
                job.future.set_exception(error)
            else:
                job.future.set_result(answer)

    def _put(self, queue: deque[_Job], act: Callable[[], list[int]], name: str) -> asyncio.Future[list[int]]:
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        if self.state is not LinkState.UP:
            future.set_exception(LinkDown("line", name, "the line is down"))
            return future
        queue.append(_Job(act, name, future))
        self._wake.set()
        return future

    async def read(self, unit: int, table: Table, address: int, count: int, *, device: str) -> list[int]:
        """Read."""
        del device

        def act() -> list[int]:
            keys = [(unit, table, address + i) for i in range(count)]
            return [self.live[key]() if key in self.live else self.image.get(key, 0) for key in keys]

        return await self._put(self._queue, act, f"read {unit}")

    def _writing(self, unit: int, address: int, values: Sequence[int]) -> Callable[[], list[int]]:
        def act() -> list[int]:
            for offset, value in enumerate(values):
                self.image[unit, Table.HOLDING, address + offset] = value
            if unit in self.on_write:
                self.on_write[unit](address, list(values))
            return []

        return act

    async def write(self, unit: int, address: int, values: Sequence[int], *, device: str) -> None:
        """Write."""
        del device
        await self._put(self._queue, self._writing(unit, address, values), f"write {unit}")

    def post_urgent(self, unit: int, address: int, values: Sequence[int], *, device: str) -> asyncio.Future[None]:
        """Write ahead of everything."""
        del device
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda future: future.exception())
        inner = self._put(self._urgent, self._writing(unit, address, values), f"urgent {unit}")

        def pass_on(future: asyncio.Future[list[int]]) -> None:
            if error := future.exception():
                done.set_exception(error)
            else:
                done.set_result(None)

        inner.add_done_callback(pass_on)
        return done


@dataclass
class HandshakePeer:
    """A device that takes commands by id, in a unit of its own: block 0, registers from ``base`` on.

    ``ends`` maps a command to the state in which it ends; ``moves`` maps a command that takes time to the state
    meanwhile. ``alive`` false: the network card answers, the controller behind it is dead.
    """

    line: PeerLine
    unit: int
    base: int
    state: int
    ends: dict[int, int]
    moves: dict[int, int]
    stop: int
    still: int
    duration_s: float = 1.0
    stopping_s: float = 0.0
    stopping_state: int = 0
    refuse: int = 0
    deaf: bool = False
    never_done: bool = False
    alive: bool = True
    commands: list[tuple[int, int, float]] = field(default_factory=list)
    beats: list[float] = field(default_factory=list)
    on_done: Callable[[int], None] = lambda _command: None
    _last: int = 0
    _timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        """Come up."""
        self.line.on_write[self.unit] = self._written
        self.show(0, self.state)
        if self.base:  # the controller's own cycle counter, in the unit's header
            loop = asyncio.get_running_loop()
            self.line.live[self.unit, Table.INPUT, 0] = lambda: int(loop.time() * 100) % 0x10000 if self.alive else 7

    def show(self, offset: int, value: int) -> None:
        """Set an input register of the block."""
        self.line.image[self.unit, Table.INPUT, self.base + offset] = value

    def shown(self, offset: int) -> int:
        """Return an input register of the block."""
        return self.line.image.get((self.unit, Table.INPUT, self.base + offset), 0)

    @property
    def moving(self) -> bool:
        """Whether it moves now."""
        return self.shown(0) in (*self.moves.values(), *([self.stopping_state] if self.stopping_state else []))

    def reboot(self, state: int) -> None:
        """Forget everything, as after a power cut of its own."""
        self._cancel()
        self._last = 0
        for offset in range(8):
            self.show(offset, 0)
        self.show(0, state)

    def _cancel(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, act)

    def _written(self, address: int, values: list[int]) -> None:
        now = asyncio.get_running_loop().time()
        if address == 0 and self.base != 0:
            self.beats.append(now)
            return
        command, command_id = values[0], values[1]
        if self.deaf:
            return
        self.commands.append((command, command_id, now))
        if command == self.stop:
            self._stop(command_id)
        elif command_id != self._last:
            self._take(command, command_id)
        self._last = command_id

    def _stop(self, command_id: int) -> None:
        def standing() -> None:
            self.show(0, self.still)
            self.show(4, command_id)

        self.show(1, command_id)
        if not self.moving:
            self._cancel()
            self.show(4, command_id)
        elif self.stopping_s:
            self.show(0, self.stopping_state)
            self._later(self.stopping_s, standing)
        else:
            self._cancel()
            standing()

    def _take(self, command: int, command_id: int) -> None:
        if self.refuse:
            self.show(2, command_id)
            self.show(3, self.refuse)
            return
        self.show(1, command_id)

        def done() -> None:
            self.show(0, self.ends[command])
            self.on_done(command)
            if not self.never_done:
                self.show(4, command_id)

        if command in self.moves:
            self.show(0, self.moves[command])
            self._later(self.duration_s, done)
        else:
            done()
