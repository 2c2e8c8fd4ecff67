"""The three-legged command of axes, lock banks and connectors: sent with an id, accepted or refused, done by id."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from hal.codec import encode_run, name_of
from hal.device import addressed, stands
from hal.errors import (
    DeviceFaulted,
    DeviceRefused,
    HalError,
    LinkDown,
    MotionFailed,
    NoReply,
    NotReady,
    ProtocolError,
)
from hal.types import DeviceSpec, Quality
from hal.unit import ModbusActor, ModbusUnit

ACCEPT_LIMIT_S = 1.0  # a real station's PLC acknowledges within 1 s or is taken as dead
SETTLE_S = 0.25  # accepted, standing and not done for this long: it will not be done any more
SILENCE_LIMIT_S = 2.0  # no new reading for this long while a command runs: nobody reads the device
HALT_LIMIT_S = 0.5  # how long an abandoned motion is watched until it stands
STOP_LIMIT_S = 5.0  # how long a stop that was asked for is watched
ID_MAX = 0xFFFF


class HandshakeStatus(Protocol):
    """What the status of every such device has."""

    @property
    def accepted_id(self) -> int:
        """Id of the newest command that was accepted."""
        ...

    @property
    def refused_id(self) -> int:
        """Id of the newest command that was refused."""
        ...

    @property
    def refusal(self) -> int:
        """Why it was refused."""
        ...

    @property
    def done_id(self) -> int:
        """Id of the newest command that is done."""
        ...

    @property
    def fault_code(self) -> int:
        """The device's own fault; 0 is none."""
        ...


H = TypeVar("H", bound=HandshakeStatus)


@dataclass(frozen=True, slots=True)
class Command:
    """One command on its way: what was asked for, by which name in the profile, under which id."""

    operation: str
    name: str
    command_id: int


