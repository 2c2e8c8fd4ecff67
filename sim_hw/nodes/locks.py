"""Lock banks: the nut runners of one mount each, several banks on one Modbus unit, with a heartbeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hal.profiles import RegisterMap
from hal.types import DeviceSpec
from sim_hw.codec import Block, ExcCode, UnitImage, Values, device_block
from sim_hw.nodes.handshake import CommandDesk, Done, Heartbeat, bits
from sim_hw.plant import LockBankPlant, Plant


class LockBankNode:
    """One bank's block. Without a vehicle over it, its bolts are in state unknown."""

    def __init__(self, profile: RegisterMap, spec: DeviceSpec, bank: LockBankPlant) -> None:
        self._profile = profile
        self._bolt_count = int(str(spec.settings["bolts"]))
        self._bank = bank
        self._commands: Mapping[str, Callable[[Values, Done], str | None]] = {
            "unlock": lambda held, done: bank.unlock(int(held.get("bolt_mask", 0)), done),
            "lock": lambda held, done: bank.lock(int(held.get("bolt_mask", 0)), done),
            "stop": self._stop,
            "clear": lambda _held, done: bank.clear(done),
        }
        self._desk = CommandDesk(profile, self._act, lambda: not bank.moving)

    def _stop(self, _held: Values, _done: Done) -> str | None:
        self._bank.stop()
        return None

    def _act(self, command: str, held: Values, done: Done) -> str | None:
        return self._commands[command](held, done)

    def write(self, written: Values) -> ExcCode | None:
        """Take a command; a mask with bolts that the bank does not have is an illegal value."""
        if int(written.get("bolt_mask", 0)) >> self._bolt_count:
            return ExcCode.ILLEGAL_VALUE
        self._desk.take(written)
        return None

    def values(self) -> Values:
        """Return the bank and its bolts as they are now."""
        bank = self._bank
        values: dict[str, float] = {
            **self._desk.values(),
            "state": bank.state,
            "flags": bits(self._profile, "flags", heads_engaged=bank.heads_engaged),
            "fault_code": self._profile.registers["fault_code"].values[bank.fault],
            "bolt_count": self._bolt_count,
        }
        for number, bolt in enumerate(bank.bolts, 1):
            values[f"bolt_state_{number}"] = bolt.state
            values[f"bolt_result_{number}"] = bolt.result
            values[f"bolt_torque_{number}"] = bolt.torque_nm
            values[f"bolt_angle_{number}"] = bolt.angle_deg
        return values


def add_lock_banks(image: UnitImage, profile: RegisterMap, specs: Sequence[DeviceSpec], plant: Plant) -> None:
    """Put a controller with these lock banks on a unit."""
    banks = [plant.locks[spec.device_id] for spec in specs]
    heartbeat = Heartbeat(plant.clock, [bank.feed for bank in banks])
    image.add_unit(
        profile,
        Block(profile.unit_registers, {}, lambda: {"heartbeat_out": heartbeat.counter()}, heartbeat.write),
    )
    for spec, bank in zip(specs, banks, strict=True):
        node = LockBankNode(profile, spec, bank)
        image.add_device(profile, device_block(profile, spec.index, node.values, node.write))
