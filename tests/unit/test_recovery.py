from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest

from controller.model.intent import Step, StepKind
from controller.model.recovery import RETRIES_MAX, RULES, SET_POINT_STEPS, Problem, Reaction, decide
from controller.runner import InterlockBlocked, StepTimeout
from hal.errors import (
    DeviceFaulted,
    DeviceRefused,
    HalError,
    LinkDown,
    MotionFailed,
    NoReply,
    NotClaimed,
    NotReady,
    Outcome,
    ProtocolError,
    StaleReading,
    StopLatched,
)

ERRORS: tuple[HalError, ...] = (
    LinkDown("d", "op", "x"),
    NoReply("d", "op", "x"),
    ProtocolError("d", "op", "x"),
    DeviceRefused("d", "op", "x", 3),
    DeviceFaulted("d", "op", "x", 4),
    MotionFailed("d", "op", "x"),
    StaleReading("d", "op", "x"),
    NotClaimed("d", "op", "x"),
    NotReady("d", "op", "x"),
    StopLatched("d", "op", "x"),
)


def _expected(error: HalError, kind: StepKind, attempt: int) -> Reaction:
    if isinstance(error, StopLatched):
        return Reaction.HOLD
    if error.outcome is Outcome.FAILED:
        return Reaction.REPLAN if kind is StepKind.CHECK_PACK else Reaction.HOLD
    if error.outcome is Outcome.UNKNOWN and kind not in SET_POINT_STEPS:
        return Reaction.HOLD
    return Reaction.RETRY if attempt <= RETRIES_MAX else Reaction.HOLD


def test_every_error_is_tried() -> None:
    """The sweep below holds every error that a device call can end with."""

    def kinds(error: type[HalError]) -> set[type[HalError]]:
        return {error}.union(*(kinds(sub) for sub in error.__subclasses__())) if error.__subclasses__() else {error}

    ours = {kind for kind in kinds(HalError) - {HalError} if kind.__module__ == "hal.errors"}
    assert {type(error) for error in ERRORS} == ours


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_device_errors(error: HalError) -> None:
    """Nothing that may have moved is tried again; nothing is tried more than twice again."""
    for kind, attempt in product(StepKind, range(1, 6)):
        assert decide(error, Step(kind), attempt) is _expected(error, kind, attempt), (kind, attempt)


@pytest.mark.parametrize("kind", StepKind)
def test_interlock_and_limit(kind: StepKind) -> None:
    """A blocked step is planned anew; a passed limit holds, but for a pack that the vehicle does not accept."""
    step = Step(kind)
    assert decide(InterlockBlocked(step, ()), step, 1) is Reaction.REPLAN
    expected = Reaction.REPLAN if kind is StepKind.CHECK_PACK else Reaction.HOLD
    assert decide(StepTimeout(step, "late"), step, 1) is expected


@dataclass
class _Strange:
    """A problem that no rule knows."""

    violation: str = "?"


@pytest.mark.parametrize("problem", [_Strange(), ValueError("bug"), None])
def test_what_is_not_listed_stops_everything(problem: Problem) -> None:
    """What nobody thought of is a bug, and stops the station safely."""
    assert decide(problem, Step(StepKind.RAISE_TABLE), 1) is Reaction.SAFE_STOP


def test_every_rule_gives_its_reason() -> None:
    """Each row says when and why, once."""
    assert len({rule.when for rule in RULES}) == len(RULES)
    assert all(rule.why for rule in RULES)
