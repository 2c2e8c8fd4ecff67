"""What to do about a step that did not end well."""
from __future__ import annotations
from enum import StrEnum
from controller.model.intent import Step
from hal.errors import HalError, Outcome
class Reaction(StrEnum):
    RETRY = "retry"; REPLAN = "replan"; HOLD = "hold"; SAFE_STOP = "safe_stop"
Problem = object
def decide(problem: object, step: Step, attempt: int) -> Reaction:
    if isinstance(problem, HalError) and problem.outcome in {Outcome.NOT_SENT, Outcome.REFUSED} and attempt < 3:
        return Reaction.RETRY
    return Reaction.HOLD
