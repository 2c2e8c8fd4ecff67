"""What a swap is asked to do, held against what the vehicle has: a clear refusal, or a goal for every mount. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from controller.model.intent import Goal
from controller.model.layout import DockLayout, short
from hal.types import VehicleStatus


class SwapRefused(Exception):
    """A swap cannot be accepted. ``kind``: not_found, usage or refused. Nothing has changed."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def goals_for(
    dock: DockLayout, asked: Mapping[str, str] | None, vehicle: VehicleStatus
) -> tuple[tuple[str, Goal], ...]:
    """Return (mount, goal) for every mount of a dock.

    By default a mount with a pack gets a fresh one, an empty one stays as it is, and so does a mount that this
    vehicle does not have.

    Args:
        dock: whose mounts.
        asked: mount, with or without its dock's name → the goal's name; None: all by default.
        vehicle: what it says of itself.

    Raises:
        SwapRefused: an unknown mount or goal, a mount that the vehicle lacks, or no pack left to drive away with.
    """
    named = {mount if "." in mount else f"{dock.dock_id}.{mount}": goal for mount, goal in (asked or {}).items()}
    strangers = sorted(set(named) - set(dock.mounts))
    if strangers:
        raise SwapRefused("not_found", f"there is no mount {strangers[0]}; mounts: {', '.join(dock.mounts)}")
    try:
        chosen = {mount: Goal(goal) for mount, goal in named.items()}
    except ValueError as error:
        raise SwapRefused("usage", f"{error}; goals: {', '.join(Goal)}") from error
    there = dict(zip(dock.mounts, vehicle.mounts, strict=False))
    lacking = [mount for mount, goal in chosen.items() if mount not in there and goal is not Goal.KEEP]
    if lacking:
        has = ", ".join(short(mount) for mount in there)
        raise SwapRefused("refused", f"{vehicle.vehicle_id} has no {short(lacking[0])}, only {has}")
    held = {mount for mount, status in there.items() if status.pack_serial is not None}
    goals = tuple((m, chosen.get(m, Goal.FRESH if m in held else Goal.KEEP)) for m in dock.mounts)
    if not any(goal in {Goal.FRESH, Goal.ADD} or (goal is Goal.KEEP and mount in held) for mount, goal in goals):
        raise SwapRefused("refused", f"{vehicle.vehicle_id} would be left without a pack and could not drive away")
    return goals
