"""The laws of the plant: what a real station cannot do without breaking something or hurting somebody."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Law:
    """One law. ``name`` is how tests and reports call it."""

    number: int
    name: str
    text: str


class PhysicsViolation(Exception):
    """A law was broken. Raised from the loop; also kept in ``Plant.violations``."""

    def __init__(self, law: Law, detail: str, at: float) -> None:
        super().__init__(f"law {law.number} {law.name} at {at:.3f} s: {detail}")
        self.law = law
        self.detail = detail
        self.at = at


_TABLE = (
    ("fork_into_occupied", "a loaded fork extends into an occupied place"),
    ("fork_height", "a fork extends loaded at pick height, or empty at carry height where a pack stands"),
    ("fork_nowhere", "the fork extends where no taught place is, or beyond a place's depth"),
    ("fork_out_travel", "stacker x or z moves while the fork is out, other than to lift or set down at a place"),
    ("fork_half_borne", "the fork moves while a pack rests half on it and half on its place"),
    ("fork_into_shuttle", "the fork is in a table whose shuttle moves, is not at the exchange, or is raised"),
    ("travel_lift_up", "the shuttle travels with its lift up"),
    ("lift_collision", "the lift rises under a vehicle and not under one of its mounts, or under one that drives"),
    (
        "lift_half_unlocked",
        "the lift goes down under a pack of which some bolts are locked and some are not, or turn",
    ),
    ("pack_falls", "a pack's bolts are all open and nothing bears it"),
    ("two_packs", "two packs in one place"),
    ("plug_under_current", "a connector moves while current flows"),
    ("charger_unengaged", "a charger delivers current to a pack that is not engaged"),
    ("plug_torn", "a pack leaves its slot with the plug in"),
    ("unlock_under_voltage", "bolts are opened while the vehicle's high voltage is on"),
    ("released_clamped", "a vehicle drives off clamped or raised"),
    ("released_lift_up", "a vehicle drives off with the shuttle lift up"),
    ("released_unproven", "a vehicle drives off with a bolt of an occupied mount not proven by torque and angle"),
    ("clamp_driving", "the clamp or the vehicle lift moves while the vehicle drives"),
    ("beyond_range", "an axis moves beyond its range"),
    ("moved_unpowered", "something moves in a zone whose drives are not enabled"),
)

LAWS = {name: Law(number, name, text) for number, (name, text) in enumerate(_TABLE, start=1)}
