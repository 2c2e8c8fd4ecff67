"""Positioning axes: trapezoid motion evaluated from loop time, events planned on the loop, no tick.

Two positions are kept apart: what the encoder says (``position_mm``) and where the axis truly is (``true_mm``); they
differ only by an injected slip. Laws look at the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hal.types import AxisState
from sim_hw.plant.core import Core, Noise, Timer, nothing
from sim_hw.plant.safety import Watchdog, ZoneSafety
from sim_hw.world import AxisWorld

IN_POSITION_MM = 1.0
BRAKE_S = 0.15  # a closing brake stops any speed within this
RANGE_SLACK_MM = 1.0


@dataclass(frozen=True, slots=True)
class _Piece:
    """Constant acceleration from ``start`` for ``lasts`` seconds."""

    start: float
    lasts: float
    x_mm: float
    v_mm_s: float
    a_mm_s2: float

    def position(self, when: float) -> float:
        t = min(max(when - self.start, 0.0), self.lasts)
        return self.x_mm + self.v_mm_s * t + 0.5 * self.a_mm_s2 * t * t

    def velocity(self, when: float) -> float:
        return self.v_mm_s + self.a_mm_s2 * min(max(when - self.start, 0.0), self.lasts)


@dataclass(frozen=True, slots=True)
class Motion:
    """A monotone motion as pieces of constant acceleration."""

    pieces: tuple[_Piece, ...]
    end_mm: float

    @property
    def ends_at(self) -> float:
        """When it stands still."""
        last = self.pieces[-1]
        return last.start + last.lasts

    def _piece(self, when: float) -> _Piece:
        return next((piece for piece in self.pieces if when < piece.start + piece.lasts), self.pieces[-1])

    def position(self, when: float) -> float:
        """Return the position; after the end, the end."""
        return self.end_mm if when >= self.ends_at else self._piece(when).position(when)

    def velocity(self, when: float) -> float:
        """Return the signed speed in mm/s."""
        return 0.0 if when >= self.ends_at else self._piece(when).velocity(when)

    def time_at(self, position_mm: float) -> float:
        """Return when it passes a position between its start and its end (bisection to under a microsecond)."""
        low, high = self.pieces[0].start, self.ends_at
        rising = self.end_mm > self.pieces[0].x_mm
        for _ in range(48):
            middle = 0.5 * (low + high)
            if (self.position(middle) < position_mm) == rising:
                low = middle
            else:
                high = middle
        return high


def trapezoid(start: float, from_mm: float, to_mm: float, speed_mm_s: float, ramp_mm_s2: float) -> Motion:
    """Plan a motion from rest to rest; too short a way to reach the speed becomes a triangle."""
    way = to_mm - from_mm
    sign = 1.0 if way > 0 else -1.0
    speed = min(speed_mm_s, (abs(way) * ramp_mm_s2) ** 0.5)
    ramp_s = speed / ramp_mm_s2
    cruise_s = max(abs(way) / speed - ramp_s, 0.0)
    ramp_mm = 0.5 * speed * ramp_s
    return Motion(
        (
            _Piece(start, ramp_s, from_mm, 0.0, sign * ramp_mm_s2),
            _Piece(start + ramp_s, cruise_s, from_mm + sign * ramp_mm, sign * speed, 0.0),
            _Piece(start + ramp_s + cruise_s, ramp_s, to_mm - sign * ramp_mm, sign * speed, -sign * ramp_mm_s2),
        ),
        to_mm,
    )


def braking(start: float, from_mm: float, velocity_mm_s: float, stops_in_s: float) -> Motion:
    """Plan a stop from a speed."""
    piece = _Piece(start, stops_in_s, from_mm, velocity_mm_s, -velocity_mm_s / stops_in_s)
    return Motion((piece,), from_mm + 0.5 * velocity_mm_s * stops_in_s)


@dataclass(slots=True)
class Watch:
    """Call ``passed(upward)`` whenever the axis truly passes ``at_mm``."""

    at_mm: float
    passed: Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class AxisLimits:
    """Range and start of an axis, from the station file."""

    lowest_mm: float
    highest_mm: float
    start_mm: float


class AxisPlant:
    """One axis: drive, brake, encoder.

    ``starting`` is called with the target before a motion starts, for the laws; ``gait`` tells how it moves now.
    """

    def __init__(self, core: Core, device_id: str, limits: AxisLimits, world: AxisWorld, zone: ZoneSafety) -> None:
        self.device_id = device_id
        self.limits = limits
        self.zone = zone
        self.fault = "none"
        self.homed = True  # absolute encoder
        self.slip_mm = 0.0
        self.pace = 1.0  # injected: share of the normal speed
        self.stalls_at_mm: float | None = None  # injected
        self.ignores_power = False  # injected: a drive that does not obey the safety circuit
        self.gait: Callable[[], str] = lambda: "normal"
        self.starting: list[Callable[[float], None]] = []
        self.settled: list[Callable[[], None]] = []
        self.watches: list[Watch] = []
        self._core = core
        self._world = world
        self._rng = core.stream(device_id)
        self._noise = Noise(core.stream(f"{device_id}/torque"))
        self._rest_mm = limits.start_mm
        self._target_mm = limits.start_mm
        self._motion: Motion | None = None
        self._activity = AxisState.MOVING
        self._enabled = False
        self._timers: list[Timer] = []
        self._done: Callable[[], None] = nothing
        self.watchdog: Watchdog | None = None
        zone.add_load(self)

    # --- reading --------------------------------------------------------------------------------------------

    @property
    def position_mm(self) -> float:
        """What the encoder says now."""
        return self._motion.position(self._core.now) if self._motion else self._rest_mm

    @property
    def true_mm(self) -> float:
        """Where the axis truly is now."""
        return self.position_mm + self.slip_mm

    @property
    def moving(self) -> bool:
        """Whether it moves or settles."""
        return self._motion is not None

    @property
    def powered(self) -> bool:
        """Whether the safety circuit and the heartbeat allow torque."""
        return (
            self.zone.drives_enabled and self.fault != "watchdog" and (self.watchdog is None or self.watchdog.alive)
        )

    @property
    def state(self) -> AxisState:
        """The drive's state word."""
        if self.fault not in {"none", "watchdog"}:
            return AxisState.FAULT
        if not self.powered:
            return AxisState.POWER_OFF
        if self._motion is not None:
            return self._activity
        return AxisState.STANDSTILL if self._enabled else AxisState.DISABLED

    @property
    def brake_closed(self) -> bool:
        """Whether the brake holds the axis."""
        return not self._enabled and self._motion is None

    @property
    def watchdog_tripped(self) -> bool:
        """Whether enable was dropped because the heartbeat stood still."""
        return self.fault == "watchdog"

    @property
    def in_position(self) -> bool:
        """Whether the axis stands at the target of its last motion."""
        return self._motion is None and abs(self._rest_mm - self._target_mm) <= IN_POSITION_MM

    @property
    def torque_pct(self) -> float:
        """Actual torque: none on the brake, some while holding, more while moving, half as much again loaded."""
        if not self._enabled:
            return 0.0
        base_pct = 12.0 if self._motion is None else 40.0
        load = 1.5 if self.gait() == "loaded" else 1.0
        return load * base_pct + 1.5 * self._noise.at(self._core.now)

    # --- commands -------------------------------------------------------------------------------------------

    def enable(self, done: Callable[[], None] = nothing) -> str | None:
        """Energise and hold position. Moves nothing."""
        if refusal := self._refuse_common():
            return refusal
        if not self._enabled:
            self._enabled = True
            self._core.log(f"{self.device_id} enabled")
        done()
        return None

    def disable(self, done: Callable[[], None] = nothing) -> str | None:
        """Close the brake, remove torque; a motion ends on the brake."""
        self._drop("disabled")
        done()
        return None

    def clear(self, done: Callable[[], None] = nothing) -> str | None:
        """Clear a fault whose cause is gone. Moves and energises nothing."""
        if self.fault == "watchdog" and self.watchdog is not None and not self.watchdog.alive:
            return "no_enable"
        if self.fault != "none":
            self._core.log(f"{self.device_id} fault {self.fault} cleared")
        self.fault = "none"
        done()
        return None

    def move(self, target_mm: float, speed_pct: float = 100.0, done: Callable[[], None] = nothing) -> str | None:
        """Move to a target; done when it stands there and has settled."""
        if refusal := self._refuse_common():
            return refusal
        if not self._enabled:
            return "not_enabled"
        if not self.homed:
            return "not_homed"
        if not self.limits.lowest_mm <= target_mm <= self.limits.highest_mm:
            return "out_of_range"
        if self.moving:
            return "busy"
        self._go(target_mm, speed_pct, AxisState.MOVING, done)
        return None

    def home(self, done: Callable[[], None] = nothing) -> str | None:
        """Find the reference at 0 mm, slowly; done at once where the axis is referenced."""
        if refusal := self._refuse_common():
            return refusal
        if not self._enabled:
            return "not_enabled"
        if self.moving:
            return "busy"
        if self.homed:
            done()
            return None

        def found() -> None:
            self.homed = True
            done()

        self._go(0.0, 25.0, AxisState.HOMING, found)
        return None

    def stop(self) -> None:
        """Stop at once, within the ramp; stays energised. What was commanded will never be done."""
        self._halt(self._world.ramp_s * 0.5)

    def feed(self) -> None:
        """Take note of the station's heartbeat."""
        if self.watchdog is not None:
            self.watchdog.feed()

    def fail(self, fault: str) -> None:
        """Let the drive fail now: it stops on its brake and keeps the fault until it is cleared."""
        self.fault = fault
        self._core.log(f"{self.device_id} fault {fault}")
        self._drop(f"fault {fault}")

    # --- power ----------------------------------------------------------------------------------------------

    def power_lost(self) -> None:
        """Brake at once: the safety circuit removed torque."""
        if not self.ignores_power:
            self._drop("power lost")
        elif self.moving:
            self._core.violate("moved_unpowered", f"{self.device_id} moves on without enable")

    def heartbeat_lost(self) -> None:
        """Brake at once and keep fault ``watchdog`` until it is cleared."""
        self.fault = "watchdog"
        self._drop("heartbeat lost")

    def slip(self, by_mm: float) -> None:
        """Let the encoder lose track: the truth moves away from what is shown."""
        self.slip_mm += by_mm
        self._core.log(f"{self.device_id} slipped {by_mm:+.1f} mm")
        self._check_range()

    # --- motion ---------------------------------------------------------------------------------------------

    def _refuse_common(self) -> str | None:
        if self.fault not in {"none", "watchdog"}:
            return "faulted"
        return None if self.powered else "no_enable"

    def _go(self, target_mm: float, speed_pct: float, activity: AxisState, done: Callable[[], None]) -> None:
        here = self._rest_mm
        if abs(target_mm - here) < 1e-6:
            done()
            return
        for law in self.starting:
            law(target_mm)
        gait = self._world.gait(self.gait())
        stroke_s = gait.out_s if target_mm > here else gait.back_s
        pace = self.pace * speed_pct / 100.0 / self._core.spread(self._rng)
        speed = gait.stroke_mm / (stroke_s - self._world.ramp_s) * pace
        motion = trapezoid(self._core.now, here, target_mm, speed, speed / self._world.ramp_s)
        self._activity = activity
        self._target_mm = target_mm
        self._done = done
        self._core.activity.begin(self.device_id, "home" if activity is AxisState.HOMING else "move", self._core.now)
        self._core.log(f"{self.device_id} {here:.3f} -> {target_mm:.3f} mm")
        self._run(motion, self._world.settle_s)
        self.zone.motion_started()

    def _run(self, motion: Motion, settle_s: float) -> None:
        """Follow a motion: plan its end and every watched position on the way."""
        self._cancel_timers()
        start = self._motion.position(self._core.now) if self._motion else self._rest_mm
        self._motion = motion
        low, high = sorted((start + self.slip_mm, motion.end_mm + self.slip_mm))
        upward = motion.end_mm > start
        if self.stalls_at_mm is not None and low < self.stalls_at_mm < high:
            self._plan(motion.time_at(self.stalls_at_mm - self.slip_mm), lambda: self.fail("stall"))
        for watch in self.watches:
            passes = low < watch.at_mm <= high if upward else low <= watch.at_mm < high
            if passes:
                self._plan(motion.time_at(watch.at_mm - self.slip_mm), partial(watch.passed, upward))
        self._plan(motion.ends_at + settle_s, self._arrive)

    def _plan(self, when: float, callback: Callable[[], object]) -> None:
        self._timers.append(self._core.clock.call_at(when, callback))

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _halt(self, stops_in_s: float) -> None:
        if self._motion is None or self._activity is AxisState.STOPPING:
            return
        now = self._core.now
        velocity = self._motion.velocity(now)
        self._done = nothing
        self._activity = AxisState.STOPPING
        if velocity == 0.0:
            self._arrive()
        else:
            self._run(braking(now, self._motion.position(now), velocity, stops_in_s), 0.0)

    def _drop(self, why: str) -> None:
        """Remove torque: the brake closes."""
        if self._enabled:
            self._core.log(f"{self.device_id} de-energised: {why}")
        self._enabled = False
        if self._motion is not None:
            self._activity = AxisState.MOVING if self._activity is AxisState.STOPPING else self._activity
            self._halt(BRAKE_S)

    def _arrive(self) -> None:
        if self._motion is None:
            return
        self._rest_mm = self._motion.position(self._core.now)
        self._motion = None
        self._cancel_timers()
        self._core.activity.end(self.device_id, self._core.now)
        self._core.log(f"{self.device_id} at {self._rest_mm:.3f} mm")
        self._check_range()
        for settled in self.settled:
            settled()
        done, self._done = self._done, nothing
        done()

    def _check_range(self) -> None:
        low, high = self.limits.lowest_mm - RANGE_SLACK_MM, self.limits.highest_mm + RANGE_SLACK_MM
        if not low <= self.true_mm <= high:
            self._core.violate("beyond_range", f"{self.device_id} is at {self.true_mm:.1f} mm")
