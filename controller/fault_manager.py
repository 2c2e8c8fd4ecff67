"""Faults that stand: raised, cleared, debounced, latched, acknowledged; the first of a bunch is told apart.

Alarm states follow ISA-18.2: a fault is pending (not yet told), unacknowledged, acknowledged, returned (condition
gone, latched until a person acts), or gone. Acknowledging resets nothing; resetting restarts nothing. Runs in the
loop's thread, on loop time; no call blocks or awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from controller.model.faults import FAULTS, Effect, FaultCode, FaultSpec, Latch, Scope, scope_id
from hal.errors import invariant

FIRST_OUT_WINDOW_S = (
    2.0  # what follows a fault within this time, and touches the same scope, is taken to follow from it
)

EVERYWHERE = frozenset({Scope.STATION.value, Scope.HOST.value})

FaultKey = tuple[FaultCode, str]


class FaultState(StrEnum):
    """ISA-18.2 alarm states, without those of shelving."""

    PENDING = "pending"
    UNACKNOWLEDGED = "unacknowledged"
    ACKNOWLEDGED = "acknowledged"
    RETURNED = "returned"  # latched: the condition is gone, the fault still counts


@dataclass(frozen=True, slots=True)
class Fault:
    """One standing fault. ``since``: loop time at which its condition began. ``caused_by``: the first-out fault."""

    code: FaultCode
    source: str
    scope_id: str
    detail: str
    since: float
    present: bool
    raised: bool = False
    acknowledged: bool = False
    serviced: bool = False
    caused_by: FaultKey | None = None

    @property
    def key(self) -> FaultKey:
        """What identifies it: code and source."""
        return self.code, self.source

    @property
    def spec(self) -> FaultSpec:
        """Its entry in the catalogue."""
        return FAULTS[self.code]

    @property
    def state(self) -> FaultState:
        """Its alarm state."""
        if not self.raised:
            return FaultState.PENDING
        if not self.present:
            return FaultState.RETURNED
        return FaultState.ACKNOWLEDGED if self.acknowledged else FaultState.UNACKNOWLEDGED


class Change(StrEnum):
    """What a listener is told."""

    RAISED = "raised"
    RETURNED = "returned"
    ACKNOWLEDGED = "acked"
    CLEARED = "cleared"


class FaultNotFound(Exception):
    """There is no such fault to acknowledge or reset."""


Listener = Callable[[Change, Fault], None]


class FaultManager:
    """All faults of a station. Made inside a running loop; ``close()`` lets its timers go."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._faults: dict[FaultKey, Fault] = {}
        self._timers: dict[FaultKey, asyncio.TimerHandle] = {}
        self._listeners: list[Listener] = []

    # --- conditions ---------------------------------------------------------------------------------------------

    def report(self, code: FaultCode, source: str, present: bool, detail: str = "") -> None:
        """Note whether a condition stands now. May be called with every reading; only changes have an effect."""
        if present:
            self.raise_fault(code, source, detail)
        else:
            self.clear_fault(code, source)

    def raise_fault(self, code: FaultCode, source: str, detail: str = "") -> None:
        """Note that a condition stands. It becomes a fault once it has stood for the catalogue's time.

        ``source`` is the device, link or place that shows it; only the same source clears it. A raised fault keeps
        its first detail, so that the record shows what began it.
        """
        key = (code, source)
        old = self._faults.get(key)
        if old is None:
            now = self._loop.time()
            self._faults[key] = Fault(code, source, scope_id(code, source), detail, now, present=True)
            self._after(key, FAULTS[code].raise_after_s, self._raised)
        elif not old.present:
            # The condition came back while its fault was latched: whoever acknowledged it saw another occurrence.
            again = replace(
                old, present=True, since=self._loop.time(), detail=detail, acknowledged=False, serviced=False
            )
            self._faults[key] = again
            self._cancel(key)
            self._tell(Change.RAISED, again)
        elif old.raised:
            self._cancel(key)  # a clear that had not lasted long enough

    def clear_fault(self, code: FaultCode, source: str) -> None:
        """Note that a condition is gone. Its fault returns once it has been gone for the catalogue's time."""
        key = (code, source)
        fault = self._faults.get(key)
        if fault is None or not fault.present or (fault.raised and key in self._timers):
            return
        if not fault.raised:
            self._cancel(key)
            del self._faults[key]
            return
        self._after(key, FAULTS[code].clear_after_s, self._returned)

    # --- people ---------------------------------------------------------------------------------------------------

    def acknowledge(self, code: FaultCode, source: str) -> None:
        """A person has seen it. Ends a returned fault whose latch is ACK; resets and restarts nothing.

        Raises:
            FaultNotFound: it does not stand.
        """
        fault = self._raised_fault((code, source))
        if not fault.acknowledged:
            fault = replace(fault, acknowledged=True)
            self._faults[fault.key] = fault
            self._tell(Change.ACKNOWLEDGED, fault)
        self._end_if_released(fault)

    def service_reset(self, code: FaultCode, source: str) -> None:
        """A technician has seen to it: also ends a latch of SERVICE, once the condition is gone.

        Raises:
            FaultNotFound: it does not stand.
        """
        fault = replace(self._raised_fault((code, source)), serviced=True)
        self._faults[fault.key] = fault
        self.acknowledge(code, source)

    # --- what stands --------------------------------------------------------------------------------------------

    def active(self) -> tuple[Fault, ...]:
        """Return every fault that counts, the worst first, then in order of beginning. Pending ones do not count."""
        raised = [fault for fault in self._faults.values() if fault.raised]
        return tuple(sorted(raised, key=lambda f: (-f.spec.effect, -f.spec.priority, f.since, f.code, f.source)))

    def first_out(self) -> tuple[Fault, ...]:
        """Return the active faults that are not taken to follow from another one that still stands."""
        return tuple(fault for fault in self.active() if fault.caused_by not in self._faults)

    def worst_effect(self, scope: str) -> Effect | None:
        """Return the worst effect on ``slot07``, ``dock1``, ``store``, ``station``; None if nothing touches it.

        Faults of the station and its host touch everything.
        """
        touching = {scope} | EVERYWHERE
        return max(
            (f.spec.effect for f in self._faults.values() if f.raised and f.scope_id in touching), default=None
        )

    def effects(self) -> Mapping[str, Effect]:
        """Return the worst effect of each scope's own faults."""
        worst: dict[str, Effect] = {}
        for fault in self._faults.values():
            if fault.raised:
                worst[fault.scope_id] = max(worst.get(fault.scope_id, Effect.INFO), fault.spec.effect)
        return worst

    def on_change(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(change, fault)`` after every change; returns how to stop that.

        Listeners record and react; they must not raise. What they change in turn is told after them.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def close(self) -> None:
        """Let all timers go. Conditions that were pending are forgotten."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    # --- inside -------------------------------------------------------------------------------------------------

    def _raised(self, key: FaultKey) -> None:
        fault = replace(self._faults[key], raised=True)
        fault = replace(fault, caused_by=self._cause_of(fault))
        self._faults[key] = fault
        if fault.caused_by is None:
            self._adopt(fault)
        self._tell(Change.RAISED, fault)

    def _returned(self, key: FaultKey) -> None:
        fault = replace(self._faults[key], present=False)
        self._faults[key] = fault
        if not self._end_if_released(fault):
            self._tell(Change.RETURNED, fault)

    def _end_if_released(self, fault: Fault) -> bool:
        released = {
            Latch.AUTO: True,
            Latch.ACK: fault.acknowledged,
            Latch.SERVICE: fault.acknowledged and fault.serviced,
        }[fault.spec.latch]
        if fault.present or not released:
            return False
        del self._faults[fault.key]
        self._tell(Change.CLEARED, fault)
        return True

    def _cause_of(self, fault: Fault) -> FaultKey | None:
        """The first-out fault that began at most the window before this one and touches the same scope."""
        before = [
            other
            for other in self._faults.values()
            if other.raised and other.caused_by is None and other.key != fault.key and _follows(fault, other)
        ]
        return min(before, key=lambda other: (other.since, -other.spec.priority)).key if before else None

    def _adopt(self, fault: Fault) -> None:
        """A fault with a longer debounce can be told after what it caused: make those its followers."""
        for other in tuple(self._faults.values()):
            later = other.since > fault.since and _follows(other, fault)
            if other.raised and other.caused_by is None and other.key != fault.key and later:
                self._faults[other.key] = replace(other, caused_by=fault.key)
                for key, follower in tuple(self._faults.items()):
                    if follower.caused_by == other.key:
                        self._faults[key] = replace(follower, caused_by=fault.key)

    def _raised_fault(self, key: FaultKey) -> Fault:
        fault = self._faults.get(key)
        if fault is None or not fault.raised:
            raise FaultNotFound(f"no fault {int(key[0])} {key[0].name} at {key[1]}")
        return fault

    def _after(self, key: FaultKey, delay_s: float, act: Callable[[FaultKey], None]) -> None:
        self._cancel(key)
        if delay_s <= 0.0:
            act(key)
            return

        def due() -> None:
            invariant(key in self._faults, f"timer of {key} outlived its fault")
            del self._timers[key]
            act(key)

        self._timers[key] = self._loop.call_later(delay_s, due)

    def _cancel(self, key: FaultKey) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _tell(self, change: Change, fault: Fault) -> None:
        for listener in tuple(self._listeners):
            listener(change, fault)


def _follows(fault: Fault, other: Fault) -> bool:
    same_scope = other.scope_id == fault.scope_id or bool({other.scope_id, fault.scope_id} & EVERYWHERE)
    return same_scope and 0.0 <= fault.since - other.since <= FIRST_OUT_WINDOW_S
