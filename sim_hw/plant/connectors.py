"""Slot connectors: the plug of high voltage and signals, driven by one small actuator with two end switches."""

from __future__ import annotations

from collections.abc import Callable

from hal.types import ConnectorState
from sim_hw.plant.core import Core, Timer, nothing
from sim_hw.plant.safety import ZoneSafety
from sim_hw.world import ConnectorWorld


class ConnectorPlant:
    """One plug, 0 out to 1 in. ``pack_here`` and ``live`` are the slot's: a pack stands there, current flows."""

    def __init__(self, core: Core, device_id: str, world: ConnectorWorld, zone: ZoneSafety) -> None:
        self.device_id = device_id
        self.fault = "none"
        self.jammed = False  # injected: the plug stops half-way
        self.interlock_bridged = False  # injected: the drive no longer sees that current flows
        self.pack_here: Callable[[], bool] = lambda: False
        self.live: Callable[[], bool] = lambda: False
        self.changed: Callable[[], None] = nothing
        self._core = core
        self._world = world
        self._rng = core.stream(device_id)
        self._zone = zone
        self._depth = 0.0
        self._goal = 0.0
        self._started_at = 0.0
        self._lasts_s = 0.0
        self._timer: Timer | None = None
        self._done: Callable[[], None] = nothing
        zone.add_load(self)

    @property
    def moving(self) -> bool:
        """Whether the plug moves."""
        return self._timer is not None

    @property
    def depth(self) -> float:
        """How far the plug is in, 0 to 1."""
        if self._timer is None:
            return self._depth
        share = min((self._core.now - self._started_at) / self._lasts_s, 1.0)
        return self._depth + share * (self._goal - self._depth)

    @property
    def state(self) -> ConnectorState:
        """The actuator's state word."""
        if self.fault != "none":
            return ConnectorState.FAULT
        if not self._zone.drives_enabled:
            return ConnectorState.POWER_OFF
        return ConnectorState.MOVING if self.moving else ConnectorState.READY

    @property
    def engaged(self) -> bool:
        """The inner end switch."""
        return self.depth >= 1.0

    @property
    def disengaged(self) -> bool:
        """The outer end switch."""
        return self.depth <= 0.0

    def engage(self, done: Callable[[], None] = nothing) -> str | None:
        """Plug in; refused where no pack stands."""
        if not self.pack_here() and not self.engaged:
            return self._refuse_common() or "no_pack"
        return self._go(1.0, self._world.engage_s, done)

    def disengage(self, done: Callable[[], None] = nothing) -> str | None:
        """Unplug; refused while current flows."""
        return self._go(0.0, self._world.disengage_s, done)

    def stop(self) -> None:
        """Stop the plug where it is. What was commanded will never be done."""
        self._done = nothing
        self._rest(self.depth)

    def clear(self, done: Callable[[], None] = nothing) -> str | None:
        """Clear a fault. Moves nothing."""
        self.fault = "none"
        done()
        return None

    def power_lost(self) -> None:
        """Stop: the safety circuit removed power."""
        self.stop()

    def put_in(self) -> None:
        """Stand plugged in from the start of the world."""
        self._depth = self._goal = 1.0

    def creep_out(self) -> None:
        """Injected: the plug comes loose by itself."""
        self._rest(0.5)
        self._core.log(f"{self.device_id} came loose")

    def _refuse_common(self) -> str | None:
        if self.fault != "none":
            return "faulted"
        if not self._zone.drives_enabled:
            return "no_enable"
        return "busy" if self.moving else None

    def _go(self, goal: float, full_s: float, done: Callable[[], None]) -> str | None:
        if refusal := self._refuse_common():
            return refusal
        if self._depth == goal:
            done()
            return None
        if self.live():
            if not self.interlock_bridged:
                return "current_flows"
            self._core.violate("plug_under_current", f"{self.device_id} moves under current")
        self._done = done
        reach = 0.5 * (self._depth + goal) if self.jammed else goal
        self._started_at = self._core.now
        self._lasts_s = full_s * abs(reach - self._depth) * self._core.spread(self._rng)
        self._goal = reach
        self._timer = self._core.after(self._lasts_s, lambda: self._arrive(goal))
        self._core.activity.begin(self.device_id, "plug" if goal else "unplug", self._core.now)
        self._core.log(f"{self.device_id} {'in' if goal else 'out'}")
        self.changed()
        self._zone.motion_started()
        return None

    def _arrive(self, goal: float) -> None:
        reached = self._goal
        done, self._done = self._done, nothing
        if reached != goal:
            self.fault = "jammed"
            self._rest(reached)
            return
        self._rest(reached)
        done()

    def _rest(self, depth: float) -> None:
        if self._timer is None and depth == self._depth:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._depth = self._goal = depth
        self._core.activity.end(self.device_id, self._core.now)
        self._core.log(f"{self.device_id} rests at {depth:.3f}")
        self.changed()
