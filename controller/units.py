"""One PackML unit per dock and one for the store: which devices it owns, and what its acting states do.

The machine decides (controller/machine.py); this acts, and reports state complete when it is done. Clear and Reset
of a unit that a safety trip stopped are accepted with a person on site only. Nothing here moves a pack: Reset warns,
energises and looks; the planner does the rest once the unit is in Execute.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from controller.devices import commandable
from controller.events import EventBus, UnitEvent
from controller.machine import CommandRefused, UnitMachine
from controller.model.inventory import (
    Finding,
    InventoryRecord,
    PackArrived,
    PlaceResolved,
    PlaceWitness,
    Verdict,
    compare,
    resolve_by_sensors,
)
from controller.model.layout import FORK, Layout, pack_monitor_of
from controller.model.phases import SC, Command, State, stack_light
from controller.model.snapshot import IO_AGE_S_MAX, SAFETY_AGE_S_MAX, SLOT_AGE_S_MAX, StationSnapshot
from controller.observer import StationObserver
from controller.records.ledger import Ledger
from hal.api import HalSet
from hal.errors import HalError, StaleReading
from hal.types import AxisState, Lifecycle

_log = logging.getLogger(__name__)

STORE = "store"
WARN_S = 2.0  # of horn before anything is energised (ISO 12100, 6.4.3: warn before starting)
POWER_OFF_LOOK_S = 0.15
POWER_OFF_LOOKS = 20  # 3 s: twice the drives' watchdog (profiles/motion/positioning_axis.toml) and a slow poll
POWERED = frozenset({AxisState.STANDSTILL, AxisState.MOVING, AxisState.HOMING, AxisState.STOPPING})
READINGS_LIMIT_S = 5.0  # for every device that a reset needs to be heard


class UnitRefused(Exception):
    """A unit cannot do what was asked; ``reasons`` are sentences for a person. Nothing has moved."""

    def __init__(self, unit: str, command: str, reasons: list[str]) -> None:
        super().__init__(f"{unit}: {command} refused: {'; '.join(reasons)}")
        self.unit = unit
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class UnitParts:
    """What every unit works with."""

    hal: HalSet
    layout: Layout
    observer: StationObserver
    ledger: Ledger
    events: EventBus


class UnitManager(Protocol):
    """What a unit asks of the station around it."""

    async def stop_moves(self, unit_id: str) -> None:
        """End the unit's moves: at once when it aborts, else each at the end of its step; return when they have."""
        ...

    def in_the_way(self, unit_id: str) -> list[str]:
        """Return a sentence for each standing fault that keeps the unit from starting."""
        ...

    def reset_begins(self, unit_id: str) -> list[str]:
        """A person resets the unit: forget what its moves raised; return which standing faults are in the way."""
        ...


def unit_of(device_or_place: str, layout: Layout) -> str:
    """Return the unit that owns a device or a place: its dock, else the store."""
    head = device_or_place.split(".", 1)[0]
    return head if head in layout.docks else STORE


