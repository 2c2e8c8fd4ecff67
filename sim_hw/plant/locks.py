"""Bolts of a vehicle's mounts, and the banks of nut runners that turn them.

A bolt's truth is how far it is turned, 0 open to 1 closed, and whether it holds its torque. It belongs to the vehicle
and leaves with it; the bank shows the bolts of the vehicle in place. A vehicle brings its bolts with the torque and
angle with which they were closed at the last station (the mount's own memory).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hal.types import BoltResult, BoltState, BoltStatus, LockBankState
from sim_hw.plant.core import Core, Timer, nothing
from sim_hw.plant.safety import Watchdog, ZoneSafety
from sim_hw.world import LockWorld

RUN_TORQUE_NM = 8.0  # a free bolt on its thread
NO_BOLT = BoltStatus(BoltState.UNKNOWN, BoltResult.NONE, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class TighteningWindow:
    """What proves a closed bolt, from the lock bank's profile."""

    torque_min_nm: float
    torque_max_nm: float
    angle_min_deg: float
    angle_max_deg: float


@dataclass(slots=True)
class Bolt:
    """One bolt. ``ailment`` is injected: "", stuck, cross_threaded, stripped or cold_head (cured by one try)."""

    turned: float = 1.0
    result: BoltResult = BoltResult.OK
    torque_nm: float = 0.0
    angle_deg: float = 0.0
    ailment: str = ""

    @property
    def is_open(self) -> bool:
        """Fully open: it holds nothing."""
        return self.turned <= 0.0

    @property
    def is_closed(self) -> bool:
        """Fully home, with or without torque."""
        return self.turned >= 1.0

    def proven(self, window: TighteningWindow) -> bool:
        """Whether it truly holds: closed, with torque and angle in their windows."""
        torque_ok = window.torque_min_nm <= self.torque_nm <= window.torque_max_nm
        angle_ok = window.angle_min_deg <= self.angle_deg <= window.angle_max_deg
        return self.is_closed and self.result is BoltResult.OK and torque_ok and angle_ok


@dataclass(slots=True)
class _Turn:
    """One bolt being turned: from ``turned`` towards ``goal``, until ``ends_at``, where it ends with ``result``."""

    bolt: Bolt
    goal: float
    start: float
    ends_at: float
    turned_from: float
    turned_to: float
    angle_from: float
    result: BoltResult
    torque_nm: float
    timer: Timer | None = field(default=None)

    def turned(self, when: float) -> float:
        share = min(max((when - self.start) / max(self.ends_at - self.start, 1e-9), 0.0), 1.0)
        return self.turned_from + share * (self.turned_to - self.turned_from)


