"""One Modbus unit and the devices in it: read together, kept alive by one heartbeat, stopped through one line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, TypeVar

from hal.codec import CodecError, Image, Window, decode_rows, read_windows, rows_of_block
from hal.device import Device, Guard, Revocable, addressed, finish, retrieve
from hal.errors import DeviceRefused, HalError, LinkDown, NoReply, NotReady, ProtocolError, invariant
from hal.poller import Poller
from hal.profiles import RegisterMap, RegisterSpec
from hal.types import DeviceSpec, Lifecycle, LinkState, Quality, Reading, Table

S = TypeVar("S")

LOST_AFTER_S = 1.0  # one missed answer ages a reading, this long without any loses it; as the drives' own watchdog
SAFE_OUTPUT_TRIES = 3  # a stop whose answer was lost is repeated this often in all

_log = logging.getLogger(__name__)


class RegisterLink(Protocol):
    """What devices need of a Modbus line; ``modbus_link.ModbusLink`` is it."""

    @property
    def state(self) -> LinkState:
        """Whether it carries messages."""
        ...

    async def read(self, unit: int, table: Table, address: int, count: int, *, device: str) -> list[int]:
        """Read registers, or bits as 0 and 1."""
        ...

    async def write(self, unit: int, address: int, values: Sequence[int], *, device: str) -> None:
        """Write holding registers in one request."""
        ...

    def post_urgent(self, unit: int, address: int, values: Sequence[int], *, device: str) -> asyncio.Future[None]:
        """Queue a write ahead of everything else."""
        ...


class ModbusUnit:
    """All devices of one profile in one Modbus unit.

    ``poll()`` reads header and blocks in as few requests as fit, so that what belongs together is measured together.
    The heartbeat is written as long as no device of the unit is latched: the hardware drops enable when it stops.
    """

    def __init__(self, link: RegisterLink, address: int, profile: RegisterMap) -> None:
        self.link = link
        self.address = address
        self.profile = profile
        self._devices: list[ModbusDevice[Any]] = []
        self._windows: tuple[tuple[Window, tuple[tuple[Table, int], ...]], ...] = ()  # and its registers
        self._beats = Revocable()
        self._beat = 0
        self._beat_now = asyncio.Event()
        self._peer_beat: float | None = None
        self._peer_beat_changed_at = float("-inf")
        self._polled_at = float("-inf")
        constants = profile.constants
        slow_s = constants.get("poll_slow_s", constants.get("poll_s", 0.0))
        invariant(slow_s > 0, f"{profile.name}: no poll period")
        self.poller = Poller(f"{profile.name}@{address}", self.poll, constants.get("poll_fast_s", slow_s), slow_s)

    @property
    def name(self) -> str:
        """Name the unit by its first device."""
        return self._devices[0].device_id

    @property
    def latched(self) -> bool:
        """Whether a stop is latched on one of its devices."""
        return any(device.latched for device in self._devices)

    def attach(self, device: ModbusDevice[Any]) -> None:
        """Read this device too."""
        self._devices.append(device)
        header = [row for row in self.profile.unit_registers.values() if row.access == "r"]
        blocks = [list(device.rows.values()) for device in self._devices]
        windows = read_windows([header, *blocks] if header else blocks)
        self._windows = tuple((window, window.registers) for window in windows)

    async def poll(self) -> None:
        """Read header and blocks, and hand each device its part.

        Raises:
            HalError: the read failed; every device whose registers were not read has been told.
        """
        loop = asyncio.get_running_loop()
        image: dict[tuple[Table, int], int] = {}
        began_at = loop.time()
        try:
            for window, registers in self._windows:
                values = await self.link.read(
                    self.address, window.table, window.start, window.count, device=self.name
                )
                image.update(zip(registers, values, strict=False))
            self._check_alive(image, began_at)
        except HalError as error:
            for device in self._devices:
                device.not_read(error)
            raise
        problems = [device.take(image, began_at) for device in self._devices]
        for problem in problems:
            if problem is not None:
                raise problem

    def _check_alive(self, image: Image, began_at: float) -> None:
        """Raise NoReply when the controller's own counter stands still: an answering network card is not enough."""
        row = self.profile.unit_registers.get("heartbeat_out")
        if row is None:
            return
        watchdog_s = self.profile.constants["watchdog_s"]
        beat = image[row.table, row.address]
        # After a gap in the polling an equal counter proves nothing: start over.
        if beat != self._peer_beat or began_at - self._polled_at > watchdog_s:
            self._peer_beat, self._peer_beat_changed_at = beat, began_at
        self._polled_at = began_at
        if (silent_s := began_at - self._peer_beat_changed_at) >= watchdog_s:
            raise NoReply(self.name, "read", f"the controller's cycle counter stands still for {silent_s:.1f} s")

    def drop_heartbeat(self) -> None:
        """Take back a heartbeat that is still queued; ``run`` writes no other while ``latched``."""
        self._beats.revoke()

    def resume_heartbeat(self) -> None:
        """Write the next heartbeat at once: a watchdog's fault cannot be cleared before one has come."""
        self._beat_now.set()

    def link_changed(self, state: LinkState) -> None:
        """Tell the devices that the line went up or down."""
        for device in self._devices:
            if state is LinkState.UP:
                device.link_up()
            else:
                device.degrade(Quality.LOST)

    def runners(self) -> list[Coroutine[Any, Any, None]]:
        """Return what must run for as long as the unit is in use."""
        own = [device.keep() for device in self._devices if isinstance(device, ModbusActor)]
        beat = [self._keep_beating()] if "heartbeat" in self.profile.unit_registers else []
        return [self.poller.run(), *beat, *own]

    async def _keep_beating(self) -> None:
        row = self.profile.unit_registers["heartbeat"]
        period_s = self.profile.constants["heartbeat_period_s"]
        loop = asyncio.get_running_loop()
        due = loop.time()
        well = True
        while True:
            if not self.latched:
                self._beat = (self._beat + 1) % 0x10000
                write = self.link.write(self.address, row.address, [self._beat], device=self.name)
                try:
                    await self._beats.send(write)
                except HalError as error:
                    if well:
                        _log.warning("heartbeat of %s does not get through: %s", self.name, error.detail)
                    well = False
                else:
                    if not well:
                        _log.info("heartbeat of %s gets through again", self.name)
                    well = True
            due = max(due + period_s, loop.time())
            timer = loop.call_at(due, self._beat_now.set)
            try:
                await self._beat_now.wait()
            finally:
                timer.cancel()
            self._beat_now.clear()


