"""What to do when a step did not end well: one table, first match wins, every row with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from controller.model.intent import Step, StepKind
from hal.errors import HalError, Outcome, StopLatched


class Reaction(StrEnum):
    """How a move goes on after a step that did not end well."""

    RETRY = "retry"  # the same step again, from what the sensors say now
    REPLAN = "replan"  # end this move; the planner decides from where things are
    HOLD = "hold"  # end this move; a person must look
    SAFE_STOP = "safe_stop"  # stop everything: this should not have happened


@runtime_checkable
class Blocked(Protocol):
    """An interlock refused the step, or stopped it while it ran."""

    @property
    def violations(self) -> Sequence[object]:
        """The rules that were violated."""
        ...


@runtime_checkable
class Overdue(Protocol):
    """A step was not done, or not confirmed, within its limit; its device has been stopped."""

    @property
    def step(self) -> Step:
        """The step."""
        ...

    @property
    def detail(self) -> str:
        """What was waited for."""
        ...


Problem = HalError | Blocked | Overdue

RETRIES_MAX = 2  # a third refusal of the same thing is no accident

VEHICLE_RULES = frozenset({"in_place", "park_and_brake", "park_applied", "high_voltage_off", "doors_closed"})

SET_POINT_STEPS = frozenset(
    {
        StepKind.SECURE_VEHICLE,
        StepKind.CHECK_PACK,
        StepKind.WAKE_VEHICLE,
        StepKind.STOP_CHARGER,
        StepKind.IDENTIFY_PACK,
        StepKind.START_CHARGER,
    }
)
"""Steps that ask for a state and move nothing of ours: to ask twice is to ask once."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: ``retries`` times RETRY, then ``reaction``."""

    when: str
    matches: Callable[[object, Step], bool]
    retries: int
    reaction: Reaction
    why: str


def _outcome(*outcomes: Outcome) -> Callable[[object, Step], bool]:
    return lambda problem, step: isinstance(problem, HalError) and problem.outcome in outcomes and bool(step)


def _check_says_no(problem: object, step: Step) -> bool:
    failed = isinstance(problem, HalError) and problem.outcome is Outcome.FAILED
    late = isinstance(problem, Overdue) and not isinstance(problem, (HalError, Blocked))
    return step.kind is StepKind.CHECK_PACK and (failed or late)


def _vehicle_moved(problem: object, step: Step) -> bool:
    if not isinstance(problem, Blocked) or not getattr(problem, "acting", False) or step.kind in SET_POINT_STEPS:
        return False
    return any(getattr(v, "known", False) and getattr(v, "rule", "") in VEHICLE_RULES for v in problem.violations)


def _set_point_unanswered(problem: object, step: Step) -> bool:
    return isinstance(problem, HalError) and problem.outcome is Outcome.UNKNOWN and step.kind in SET_POINT_STEPS


RULES: tuple[Rule, ...] = (
    Rule(
        "a stop is latched",
        lambda problem, _: isinstance(problem, StopLatched),
        0,
        Reaction.HOLD,
        "somebody or something stopped the device on purpose: it must not be tried again behind their back",
    ),
    Rule(
        "the vehicle moved, or was made to move, while a device worked on it",
        _vehicle_moved,
        0,
        Reaction.SAFE_STOP,
        "somebody may be there, and what the station knows of the vehicle is no longer true",
    ),
    Rule(
        "an interlock blocks it",
        lambda problem, _: isinstance(problem, Blocked),
        0,
        Reaction.REPLAN,
        "nothing is done against an interlock; what is possible now follows from where things are",
    ),
    Rule(
        "the vehicle does not accept the pack",
        _check_says_no,
        0,
        Reaction.REPLAN,
        "once the pack is noted as failed, the planner takes another, or puts the old one back",
    ),
    Rule(
        "it was not sent, or refused",
        _outcome(Outcome.NOT_SENT, Outcome.REFUSED),
        RETRIES_MAX,
        Reaction.HOLD,
        "nothing has happened, so it may be asked again; a lasting refusal needs a person",
    ),
    Rule(
        "no answer to a set-point",
        _set_point_unanswered,
        RETRIES_MAX,
        Reaction.HOLD,
        "it asks for a state and moves nothing of ours: to ask again is harmless",
    ),
    Rule(
        "no answer to a motion",
        _outcome(Outcome.UNKNOWN),
        0,
        Reaction.HOLD,
        "it may have happened, and something may be half-way: a person looks before it moves again",
    ),
    Rule(
        "the device failed",
        _outcome(Outcome.FAILED),
        0,
        Reaction.HOLD,
        "a jam, a stuck bolt or a drive fault does not mend itself, and force makes it worse",
    ),
    Rule(
        "the limit has passed",
        lambda problem, _: isinstance(problem, Overdue) and not isinstance(problem, HalError),
        0,
        Reaction.HOLD,
        "late is not done, and longer than the limit is not normal",
    ),
)


def decide(problem: Problem, step: Step, attempt: int) -> Reaction:
    """Return what to do about a problem.

    Args:
        problem: the device's error, the interlock's refusal, or the passed limit. Anything else is a bug of ours
            and gives SAFE_STOP.
        step: the step that did not end well.
        attempt: how often it has been tried now, from 1.
    """
    for rule in RULES:
        if rule.matches(problem, step):
            return Reaction.RETRY if attempt <= rule.retries else rule.reaction
    return Reaction.SAFE_STOP
