"""Troubles of wires and devices, each a thing that is done to the simulated hardware and can be undone; and who copes.

``Story`` tells one swap: it makes each trouble happen at its step, sees what the station makes of it, takes it away,
does what a technician would do, and takes the swap up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from controller.events import FaultEvent, StepEvent, SwapEvent, UnitEvent
from controller.local.protocol import ServiceRefused
from controller.model.faults import FaultCode
from controller.model.intent import StepKind
from controller.model.inventory import UNKNOWN
from controller.model.phases import Command, State
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