class ModbusDevice(Device[S]):
    """A device of a Modbus unit that is only read."""

    def __init__(self, spec: DeviceSpec, unit: ModbusUnit) -> None:
        super().__init__(spec.device_id)
        self.spec = spec
        self.unit = unit
        self.block = rows_of_block(unit.profile, spec.index)
        self.rows = self.polled_rows()
        self._registers = [
            (row.table, row.address + offset) for row in self.rows.values() for offset in range(row.words)
        ]
        self._words: list[int | None] = []  # what the present value was decoded from
        unit.attach(self)

    @property
    def latched(self) -> bool:
        """Whether a stop is latched on it."""
        return False

    def polled_rows(self) -> Mapping[str, RegisterSpec]:
        """Return the rows that make up a reading: by default all that can only be read."""
        return {name: row for name, row in self.block.items() if row.access == "r"}

    def parse(self, values: Mapping[str, float]) -> S:
        """Return the status that the polled rows' values stand for; raises CodecError."""
        raise NotImplementedError

    def take(self, image: Image, measured_at: float) -> ProtocolError | None:
        """Take what a poll read; return what is wrong with it."""
        words = [image.get(register) for register in self._registers]
        value = self.reading.value
        if value is None or words != self._words:
            try:
                value = self.parse(decode_rows(self.rows, image))
            except CodecError as error:
                garbled = ProtocolError(self.device_id, "read", str(error))
                self.not_read(garbled)
                return garbled
            self._words = words
        self.publish(value, measured_at)
        return None

    def not_read(self, error: HalError) -> None:
        """Take that a poll failed: the reading is lost at once with the line, else when it got too old."""
        age_s = asyncio.get_running_loop().time() - self.reading.measured_at
        if isinstance(error, LinkDown) or age_s >= LOST_AFTER_S:
            untrusted = isinstance(error, ProtocolError | DeviceRefused)
            self.degrade(Quality.INVALID if untrusted else Quality.LOST)

    async def refresh(self) -> Reading[S]:
        """Read the device now. See ``hal.api.Monitor``."""
        began_at = asyncio.get_running_loop().time()
        try:
            await self.unit.poller.refresh()
        except HalError as error:
            if self.reading.measured_at < began_at:  # else another device of the unit is to blame
                raise addressed(error, self.device_id, "refresh") from error
        return self.reading

    def link_up(self) -> None:
        """Do what a device needs when its line is back: by default nothing."""


