"""Troubles of wires and devices, each done to the simulated hardware and undone again; and who copes with them.

``Story`` tells one swap: it makes each trouble happen at its step, sees what the station makes of it, takes it away,
does what a technician would do, and takes the swap up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from controller.carriers import AxisCarrier
from controller.events import Event, FaultEvent, SwapEvent, UnitEvent
from controller.local.protocol import ServiceRefused
from controller.model.faults import FaultCode
from controller.model.intent import StepKind
from controller.model.inventory import UNKNOWN
from controller.model.phases import State
from hal.types import AxisState, CanFrame
from sim_hw.injection import inject
from sim_hw.wire_can import WireFault as CanFault
from sim_hw.wire_modbus import WireFault, WireFaultKind
from tests.support.station_rig import StationRig

Undo = Callable[[], None]
Cause = Callable[[StationRig], Undo]

SHOWN_LIMIT_S = 45.0  # the longest way to a fault: a step's own limit
ENDURE_S = 1.5  # a trouble stays this long after it has shown, so that what follows from it shows too
STANDING = {AxisState.POWER_OFF, AxisState.DISABLED, AxisState.STANDSTILL, AxisState.FAULT}


# --- causes --------------------------------------------------------------------------------------------------------


def wire(link: str, unit: int, kind: WireFaultKind, *, delay_s: float = 0.0, code: int = 4) -> Cause:
    """Let a Modbus unit (0: all of the line) answer badly; see ``WireFault``."""

    def cause(rig: StationRig) -> Undo:
        faults = rig.hardware.wires[link].faults
        faults[unit] = WireFault(kind, delay_s, code)
        return lambda: faults.__delitem__(unit)

    return cause


def injected(name: str, target: str, **parameters: float | str) -> Cause:
    """Make one of the simulator's named faults happen."""
    return lambda rig: inject(rig.plant, name, target, **parameters)


def bus_down(link: str) -> Cause:
    """Take a CAN bus away."""

    def cause(rig: StationRig) -> Undo:
        rig.hardware.buses[link].bus_down()
        return rig.hardware.buses[link].bus_up

    return cause


def can_fault(link: str, fault: CanFault) -> Cause:
    """Drop or disturb every frame of a bus."""

    def cause(rig: StationRig) -> Undo:
        bus = rig.hardware.buses[link]
        bus.fault = lambda _frame: fault

        def undo() -> None:
            bus.fault = None

        return undo

    return cause


def frames(link: str, make: Callable[[int], CanFrame], period_s: float) -> Cause:
    """Let a stranger send frames again and again; ``make`` gets the number of the frame."""

    def cause(rig: StationRig) -> Undo:
        tap = rig.hardware.buses[link].attach(lambda _frame: None)
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []

        def send(number: int) -> None:
            tap.send(make(number))
            timers[:] = [loop.call_later(period_s, send, number + 1)]

        send(0)

        def undo() -> None:
            timers.pop().cancel()
            tap.detach()

        return undo

    return cause


def both(*causes: Cause) -> Cause:
    """Several causes at once."""

    def cause(rig: StationRig) -> Undo:
        undos = [one(rig) for one in causes]

        def undo() -> None:
            for one in undos:
                one()

        return undo

    return cause


def heartbeat_unseen(device: str) -> Cause:
    """The controller behind a drive no longer sees the station's heartbeat, though it answers."""

    def cause(rig: StationRig) -> Undo:
        watchdog = rig.plant.axes[device].watchdog
        assert watchdog is not None
        vars(watchdog)["feed"] = lambda: None
        return lambda: vars(watchdog).__delitem__("feed")

    return cause


def other_serial(slot: str) -> Cause:
    """The pack in a slot says that it is another."""

    def cause(rig: StationRig) -> Undo:
        pack = rig.plant.places.at(slot)
        assert pack is not None, slot
        serial, pack.serial = pack.serial, "STRANGER-1"

        def undo() -> None:
            pack.serial = serial

        return undo

    return cause