class HandshakeDevice(ModbusActor[H]):
    """A device whose commands carry an id. Subclasses say what standing, enabled and faulted mean."""

    def __init__(self, spec: DeviceSpec, unit: ModbusUnit) -> None:
        super().__init__(spec, unit)
        self._last_id: int | None = None

    def is_powerless(self, status: H) -> bool:
        """Whether the safety circuit or the missing heartbeat has taken the power away."""
        raise NotImplementedError

    def is_faulted(self, status: H) -> bool:
        """Whether the device reports a fault."""
        return status.fault_code != 0

    def arguments(self) -> Mapping[str, float]:
        """Return the rows that go with every command, beside command and id; by default none."""
        return {}

    def known_still(self) -> bool:
        """Whether it was read just now, stands, and nobody commands it."""
        status = self.reading.value
        heard = status is not None and self.reading.quality is Quality.GOOD
        return heard and status is not None and self.is_still(status) and not self.busy

    # --- commands ------------------------------------------------------------------------------------------------

    async def command(self, operation: str, name: str, arguments: Mapping[str, float] | None = None) -> H:
        """Send a command and return the status that reports it done. May move.

        On everything but done, refused or seen standing it posts a stop first and waits up to 0.5 s for the
        standstill, however often it is cancelled; the first error then goes on, with a note if the standstill was
        not seen.

        Raises:
            as ``hal.api.Axis.move_to``.
        """
        self.begin(operation)
        try:
            with self.unit.poller.fast():
                return await self._shake_hands(operation, name, arguments or {})
        except BaseException as error:
            if not stands(error) and (problem := await self.halt(HALT_LIMIT_S)):
                error.add_note(f"{self.device_id}: stop: {problem}")
            raise
        finally:
            self.end()

    async def _shake_hands(self, operation: str, name: str, arguments: Mapping[str, float]) -> H:
        command = Command(operation, name, await self._new_id(operation))
        start, words = self._encode(command.name, command.command_id, arguments)
        self.guard.check_latch(operation)
        sent_at = asyncio.get_running_loop().time()
        try:
            await self.guard.send(
                operation, self.unit.link.write(self.unit.address, start, words, device=self.device_id)
            )
        except (NoReply, ProtocolError) as error:
            await self._look_after(command, error)
        except DeviceRefused as error:
            raise DeviceRefused(self.device_id, operation, error.detail, error.code) from error
        except LinkDown as error:
            raise LinkDown(self.device_id, operation, error.detail) from error
        return await self._until_done(command, sent_at)

    def _encode(self, name: str, command_id: int, arguments: Mapping[str, float]) -> tuple[int, list[int]]:
        values = {
            "command": self.block["command"].values[name],
            "command_id": command_id,
            **self.arguments(),
            **arguments,
        }
        return encode_run([self.block[row] for row in values], values)

    async def _look_after(self, command: Command, error: HalError) -> None:
        """Learn by reading whether a device took a command whose write was not answered.

        Raises:
            NoReply: UNKNOWN, it does not show the command, or cannot be read either.
        """
        try:
            status = (await self.refresh()).value
        except HalError as unread:
            raise NoReply(
                self.device_id, command.operation, f"{error.detail}; then {unread.detail}; a stop was queued"
            ) from error
        if status is None or command.command_id not in (status.accepted_id, status.refused_id, status.done_id):
            raise NoReply(
                self.device_id, command.operation, f"{error.detail}; the device shows no such command"
            ) from error

    async def _until_done(self, command: Command, sent_at: float) -> H:
        loop = asyncio.get_running_loop()
        accepted = False
        idle_since: float | None = None
        while True:
            self.guard.check_latch(command.operation)
            status = self._readable(command)
            if status.done_id == command.command_id:
                return status
            if status.refused_id == command.command_id:
                raise self._refused(command, status)
            accepted = accepted or status.accepted_id == command.command_id
            if accepted:
                idle_since = self._check_progress(command, status, idle_since)
                await self.changed(SILENCE_LIMIT_S)
                continue
            left_s = sent_at + ACCEPT_LIMIT_S - loop.time()
            if left_s <= 0:
                text = f"neither accepted nor refused within {ACCEPT_LIMIT_S} s"
                raise NoReply(self.device_id, command.operation, text)
            await self.changed(left_s)

    def _readable(self, command: Command) -> H:
        """Return the newest status; raises NoReply when the device is not heard any more."""
        reading = self.reading
        age_s = asyncio.get_running_loop().time() - reading.measured_at
        if reading.value is None or reading.quality is not Quality.GOOD or age_s > SILENCE_LIMIT_S:
            text = f"reading is {reading.quality}, {age_s:.1f} s old: it may be moving; a stop was queued"
            raise NoReply(self.device_id, command.operation, text)
        return reading.value

    def _check_progress(self, command: Command, status: H, idle_since: float | None) -> float | None:
        """Return since when an accepted command has stood still.

        Raises:
            DeviceFaulted, MotionFailed: FAILED.
        """
        clearing = command.name == "clear"
        if self.is_faulted(status) and not clearing:
            raise self._faulted(command.operation, status)
        if self.is_powerless(status) and not clearing:
            raise MotionFailed(self.device_id, command.operation, f"power was taken away: {self.describe(status)}")
        if not self.is_still(status):
            return None
        idle_since = self.reading.measured_at if idle_since is None else idle_since
        if self.reading.measured_at - idle_since >= SETTLE_S:
            raise MotionFailed(self.device_id, command.operation, f"ended short: {self.describe(status)}")
        return idle_since

    def _refused(self, command: Command, status: H) -> DeviceRefused:
        reason = name_of(self.block["refusal"], status.refusal)
        return DeviceRefused(self.device_id, command.operation, reason, status.refusal)

    def _faulted(self, operation: str, status: H) -> DeviceFaulted:
        reason = name_of(self.block["fault_code"], status.fault_code)
        return DeviceFaulted(self.device_id, operation, f"{reason}: {self.describe(status)}", status.fault_code)

    # --- ids -----------------------------------------------------------------------------------------------------

    async def _new_id(self, operation: str) -> int:
        """Return an id that the device has not seen last: a command is taken only when its id changes.

        The first one after a start goes on from what stands in the device, whoever wrote it.

        Raises:
            LinkDown: NOT_SENT. NotReady: REFUSED, the device's id register cannot be read.
        """
        if self._last_id is None:
            row = self.block["command_id"]
            try:
                words = await self.unit.link.read(self.unit.address, row.table, row.address, 1, device=self.device_id)
            except LinkDown as error:
                raise LinkDown(self.device_id, operation, error.detail) from error
            except HalError as error:
                raise NotReady(self.device_id, operation, f"its command id: {error.detail}") from error
            self._last_id = words[0]
        return self._take_id()

    def _take_id(self) -> int:
        shown: set[int] = set()
        if (status := self.reading.value) is not None:
            shown = {status.accepted_id, status.refused_id, status.done_id}
        base = max(shown, default=0) if self._last_id is None else self._last_id
        candidate = base % ID_MAX + 1
        while candidate in shown:
            candidate = candidate % ID_MAX + 1
        if self._last_id is not None:
            self._last_id = candidate
        return candidate

    # --- what every such device offers -----------------------------------------------------------------------------

    def safe_output(self) -> tuple[int, list[int]]:
        """A stop under an id of its own; obeyed at any time."""
        return self._encode("stop", self._take_id(), {})

    async def stop(self) -> None:
        """Stop at once. See ``hal.api.Commandable``."""
        after = asyncio.get_running_loop().time()
        self.guard.revoke()
        posted = self.post_safe_output()
        with self.unit.poller.fast():
            try:
                await asyncio.shield(posted)
            except HalError as error:
                raise addressed(error, self.device_id, "stop") from error
            try:
                await self.until_still("stop", after, STOP_LIMIT_S)
            except TimeoutError as error:
                raise MotionFailed(
                    self.device_id, "stop", f"does not stand still {STOP_LIMIT_S} s after a stop"
                ) from error

    async def clear_fault(self) -> None:
        """Clear the device's fault; moves nothing. See ``hal.api.Commandable``."""
        self.guard.check_latch("clear_fault")
        self.status_now("clear_fault")
        status = (await self.refresh()).value
        if status is None or not self.is_faulted(status):
            return
        try:
            status = await self.command("clear_fault", "clear")
        except (DeviceRefused, MotionFailed) as error:
            raise self._faulted("clear_fault", status) from error
        if self.is_faulted(status):
            raise self._faulted("clear_fault", status)