class Unit:
    """A dock or the store. ``idle`` tells whether none of its moves is running."""

    def __init__(self, unit_id: str, parts: UnitParts, manager: UnitManager) -> None:
        self.unit_id = unit_id
        self.cause = "power-up"
        self.tripped = False
        self._writes: set[asyncio.Task[None]] = set()
        self._parts = parts
        self._manager = manager
        self._machine = UnitMachine(unit_id)
        self._acting: asyncio.Task[None] | None = None
        self._refusals: list[str] = []
        hal, layout = parts.hal, parts.layout
        self._devices = {d: device for d, device in commandable(hal).items() if unit_of(d, layout) == unit_id}
        self.devices = tuple(self._devices)
        self.axes = tuple(d for d in self.devices if d in hal.axes)
        self.safety = f"{unit_id}.safety"

    # --- what others see -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The PackML state."""
        return self._machine.state

    @property
    def mode(self) -> str:
        """The PackML mode's name."""
        return self._machine.mode.name

    @property
    def executes(self) -> bool:
        """Whether moves of this unit may start and go on."""
        return self.state is State.EXECUTE

    def allowed(self) -> tuple[str, ...]:
        """Names of the commands that the present state accepts."""
        return tuple(command.name for command in self._machine.allowed())

    # --- commands ------------------------------------------------------------------------------------------------

    def fire(self, command: Command, cause: str) -> None:
        """Give a PackML command; returns at once, the acting state goes on by itself.

        Raises:
            UnitRefused: the state does not allow it, or a safety trip asks for a person on site.
        """
        if command in {Command.CLEAR, Command.RESET}:
            self._ask_for_person(command)
        try:
            self._machine.fire(command)
        except CommandRefused as error:
            raise UnitRefused(self.unit_id, command.name, [str(error)]) from error
        if command is Command.ABORT:
            self._parts.hal.latch_stop(cause, self.devices)
        self.cause = cause
        self._refusals = []
        self._entered()

    async def settled(self) -> None:
        """Wait until no acting state is running; raise UnitRefused if it did not come to its end."""
        while self._acting is not None and not self._acting.done():
            await asyncio.wait({self._acting})
        if self._refusals:
            raise UnitRefused(self.unit_id, self.state.name, self._refusals)

    def boot(self) -> None:
        """Be Stopped if the safety inputs are heard and good and no drive has power, else Aborted, latched.

        A drive still energised was so by an earlier life of this process: what it was doing is stopped here.
        """
        reasons = self._safety_reasons()
        if reasons:
            self.trip()
        elif self.unit_id in self._parts.ledger.tripped:
            self.tripped = True
            reasons = [f"{self.unit_id}: a safety trip before the restart has not been reset on site"]
        powered = [device for device in self.axes if self._may_have_power(device, unheard=False)]
        reasons += [f"{device} had power when the controller started" for device in powered]
        self.cause = "; ".join(reasons) or "power-up"
        self._machine = UnitMachine(self.unit_id, State.ABORTED if reasons else State.STOPPED)
        if reasons:
            self._parts.hal.latch_stop(self.cause, self.devices)
        self._announce()

    def trip(self) -> None:
        """Note that safety hardware stopped the unit: Clear and Reset need a person on site, also after a restart."""
        if self.tripped:
            return
        self.tripped = True
        write = asyncio.get_running_loop().create_task(self._parts.ledger.unit_tripped(self.unit_id, tripped=True))
        self._writes.add(write)  # stopping does not wait for the disk
        write.add_done_callback(self._written)

    def _written(self, write: asyncio.Task[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled() and write.exception() is not None:
            _log.error("the trip of %s is not in the journal: %s", self.unit_id, write.exception())

    def look_at_safety(self) -> None:
        """Abort, in this loop turn, if the zone's safety hardware no longer permits motion or cannot be heard."""
        if self.state in {State.ABORTING, State.ABORTED}:
            return
        reasons = self._safety_reasons()
        if reasons:
            self.trip()
            self.fire(Command.ABORT, "; ".join(reasons))

    async def close(self) -> None:
        """End the acting state that runs, if any."""
        if self._acting is not None and not self._acting.done():
            self._acting.cancel()
            await asyncio.wait({self._acting})

    # --- acting states -------------------------------------------------------------------------------------------

    def _entered(self) -> None:
        """Start what the new state does; whatever the last one was doing is cut short."""
        if self._acting is not None and not self._acting.done():
            self._acting.cancel()
        self._announce()
        act = self._ACTS.get(self.state)
        if act is not None:
            self._acting = asyncio.get_running_loop().create_task(
                self._act(act), name=f"{self.unit_id} {self.state.name}"
            )

    async def _act(self, act: Callable[[Unit], Awaitable[list[str]]]) -> None:
        """Run an acting state to its end; reasons, or an error, send the unit back where nothing moves."""
        while True:
            try:
                reasons = await act(self)
            except HalError as error:
                reasons = [str(error)]
            except Exception as error:  # noqa: BLE001 - a full disk or a bug: the unit must not hang in between
                _log.exception("%s of %s failed", self.state.name, self.unit_id)
                reasons = [f"{type(error).__name__}: {error}"]
            if reasons:
                self._refusals = reasons
                self.cause = "; ".join(reasons)
                self._go_back()
            else:
                self._machine.fire(SC)
            self._announce()
            follow = self._ACTS.get(self.state)
            if follow is None:
                return
            act = follow

    def _go_back(self) -> None:
        """Leave an acting state that did not come to its end: out of a stop there is no way but on."""
        if self.state in {State.ABORTING, State.STOPPING}:
            self._machine.fire(SC)
            return
        if self.state is State.CLEARING:  # the latch may be away already: in Aborted it stands
            self._parts.hal.latch_stop(self.cause, self.devices)
        self._machine.fire(Command.ABORT if self.state is State.CLEARING else Command.STOP)

    async def _clearing(self) -> list[str]:
        """Faults away, latch away: nothing moves, nothing is energised."""
        parts = self._parts
        movers = {d: driver for d, driver in self._devices.items() if d in parts.hal.axes or d in parts.hal.locks}
        await parts.observer.refresh((self.safety, *movers))
        reasons = self._safety_reasons(energised=False)
        # A drive that is not heard may hold a fault that only a Clear takes away: it has to be there for that.
        reasons += [f"{d} is not heard" for d, driver in movers.items() if driver.lifecycle is Lifecycle.UNCONFIGURED]
        if reasons:
            return reasons
        parts.hal.clear_stop_latch(self.devices)
        for device, driver in self._devices.items():
            if driver.lifecycle is not Lifecycle.FAULTED:
                continue
            try:
                await driver.clear_fault()
            except HalError as error:
                if device in movers:
                    reasons.append(str(error))
                else:  # one dead slot device does not keep the store from being cleared
                    _log.warning("%s stays faulted: %s", device, error)
        return reasons

    async def _resetting(self) -> list[str]:
        """Look at every place, warn, energise. Moves nothing."""
        reasons = await self._look_round()
        if reasons:
            return reasons
        await asyncio.sleep(WARN_S)  # the stack light's table sounds the horn in this state
        for device in self.axes:
            axis = self._parts.hal.axes[device]
            if not axis.reading.fresh(asyncio.get_running_loop().time(), READINGS_LIMIT_S).homed:
                return [f"{device} is not homed"]
            async with axis.claim(f"{self.unit_id} reset"):
                await axis.enable()
        if self.tripped:
            await self._parts.ledger.unit_tripped(self.unit_id, tripped=False)
            self.tripped = False
        return []

    async def _look_round(self) -> list[str]:
        """Judge safety, faults and every place; what is in the way is looked at again for a while before it counts.

        Packs say their serials in turn, and a fault's condition must be gone for some seconds before the fault is.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READINGS_LIMIT_S
        while True:
            await self._parts.observer.refresh((self.safety, f"{self.unit_id}.io", *self.axes))
            await self._settle_doubts()
            adopted, questions = self._compare()
            reasons = self._safety_reasons() + self._manager.reset_begins(self.unit_id) + questions
            if not reasons:
                await self._parts.ledger.places(f"reset of {self.unit_id}", adopted)
            if not reasons or loop.time() >= deadline:
                return reasons
            await asyncio.sleep(READINGS_LIMIT_S / 10)

    async def _settle_doubts(self) -> None:
        """A pack whose step was cut short is where exactly one of the places in doubt senses one, once all rests."""
        ledger, snapshot = self._parts.ledger, self._parts.observer.snapshot()
        for pack, candidates in ledger.doubts.items():
            presence = {place: _witness(place, snapshot).presence for place in candidates}
            found = resolve_by_sensors(ledger.inventory, pack, candidates, presence)
            await ledger.places(f"sensors say where {pack} is", found.records)

    def _compare(self) -> tuple[list[InventoryRecord], list[str]]:
        parts = self._parts
        own = (p for p in (*parts.layout.places, FORK) if unit_of(p, parts.layout) == self.unit_id)
        places = [place for place in own if self._in_the_books(place)]
        snapshot = parts.observer.snapshot()
        findings = compare(parts.ledger.inventory, {place: _witness(place, snapshot) for place in places})
        adopted: list[InventoryRecord] = []
        questions: list[str] = []
        for finding in findings:
            record = self._adopt(finding, snapshot)
            if record is not None:
                adopted.append(record)
            elif finding.verdict is not Verdict.AGREE:
                questions.append(finding.sentence)
        return adopted, questions

    def _in_the_books(self, place: str) -> bool:
        """Whether the books can know a place. What a vehicle brings is entered once it has a swap, not before."""
        ledger, dock = self._parts.ledger, self._parts.layout.dock_of(place)
        if dock is None or place not in dock.mounts or ledger.inventory.at(place) is not None:
            return True
        swaps = ledger.swaps.values()
        return any(swap.arrived and not swap.released and swap.order.dock == dock.dock_id for swap in swaps)

    def _adopt(self, finding: Finding, snapshot: StationSnapshot) -> InventoryRecord | None:
        """A pack that names itself, in a place that the books have as empty or unknown, is believed on a reset.

        A reset is a person's word that the station is as it is seen.
        """
        inventory = self._parts.ledger.inventory
        witness = _witness(finding.place, snapshot)
        if finding.place in inventory.unknown_places:
            if witness.presence is False:
                return PlaceResolved(finding.place, None)
            return PlaceResolved(finding.place, witness.serial) if witness.serial and witness.presence else None
        new_here = inventory.at(finding.place) is None and witness.serial is not None
        if new_here and witness.presence and witness.serial and inventory.place_of(witness.serial) is None:
            return PackArrived(witness.serial, finding.place)
        return None

    async def _starting(self) -> list[str]:
        return self._safety_reasons() + self._manager.in_the_way(self.unit_id)

    async def _stopping(self) -> list[str]:
        """Let each move end at its step's end, then take the torque away."""
        await self._manager.stop_moves(self.unit_id)
        await self._disable()
        return []

    async def _holding(self) -> list[str]:
        await self._manager.stop_moves(self.unit_id)
        return []

    async def _aborting(self) -> list[str]:
        """The latch has stopped the devices already: wait until the moves have wound up and the drives are off.

        The drives drop power by themselves when the heartbeat has been missing for their watchdog's time; a Clear
        before that would be followed by a fault.
        """
        await self._manager.stop_moves(self.unit_id)
        for _ in range(POWER_OFF_LOOKS):
            if not any(self._may_have_power(device) for device in self.axes):
                break
            await asyncio.sleep(POWER_OFF_LOOK_S)
        return []

    def _may_have_power(self, device: str, *, unheard: bool = True) -> bool:
        """Whether a drive is energised, or braking; ``unheard``: what to take for one that says nothing."""
        status = self._parts.hal.axes[device].reading.value
        return unheard if status is None else status.state in POWERED

    async def _nothing(self) -> list[str]:
        return []

    async def _disable(self) -> None:
        for device in self.axes:
            axis = self._parts.hal.axes[device]
            if axis.lifecycle is not Lifecycle.ENABLED:
                continue
            try:
                async with axis.claim(f"{self.unit_id} stop"):
                    await axis.disable()
            except HalError as error:
                _log.warning("%s could not be disabled: %s", device, error)

    _ACTS: ClassVar[Mapping[State, Callable[[Unit], Awaitable[list[str]]]]] = {
        State.CLEARING: _clearing,
        State.RESETTING: _resetting,
        State.STARTING: _starting,
        State.STOPPING: _stopping,
        State.ABORTING: _aborting,
        State.HOLDING: _holding,
        State.UNHOLDING: _nothing,
        State.SUSPENDING: _nothing,
        State.UNSUSPENDING: _starting,
        State.COMPLETING: _nothing,
    }

    # --- small parts ---------------------------------------------------------------------------------------------

    def _safety_reasons(self, *, energised: bool = True) -> list[str]:
        try:
            now = asyncio.get_running_loop().time()
            inputs = self._parts.hal.safety[self.safety].reading.fresh(now, SAFETY_AGE_S_MAX)
        except StaleReading as error:
            return [str(error)]
        checks = (
            ("E-stop chain open", not inputs.estop_ok),
            ("guard open", not inputs.guard_closed),
            ("fire", inputs.fire),
            ("drives not enabled", energised and not inputs.drives_enabled),
        )
        return [f"{self.unit_id}: {text}" for text, bad in checks if bad]

    def _ask_for_person(self, command: Command) -> None:
        if not self.tripped:
            return
        try:
            present = self._parts.observer.snapshot().safety_of(self.safety).key_on_site
        except StaleReading as error:
            raise UnitRefused(self.unit_id, command.name, [str(error)]) from error
        if not present:
            reason = "a safety trip stopped this unit: turn the on-site key switch first"
            raise UnitRefused(self.unit_id, command.name, [reason])

    def _announce(self) -> None:
        now = asyncio.get_running_loop().time()
        state = self.state
        self._parts.events.publish(
            UnitEvent(
                now, unit=self.unit_id, state=state.name, state_no=state.value, mode=self.mode, cause=self.cause
            )
        )

    def lamps(self, *, starved: bool) -> Mapping[str, int]:
        """Return output name → value (0 off, 1 on, 2 flashing) of stack light and horn in this state."""
        light = stack_light(self.state, starved=starved)
        lamps = {
            f"{self.unit_id}.light_{colour}": getattr(light, colour) for colour in ("red", "amber", "green", "blue")
        }
        return {**lamps, f"{self.unit_id}.horn": light.horn}


def _witness(place: str, snapshot: StationSnapshot) -> PlaceWitness:
    seen = snapshot.inputs.get(place)
    presence = seen.value if seen is not None and seen.is_fresh(snapshot.taken_at, IO_AGE_S_MAX) else None
    heard = snapshot.packs.get(pack_monitor_of(place))
    fresh = heard is not None and heard.is_fresh(snapshot.taken_at, SLOT_AGE_S_MAX)
    serial = heard.value.serial if fresh and heard is not None and heard.value is not None else None
    return PlaceWitness(presence, serial)