# --- one trouble, and the swap around it ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that goes wrong while a kind of step runs.

    ``shows``: faults that must be raised; ``rests``: unit → state that it must come to; other units go on. With
    neither, the station shrugs it off while it lasts, ``endures_s``.
    """

    during: StepKind
    after_s: float
    cause: Cause
    shows: tuple[FaultCode, ...] = ()
    rests: Mapping[str, State] = field(default_factory=dict)
    endures_s: float = ENDURE_S


AT_REST = frozenset({State.ABORTED, State.HELD, State.STOPPED})


class Story:
    """One swap with troubles; ``mark`` is the number of events before what is waited for."""

    def __init__(self, rig: StationRig) -> None:
        self.rig = rig
        self.swap_id = ""
        self.mark = 0

    async def tell(self, troubles: Sequence[Trouble], approach_s: float = 75.0) -> None:
        """Bring a vehicle, let each trouble happen at its step, and see the swap end DONE, nothing forgotten."""
        rig = self.rig
        await rig.bring_vehicle(approach_s=approach_s)
        answer = await rig.app.service.swap_start("dock1", None)
        self.swap_id = str(answer["swap_id"])
        for number, trouble in enumerate(troubles):
            name = f"trouble {number} in {trouble.during}"
            await self._wait_as_technician(partial(self._runs, trouble.during), f"{name}: no such step", 300.0)
            await asyncio.sleep(trouble.after_s)
            await self.suffer(trouble, name)
            await self.take_up()
        ledger = rig.app.station.parts.ledger
        await self._wait_as_technician(lambda: not ledger.swaps, "the swap does not end", 600.0)
        await self._wait_as_technician(lambda: not ledger.inventory.to_hand_off, "not all on charge", 120.0)
        ends = [e for e in rig.events if isinstance(e, SwapEvent) and e.swap_id == self.swap_id and e.result]
        assert [end.result for end in ends] == ["done"], ends
        check_books(rig)

    async def suffer(self, trouble: Trouble, name: str) -> None:
        """Let a trouble happen now, check what comes of it, take it away and bring the station back."""
        rig = self.rig
        self.mark = len(rig.events)
        undo = trouble.cause(rig)
        for code in trouble.shows:
            await self._until(partial(_raised, code), f"{name}: no {code.name}", SHOWN_LIMIT_S)
        for unit, state in trouble.rests.items():
            await self._until_state(unit, state, name)
        await asyncio.sleep(trouble.endures_s)
        stopped = {u: unit.state for u, unit in rig.app.station.units.items() if unit.state in AT_REST}
        assert stopped == trouble.rests, f"{name}: {self._told()}"
        for unit_id in trouble.rests:
            axes = [rig.plant.axes[axis] for axis in rig.app.station.units[unit_id].axes]
            assert not any(axis.moving or axis.state not in STANDING for axis in axes), f"{name}: something moves"
        check_books(rig, f"{name}: {self._told()}")
        undo()
        await self.recover(name)
        check_books(rig, f"{name} recovered: {self._told()}")

    async def recover(self, name: str) -> None:
        """Do what a technician does: re-arm and turn the key, then clear and reset until every unit is ready."""
        plant, units = self.rig.plant, self.rig.app.station.units
        for zone, safety in plant.safety.items():
            assert plant.rearm(zone), f"{name}: {zone} cannot be re-armed"
            safety.key_on_site = True
        deadline = asyncio.get_running_loop().time() + RECOVERY_LIMIT_S
        refused = ""
        while any(unit.state in AT_REST or unit.state in _UNSETTLED for unit in units.values()):
            assert asyncio.get_running_loop().time() < deadline, f"{name}: not recovered: {refused}; {self._told()}"
            for unit_id, unit in units.items():
                command = {State.ABORTED: "clear", State.HELD: "stop", State.STOPPED: "reset"}.get(unit.state)
                if command is None:
                    continue
                try:
                    await getattr(self.rig.app.service, command)(unit_id)
                except ServiceRefused as error:
                    refused = str(error)
            await asyncio.sleep(0.5)
        for safety in plant.safety.values():
            safety.key_on_site = False

    async def _wait_as_technician(self, over: Callable[[], bool], why: str, limit_s: float) -> None:
        """Wait for a state; bring back what comes to rest meanwhile, and slots that stay out of use."""
        station, now = self.rig.app.station, asyncio.get_running_loop().time
        deadline = now() + limit_s
        isolated_since = now()
        while not over():
            assert now() < deadline, f"{why}; {self._told()}"
            if not station.watch.isolated():
                isolated_since = now()
            elif now() - isolated_since > CLEARS_ITSELF_S:
                await self.rig.app.service.abort("store")
            if any(unit.state in AT_REST for unit in station.units.values()):
                await self.recover(why)
                await self.take_up()
                isolated_since = now()
            await asyncio.sleep(LOOK_S)

    async def idle(self, troubles: Sequence[Trouble]) -> None:
        """Let troubles happen one after the other with no swap under way."""
        faults = self.rig.app.station.watch.faults
        for number, trouble in enumerate(troubles):
            await self._wait_as_technician(lambda: not faults.active(), f"before idle trouble {number}", 60.0)
            await self.suffer(trouble, f"idle trouble {number}")
        await self._wait_as_technician(lambda: not faults.active(), "after the last trouble", 60.0)

    async def take_up(self) -> None:
        """Start what was stopped, as a person who wants the swap finished."""
        service, units = self.rig.app.service, self.rig.app.station.units
        swap = self.rig.app.station.parts.ledger.swaps.get(self.swap_id)
        if swap is not None and not swap.released and units["dock1"].state is State.IDLE:
            await service.swap_start("dock1", None)
        elif units["store"].state is State.IDLE:
            await service.start("store")

    def _runs(self, kind: StepKind) -> bool:
        carrier = self.rig.app.station._carrier
        assert isinstance(carrier, AxisCarrier)
        return any(step.kind is kind for step in carrier._runner.running.values())

    async def _until_state(self, unit: str, state: State, name: str) -> None:
        if self.rig.app.station.units[unit].state is not state:
            await self._until(
                partial(_reaches, unit, state), f"{name}: {unit} does not come to {state.name}", SHOWN_LIMIT_S
            )

    async def _until(self, fits: Callable[[Event], bool], why: str, limit_s: float) -> None:
        """Wait for an event after ``mark``; the mark stays."""
        if any(fits(event) for event in self.rig.events[self.mark :]):
            return
        try:
            await self.rig.until(fits, limit_s)
        except TimeoutError:
            raise AssertionError(f"{why}; {self._told()}") from None

    def _told(self) -> str:
        states = {u: f"{unit.state.name}: {unit.cause}" for u, unit in self.rig.app.station.units.items()}
        return "\n".join(map(str, (states, *self.rig.events[self.mark :][-60:])))


RECOVERY_LIMIT_S = 60.0
CLEARS_ITSELF_S = 10.0
LOOK_S = 0.02
_UNSETTLED = frozenset(
    {State.ABORTING, State.CLEARING, State.STOPPING, State.HOLDING, State.RESETTING, State.UNSUSPENDING}
)


def _reaches(unit: str, state: State, event: Event) -> bool:
    return isinstance(event, UnitEvent) and event.unit == unit and event.state == state.name


def _raised(code: FaultCode, event: Event) -> bool:
    return isinstance(event, FaultEvent) and event.name == code.name and event.state == "raised"


def check_books(rig: StationRig, name: str = "") -> None:
    """Every pack is where the books have it, in a place that they call UNKNOWN, or being moved."""
    inventory = rig.app.station.parts.ledger.inventory
    moving = {move.pack for move in rig.app.station._running}
    for serial, pack in rig.plant.packs.items():
        place = pack.place
        if serial not in moving and place in {*rig.app.layout.places, "stacker.fork"}:
            noted = inventory.at(place)
            arriving = rig.app.layout.dock_of(place) is not None and serial not in inventory.contents.values()
            told = f"{name}: {serial} is in {place}, the books have {noted} there; {inventory.contents}"
            assert noted in (serial, UNKNOWN) or arriving, told