class ModbusActor(ModbusDevice[S]):
    """A device of a Modbus unit that acts: claimed, latched, and brought to its safe output ahead of everything."""

    def __init__(self, spec: DeviceSpec, unit: ModbusUnit) -> None:
        super().__init__(spec, unit)
        self.guard = Guard(spec.device_id)
        self._busy_with = ""
        self._owed_since: int | None = None  # a stop that the line was too dead for: commands begun by then

    def claim(self, owner: str) -> AbstractAsyncContextManager[None]:
        """Hold the device for ``owner``. See ``hal.api.Commandable``."""
        return self.guard.claim(owner)

    @property
    def latched(self) -> bool:
        """Whether a stop is latched on it."""
        return self.guard.latched is not None

    @property
    def lifecycle(self) -> Lifecycle:
        """By the device's own word."""
        status = self.reading.value
        if status is None or self.reading.quality is not Quality.GOOD:
            return Lifecycle.UNCONFIGURED
        if self.is_faulted(status):
            return Lifecycle.FAULTED
        return Lifecycle.ENABLED if self.is_enabled(status) else Lifecycle.CONNECTED

    def is_faulted(self, status: S) -> bool:
        """Whether the device reports a fault."""
        raise NotImplementedError

    def is_enabled(self, status: S) -> bool:
        """Whether the device is energised and takes commands that move."""
        raise NotImplementedError

    def is_still(self, status: S) -> bool:
        """Whether nothing moves and, for a charger, nothing flows."""
        raise NotImplementedError

    def safe_output(self) -> tuple[int, list[int]]:
        """Return the write that brings the device to its safe output: address and registers."""
        raise NotImplementedError

    async def keep(self) -> None:
        """Run for as long as the device is in use: by default there is nothing to do."""

    def status_now(self, operation: str) -> S:
        """Return the newest status, if it may be built on.

        Raises:
            LinkDown: NOT_SENT, the line is down. NotReady: REFUSED, the device does not answer.
        """
        if self.unit.link.state is not LinkState.UP:
            raise LinkDown(self.device_id, operation, f"the line is {self.unit.link.state}")
        status = self.reading.value
        if status is None or self.reading.quality is not Quality.GOOD:
            raise NotReady(self.device_id, operation, f"the device's reading is {self.reading.quality}")
        return status

    def require(self, operation: str, *states: Lifecycle) -> S:
        """Check latch, claim, line and lifecycle before a command; return the newest status.

        Raises:
            StopLatched, NotClaimed, NotReady: REFUSED. LinkDown: NOT_SENT.
        """
        self.guard.check(operation)
        status = self.status_now(operation)
        if self.lifecycle not in states:
            raise NotReady(self.device_id, operation, f"the device is {self.lifecycle}: {self.describe(status)}")
        return status

    def describe(self, status: S) -> str:
        """Say in a few words how the device is, for error texts."""
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """Whether a command runs."""
        return bool(self._busy_with)

    def begin(self, operation: str) -> None:
        """Refuse a second command while one runs; ``end`` lets the next one in.

        Raises:
            NotReady: REFUSED.
        """
        if self._busy_with:
            raise NotReady(self.device_id, operation, f"{self._busy_with} is still running")
        self._busy_with = operation

    def end(self) -> None:
        """The running command is over."""
        self._busy_with = ""

    # --- stopping ------------------------------------------------------------------------------------------------

    def latch(self, reason: str) -> None:
        """Refuse commands, take back what is queued, post the safe output; all in this loop turn."""
        self.guard.latch(reason)
        self.unit.drop_heartbeat()
        self.post_safe_output()
        self.wake()

    def unlatch(self) -> None:
        """Allow commands again and resume the heartbeat; moves and energises nothing."""
        self.guard.latched = None
        self.unit.resume_heartbeat()

    def link_up(self) -> None:
        """Post the safe output that the line was too dead for, unless another command has begun since."""
        if self.latched or self._owed_since == self.guard.begun:
            self.post_safe_output()

    def post_safe_output(self) -> asyncio.Future[None]:
        """Queue the safe output ahead of everything, now. The future need not be awaited.

        It is repeated if its answer is lost, and when a dead line comes back, unless another command has begun.
        """
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(retrieve)
        self._owed_since = None
        self._post(outcome, SAFE_OUTPUT_TRIES, self.guard.begun)
        return outcome

    def _post(self, outcome: asyncio.Future[None], tries: int, begun: int) -> None:
        start, words = self.safe_output()
        sent = self.unit.link.post_urgent(self.unit.address, start, words, device=self.device_id)
        sent.add_done_callback(partial(self._posted, outcome, tries, begun))

    def _posted(self, outcome: asyncio.Future[None], tries: int, begun: int, sent: asyncio.Future[None]) -> None:
        error = retrieve(sent)
        unsure = isinstance(error, NoReply | ProtocolError)
        if isinstance(error, LinkDown):
            self._owed_since = begun
        if unsure and tries > 1 and begun == self.guard.begun:
            self._post(outcome, tries - 1, begun)
        elif outcome.done():
            return
        elif error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    async def until_still(self, operation: str, after: float, limit_s: float) -> S:
        """Wait for a status, measured after loop time ``after``, in which the device stands still.

        Raises:
            NoReply: UNKNOWN, it is not read any more. TimeoutError: it does not stand still.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout_at(loop.time() + limit_s):
            while True:
                reading = self.reading
                if reading.quality in (Quality.LOST, Quality.INVALID):
                    raise NoReply(self.device_id, operation, f"the device's reading is {reading.quality}")
                if reading.value is not None and reading.measured_at >= after and self.is_still(reading.value):
                    return reading.value
                await self.changed(limit_s)

    async def halt(self, limit_s: float) -> str:
        """Post the safe output and wait, bounded, until the device stands still. Never raises a HalError.

        Cannot be cut short by a cancellation. Returns why it is not known to stand; empty when it does.
        """
        after = asyncio.get_running_loop().time()
        self.guard.revoke()
        posted = self.post_safe_output()
        problems: list[str] = []

        async def wait() -> None:
            try:
                with self.unit.poller.fast():
                    await self.until_still("stop", after, limit_s)
            except TimeoutError:
                problems.append(f"not seen standing within {limit_s} s")
            except HalError as error:  # it is not heard; the stop may get through all the same
                problems.append(error.detail)
                await asyncio.wait({posted}, timeout=limit_s)
            if posted.done() and (unsent := retrieve(posted)):
                problems.append(str(unsent))

        await finish(wait())
        return "; ".join(problems)
