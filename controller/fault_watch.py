"""Turns readings, links and failed moves into faults. The only place that knows both errors and faults.

A reading's condition is reported with every reading; the fault manager makes faults of those that last. A failed
move is an event: its fault stands until a person resets the unit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from controller.carriers import MoveEnded
from controller.fault_manager import EVERYWHERE, FaultManager
from controller.model.faults import (
    Effect,
    FaultCode,
    fault_of_error,
    fault_of_link,
    fault_of_silence,
    faults_of_safety,
    faults_of_zone,
)
from controller.model.intent import Step, StepKind
from controller.model.layout import FORK, connector_of
from controller.model.recovery import Reaction
from controller.runner import InterlockBlocked, StepFailed, StepTimeout
from controller.steps import STEPS
from controller.units import Unit, UnitParts, unit_of
from hal.errors import StaleReading
from hal.types import AxisState, ChargerState, ConnectorState, LockBankState, Quality

TICK_S = 1.0
START_GRACE_S = 10.0  # a device that was never heard by then is silent

_FAULT_STATES: dict[str, tuple[object, FaultCode]] = {
    "axes": (AxisState.FAULT, FaultCode.AXIS_FAULT),
    "locks": (LockBankState.FAULT, FaultCode.LOCKS_FAULT),
    "connectors": (ConnectorState.FAULT, FaultCode.CONNECTOR_FAULT),
    "chargers": (ChargerState.FAULT, FaultCode.CHARGER_FAULT),
}
_MOVERS = frozenset({"axes", "locks"})
_POWERLESS = frozenset({AxisState.POWER_OFF, LockBankState.POWER_OFF})


class FaultWatch:
    """Watches everything that shows faults. ``run()`` until cancelled.

    Attributes:
        wants_power: whether a drive should have power now; not while its unit is stopped by an abort.
    """

    def __init__(self, parts: UnitParts, faults: FaultManager, can_links: frozenset[str]) -> None:
        self.faults = faults
        self.wants_power: Callable[[str], bool] = _always
        self._can_links = can_links
        self._parts = parts
        self._conditions: list[tuple[FaultCode, str, Callable[[], str | None]]] = []
        self._of_moves: set[tuple[FaultCode, str]] = set()
        hal = parts.hal
        self._groups = {
            name: getattr(hal, name)
            for name in ("axes", "locks", "connectors", "chargers", "packs", "vehicles", "safety", "zones", "io")
        }
        self._watched = {
            device: (name, fault_of_silence(device)) for name, group in self._groups.items() for device in group
        }

    async def run(self) -> None:
        """Report conditions on every reading, and once a second those that no reading shows."""
        started_at = asyncio.get_running_loop().time()
        unsubscribe = self._parts.observer.on_reading(self._look)
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self._look_at_links()
                self._look_at_places()
                for code, source, check in self._conditions:
                    wrong = check()
                    self.faults.report(code, source, wrong is not None, wrong or "")
                if asyncio.get_running_loop().time() - started_at >= START_GRACE_S:
                    for group in self._groups.values():
                        for device in group:
                            self._look(device)
        finally:
            unsubscribe()

    def also(self, code: FaultCode, source: str, check: Callable[[], str | None]) -> None:
        """Ask ``check`` once a second from now on: it returns what is wrong, or None. It must not block."""
        self._conditions.append((code, source, check))

    def _look_at_places(self) -> None:
        unknown = self._parts.ledger.inventory.unknown
        for place in (*self._parts.layout.places, FORK):
            self.faults.report(FaultCode.PACK_LOCATION_UNKNOWN, place, place in unknown, unknown.get(place, ""))

    def _look_at_links(self) -> None:
        for link in self._parts.hal.links():
            is_can = link.link_id in self._can_links
            found = fault_of_link(link.state, is_can=is_can)
            for code in (FaultCode.CAN_LINK_DOWN, FaultCode.CAN_LINK_DEGRADED, FaultCode.MODBUS_LINK_DOWN):
                self.faults.report(code, link.link_id, code is found, link.last_error)

    def _look(self, device: str) -> None:
        kind, silence = self._watched[device]
        reading = self._groups[kind][device].reading
        report = self.faults.report
        # What a pack says wrongly is a fault of its own; of all others, what cannot be believed was not heard.
        unheard = reading.quality is not Quality.GOOD and (kind != "packs" or reading.quality is not Quality.INVALID)
        silent = unheard and self._should_be_heard(kind, device)
        report(silence, device, silent, f"{device} is {reading.quality}")
        value = reading.value
        if value is None or reading.quality is not Quality.GOOD:
            if kind == "packs":
                report(FaultCode.BMS_FRAMES_INVALID, device, reading.quality is Quality.INVALID)
            return
        if kind in _FAULT_STATES:
            self._look_at_state(kind, device, value)
        if kind == "axes":
            unknown = value.state is not AxisState.POWER_OFF and not value.homed
            report(FaultCode.AXIS_NOT_HOMED, device, unknown, f"{device} is not homed")
        elif kind == "packs":
            report(FaultCode.BMS_FRAMES_INVALID, device, present=False)
            report(FaultCode.PACK_FAULT, device, bool(value.fault_code), f"{value.serial} reports {value.fault_code}")
        elif kind == "safety":
            for code, present in faults_of_safety(value):
                report(code, device, present)
        elif kind == "zones":
            for code, present in faults_of_zone(value):
                report(code, device, present)

    def _look_at_state(self, kind: str, device: str, value: Any) -> None:  # noqa: ANN401 - statuses of four kinds
        state, code = _FAULT_STATES[kind]
        self.faults.report(code, device, value.state is state, f"{device} reports fault {value.fault_code}")
        if kind in _MOVERS:
            missed = value.state in _POWERLESS and bool(value.fault_code) and self.wants_power(device)
            text = f"{device} missed our heartbeat and dropped its power"
            self.faults.report(FaultCode.DRIVES_OFF, device, missed, text)

    def _should_be_heard(self, kind: str, device: str) -> bool:
        """A slot's pack while it is plugged in; a vehicle while a swap holds it; everything else always."""
        if kind == "vehicles":
            dock = device.split(".", 1)[0]
            standing = self._parts.observer.snapshot().inputs.get(f"{dock}.in_place")
            waited_for = any(s.order.dock == dock and not s.released for s in self._parts.ledger.swaps.values())
            return waited_for and standing is not None and bool(standing.value)
        if kind == "packs":
            slot = device.split(".", 1)[0]
            plug = self._groups["connectors"][connector_of(slot)].reading.value
            holds = isinstance(self._parts.ledger.inventory.at(slot), str)
            return holds and plug is not None and plug.engaged
        return True

    # --- moves -----------------------------------------------------------------------------------------------------

    def move_failed(self, unit: Unit, ended: MoveEnded) -> FaultCode:
        """Raise the fault of a move that did not end well, at the device or place that it is about."""
        code, source = self._code_of(unit, ended)
        self._of_moves.add((code, source))
        self.faults.raise_fault(code, source, ended.detail)
        return code

    def _code_of(self, unit: Unit, ended: MoveEnded) -> tuple[FaultCode, str]:
        cause = ended.__cause__
        step = ended.step
        commands = STEPS[step.kind].commands(self._parts.layout, step) if step is not None else ()
        source = commands[0] if commands else (step.place if step and step.place else unit.safety)
        match cause:
            case StepFailed(error=error):
                return fault_of_error(error) or FaultCode.STEP_BLOCKED, error.device
            case StepTimeout(step=Step(kind=StepKind.IDENTIFY_PACK, place=place)):
                return FaultCode.PACK_ID_MISMATCH, f"{place}.pack"
            case StepTimeout():
                return FaultCode.STEP_TIMED_OUT, source
            case StaleReading(device=device):
                reader = self._device_of(device)
                return fault_of_silence(reader), reader
            case InterlockBlocked() if ended.reaction is Reaction.SAFE_STOP:
                return FaultCode.VEHICLE_MOVED, f"{unit.unit_id}.vehicle"
        unforeseen = ended.reaction is Reaction.SAFE_STOP
        return FaultCode.UNEXPECTED_EXCEPTION if unforeseen else FaultCode.STEP_BLOCKED, source

    def _device_of(self, device_or_input: str) -> str:
        """Return the device itself, or the remote I/O that reads an input."""
        if any(device_or_input in group for group in self._groups.values()):
            return device_or_input
        return f"{unit_of(device_or_input, self._parts.layout)}.io"

    def forget_moves(self, unit_id: str) -> None:
        """A person resets the unit: what its moves raised is over, and what is latched and gone was seen."""
        for code, source in [key for key in self._of_moves if unit_of(key[1], self._parts.layout) == unit_id]:
            self._of_moves.discard((code, source))
            self.faults.clear_fault(code, source)
        for fault in self.faults.active():
            if not fault.present and unit_of(fault.source, self._parts.layout) == unit_id:
                self.faults.service_reset(fault.code, fault.source)

    def blocking(self, unit_id: str) -> list[str]:
        """Return a sentence for each standing fault of a unit itself that is in the way of resetting it.

        Slot faults are not: their slots are left out of use.
        """
        own = [f for f in self.faults.active() if f.present and f.scope_id in {unit_id, *EVERYWHERE}]
        serious = [f for f in own if f.spec.effect >= Effect.BLOCK_START and f.key not in self._of_moves]
        return [f"{f.spec.number} {f.spec.title}: {f.detail or f.source}" for f in serious]

    def isolated(self) -> dict[str, str]:
        """Return slot → why, for every slot that a fault keeps out of use."""
        slots = self._parts.layout.store.slots
        worst = [f for f in self.faults.active() if f.scope_id in slots and f.spec.effect >= Effect.ISOLATE_SLOT]
        return {f.scope_id: f"{f.spec.number} {f.spec.title}: {f.detail}" for f in reversed(worst)}


def _always(_device: str) -> bool:
    return True
