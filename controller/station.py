"""The station: has the model decide what may start, has carriers do it, and sees to what follows.

One loop: note who arrived, plan from where things are, start what may start, end what has ended. It turns on every
finished move and step, on what an input or a vehicle says anew, and every second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from controller.carriers import Carrier, MoveEnded
from controller.events import Event, FaultEvent, PackEvent, StepEvent, SwapEvent
from controller.fault_manager import EVERYWHERE, Change, Fault
from controller.fault_watch import FaultWatch
from controller.lights import StackLights
from controller.model.faults import Effect
from controller.model.goals import SwapRefused, goals_for
from controller.model.intent import Goal, Move, MoveKind, SwapOrder
from controller.model.inventory import (
    InventoryError,
    InventoryRecord,
    PackArrived,
    PackLeft,
    PackMoved,
    PackNoted,
    Unreserved,
)
from controller.model.layout import DockLayout
from controller.model.phases import Command, State, SwapPhase, SwapResult
from controller.model.planner import (
    StationFacts,
    facts_from,
    homeward,
    plan,
    refusal,
    reservations,
    stale_reservations,
)
from controller.model.progress import phase_of
from controller.model.recovery import Reaction
from controller.model.snapshot import StationSnapshot
from controller.records.ledger import Swap
from controller.units import STORE, Unit, UnitParts, UnitRefused, unit_of
from controller.visitors import Visitors
from hal.errors import StaleReading

_log = logging.getLogger(__name__)

TICK_S = 1.0
READY_LIMIT_S = 10.0  # at start: for the first readings; a station with dead devices serves all the same
REPLAN_PAUSE_S = 2.0  # before a move that ended in REPLAN may start again
REPLANS_MAX = 3  # of one move in one swap; then a person must look
OUT_STATES = frozenset({State.ABORTING, State.ABORTED, State.CLEARING})
PASSING_STATES = frozenset({State.STARTING, State.SUSPENDING, State.UNSUSPENDING})  # end by themselves, at once
SLOT_MOVES = frozenset({MoveKind.FREE_SLOT, MoveKind.HAND_OFF})


@dataclass(slots=True)
class _Running:
    task: asyncio.Task[None]
    unit: str


@dataclass(slots=True)
class _Memory:
    """What is known only while this process lives; none of it is needed to be safe."""

    phases: dict[str, SwapPhase] = field(default_factory=dict)
    replans: dict[Move, int] = field(default_factory=dict)
    pause_until: dict[Move, float] = field(default_factory=dict)
    signatures: dict[str, object] = field(default_factory=dict)


class Station:
    """Everything of one station. ``run()`` until cancelled; commands may come at any time after ``ready``.

    Attributes:
        ready: set when the units have booted.
        alive: called in every turn of the loop, for whoever watches over it.
        units: by id.
    """

    def __init__(
        self, parts: UnitParts, carrier: Carrier, watch: FaultWatch, wind_up: Callable[[], Awaitable[None]]
    ) -> None:
        """``wind_up``: ends what an earlier life of the controller left unfinished in the journal."""
        self.parts = parts
        self.ready = asyncio.Event()
        self.alive: Callable[[], None] = _nobody_asks
        self._carrier = carrier
        self._wind_up = wind_up
        self.watch = watch
        self._wake = asyncio.Event()
        self._running: dict[Move, _Running] = {}
        self._memory = _Memory()
        self._admission = asyncio.Lock()
        self._tasks: asyncio.TaskGroup | None = None
        self.units = {unit_id: Unit(unit_id, parts, self) for unit_id in (*parts.layout.docks, STORE)}
        watch.wants_power = lambda device: self.units[unit_of(device, parts.layout)].state not in OUT_STATES
        self._visitors = Visitors(parts)
        self._lights = StackLights(parts.hal, self.units, lambda: not self.orders())

    # --- running -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled; then every move has wound up, its devices stopped."""
        unsubscribe = (
            self.parts.observer.on_reading(self._on_reading),
            self.parts.observer.on_change(self._on_change),
            self.parts.events.subscribe(self._on_event),
            self.parts.ledger.on_record(self._on_record),
            self.watch.faults.on_change(self._on_fault),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await self._first_readings()
                await self._wind_up()
                for unit in self.units.values():
                    unit.boot()
                self.ready.set()
                tasks.create_task(self._lights.run(), name="lamps")
                await self._decide_for_ever()
        finally:
            for stop in unsubscribe:
                stop()
            for unit in self.units.values():
                await unit.close()

    async def _first_readings(self) -> None:
        """Wait until the safety inputs of every unit are heard, or the limit has passed: unknown boots to Aborted."""
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                await self.parts.observer.refresh(
                    d for unit in self.units.values() for d in (unit.safety, *unit.axes)
                )
                while not all(self._heard(unit) for unit in self.units.values()):  # noqa: ASYNC110 - ages, no event
                    await asyncio.sleep(TICK_S / 10)
        except TimeoutError:
            _log.warning("not every safety input is heard %.0f s after the start", READY_LIMIT_S)

    def _heard(self, unit: Unit) -> bool:
        try:
            self.parts.observer.snapshot().safety_of(unit.safety)
        except StaleReading:
            return False
        return True

    async def _decide_for_ever(self) -> None:
        while True:
            self._wake.clear()
            self.alive()
            try:
                await self._decide()
            except InventoryError as error:
                # The books and the station disagree: nobody may move before a person has looked.
                _log.exception("the books do not add up")
                for unit in self.units.values():
                    self._abort(unit, f"the books do not add up: {error}")
            try:
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _decide(self) -> None:
        snapshot = self.parts.observer.snapshot()
        await self._visitors.note(snapshot, busy=lambda dock: bool(self._moves_of(dock)))
        for swap, why in self._visitors.missed(snapshot):
            await self._end_swap(swap, SwapResult.CANCELLED, why)
        facts = self._facts(snapshot)
        if not self._running:
            stale = [Unreserved(place) for place in stale_reservations(facts, ())]
            await self.parts.ledger.places("no longer wanted", stale)
        for swap_id in homeward(facts, self.orders(), tuple(self._running)):
            await self.parts.ledger.swap_changed(swap_id, homeward=True)
        await self._start_moves(self._facts(snapshot))
        await self._end_swaps()
        self._tell_phases(snapshot)
        self._rest_units()

    def _facts(self, snapshot: StationSnapshot) -> StationFacts:
        ledger = self.parts.ledger
        return facts_from(
            self.parts.layout,
            ledger.inventory,
            snapshot,
            self.orders(),
            out_of_service=frozenset(self.watch.isolated()),
        )

    def vehicle_heard(self, dock: str) -> bool:
        """Whether the vehicle in or before a dock is heard now."""
        try:
            self.parts.observer.snapshot().vehicle(self.parts.layout.docks[dock].device("vehicle"))
        except StaleReading:
            return False
        return True

    def orders(self) -> tuple[SwapOrder, ...]:
        """Orders that still want something of the station, oldest first; a vehicle being released does not."""
        leaving = {move.dock for move in self._running if move.kind is MoveKind.RELEASE}
        swaps = self.parts.ledger.swaps.values()
        open_swaps = (swap.order for swap in swaps if not swap.released and swap.order.dock not in leaving)
        return tuple(sorted(open_swaps, key=lambda order: (order.ordered_at, order.swap_id)))

    # --- moves ---------------------------------------------------------------------------------------------------

    async def _start_moves(self, facts: StationFacts) -> None:
        now = asyncio.get_running_loop().time()
        for move in plan(facts, self.orders(), tuple(self._running)):
            unit = self.units[self._owner(move)]
            if self._memory.pause_until.get(move, 0.0) > now or self._dock_is_out(move):
                continue
            if unit.state is State.SUSPENDED and move.kind is MoveKind.HAND_OFF:
                unit.fire(Command.UNSUSPEND, f"{move.pack} is to be put on charge")
            if not unit.executes:
                continue
            held = reservations(move, facts)
            await self.parts.ledger.places(f"{move.kind} of {move.pack}", held)
            if not unit.executes:  # an abort may have come while the disk was written
                continue
            task = self._group.create_task(self._carry_out(move, unit), name=f"{move.kind} {move.pack or move.dock}")
            self._running[move] = _Running(task, unit.unit_id)

    def _owner(self, move: Move) -> str:
        if move.kind is MoveKind.TRANSFER:
            ends = {unit_of(move.origin, self.parts.layout), unit_of(move.destination, self.parts.layout)}
            return STORE if STORE in ends else ends.pop()
        return STORE if move.kind in SLOT_MOVES else move.dock

    async def _carry_out(self, move: Move, unit: Unit) -> None:
        try:
            await self._carrier.transfer(move, lambda: unit.executes)
            if move.kind is MoveKind.RELEASE:
                swap = self.parts.ledger.swaps.get(move.swap_id)
                if swap is not None:
                    await self._visitors.forget(move.dock)
        except MoveEnded as ended:
            if move.kind is MoveKind.CHECK and ended.reaction is Reaction.REPLAN and unit.executes:
                note = self.parts.ledger.inventory.note(move.pack)
                refused = PackNoted(move.pack, note.soc_pct, failed=True)
                await self.parts.ledger.places(f"the vehicle refuses {move.pack}: {ended.detail}", [refused])
            self._after_failure(move, unit, ended)
        except Exception as error:  # noqa: BLE001 - a bug of ours: safe stop, and everybody hears of it
            _log.exception("%s of %s ended with a bug of ours", move.kind, unit.unit_id)
            self._abort(unit, f"{type(error).__name__}: {error}")
        finally:
            self._running.pop(move, None)
            self._wake.set()

    def _dock_is_out(self, move: Move) -> bool:
        """Whether a move needs a dock that was stopped: it can go on once that is cleared."""
        docks = [self.parts.layout.dock_of(place) for place in (move.origin, move.destination) if place]
        return any(dock and self.units[dock.dock_id].state in OUT_STATES for dock in docks)

    def _after_failure(self, move: Move, unit: Unit, ended: MoveEnded) -> None:
        _log.warning("%s: %s ended: %s (%s)", unit.unit_id, move.kind, ended.detail, ended.reaction)
        if unit.state is not State.EXECUTE:
            return  # it was being stopped or aborted: that cause stays the first
        if ended.reaction is Reaction.REPLAN and self._may_replan(move):
            return
        self.watch.move_failed(unit, ended)
        isolated = move.kind in SLOT_MOVES and move.origin in self.watch.isolated()
        if isolated and ended.reaction is not Reaction.SAFE_STOP:
            return  # the slot is out of use; the store goes on
        if ended.reaction is Reaction.SAFE_STOP:
            self._abort(unit, ended.detail)
        elif unit.executes:  # the fault's own effect may have held it already
            unit.fire(Command.HOLD, ended.detail)

    def _may_replan(self, move: Move) -> bool:
        """Count a move that is planned anew; a dock that was stopped does not hold the store, others want it."""
        self._memory.replans[move] = self._memory.replans.get(move, 0) + 1
        self._memory.pause_until[move] = asyncio.get_running_loop().time() + REPLAN_PAUSE_S
        return self._memory.replans[move] <= REPLANS_MAX or self._dock_is_out(move)

    def reset_begins(self, unit_id: str) -> list[str]:
        """See UnitManager."""
        self.watch.forget_moves(unit_id)
        for memory in (self._memory.replans, self._memory.pause_until):
            memory.clear()
        return self.watch.blocking(unit_id)

    def in_the_way(self, unit_id: str) -> list[str]:
        """See UnitManager."""
        return self.watch.blocking(unit_id)

    def _on_fault(self, change: Change, fault: Fault) -> None:
        """React to a fault by its effect, never by its code."""
        number, name = fault.spec.number, fault.spec.name
        at = asyncio.get_running_loop().time()
        self.parts.events.publish(FaultEvent(at, number, name, fault.source, change.value, fault.detail))
        if change is Change.RAISED and self.ready.is_set():
            cause = f"{number} {fault.spec.title}: {fault.detail or fault.source}"
            for unit in self.units.values():
                if fault.scope_id in {unit.unit_id, *EVERYWHERE}:
                    self._react(unit, fault.spec.effect, cause)
        self._wake.set()

    def _react(self, unit: Unit, effect: Effect, cause: str) -> None:
        if effect is Effect.ABORT and unit.state is State.CLEARING:
            return  # what a Clear brings to light is what it is there to clear; it fails if it cannot
        if effect >= Effect.ABORT:
            if effect is Effect.SAFE_STOP:
                unit.trip()
            self._abort(unit, cause)
        elif effect is Effect.HOLD and unit.state in {State.EXECUTE, State.SUSPENDED}:
            unit.fire(Command.HOLD, cause)

    def _abort(self, unit: Unit, cause: str) -> None:
        if unit.state not in {State.ABORTING, State.ABORTED}:
            unit.fire(Command.ABORT, cause)

    def _moves_of(self, unit_id: str) -> list[_Running]:
        return [running for running in self._running.values() if running.unit == unit_id]

    async def stop_moves(self, unit_id: str) -> None:
        """End a unit's moves: at once when it aborts, else each at the end of its step. Waits until they have."""
        running = self._moves_of(unit_id)
        if self.units[unit_id].state is State.ABORTING:
            for move in running:
                move.task.cancel()
        if running:
            await asyncio.wait({move.task for move in running})

    @property
    def _group(self) -> asyncio.TaskGroup:
        if self._tasks is None:
            raise RuntimeError("the station does not run")
        return self._tasks

    # --- swaps ---------------------------------------------------------------------------------------------------

    async def start_swap(self, dock: str, goals: Mapping[str, str] | None) -> SwapOrder:
        """Accept a swap, or take up the one that is open in this dock. Units in Idle or Suspended are started.

        Raises:
            SwapRefused: with the reason; nothing has changed.
            UnitRefused: a unit is in a state that does not start.
        """
        layout = self.parts.layout.docks.get(dock)
        if layout is None:
            raise SwapRefused("not_found", f"there is no dock {dock!r}; docks: {', '.join(self.parts.layout.docks)}")
        async with self._admission:  # one at a time: each counts what those before it were promised
            return await self._admit(layout, goals)

    async def _admit(self, layout: DockLayout, goals: Mapping[str, str] | None) -> SwapOrder:
        dock = layout.dock_id
        units = (self.units[dock], self.units[STORE])
        for unit in units:
            await _passed(unit)
        for unit in units:
            if unit.state not in {State.IDLE, State.SUSPENDED, State.EXECUTE}:
                raise UnitRefused(unit.unit_id, "START", [f"it is {unit.state.name}: {unit.cause}"])
            if faults := self.watch.blocking(unit.unit_id):
                raise UnitRefused(unit.unit_id, "START", faults)
        swaps = self.parts.ledger.swaps.values()
        present = next((swap.order for swap in swaps if swap.order.dock == dock and not swap.released), None)
        if present is not None and units[0].state is not State.IDLE:
            raise SwapRefused("refused", f"{dock} is busy with swap {present.swap_id}")
        if present is not None and goals:
            raise SwapRefused(
                "refused", f"{present.swap_id} is open in {dock} and keeps its goals: start it without any"
            )
        order = present or await self._new_order(layout, goals)
        for unit in units:
            await _passed(unit)  # it may have been put to rest while the order was written
            start = {State.IDLE: Command.START, State.SUSPENDED: Command.UNSUSPEND}.get(unit.state)
            if start is not None:
                unit.fire(start, f"swap {order.swap_id}")
            elif unit.state is not State.EXECUTE:
                why = f"it is {unit.state.name}: {unit.cause}; {order.swap_id} is open and goes on when started again"
                raise UnitRefused(unit.unit_id, "START", [why])
        self._wake.set()
        return order

    async def _new_order(self, dock: DockLayout, goals: Mapping[str, str] | None) -> SwapOrder:
        snapshot = self.parts.observer.snapshot()
        try:
            vehicle = snapshot.vehicle(dock.device("vehicle"))
        except StaleReading as error:
            raise SwapRefused("refused", f"no vehicle is heard at {dock.dock_id}: {error}") from error
        wanted = goals_for(dock, goals, vehicle)
        loop = asyncio.get_running_loop()
        order = SwapOrder(
            f"swap-{self.parts.ledger.swap_count + 1}", dock.dock_id, vehicle.vehicle_id, wanted, loop.time()
        )
        facts = facts_from(
            self.parts.layout,
            self.parts.ledger.inventory,
            snapshot,
            (*self.orders(), order),
            out_of_service=frozenset(self.watch.isolated()),
        )
        why = refusal(order, facts)
        if why is not None:
            raise SwapRefused("refused", why)
        await self.parts.ledger.swap_ordered(order)
        self._memory.phases[order.swap_id] = SwapPhase.ADMITTED
        self._publish_swap(order, SwapPhase.ADMITTED)
        return order

    async def _end_swaps(self) -> None:
        """A swap ends when what it left in the station is in slots, on charge, or isolated there with a reason."""
        ledger = self.parts.ledger
        for swap in list(ledger.swaps.values()):
            if not swap.released:
                continue
            isolated = self.watch.isolated()
            places = {pack: ledger.inventory.place_of(pack) for pack in swap.old_packs}
            if not all(place and (place in isolated or self._settled_in(place)) for place in places.values()):
                continue
            wanted = any(goal is not Goal.KEEP for _, goal in swap.order.goals)
            result = SwapResult.RETURNED if wanted and not swap.old_packs and swap.order.homeward else SwapResult.DONE
            detail = "; ".join(
                f"{pack} in {place}: {isolated[place]}" for pack, place in places.items() if place in isolated
            )
            await self._end_swap(swap, result, detail)

    async def _end_swap(self, swap: Swap, result: SwapResult, detail: str) -> None:
        await self.parts.ledger.swap_ended(swap.order.swap_id, result, detail)
        self._memory.phases.pop(swap.order.swap_id, None)
        self._publish_swap(swap.order, "", result, detail)

    def _settled_in(self, place: str) -> bool:
        if place in self.parts.layout.store.quarantine:
            return True
        return self.parts.layout.is_slot(place) and place not in self.parts.ledger.inventory.to_hand_off

    def _tell_phases(self, snapshot: StationSnapshot) -> None:
        for swap in self.parts.ledger.swaps.values():
            phase = self.phase(swap, snapshot)
            if self._memory.phases.get(swap.order.swap_id) is not phase:
                self._memory.phases[swap.order.swap_id] = phase
                self._publish_swap(swap.order, phase)

    def phase(self, swap: Swap, snapshot: StationSnapshot) -> SwapPhase:
        """Return where a swap is."""
        if swap.released:
            return SwapPhase.HANDING_OFF
        if not swap.arrived:
            return SwapPhase.ADMITTED
        if any(move.kind is MoveKind.RELEASE and move.swap_id == swap.order.swap_id for move in self._running):
            return SwapPhase.RELEASING
        parts = self.parts
        return phase_of(swap.order, inventory=parts.ledger.inventory, snapshot=snapshot, layout=parts.layout)

    def _rest_units(self) -> None:
        """A unit in Execute with nothing to do waits, Suspended, for the next vehicle."""
        busy = {swap.order.dock for swap in self.parts.ledger.swaps.values() if not swap.released}
        if self.parts.ledger.swaps:
            busy.add(STORE)
        for unit in self.units.values():
            if unit.executes and unit.unit_id not in busy and not self._moves_of(unit.unit_id):
                unit.fire(Command.SUSPEND, "no vehicle" if unit.unit_id != STORE else "no swap")

    # --- what is seen and shown ----------------------------------------------------------------------------------

    def _on_reading(self, device: str) -> None:
        for unit in self.units.values():
            if unit.safety == device and self.ready.is_set():
                unit.look_at_safety()

    def _on_change(self, device: str) -> None:
        signature = self._signature(device)
        if signature is not None and self._memory.signatures.get(device) != signature:
            self._memory.signatures[device] = signature
            self._wake.set()

    def _signature(self, device: str) -> object:
        """What of a reading the planner turns on; None for devices whose steps tell it anyway."""
        hal = self.parts.hal
        if device in hal.io:
            reading = hal.io[device].reading
            return (reading.quality, tuple(sorted((reading.value or {}).items())))
        if device in hal.vehicles:
            seen = hal.vehicles[device].reading
            if seen.value is None:
                return (seen.quality,)
            return (seen.quality, replace(seen.value, pack_current_a=0.0, odometer_km=0.0))
        return None

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StepEvent) and event.state in {"done", "failed"}:
            self._wake.set()

    def _publish_swap(self, order: SwapOrder, phase: str, result: str = "", detail: str = "") -> None:
        at = asyncio.get_running_loop().time()
        self.parts.events.publish(SwapEvent(at, order.swap_id, order.dock, phase, result, detail))

    def _on_record(self, record: InventoryRecord) -> None:
        at = asyncio.get_running_loop().time()
        match record:
            case PackArrived(pack, place):
                self.parts.events.publish(PackEvent(at, pack, "", place))
            case PackMoved(pack, origin, destination):
                self.parts.events.publish(PackEvent(at, pack, origin, destination))
            case PackLeft(pack, place):
                self.parts.events.publish(PackEvent(at, pack, place, ""))


async def _passed(unit: Unit) -> None:
    """Wait until a unit is through a state that ends by itself; what became of it, its state says."""
    if unit.state in PASSING_STATES:
        with suppress(UnitRefused):
            await unit.settled()


def _nobody_asks() -> None:
    """A station that nobody watches over."""
