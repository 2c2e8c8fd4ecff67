"""What a rule may look at, and the few questions that many rules ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from controller.model.intent import Step, StepKind
from controller.model.layout import FORK, DockLayout, Layout, StackerPlace
from controller.model.snapshot import StationSnapshot
from controller.model.transfers import near
from hal.types import AxisState

STILL = {AxisState.DISABLED, AxisState.STANDSTILL}

REACHING_STEPS = frozenset(
    {StepKind.EXTEND_FORK, StepKind.LIFT_PACK, StepKind.SET_DOWN_PACK}
)  # into a table; getting out of one must not need its dock's safety circuit
STORE_STEPS = REACHING_STEPS | {
    StepKind.MOVE_STACKER,
    StepKind.RETRACT_FORK,
    StepKind.STOP_CHARGER,
    StepKind.DISENGAGE_CONNECTOR,
    StepKind.ENGAGE_CONNECTOR,
    StepKind.IDENTIFY_PACK,
    StepKind.START_CHARGER,
}


class PackView(Protocol):
    """What the rules must know of the inventory."""

    @property
    def reserved(self) -> Mapping[str, str]:
        """Place → serial of the pack for which it is kept free."""
        ...

    def at(self, place: str) -> object:
        """Return the serial of the pack in a place, None for none, or anything else for unknown."""
        ...


class NotKnown(Exception):
    """Something that a rule needs is not in the layout or not certain."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a rule may look at."""

    snapshot: StationSnapshot
    step: Step
    layout: Layout
    packs: PackView

    @property
    def dock(self) -> DockLayout:
        """The dock of the step: by name, or by the place that it is about."""
        dock = self.layout.docks.get(self.step.dock) or self.layout.dock_of(self.step.place)
        if dock is None:
            raise NotKnown(f"there is no dock {self.step.dock or self.step.place!r}")
        return dock

    @property
    def served_dock(self) -> DockLayout | None:
        """The dock whose table the stacker serves in this step, if any."""
        return self.layout.dock_of(self.step.place)

    @property
    def at_place(self) -> StackerPlace:
        """Taught position of the step's place."""
        taught = self.layout.stacker.places.get(self.step.place)
        if taught is None:
            raise NotKnown(f"the stacker was taught no place {self.step.place!r}")
        return taught

    def pack_at(self, place: str) -> str | None:
        """Return which pack is in a place by the inventory; unknown is not an answer."""
        found = self.packs.at(place)
        if found is None or isinstance(found, str):
            return found
        raise NotKnown(f"what is in {place} is not known")

    def axis_off(self, device: str, target_mm: float, what: str) -> str | None:
        """Return None if the axis stands, referenced, where it should; else where it is."""
        axis = self.snapshot.axis(device)
        if not axis.homed:
            return f"{device} is not homed"
        if not near(axis.position_mm, target_mm):
            return f"{device} stands at {axis.position_mm:.1f} mm, {what} is {target_mm:.1f} mm"
        return None

    @property
    def align_mm(self) -> float:
        """Taught shuttle travel for the step's mount and table."""
        position_mm = self.dock.align_mm.get((self.step.place, self.step.table))
        if position_mm is None:
            raise NotKnown(f"no taught position of {self.step.table!r} under {self.step.place!r}")
        return position_mm


Check = Callable[[Situation], str | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A named condition. ``text`` says in one sentence what must be so."""

    name: str
    text: str
    check: Check


def registrar(rules: dict[str, Rule]) -> Callable[[Check], Check]:
    """Return a decorator that enters a predicate into ``rules`` by its name, with its docstring's first line."""

    def rule(check: Check) -> Check:
        name, text = check.__name__, (check.__doc__ or "").splitlines()[0]
        rules[name] = Rule(name, text, check)
        return check

    return rule


# --- questions that many rules ask --------------------------------------------------------------------------------


def holds_pack(now: Situation, place: str) -> str | None:
    """Return what is wrong unless the step's pack is in a place, by the inventory."""
    found = now.pack_at(place)
    if not now.step.pack:
        return "the step names no pack"
    return None if found == now.step.pack else f"{place} holds {found or 'no pack'}, not {now.step.pack}"


def empty_and_reserved(now: Situation, place: str) -> str | None:
    """Return what is wrong unless a place is empty and kept for the step's pack."""
    if not now.step.pack:
        return "the step names no pack"
    found = now.pack_at(place)
    if found is not None:
        return f"{place} holds {found}"
    kept = now.packs.reserved.get(place) == now.step.pack
    return None if kept else f"{place} is not reserved for {now.step.pack}"


def sensor_agrees(now: Situation, place: str) -> str | None:
    """Return what is wrong unless a place's presence sensor agrees with the inventory."""
    seen, known = now.snapshot.input(place), now.pack_at(place)
    if seen is (known is not None):
        return None
    return f"the sensor of {place} sees {'a pack' if seen else 'nothing'}, the inventory says {known or 'empty'}"


def fork_retracted(now: Situation) -> str | None:
    """The stacker's fork is retracted."""
    return now.axis_off(FORK, now.layout.stacker.fork_retracted_mm, "retracted")
