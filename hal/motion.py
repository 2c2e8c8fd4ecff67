"""Positioning axes (profiles/motion)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hal.codec import flag, member
from hal.errors import DeviceRefused, invariant
from hal.handshake import HandshakeDevice
from hal.types import AxisState, AxisStatus, DeviceSpec, Lifecycle
from hal.unit import ModbusUnit

FULL_SPEED_PCT = 100.0

_MOVING = (AxisState.MOVING, AxisState.HOMING, AxisState.STOPPING)


class ModbusAxis(HandshakeDevice[AxisStatus]):
    """One axis of a positioning controller. See ``hal.api.Axis``."""

    def __init__(self, spec: DeviceSpec, unit: ModbusUnit) -> None:
        super().__init__(spec, unit)
        limits = spec.settings.get("range_mm")
        invariant(isinstance(limits, tuple | list) and len(limits) == 2, f"{spec.device_id}: no range_mm")
        low, high = limits if isinstance(limits, tuple | list) else (0.0, 0.0)
        self._range_mm = float(low), float(high)

    def parse(self, values: Mapping[str, float]) -> AxisStatus:
        """Return the status of a block."""
        return AxisStatus(
            state=member(AxisState, self.block["state"], values["state"]),
            position_mm=values["position"],
            torque_pct=values["torque"],
            homed=flag(self.block["flags"], values["flags"], "homed"),
            accepted_id=int(values["accepted_id"]),
            refused_id=int(values["refused_id"]),
            refusal=int(values["refusal"]),
            done_id=int(values["done_id"]),
            fault_code=int(values["fault_code"]),
        )

    def is_enabled(self, status: AxisStatus) -> bool:
        """Torque is on."""
        return status.state in (AxisState.STANDSTILL, *_MOVING)

    def is_faulted(self, status: AxisStatus) -> bool:
        """The drive reports a fault."""
        return status.state is AxisState.FAULT or status.fault_code != 0

    def is_powerless(self, status: AxisStatus) -> bool:
        """The safety circuit or the missing heartbeat withholds enable."""
        return status.state is AxisState.POWER_OFF

    def is_still(self, status: AxisStatus) -> bool:
        """The axis does not move."""
        return status.state not in _MOVING

    def describe(self, status: AxisStatus) -> str:
        """State and position."""
        homed = "" if status.homed else ", not homed"
        return f"{status.state.name.lower()} at {status.position_mm:.1f} mm{homed}"

    async def enable(self) -> None:
        """Energise and hold position. See ``hal.api.Axis``."""
        status = self.require("enable", Lifecycle.CONNECTED, Lifecycle.ENABLED)
        if not self.is_enabled(status):
            await self.command("enable", "enable")

    async def disable(self) -> None:
        """Close the brake, remove torque. See ``hal.api.Axis``."""
        status = self.require("disable", Lifecycle.CONNECTED, Lifecycle.ENABLED)
        if self.is_enabled(status):
            await self.command("disable", "disable")

    async def home(self) -> None:
        """Find the reference. Moves. See ``hal.api.Axis``."""
        self.require("home", Lifecycle.ENABLED)
        await self.command("home", "home")

    async def move_to(self, target_mm: float) -> None:
        """Move. See ``hal.api.Axis``."""
        self.require("move_to", Lifecycle.ENABLED)
        low, high = self._range_mm
        if not (math.isfinite(target_mm) and low <= target_mm <= high):
            code = self.block["refusal"].values["out_of_range"]
            text = f"target {target_mm} mm is outside {low} to {high} mm"
            raise DeviceRefused(self.device_id, "move_to", text, code)
        await self.command("move_to", "move", {"target": target_mm, "speed_limit": FULL_SPEED_PCT})
