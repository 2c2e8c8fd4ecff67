"""Safety hardware of a zone, detectors, and the heartbeat watchdog of motion controllers.

A trip drops the enable of every drive of the zone at once. Nothing but ``rearm()``, a person's act at the panel, ends
it; re-arming gives power back and moves and energises nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hal.types import SafetyInputs, ZoneStatus
from sim_hw.plant.core import Core


class Load(Protocol):
    """Something that the zone's safety circuit feeds."""

    @property
    def moving(self) -> bool:
        """Whether it moves."""
        ...

    def power_lost(self) -> None:
        """Lose torque now."""
        ...


class Watchdog:
    """A controller's watch over the station's heartbeat. Before the first beat it withholds power without a fault."""

    def __init__(self, core: Core, timeout_s: float) -> None:
        self.on_trip: list[Callable[[], None]] = []
        self.alive = False
        self._core = core
        self._timeout_s = timeout_s
        self._fed_at = float("-inf")

    def feed(self) -> None:
        """Take note of a beat."""
        self._fed_at = self._core.now
        if not self.alive:
            self.alive = True
            self._core.clock.call_at(self._fed_at + self._timeout_s, self._look)

    def _look(self) -> None:
        """One timer at a time: on its way it only moves on to the newest beat's deadline."""
        deadline = self._fed_at + self._timeout_s
        if self._core.now < deadline:
            self._core.clock.call_at(deadline, self._look)
            return
        self.alive = False
        for tripped in self.on_trip:
            tripped()


class ZoneEnvironment:
    """Smoke, gas and water detectors of one zone; set by injection."""

    def __init__(self) -> None:
        self.smoke = False
        self.gas = False
        self.water = False

    def status(self) -> ZoneStatus:
        """Return what the detectors show."""
        return ZoneStatus(self.smoke, self.gas, self.water)


class ZoneSafety:
    """E-stop chain, guard, light curtain with muting, fire panel and safe torque off of one zone."""

    def __init__(self, core: Core, zone: str) -> None:
        self.zone = zone
        self.key_on_site = False
        self.curtain_muted = False
        self.watchdogs: list[Watchdog] = []
        self._core = core
        self._loads: list[Load] = []
        self._estop_pressed = False
        self._guard_open = False
        self._curtain_broken = False
        self._fire = False
        self._tripped_by = ""

    def add_load(self, load: Load) -> None:
        """Feed a drive from this zone."""
        self._loads.append(load)

    @property
    def drives_enabled(self) -> bool:
        """Whether safe torque off is not applied."""
        return not self._tripped_by

    def inputs(self) -> SafetyInputs:
        """Return what the safety PLC shows."""
        return SafetyInputs(
            estop_ok=not self._estop_pressed and self._tripped_by != "estop",
            guard_closed=not self._guard_open,
            curtain_clear=not self._curtain_broken,
            curtain_muted=self.curtain_muted,
            fire=self._fire,
            heartbeat_seen=all(watchdog.alive for watchdog in self.watchdogs),
            drives_enabled=self.drives_enabled,
            key_on_site=self.key_on_site,
        )

    def press_estop(self) -> None:
        """Press an emergency-stop button; it stays pressed."""
        self._estop_pressed = True
        self._trip("estop")

    def release_estop(self) -> None:
        """Pull the button out again. The chain stays open until it is re-armed."""
        self._estop_pressed = False

    def set_guard(self, closed: bool) -> None:
        """Open or close a guard."""
        self._guard_open = not closed
        if not closed:
            self._trip("guard")

    def set_fire(self, fire: bool) -> None:
        """Let the fire panel report fire, or no longer."""
        self._fire = fire
        if fire:
            self._trip("fire")

    def set_curtain(self, clear: bool) -> None:
        """Interrupt or free the light curtain. It trips only while armed and while something of the zone moves."""
        self._curtain_broken = not clear
        self._judge_curtain()

    def set_muted(self, muted: bool) -> None:
        """Mute or arm the curtain, as the safety PLC does by itself when a vehicle drives in or out."""
        self.curtain_muted = muted
        self._judge_curtain()

    def motion_started(self) -> None:
        """Something of the zone started to move."""
        self._judge_curtain()

    def rearm(self) -> bool:
        """Re-arm by hand at the panel; False while a cause is still there. Moves and energises nothing."""
        if self._estop_pressed or self._guard_open or self._fire or (self._curtain_broken and not self.curtain_muted):
            return False
        if self._tripped_by:
            self._core.log(f"{self.zone} safety re-armed")
        self._tripped_by = ""
        return True

    def _judge_curtain(self) -> None:
        if self._curtain_broken and not self.curtain_muted and any(load.moving for load in self._loads):
            self._trip("curtain")

    def _trip(self, cause: str) -> None:
        if self._tripped_by:
            return
        self._tripped_by = cause
        self._core.log(f"{self.zone} safety tripped: {cause}")
        for load in self._loads:
            load.power_lost()