class LockBankPlant:
    """The nut runners under one mount. ``changed`` is called after every end of a bolt's turn."""

    def __init__(
        self, core: Core, device_id: str, world: LockWorld, window: TighteningWindow, zone: ZoneSafety
    ) -> None:
        self.device_id = device_id
        self.window = window
        self.zone = zone
        self.fault = "none"
        self.watchdog: Watchdog | None = None
        self.engaged: Callable[[], bool] = lambda: False
        self.bearing: Callable[[], bool] = lambda: False  # there is a pack to hold
        self.opening: Callable[[], None] = nothing
        self.changed: Callable[[], None] = nothing
        self._core = core
        self._world = world
        self._rng = core.stream(device_id)
        self._bolts: list[Bolt] | None = None
        self._turns: dict[int, _Turn] = {}
        self._done: Callable[[], None] = nothing
        zone.add_load(self)

    def attach(self, bolts: list[Bolt] | None) -> None:
        """A vehicle's mount stands over the bank, or none does any more."""
        self._bolts = bolts

    # --- reading --------------------------------------------------------------------------------------------

    @property
    def moving(self) -> bool:
        """Whether any bolt turns."""
        return bool(self._turns)

    @property
    def powered(self) -> bool:
        """Whether the safety circuit and the heartbeat allow torque."""
        alive = self.watchdog is None or self.watchdog.alive
        return self.zone.drives_enabled and self.fault != "watchdog" and alive

    @property
    def state(self) -> LockBankState:
        """The bank's state word."""
        if self.fault not in {"none", "watchdog"}:
            return LockBankState.FAULT
        if not self.powered:
            return LockBankState.POWER_OFF
        return LockBankState.TURNING if self._turns else LockBankState.READY

    @property
    def heads_engaged(self) -> bool:
        """Whether every runner sits on its bolt: the lift is up, aligned under this mount of a standing vehicle."""
        return self._bolts is not None and self.engaged()

    @property
    def bolts(self) -> tuple[BoltStatus, ...]:
        """What the end sensors and runners show now; empty without a vehicle."""
        return tuple(self._shown(i, bolt) for i, bolt in enumerate(self._bolts or ()))

    def _shown(self, index: int, bolt: Bolt) -> BoltStatus:
        turn = self._turns.get(index)
        if turn is None:
            state = BoltState.LOCKED if bolt.is_closed else BoltState.UNLOCKED if bolt.is_open else BoltState.UNKNOWN
            return BoltStatus(state, bolt.result, bolt.torque_nm, bolt.angle_deg)
        now = self._core.now
        angle_deg = turn.angle_from + abs(turn.turned(now) - turn.turned_from) * self._world.angle_deg
        return BoltStatus(BoltState.MOVING, BoltResult.NONE, self._torque(turn, now), angle_deg)

    def _torque(self, turn: _Turn, now: float) -> float:
        """The curve: a closing bolt runs freely and comes up at the end; an opening one breaks loose first."""
        if turn.turned_from == turn.turned_to:
            return turn.torque_nm
        share = (now - turn.start) / (turn.ends_at - turn.start)
        if turn.goal == 1.0:
            rise = max(0.0, (share - 0.95) / 0.05)
            return RUN_TORQUE_NM + rise * (turn.torque_nm - RUN_TORQUE_NM)
        return max(RUN_TORQUE_NM, self._world.torque_nm * (1.0 - share / 0.02))

    # --- commands -------------------------------------------------------------------------------------------

    def unlock(self, bolt_mask: int, done: Callable[[], None] = nothing) -> str | None:
        """Open the masked bolts; done when every one has ended, well or not."""
        return self._turn(0.0, bolt_mask, done)

    def lock(self, bolt_mask: int, done: Callable[[], None] = nothing) -> str | None:
        """Close the masked bolts; done when every one has ended, well or not."""
        return self._turn(1.0, bolt_mask, done)

    def stop(self) -> None:
        """Stop every runner; bolts hold where they are. What was commanded will never be done."""
        self._done = nothing
        now = self._core.now
        for index in tuple(self._turns):
            turn = self._turns.pop(index)
            if turn.timer is not None:
                turn.timer.cancel()
            turn.bolt.angle_deg = turn.angle_from + abs(turn.turned(now) - turn.turned_from) * self._world.angle_deg
            turn.bolt.torque_nm = 0.0
            turn.bolt.turned = turn.turned(now)
            turn.bolt.result = BoltResult.STOPPED
        self._ended(now)

    def clear(self, done: Callable[[], None] = nothing) -> str | None:
        """Clear a fault whose cause is gone. Turns nothing."""
        if self.fault == "watchdog" and self.watchdog is not None and not self.watchdog.alive:
            return "no_enable"
        self.fault = "none"
        done()
        return None

    def feed(self) -> None:
        """Take note of the station's heartbeat."""
        if self.watchdog is not None:
            self.watchdog.feed()

    def fail(self, fault: str) -> None:
        """Let the controller fail now: runners stop, the fault stays until it is cleared."""
        self.fault = fault
        self._core.log(f"{self.device_id} fault {fault}")
        self.stop()

    def power_lost(self) -> None:
        """Runners stop: the safety circuit removed torque."""
        self.stop()

    def heartbeat_lost(self) -> None:
        """Runners stop and fault ``watchdog`` stays until it is cleared."""
        self.fail("watchdog")

    def slip_open(self, count: int) -> None:
        """Injected: bolts of the vehicle in place open by themselves."""
        for bolt in (self._bolts or [])[:count]:
            bolt.turned, bolt.result, bolt.torque_nm = 0.0, BoltResult.NONE, 0.0
        self._core.log(f"{self.device_id} {count} bolts slipped open")
        self.changed()

    def ail(self, index: int, ailment: str) -> None:
        """Injected: make a bolt of the vehicle in place sick, or well with an empty ailment."""
        if self._bolts is not None and index < len(self._bolts):
            self._bolts[index].ailment = ailment

    # --- turning --------------------------------------------------------------------------------------------

    def _turn(self, goal: float, bolt_mask: int, done: Callable[[], None]) -> str | None:
        if self.fault not in {"none", "watchdog"}:
            return "faulted"
        if not self.powered:
            return "no_enable"
        if not self.heads_engaged:
            return "heads_not_engaged"
        if self._turns:
            return "busy"
        todo = [(i, b) for i, b in enumerate(self._bolts or ()) if bolt_mask >> i & 1 and not _at_goal(b, goal)]
        if not todo:
            done()
            return None
        if goal == 0.0:
            self.opening()
        self._done = done
        now = self._core.now
        self._core.activity.begin(self.device_id, "lock" if goal else "unlock", now)
        self._core.log(f"{self.device_id} {'lock' if goal else 'unlock'} {len(todo)} bolts")
        for index, bolt in todo:
            self._start(index, bolt, goal)
        self.zone.motion_started()
        return None

    def _start(self, index: int, bolt: Bolt, goal: float) -> None:
        """Plan one bolt's turn and how it will end."""
        world, now = self._world, self._core.now
        full_s = (world.lock_s if goal else world.unlock_s) * self._core.spread(self._rng)
        torque = world.torque_nm * self._core.spread(self._rng) if goal else RUN_TORQUE_NM
        resumed = goal == 1.0 and bolt.result is BoltResult.STOPPED and not bolt.is_open and not bolt.is_closed
        turn = _Turn(
            bolt=bolt,
            goal=goal,
            start=now,
            ends_at=now + full_s * abs(goal - bolt.turned),
            turned_from=bolt.turned,
            turned_to=goal,
            angle_from=bolt.turned * world.angle_deg if resumed else 0.0,  # counted on from the open end
            result=BoltResult.OK,
            torque_nm=torque,
        )
        self._spoil(turn, full_s)
        turn.timer = self._core.clock.call_at(turn.ends_at, lambda: self._end(index, turn))
        self._turns[index] = turn

    def _spoil(self, turn: _Turn, full_s: float) -> None:
        """Let what is wrong with the bolt, or with what it should hold, decide how the turn ends."""
        ailment, window = turn.bolt.ailment, self.window
        holds_nothing = ailment == "stripped" or not self.bearing()
        if ailment == "stuck":
            turn.turned_to, turn.ends_at = turn.turned_from, turn.start + self._world.stall_s
            turn.result, turn.torque_nm = BoltResult.STUCK, window.torque_max_nm
        elif turn.goal == 0.0:
            return
        elif turn.turned_from >= 1.0:  # home already: it must be opened before it can be proven
            turn.ends_at = turn.start + self._world.stall_s
            turn.result = BoltResult.TORQUE_LOW if holds_nothing else BoltResult.TORQUE_EARLY
        elif ailment in {"cross_threaded", "cold_head"}:
            turn.turned_to = turn.turned_from + (1.0 - turn.turned_from) * 0.2
            turn.ends_at = turn.start + full_s * abs(turn.turned_to - turn.turned_from)
            turn.result = BoltResult.TORQUE_EARLY
            if ailment == "cold_head":
                turn.bolt.ailment = ""  # turning warms it
        elif holds_nothing:
            turn.result, turn.torque_nm = BoltResult.TORQUE_LOW, RUN_TORQUE_NM

    def _end(self, index: int, turn: _Turn) -> None:
        self._turns.pop(index, None)
        bolt = turn.bolt
        bolt.turned, bolt.result, bolt.torque_nm = turn.turned_to, turn.result, turn.torque_nm
        bolt.angle_deg = turn.angle_from + abs(turn.turned_to - turn.turned_from) * self._world.angle_deg
        if turn.result is not BoltResult.OK:
            self._core.log(f"{self.device_id} bolt {index + 1} {turn.result.name}")
        self.changed()
        if not self._turns:
            self._ended(self._core.now)

    def _ended(self, now: float) -> None:
        self._core.activity.end(self.device_id, now)
        done, self._done = self._done, nothing
        done()


def _at_goal(bolt: Bolt, goal: float) -> bool:
    there = bolt.is_closed if goal else bolt.is_open
    return there and bolt.result is BoltResult.OK


def any_mixed(bolts: Sequence[Bolt]) -> bool:
    """Whether some bolts hold and some do not, or one is on its way."""
    return not (all(bolt.is_closed for bolt in bolts) or all(bolt.is_open for bolt in bolts))
