"""Lock banks: the bolts of one mount, turned by nut runners (profiles/locks)."""

from __future__ import annotations

from collections.abc import Mapping

from hal.codec import flag, member
from hal.errors import MotionFailed, invariant
from hal.handshake import HandshakeDevice
from hal.profiles import RegisterSpec
from hal.types import (
    BoltResult,
    BoltState,
    BoltStatus,
    DeviceSpec,
    Lifecycle,
    LockBankState,
    LockBankStatus,
)
from hal.unit import ModbusUnit

_PER_BOLT = ("bolt_state", "bolt_result", "bolt_torque", "bolt_angle")


class ModbusLockBank(HandshakeDevice[LockBankStatus]):
    """One bank of nut runners. See ``hal.api.LockBank``."""

    def __init__(self, spec: DeviceSpec, unit: ModbusUnit) -> None:
        bolts = spec.settings.get("bolts")
        most = int(unit.profile.constants["bolts_max"])
        invariant(isinstance(bolts, int) and 1 <= bolts <= most, f"{spec.device_id}: bolts: 1 to {most}")
        self._bolts = range(1, (bolts if isinstance(bolts, int) else 0) + 1)
        super().__init__(spec, unit)

    def polled_rows(self) -> Mapping[str, RegisterSpec]:
        """Leave out the bolts that this bank does not have."""
        mine = {f"{name}_{bolt}" for name in _PER_BOLT for bolt in self._bolts}
        return {
            name: row for name, row in super().polled_rows().items() if name in mine or not name.startswith(_PER_BOLT)
        }

    def parse(self, values: Mapping[str, float]) -> LockBankStatus:
        """Return the status of a block."""
        bolts = tuple(
            BoltStatus(
                state=member(BoltState, self.block["bolt_state_1"], values[f"bolt_state_{bolt}"]),
                result=member(BoltResult, self.block["bolt_result_1"], values[f"bolt_result_{bolt}"]),
                torque_nm=values[f"bolt_torque_{bolt}"],
                angle_deg=values[f"bolt_angle_{bolt}"],
            )
            for bolt in self._bolts
        )
        return LockBankStatus(
            state=member(LockBankState, self.block["state"], values["state"]),
            heads_engaged=flag(self.block["flags"], values["flags"], "heads_engaged"),
            accepted_id=int(values["accepted_id"]),
            refused_id=int(values["refused_id"]),
            refusal=int(values["refusal"]),
            done_id=int(values["done_id"]),
            fault_code=int(values["fault_code"]),
            bolts=bolts,
        )

    def arguments(self) -> Mapping[str, float]:
        """Every bolt of the bank takes part in every command."""
        return {"bolt_mask": (1 << len(self._bolts)) - 1}

    def is_enabled(self, status: LockBankStatus) -> bool:
        """The runners have power."""
        return status.state in (LockBankState.READY, LockBankState.TURNING)

    def is_faulted(self, status: LockBankStatus) -> bool:
        """The controller reports a fault."""
        return status.state is LockBankState.FAULT or status.fault_code != 0

    def is_powerless(self, status: LockBankStatus) -> bool:
        """The safety circuit or the missing heartbeat withholds enable."""
        return status.state is LockBankState.POWER_OFF

    def is_still(self, status: LockBankStatus) -> bool:
        """No runner turns."""
        return status.state is not LockBankState.TURNING

    def describe(self, status: LockBankStatus) -> str:
        """State, and where the bolts are."""
        counts = [f"{sum(bolt.state is state for bolt in status.bolts)} {state.name.lower()}" for state in BoltState]
        return f"{status.state.name.lower()}, bolts: {', '.join(counts)}"

    async def unlock(self) -> None:
        """Open every bolt. Moves. See ``hal.api.LockBank``."""
        self.require("unlock", Lifecycle.ENABLED)
        status = await self.command("unlock", "unlock")
        self._check(
            "unlock",
            [bolt.state is BoltState.UNLOCKED and bolt.result is BoltResult.OK for bolt in status.bolts],
            status,
        )

    async def lock(self) -> None:
        """Close every bolt to torque and angle. Moves. See ``hal.api.LockBank``."""
        self.require("lock", Lifecycle.ENABLED)
        status = await self.command("lock", "lock")
        self._check("lock", [self._is_proven(bolt) for bolt in status.bolts], status)

    def _is_proven(self, bolt: BoltStatus) -> bool:
        limits = self.unit.profile.constants
        return (
            bolt.state is BoltState.LOCKED
            and bolt.result is BoltResult.OK
            and limits["torque_min_nm"] <= bolt.torque_nm <= limits["torque_max_nm"]
            and limits["angle_min_deg"] <= bolt.angle_deg <= limits["angle_max_deg"]
        )

    def _check(self, operation: str, good: list[bool], status: LockBankStatus) -> None:
        """Raise MotionFailed naming the bolts that are not as they should be: done only says that all ended."""
        bad = [
            f"bolt {number} {bolt.state.name.lower()} {bolt.result.name.lower()}"
            f" {bolt.torque_nm:.1f} Nm {bolt.angle_deg:.0f} deg"
            for number, bolt, ok in zip(self._bolts, status.bolts, good, strict=True)
            if not ok
        ]
        if bad:
            raise MotionFailed(self.device_id, operation, "; ".join(bad))
