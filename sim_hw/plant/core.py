"""What all objects of the plant share: the clock, seeded streams, the trace, activity and the report of a broken law.

Time is injected as a ``Clock``: the running event loop, or anything else with ``time()`` and ``call_at()``. The plant
asks for the time when it is commanded or read and plans its own events with ``call_at``; it has no task, and no tick
while nothing charges.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sim_hw.plant.activity import Activity
from sim_hw.plant.laws import LAWS, PhysicsViolation

NOISE_POINTS = 257  # prime, so that the noise of signals with related periods does not line up


class Timer(Protocol):
    """A planned event."""

    def cancel(self) -> None:
        """Forget it; harmless if it has happened."""
        ...


class Clock(Protocol):
    """Loop time in seconds, and events at loop times."""

    def time(self) -> float:
        """Return the time now."""
        ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call ``callback`` at ``when``, from the loop, never from inside this call."""
        ...


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One thing that happened, for traces and their hashes."""

    at: float
    what: str


class Noise:
    """Measurement noise as a function of time alone, so that reading often or seldom changes nothing."""

    def __init__(self, rng: random.Random, period_s: float = 0.1) -> None:
        self._points = tuple(rng.gauss(0.0, 1.0) for _ in range(NOISE_POINTS))
        self._period_s = period_s

    def at(self, when: float) -> float:
        """Return the noise at a time, in standard deviations."""
        return self._points[int(when / self._period_s) % NOISE_POINTS]


class BouncingSwitch:
    """A sensor that chatters for a while after each change; a function of time alone."""

    def __init__(self, rng: random.Random, bounce_s: float, value: bool = False) -> None:
        self._chatter = tuple(rng.random() < 0.5 for _ in range(NOISE_POINTS))
        self._bounce_s = bounce_s
        self._value = value
        self._changed_at = float("-inf")

    def set(self, value: bool, now: float) -> None:
        """Change the truth behind the sensor."""
        if value != self._value:
            self._value = value
            self._changed_at = now

    def at(self, when: float) -> bool:
        """Return what the sensor shows."""
        since_s = when - self._changed_at
        if since_s >= self._bounce_s:
            return self._value
        chatter = self._chatter[int(when / 0.02) % NOISE_POINTS]  # chatters in steps of 20 ms
        return self._value if chatter else not self._value


class Core:
    """Clock, streams, trace, activity and violations of one plant."""

    def __init__(self, clock: Clock, seed: int, duration_noise: float) -> None:
        self.clock = clock
        self.seed = seed
        self.trace: list[TraceEvent] = []
        self.violations: list[PhysicsViolation] = []
        self.activity = Activity()
        self._duration_noise = duration_noise

    @property
    def now(self) -> float:
        """The loop time."""
        return self.clock.time()

    def after(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Plan an event ``delay_s`` from now."""
        return self.clock.call_at(self.now + delay_s, callback)

    def stream(self, name: str) -> random.Random:
        """Return the random stream of this name; its draws depend on seed and name only."""
        return random.Random(f"{self.seed}/{name}")  # noqa: S311 - repeatable noise, not a secret

    def spread(self, rng: random.Random) -> float:
        """Draw a factor for a duration, a few percent around 1."""
        return 1.0 + rng.uniform(-self._duration_noise, self._duration_noise)

    def log(self, what: str) -> None:
        """Add an event to the trace."""
        self.trace.append(TraceEvent(self.now, what))

    def violate(self, law: str, detail: str) -> None:
        """Record a broken law, and raise it in the loop: from an event of its own, so that no caller can catch it.

        The plant itself goes on from a definite state.
        """
        violation = PhysicsViolation(LAWS[law], detail, self.now)
        self.violations.append(violation)
        self.log(f"VIOLATION {law}: {detail}")

        def throw() -> None:
            raise violation

        self.clock.call_at(self.now, throw)


def nothing() -> None:
    """Do nothing: the ``done`` of a command that nobody waits for."""
