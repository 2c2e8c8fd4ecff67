"""One result of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A number with what it is to be. Names are stable: other tools follow them over time.

    Attributes:
        name: group and quantity, ``can.cpu_per_frame_us``.
        goal: what the value is held against; None where there is none.
        better: "lower" or "higher".
        versus: what it was measured beside or under, in a few words.
    """

    name: str
    value: float
    unit: str
    goal: float | None
    better: str
    versus: str

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal
