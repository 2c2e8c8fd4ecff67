"""What a step requires before it acts, and what must hold while it does. Pure; judged on a snapshot, not on devices.

A rule is a named predicate that returns None, or one sentence for a person. A reading that is stale or missing, a
place that is unknown and a position that nobody taught are violations like any other: unknown blocks motion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.model import dock_rules, store_rules
from controller.model.intent import Step, StepKind
from controller.model.layout import Layout
from controller.model.situation import NotKnown, PackView, Rule, Situation
from controller.model.snapshot import StationSnapshot
from hal.errors import StaleReading

__all__ = [
    "RULES",
    "STEP_RULES",
    "PackView",
    "Rule",
    "StepRules",
    "Violation",
    "concerns",
    "holds_violations",
    "requires_violations",
]

RULES: Mapping[str, Rule] = {**dock_rules.RULES, **store_rules.RULES}


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that does not hold: its name, and what is wrong, for a person. ``known``: seen so, not only not seen."""

    rule: str
    detail: str
    known: bool = True


@dataclass(frozen=True, slots=True)
class StepRules:
    """Names of the rules of one kind of step."""

    requires: tuple[str, ...]
    holds_while: tuple[str, ...]


_SECURED = ("in_place", "clamped", "raised", "park_and_brake", "high_voltage_off", "doors_closed", "gate_closed")
_BORNE = ("lift_up", "aligned", "heads_engaged")
_GUARDED = ("zone_safe", "zone_quiet", "curtain_armed")
_TRAVEL = ("zone_safe", "zone_quiet", "curtain_not_broken", "lift_down", "fork_out_of_dock")
_EXCHANGE = ("zone_safe", "zone_quiet", "table_served", "slot_unplugged")
_LOWERING = ("zone_safe", "curtain_armed", "held_if_present", "shuttle_still", "bolts_of_one_mind")

