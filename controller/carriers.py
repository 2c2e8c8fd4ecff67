"""Carriers do the planner's moves. The planner cannot tell one kind of carrier from another.

``AxisCarrier`` makes a move of our own steps, asking after each where things are. A robot that owns its motion and
takes orders would be another class with the same method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from controller.model.intent import Move, Step
from controller.model.layout import Layout
from controller.model.recovery import Problem, Reaction, decide
from controller.model.transfers import MoveImpossible, next_step
from controller.observer import StationObserver
from controller.records.ledger import Ledger
from controller.runner import InterlockBlocked, StepFailed, StepRunner, StepTimeout
from hal.errors import StaleReading

RETRY_PAUSE_S = 0.5  # for whatever refused to be over; a retry is at most the second and third try of a step
TRIES_MAX = 5  # recovery decides earlier; this ends a step that is proven done and yet asked for again
STALE_LIMIT_S = 2.0  # a reading that this move needs may be this late before the move gives up


class MoveEnded(Exception):
    """A move ended before it was finished. ``reaction`` says what is to follow; the cause is chained."""

    def __init__(self, reaction: Reaction, detail: str, step: Step | None) -> None:
        super().__init__(detail)
        self.reaction = reaction
        self.detail = detail
        self.step = step


class Carrier(Protocol):
    """Purpose: finish a move from wherever things are.

    Cancellation: stops every device of the move (bounded), journals where the pack is, lets CancelledError through.
    """

    async def transfer(self, move: Move, may_go_on: Callable[[], bool]) -> None:
        """Finish ``move``. Moves things. Between steps it ends quietly as soon as ``may_go_on()`` is false.

        Raises:
            MoveEnded: it did not come to its end; says what is to follow.
        """
        ...


class AxisCarrier:
    """A carrier made of our own axes, locks, connectors and chargers, one step after the other."""

    def __init__(self, runner: StepRunner, observer: StationObserver, ledger: Ledger, layout: Layout) -> None:
        self._runner = runner
        self._observer = observer
        self._ledger = ledger
        self._layout = layout

    async def transfer(self, move: Move, may_go_on: Callable[[], bool]) -> None:
        """See Carrier."""
        attempt = 0
        last: Step | None = None
        while may_go_on():
            step = await self._next(move, last)
            if step is None:
                return
            attempt = attempt + 1 if step == last else 1
            if attempt > TRIES_MAX:
                raise MoveEnded(
                    Reaction.HOLD, f"{step.kind} was done {TRIES_MAX} times and is still to be done", step
                )
            last = step
            await self._run(step, attempt)

    async def _next(self, move: Move, last: Step | None) -> Step | None:
        """Ask for the next step, waiting a bounded while for a reading that is late."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STALE_LIMIT_S
        while True:
            try:
                return next_step(move, self._observer.snapshot(), self._ledger.inventory, self._layout)
            except MoveImpossible as error:
                raise MoveEnded(Reaction.HOLD, str(error), last) from error
            except StaleReading as error:
                if loop.time() >= deadline:
                    raise MoveEnded(Reaction.HOLD, f"cannot go on: {error}", last) from error
                await self._observer.refresh((error.device,))
                await asyncio.sleep(RETRY_PAUSE_S / 5)

    async def _run(self, step: Step, attempt: int) -> None:
        try:
            await self._runner.run(step)
        except (InterlockBlocked, StepTimeout, StepFailed) as error:
            reaction = decide(_problem(error), step, attempt)
            if reaction is not Reaction.RETRY:
                raise MoveEnded(reaction, str(error), step) from error
            await asyncio.sleep(RETRY_PAUSE_S)
        except Exception as error:
            raise MoveEnded(Reaction.SAFE_STOP, f"{type(error).__name__}: {error}", step) from error


def _problem(error: InterlockBlocked | StepTimeout | StepFailed) -> Problem:
    if isinstance(error, StepFailed):
        return error.error
    return error
