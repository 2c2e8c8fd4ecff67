"""Runs one step: journal the intent, check, act, confirm, journal the outcome. The only place where steps act.

The order is fixed: intent synced → requirements on a fresh snapshot → act under the step's limit, with what must hold
evaluated on every new reading → confirm by another signal → outcome synced → inventory. Whatever ends a step early
stops its devices first and is then raised; the first error is the one reported.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from controller.config_tables import StepTiming
from controller.devices import commandable
from controller.events import EventBus, StepEvent
from controller.model.intent import Step, StepKind
from controller.model.interlocks import Violation, concerns, holds_violations, requires_violations
from controller.model.inventory import InventoryRecord, PlaceUnknown
from controller.observer import StationObserver
from controller.records.ledger import Ledger
from controller.steps import STEPS, Hands, StepSpec, places_after, places_after_failure
from hal.errors import HalError, StaleReading

REQUIRES_LIMIT_S = 20.0  # what a gate, a driver or a settling sensor may take; then a person is asked
HOLDS_CHECK_S = 0.2  # readings grow stale without a change being told: look this often all the same
SETTLE_LIMIT_S = 3.0  # for a cancelled act to stop its device; the drive's own watchdog takes 1 s
SENSE_LIMIT_S = 1.0  # for presence sensors to agree after a stop
CONFIRM_POLL_S = 0.25  # ask the witnesses again this often while a confirmation is awaited


class StepError(Exception):
    """A step did not end well. ``step`` says which; the cause is chained."""

    def __init__(self, step: Step, detail: str) -> None:
        where = step.place or step.dock
        super().__init__(f"{step.kind} at {where}: {detail}")
        self.step = step
        self.detail = detail


class InterlockBlocked(StepError):
    """A requirement, or something that must hold meanwhile, is violated; ``acting`` tells which."""

    def __init__(self, step: Step, violations: tuple[Violation, ...], *, acting: bool = False) -> None:
        super().__init__(step, "; ".join(v.detail for v in violations))
        self.violations = violations
        self.acting = acting


class StepTimeout(StepError):
    """Not done, or not confirmed, within the limit. Never treated as done."""


class StepFailed(StepError):
    """The device call ended with an error; ``error`` is the first one."""

    def __init__(self, step: Step, error: HalError) -> None:
        super().__init__(step, str(error))
        self.error = error


class StepRunner:
    """Runs steps for anybody who holds no device itself. One instance per station; steps may run side by side."""

    def __init__(
        self,
        hands: Hands,
        observer: StationObserver,
        ledger: Ledger,
        events: EventBus,
        timing: Mapping[StepKind, StepTiming],
    ) -> None:
        self._hands = hands
        self._observer = observer
        self._ledger = ledger
        self._events = events
        self._timing = timing
        self._devices = commandable(hands.hal)
        self.running: dict[int, Step] = {}

    async def run(self, step: Step) -> None:
        """Run one step to its confirmed end. May move things.

        Raises:
            InterlockBlocked: a requirement was not met in time (nothing has moved), or stopped holding (stopped).
            StepTimeout: limit passed; the device was stopped.
            StepFailed: the device call failed; its outcome is in ``error.outcome``.
            StoreError: the intent could not be written (nothing has moved), or the outcome (it has).
            CancelledError: after the device was stopped and the outcome journalled.
        """
        spec, timing = STEPS[step.kind], self._timing[step.kind]
        loop = asyncio.get_running_loop()
        intent = await self._ledger.intent(step)
        self.running[intent] = step
        started_at = loop.time()
        self._publish(spec, step, "started", started_at)
        try:
            async with AsyncExitStack() as claims:
                await self._claim(claims, spec, step)
                await self._await_requirements(spec, step, started_at)
                await self._act_and_confirm(spec, step, timing)
            await self._ledger.done(intent, step, places_after(step, self._hands.layout, self._ledger.inventory))
            self._publish(spec, step, "done", started_at)
        except BaseException as error:
            await self._finish_badly(spec, step, intent, error)
            self._publish(spec, step, "failed", started_at, _reason(error))
            raise
        finally:
            del self.running[intent]

    async def wind_up(self) -> None:
        """Journal the end of every step that a power cut or a crash cut short, with where its pack is by the sensors.

        Call it once, when the devices are heard and before anything is started. Moves nothing.

        Raises:
            StoreError: the journal could not be written.
        """
        for intent, step in list(self._ledger.unfinished.items()):
            records = await self._where_packs_are(STEPS[step.kind], step)
            await self._ledger.failed(intent, step, "the controller was restarted", records)

    # --- the parts, in order ------------------------------------------------------------------------------------

    async def _claim(self, claims: AsyncExitStack, spec: StepSpec, step: Step) -> None:
        owner = step.swap_id or step.kind
        for device in spec.commands(self._hands.layout, step):
            try:
                await claims.enter_async_context(self._devices[device].claim(owner))
            except HalError as error:
                raise StepFailed(step, error) from error

    async def _await_requirements(self, spec: StepSpec, step: Step, started_at: float) -> None:
        """Wait, bounded, until every requirement holds on fresh readings: a gate that closes, a vehicle at rest."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REQUIRES_LIMIT_S
        told: tuple[Violation, ...] = ()
        while True:
            await self._observer.refresh(self._involved(spec, step))
            snapshot = self._observer.snapshot()
            violations = requires_violations(snapshot, step, self._hands.layout, self._ledger.inventory)
            if not violations:
                return
            if loop.time() >= deadline:
                raise InterlockBlocked(step, violations)
            if [v.rule for v in violations] != [v.rule for v in told]:
                told = violations
                self._publish(spec, step, "waiting", started_at, "; ".join(v.detail for v in violations))
            await self._next_reading()

    async def _act_and_confirm(self, spec: StepSpec, step: Step, timing: StepTiming) -> None:
        missing = "the device has not reported done"
        try:
            async with asyncio.timeout(timing.limit_s):
                try:
                    await self._guarded(step, spec.act(self._hands, step, self._observer.snapshot()))
                except HalError as error:
                    raise StepFailed(step, error) from error
                while True:
                    await self._observer.refresh(self._involved(spec, step))
                    why = self._confirmed(spec, step)
                    if why is None:
                        return
                    missing = why
                    await self._guarded(step, self._next_reading())
        except TimeoutError:
            raise StepTimeout(step, f"not confirmed after {timing.limit_s:.0f} s: {missing}") from None

    def _confirmed(self, spec: StepSpec, step: Step) -> str | None:
        try:
            return spec.confirm(self._hands.layout, step, self._observer.snapshot())
        except StaleReading as error:
            return str(error)

    async def _guarded(self, step: Step, act: Awaitable[None]) -> None:
        """Run ``act`` while everything that must hold does; else cancel it, wait until it stopped, and raise.

        ``act`` is cancelled and awaited on every way out, so that no device call outlives its step.
        """
        loop = asyncio.get_running_loop()
        tripped: asyncio.Future[tuple[Violation, ...]] = loop.create_future()

        def look(device: str = "") -> None:
            if tripped.done() or not concerns(device, step, self._hands.layout):
                return
            snapshot = self._observer.snapshot()
            found = holds_violations(snapshot, step, self._hands.layout, self._ledger.inventory)
            if found:
                tripped.set_result(found)

        task = asyncio.ensure_future(act)
        task.add_done_callback(_error_of)  # seen, also where nobody waits for it any more
        unsubscribe = self._observer.on_change(look)
        look()
        ticker = loop.create_task(_every(HOLDS_CHECK_S, look))
        try:
            waited: set[asyncio.Future[Any]] = {task, tripped}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            unsubscribe()
            ticker.cancel()
            if not task.done():
                task.cancel()
                await _settled(task)
        if tripped.done():
            # What the act itself had to say while it was being stopped comes second.
            raise InterlockBlocked(step, tripped.result(), acting=True) from _error_of(task)
        await task

    async def _next_reading(self) -> None:
        arrived = asyncio.Event()
        unsubscribe = self._observer.on_reading(lambda _device: arrived.set())
        try:
            async with asyncio.timeout(CONFIRM_POLL_S):
                await arrived.wait()
        except TimeoutError:
            return  # nothing new: the caller asks the witnesses itself
        finally:
            unsubscribe()

    async def _finish_badly(self, spec: StepSpec, step: Step, intent: int, error: BaseException) -> None:
        """Journal how the step ended and where its pack is; a second cancellation does not cut this short."""

        async def write() -> None:
            records = await self._where_packs_are(spec, step)
            await self._ledger.failed(intent, step, _reason(error), records)

        task = asyncio.get_running_loop().create_task(write())
        await _settled(task, math.inf)  # the journal has limits of its own; until it has answered, the claim stays
        cleanup = _error_of(task)
        if not isinstance(cleanup, Exception):
            return
        if isinstance(error, Exception):
            raise ExceptionGroup(f"{step.kind}: run and clean-up both failed", [error, cleanup])
        error.add_note(f"clean-up failed too: {cleanup}")  # a cancellation stays a cancellation

    async def _where_packs_are(self, spec: StepSpec, step: Step) -> tuple[InventoryRecord, ...]:
        """Look until the sensors agree, or have had their time: contacts bounce while a load settles."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SENSE_LIMIT_S
        while True:
            await self._observer.refresh(self._involved(spec, step))
            records = places_after_failure(
                step, self._hands.layout, self._ledger.inventory, self._observer.snapshot()
            )
            if loop.time() >= deadline or not any(isinstance(record, PlaceUnknown) for record in records):
                return records
            await asyncio.sleep(SENSE_LIMIT_S / 5)

    def _involved(self, spec: StepSpec, step: Step) -> tuple[str, ...]:
        layout = self._hands.layout
        return tuple(dict.fromkeys((*spec.commands(layout, step), *spec.witnesses(layout, step))))

    def _publish(self, spec: StepSpec, step: Step, state: str, started_at: float, detail: str = "") -> None:
        now = asyncio.get_running_loop().time()
        self._events.publish(
            StepEvent(
                at=now,
                kind=step.kind,
                dock=step.dock,
                place=step.place,
                pack=step.pack,
                swap_id=step.swap_id,
                state=state,
                devices=spec.commands(self._hands.layout, step),
                expected_s=self._timing[step.kind].expected_s,
                elapsed_s=now - started_at,
                detail=detail,
            )
        )


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "aborted"
    return error.detail if isinstance(error, StepError) else f"{type(error).__name__}: {error}"


async def _every(period_s: float, call: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(period_s)
        call()


async def _settled(task: asyncio.Future[None], limit_s: float = SETTLE_LIMIT_S) -> None:
    """Wait, at most ``limit_s``, until a task has ended, however often we are cancelled; then let that through."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    cancelled: asyncio.CancelledError | None = None
    while not task.done() and loop.time() < deadline:
        try:
            await asyncio.wait({task}, timeout=None if math.isinf(deadline) else deadline - loop.time())
        except asyncio.CancelledError as again:
            cancelled = again
    if cancelled is not None:
        raise cancelled


def _error_of(task: asyncio.Future[None]) -> BaseException | None:
    if not task.done() or task.cancelled():
        return None
    return task.exception()