STEP_RULES: Mapping[StepKind, StepRules] = {
    StepKind.CLAMP_VEHICLE: StepRules(
        ("zone_safe", "curtain_not_broken", "in_place_stable", "lift_down"),
        ("zone_safe", "curtain_not_broken", "in_place"),
    ),
    StepKind.RAISE_VEHICLE: StepRules(
        ("zone_safe", "curtain_not_broken", "in_place_stable", "clamped", "lift_down"),
        ("zone_safe", "curtain_not_broken", "in_place", "clamped"),
    ),
    StepKind.SECURE_VEHICLE: StepRules(("in_place_stable",), ("in_place",)),
    StepKind.ALIGN_SHUTTLE: StepRules(_TRAVEL, _TRAVEL),
    StepKind.RETURN_SHUTTLE: StepRules(_TRAVEL, _TRAVEL),
    StepKind.RAISE_TABLE: StepRules(
        (
            *(*_GUARDED, *_SECURED, "in_place_stable", "no_pack_current"),
            *("mount_there", "aligned", "not_two_packs", "table_as_known"),
        ),
        (*_GUARDED, *_SECURED, "aligned"),
    ),
    StepKind.LOWER_TABLE: StepRules(_LOWERING, _LOWERING),
    StepKind.UNLOCK_PACK: StepRules(
        (
            *(*_GUARDED, *_SECURED, "in_place_stable", "no_pack_current", *_BORNE),
            *("pack_in_mount", "table_empty_and_reserved", "exit_reserved"),
        ),
        (*_GUARDED, *_SECURED, "no_pack_current", *_BORNE),
    ),
    StepKind.LOCK_PACK: StepRules(
        (*_GUARDED, *_SECURED, "in_place_stable", "no_pack_current", *_BORNE, "pack_on_lift"),
        (*_GUARDED, *_SECURED, *_BORNE),
    ),
    StepKind.CHECK_PACK: StepRules(("in_place", "clamped", "mount_proven"), ("in_place", "clamped")),
    # Not necessarily clamped: after an abort a vehicle may stand free, and waking it is the way out.
    StepKind.WAKE_VEHICLE: StepRules(
        ("in_place", "park_applied", "lift_down", "bolts_proven", "mounts_checked"),
        ("in_place", "lift_down"),
    ),
    StepKind.LOWER_VEHICLE: StepRules(
        ("zone_safe", "curtain_not_broken", "in_place", "clamped", "lift_down", "bolts_proven"),
        ("zone_safe", "curtain_not_broken", "in_place", "clamped", "lift_down"),
    ),
    StepKind.UNCLAMP_VEHICLE: StepRules(
        (
            *("zone_safe", "curtain_not_broken", "in_place", "park_applied", "awake"),
            *("lowered", "lift_down", "bolts_proven"),
        ),
        ("zone_safe", "curtain_not_broken", "in_place", "park_applied", "lowered", "lift_down"),
    ),
    StepKind.RELEASE_VEHICLE: StepRules(
        ("unclamped", "lowered", "lift_down", "bolts_proven", "mounts_checked", "awake"),
        ("unclamped", "lowered", "lift_down"),
    ),
    StepKind.MOVE_STACKER: StepRules(
        ("zone_safe", "zone_quiet", "fork_retracted", "fork_as_known"),
        ("zone_safe", "zone_quiet", "fork_retracted"),
    ),
    StepKind.EXTEND_FORK: StepRules(
        (*_EXCHANGE, "fork_as_known", "stacker_in_place", "target_fits"),
        (*_EXCHANGE, "stacker_in_place"),
    ),
    StepKind.LIFT_PACK: StepRules(
        (*_EXCHANGE, "fork_in_place", "stacker_over_place", "pack_to_lift"),
        (*_EXCHANGE, "fork_in_place", "stacker_over_place"),
    ),
    StepKind.SET_DOWN_PACK: StepRules(
        (*_EXCHANGE, "fork_in_place", "stacker_over_place", "place_to_fill"),
        (*_EXCHANGE, "fork_in_place", "stacker_over_place"),
    ),
    StepKind.RETRACT_FORK: StepRules(("zone_safe", "fork_may_retract"), ("zone_safe", "fork_may_retract")),
    StepKind.STOP_CHARGER: StepRules((), ()),
    StepKind.DISENGAGE_CONNECTOR: StepRules(
        ("zone_safe", "fork_out_of_slot", "current_safe"), ("zone_safe", "fork_out_of_slot", "current_safe")
    ),
    StepKind.ENGAGE_CONNECTOR: StepRules(
        ("zone_safe", "zone_quiet", "fork_out_of_slot", "current_safe", "pack_in_slot"),
        ("zone_safe", "zone_quiet", "fork_out_of_slot", "current_safe"),
    ),
    StepKind.IDENTIFY_PACK: StepRules(("connector_in",), ("connector_in",)),
    StepKind.START_CHARGER: StepRules(
        ("zone_safe", "zone_quiet", "connector_in", "pack_in_slot", "pack_heard_and_known", "pack_may_charge"),
        ("zone_safe", "zone_quiet", "connector_in", "pack_heard_and_known", "within_bms_limits"),
    ),
}


def requires_violations(
    snapshot: StationSnapshot, step: Step, layout: Layout, packs: PackView
) -> tuple[Violation, ...]:
    """Return every requirement of the step that is not met now; empty: it may begin."""
    return _violations(STEP_RULES[step.kind].requires, Situation(snapshot, step, layout, packs))


def holds_violations(snapshot: StationSnapshot, step: Step, layout: Layout, packs: PackView) -> tuple[Violation, ...]:
    """Return everything that should hold while the step acts and does not; empty: it may go on."""
    return _violations(STEP_RULES[step.kind].holds_while, Situation(snapshot, step, layout, packs))


def concerns(device: str, step: Step, layout: Layout) -> bool:
    """Whether a device's readings can matter to the step's rules: those of other slots and docks cannot.

    An I/O module's always can: it carries inputs of whatever is wired to it.
    """
    owner, _, role = device.partition(".")
    if role == "io":
        return True
    if layout.is_slot(owner):
        return owner == step.place
    if owner in layout.docks:
        served = layout.dock_of(step.place)
        return owner == step.dock or (served is not None and owner == served.dock_id)
    return True


def _violations(names: Iterable[str], now: Situation) -> tuple[Violation, ...]:
    found = []
    for name in names:
        try:
            wrong = RULES[name].check(now)
        except (StaleReading, NotKnown) as error:
            found.append(Violation(name, str(error), known=False))
        else:
            if wrong is not None:
                found.append(Violation(name, wrong))
    return tuple(found)
