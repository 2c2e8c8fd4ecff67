"""DC chargers behind Modbus (profiles/chargers): set-points kept fresh, read back, and taken to zero."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping

from hal.codec import encode_run, member, name_of
from hal.device import addressed
from hal.errors import DeviceFaulted, DeviceRefused, HalError, MotionFailed, NoReply, NotReady, Outcome
from hal.types import ChargerState, ChargerStatus, DeviceSpec, Quality
from hal.unit import ModbusActor, ModbusUnit

ILLEGAL_VALUE = 3  # what the module itself would answer: Modbus exception 3
CLEAR_LIMIT_S = 1.0
HALT_LIMIT_S = 0.5  # how long an abandoned start is watched; the ramp to zero goes on by itself
FALL_MARGIN_S = 10.0  # beyond the full ramp, until a current that does not fall is the module's fault

_log = logging.getLogger(__name__)


class ModbusCharger(ModbusActor[ChargerStatus]):
    """One charger. See ``hal.api.Charger``.

    What is wanted is kept here and written every ``refresh_s``, and at once when the line comes back. It is
    forgotten at a stop, at a latch and when the module reports a fault: nothing is energised again by itself.
    """

    def __init__(self, spec: DeviceSpec, unit: ModbusUnit) -> None:
        super().__init__(spec, unit)
        self._wanted: tuple[float, float] | None = None
        self._differs_since: float | None = None
        self._again = asyncio.Event()

    def parse(self, values: Mapping[str, float]) -> ChargerStatus:
        """Return the status of a module."""
        return ChargerStatus(
            state=member(ChargerState, self.block["state"], values["state"]),
            output_voltage_v=values["output_voltage"],
            output_current_a=values["output_current"],
            setpoint_voltage_v=values["voltage_readback"],
            setpoint_current_a=values["current_readback"],
            temperature_c=values["temperature"],
            watchdog_tripped=bool(values["watchdog_tripped"]),
            fault_code=int(values["fault_code"]),
        )

    def publish(self, value: ChargerStatus, measured_at: float) -> None:
        """Take a reading: forget the set-points of a module in fault, and note since when it does not follow."""
        if self._wanted is not None and self._has_fault(value):
            _log.warning(
                "%s: %s, not kept enabled", self.device_id, self.describe(value), extra={"device": self.device_id}
            )
            self._want(None)
        if self._wanted is None or self._follows(value):
            self._differs_since = None
        elif self._differs_since is None:
            self._differs_since = measured_at
        super().publish(value, measured_at)

    def is_enabled(self, status: ChargerStatus) -> bool:
        """The output is on or on its way."""
        return status.state in (ChargerState.STARTING, ChargerState.CHARGING, ChargerState.STOPPING)

    def is_faulted(self, status: ChargerStatus) -> bool:
        """The module is in fault, or it does not do what it was told and has been told again."""
        return self._has_fault(status) or bool(self._disobeys(status))

    def is_still(self, status: ChargerStatus) -> bool:
        """No current flows that would make the plug unsafe."""
        return status.output_current_a <= self.unit.profile.constants["safe_current_a"]

    def describe(self, status: ChargerStatus) -> str:
        """State, current, fault."""
        fault = name_of(self.block["fault_code"], status.fault_code)
        text = f"{status.state.name.lower()} at {status.output_current_a:.1f} A, fault {fault}"
        return f"{text}, {problem}" if (problem := self._disobeys(status)) else text

    def _has_fault(self, status: ChargerStatus) -> bool:
        return status.state is ChargerState.FAULT or status.fault_code != 0

    def _follows(self, status: ChargerStatus) -> bool:
        """Whether the read-back equals what is wanted, to one step of the register, and is being acted on."""
        if self._wanted is None:
            return True
        if status.watchdog_tripped:
            return False
        pairs = (
            (status.setpoint_voltage_v, self._wanted[0], self.block["voltage_readback"].scale),
            (status.setpoint_current_a, self._wanted[1], self.block["current_readback"].scale),
        )
        return all(abs(shown - wanted) <= step * 1.001 for shown, wanted, step in pairs)

    def _disobeys(self, status: ChargerStatus) -> str:
        """Say how a module that should deliver does not follow; empty when it does."""
        if self._wanted is None:
            return ""
        since = self._differs_since
        if since is None or self.reading.measured_at - since < 2 * self.unit.profile.constants["refresh_s"]:
            return ""
        if status.watchdog_tripped:
            return "its watchdog has tripped"
        shown = f"{status.setpoint_voltage_v} V {status.setpoint_current_a} A"
        return f"it follows {shown}, not {self._wanted[0]} V {self._wanted[1]} A"

    # --- commands ------------------------------------------------------------------------------------------------

    async def enable(self, voltage_v: float, current_a: float) -> None:
        """Start or go on. See ``hal.api.Charger``.

        If it ends in anything but CHARGING or a refusal, cancellation included, the output is switched off first.
        """
        await self._set("enable", voltage_v, current_a, needs_charging=True)

    async def set_limits(self, voltage_v: float, current_a: float) -> None:
        """Change the limits of a running charge. See ``hal.api.Charger``.

        Raises:
            NotReady: REFUSED, it is not enabled. Others as ``enable``.
        """
        self.guard.check("set_limits")
        if self._wanted is None:
            raise NotReady(self.device_id, "set_limits", "it is not enabled")
        await self._set("set_limits", voltage_v, current_a, needs_charging=False)

    async def _set(self, operation: str, voltage_v: float, current_a: float, *, needs_charging: bool) -> None:
        self.guard.check(operation)
        status = self.status_now(operation)
        if self._has_fault(status):
            raise NotReady(self.device_id, operation, f"the module is in fault: {self.describe(status)}")
        self._check_range(operation, "voltage_v", voltage_v)
        self._check_range(operation, "current_a", current_a)
        self.begin(operation)
        before = self._wanted
        try:
            with self.unit.poller.fast():
                self._want((voltage_v, current_a))
                await self._write(operation)
                sent_at = asyncio.get_running_loop().time()
                await self._until_followed(operation, sent_at, needs_charging=needs_charging)
        except HalError as error:
            if error.outcome in (Outcome.NOT_SENT, Outcome.REFUSED):
                if self._wanted is not None:  # else a stop has come, which stays
                    self._want(before)
            else:
                await self._switch_off(error)
            raise
        except BaseException as error:
            if needs_charging:
                await self._switch_off(error)
            raise
        finally:
            self.end()

    def _check_range(self, operation: str, name: str, value: float) -> None:
        limit = self.unit.profile.constants[f"{name}_max"]
        if not (math.isfinite(value) and 0 <= value <= limit):
            raise DeviceRefused(self.device_id, operation, f"{name} {value}: 0 to {limit}", ILLEGAL_VALUE)

    def _want(self, wanted: tuple[float, float] | None) -> None:
        self._wanted = wanted
        self._differs_since = None

    async def _switch_off(self, cause: BaseException) -> None:
        self._want(None)
        if problem := await self.halt(HALT_LIMIT_S):
            cause.add_note(f"{self.device_id}: off: {problem}")

    async def _write(self, operation: str) -> None:
        """Write what is wanted, once."""
        voltage_v, current_a = self._wanted or (0.0, 0.0)
        start, words = self._encode("on" if self._wanted else "off", voltage_v, current_a)
        write = self.unit.link.write(self.unit.address, start, words, device=self.device_id)
        try:
            await self.guard.send(operation, write)
        except MotionFailed as error:
            raise NotReady(self.device_id, operation, error.detail) from error
        except HalError as error:
            raise addressed(error, self.device_id, operation) from error

    def _encode(self, state: str, voltage_v: float, current_a: float) -> tuple[int, list[int]]:
        values = {
            "enable": self.block["enable"].values[state],
            "voltage_setpoint": voltage_v,
            "current_setpoint": current_a,
        }
        return encode_run([self.block[row] for row in values], values)

    async def _until_followed(self, operation: str, sent_at: float, *, needs_charging: bool) -> None:
        wanted = self._wanted
        while True:
            self.guard.check_latch(operation)
            reading = self.reading
            status = reading.value
            if status is None or reading.quality is not Quality.GOOD:
                raise NoReply(self.device_id, operation, f"the reading is {reading.quality}; off was queued")
            if reading.measured_at >= sent_at:
                if self._has_fault(status) or self._disobeys(status):
                    raise DeviceFaulted(self.device_id, operation, self.describe(status), status.fault_code)
                charging = status.state is ChargerState.CHARGING or not needs_charging
                if self._follows(status) and charging:
                    return
            if self._wanted != wanted:
                raise NotReady(self.device_id, operation, "it was stopped meanwhile")
            await self.changed(CLEAR_LIMIT_S)

    async def stop(self) -> None:
        """Switch off and wait for a safe current. See ``hal.api.Charger``.

        Raises:
            LinkDown, NoReply: as ``hal.api.Commandable``. DeviceFaulted: FAILED, the current does not fall.
        """
        constants = self.unit.profile.constants
        limit_s = constants["current_a_max"] / constants["ramp_a_per_s"] + FALL_MARGIN_S
        after = asyncio.get_running_loop().time()
        self._want(None)
        self.guard.revoke()
        posted = self.post_safe_output()
        with self.unit.poller.fast():
            try:
                await asyncio.shield(posted)
            except HalError as error:
                raise addressed(error, self.device_id, "stop") from error
            try:
                await self.until_still("stop", after, limit_s)
            except TimeoutError as error:
                text = f"current is not safe {limit_s} s after switching off"
                raise DeviceFaulted(self.device_id, "stop", text, 0) from error

    async def clear_fault(self) -> None:
        """Clear the module's fault; the output stays off. See ``hal.api.Commandable``."""
        self.guard.check_latch("clear_fault")
        self.status_now("clear_fault")
        status = (await self.refresh()).value
        if status is not None and self._has_fault(status):
            self._want(None)
            start, words = self._encode("clear", 0.0, 0.0)
            write = self.unit.link.write(self.unit.address, start, words, device=self.device_id)
            cleared_at = asyncio.get_running_loop().time()
            await self.guard.send("clear_fault", write)
            status = await self._after_clear(cleared_at)
        if status is not None and self.is_faulted(status):
            raise DeviceFaulted(self.device_id, "clear_fault", self.describe(status), status.fault_code)

    async def _after_clear(self, cleared_at: float) -> ChargerStatus | None:
        """Return the status once the fault is gone, or after the time that a module has for that."""
        deadline = cleared_at + CLEAR_LIMIT_S
        loop = asyncio.get_running_loop()
        with self.unit.poller.fast():
            while True:
                status = (await self.refresh()).value
                if status is None or not self._has_fault(status) or loop.time() >= deadline:
                    return status
                await self.changed(deadline - loop.time())

    # --- kept up -------------------------------------------------------------------------------------------------

    def safe_output(self) -> tuple[int, list[int]]:
        """Off, zero volts, zero amperes."""
        return self._encode("off", 0.0, 0.0)

    def latch(self, reason: str) -> None:
        """Latch a stop; what was wanted is forgotten."""
        self._want(None)
        super().latch(reason)

    def link_up(self) -> None:
        """Apply the set-points again, at once."""
        super().link_up()
        self._again.set()

    async def keep(self) -> None:
        """Write the set-points inside the module's own watchdog, for as long as it is enabled."""
        refresh_s = self.unit.profile.constants["refresh_s"]
        loop = asyncio.get_running_loop()
        well = True
        while True:
            timer = loop.call_later(refresh_s, self._again.set)
            try:
                await self._again.wait()
            finally:
                timer.cancel()
            self._again.clear()
            if self._wanted is None or self.latched:
                continue
            try:
                await self._write("refresh set-points")
            except HalError as error:
                if well:
                    _log.warning("%s: set-points do not get through: %s", self.device_id, error.detail)
                well = False
            else:
                well = True
