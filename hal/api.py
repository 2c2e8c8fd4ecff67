"""What the controller may ask of devices. Each Protocol is a contract; its text is binding for every driver.

Common to all devices
    Lifecycle: UNCONFIGURED → CONNECTED (can read; commands raise NotReady) → ENABLED → FAULTED → CONNECTED by
        ``clear_fault()``, which never moves and never energises.
    Claim: every command needs the claim (``async with axis.claim("swap-17"):``), else NotClaimed. Reading never does.
    Readings: ``reading`` is the newest one, at no cost; ``refresh()`` asks the device now and returns a reading
        measured after the call began. A device that stops answering keeps its last value with quality LOST.
    Commands: goal-like and idempotent; each carries a command id and has three legs: sent, accepted or refused
        with a reason, done. They return when the device reports *done* for that id; the caller sets the limit
        with ``asyncio.timeout``. Confirmation by another signal is the caller's.
    Cancellation: a cancelled motion command stops the device first (bounded), then lets CancelledError through.
    Stop latch: once ``HalSet.latch_stop`` was called, every command but stop raises StopLatched.
    Errors: only HalError subclasses; each names device, operation, detail and carries an ``outcome``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from hal.types import (
    AxisStatus,
    ChargerStatus,
    ConnectorStatus,
    Lifecycle,
    LinkState,
    LockBankStatus,
    PackStatus,
    Reading,
    SafetyInputs,
    VehicleRequest,
    VehicleStatus,
    ZoneStatus,
)

S = TypeVar("S")


class Monitor(Protocol[S]):
    """Purpose: read one device.

    Timing: ``reading`` is immediate; ``refresh()`` blocks at most the link's time-out plus its queue, or, for a
        device that sends cyclically on CAN, until its next message or its time-out.
    On link loss: ``reading.quality`` becomes LOST within the device's time-out; ``refresh()`` raises.
    Must never: invent, filter or re-stamp a value.
    """

    @property
    def device_id(self) -> str:
        """The dotted id of the station file."""
        ...

    @property
    def lifecycle(self) -> Lifecycle:
        """Where the device is in its lifecycle."""
        ...

    @property
    def reading(self) -> Reading[S]:
        """The newest reading."""
        ...

    async def refresh(self) -> Reading[S]:
        """Read the device now. Moves nothing.

        Raises:
            LinkDown: NOT_SENT. NoReply: UNKNOWN. ProtocolError: UNKNOWN. DeviceRefused: REFUSED.
        """
        ...


class Commandable(Protocol):
    """What every device that acts has in common."""

    def claim(self, owner: str) -> AbstractAsyncContextManager[None]:
        """Hold the device for ``owner``; raises NotClaimed (REFUSED) at once if another holds it."""
        ...

    async def clear_fault(self) -> None:
        """FAULTED → CONNECTED. Moves and energises nothing; idempotent; needs no claim.

        Raises:
            DeviceFaulted: FAILED, the cause is still there.
        """
        ...

    async def stop(self) -> None:
        """Stop at once, ahead of everything queued on the link; idempotent; needs no claim; obeyed when latched.

        Returns when the device reports that it stands still.

        Raises:
            LinkDown: NOT_SENT. NoReply: UNKNOWN, the device's own watchdog will stop it.
        """
        ...


class Axis(Monitor[AxisStatus], Commandable, Protocol):
    """Purpose: one positioning axis behind a drive (clamp, lift, shuttle travel, stacker x, z, fork).

    Units: millimetres in the axis' own frame; taught positions stand in the station file.
    Timing: done is seen at most one fast poll period (50 ms) after the drive reports it.
    On link loss: the drive stops and brakes by itself when the heartbeat is missed (profile: watchdog).
    Idempotence: ``move_to`` a place where the axis already stands is done at once.
    Must never: move without a claim, start moving after a stop was asked, report a position it did not read.
    """

    async def enable(self) -> None:
        """CONNECTED → ENABLED: energise and hold position. Releases the brake; does not move."""
        ...

    async def disable(self) -> None:
        """ENABLED → CONNECTED: close the brake, remove torque."""
        ...

    async def home(self) -> None:
        """Find the reference. Moves. Returns when homed.

        Raises:
            as ``move_to``.
        """
        ...

    async def move_to(self, target_mm: float) -> None:
        """Move to ``target_mm`` and return when the drive reports done for this command. Moves.

        Raises:
            DeviceRefused: REFUSED (not homed, out of range, drive's reason). DeviceFaulted: FAILED.
            MotionFailed: FAILED, stopped elsewhere. NotReady, NotClaimed, StopLatched: REFUSED.
            LinkDown: NOT_SENT. NoReply: UNKNOWN: it may be moving; a stop has been queued.
        """
        ...


class LockBank(Monitor[LockBankStatus], Commandable, Protocol):
    """Purpose: the bolts that hold a pack on one mount, turned by nut runners.

    Idempotence: a bolt that is already where it should be, with an OK result, is not turned again.
    On link loss: the runners stop; bolts hold where they are.
    Must never: turn a bolt whose head is not engaged.
    """

    async def unlock(self) -> None:
        """Open every bolt. Moves. Errors as ``Axis.move_to``; MotionFailed names the bolts."""
        ...

    async def lock(self) -> None:
        """Close every bolt to torque and angle. Moves. Errors as ``Axis.move_to``; MotionFailed names the bolts."""
        ...


class Connector(Monitor[ConnectorStatus], Commandable, Protocol):
    """Purpose: a slot's high-voltage and signal plug.

    Must never: move while the charger delivers current (the drive refuses, and so does the interlock).
    """

    async def engage(self) -> None:
        """Plug in. Moves the plug only. Errors as ``Axis.move_to``."""
        ...

    async def disengage(self) -> None:
        """Unplug. Moves the plug only. Errors as ``Axis.move_to``."""
        ...


class Charger(Monitor[ChargerStatus], Commandable, Protocol):
    """Purpose: one DC charger of a slot.

    Units: volts, amperes at the output.
    Timing: set-points are re-written inside the device's own watchdog for as long as it is enabled.
    On link loss: the device falls back to zero current after its watchdog (profile); we keep the last
        set-points and re-apply them when it is back, if still enabled.
    ``stop()`` returns only when the measured current is at or below the profile's safe current.
    """

    async def enable(self, voltage_v: float, current_a: float) -> None:
        """Start or go on with these limits; returns when the device's read-back equals them and it is CHARGING.

        Raises:
            DeviceRefused: REFUSED, out of range. DeviceFaulted: FAILED. MotionFailed: never. Others as Monitor.
        """
        ...

    async def set_limits(self, voltage_v: float, current_a: float) -> None:
        """Change the limits of a running charge; returns when read back. 0 A is allowed."""
        ...


class PackMonitor(Monitor[PackStatus], Protocol):
    """Purpose: hear the pack in one slot.

    On link loss: silent for the profile's time-out → quality LOST. A slot with no pack is simply LOST or NEVER.
    """


class VehicleLink(Monitor[VehicleStatus], Commandable, Protocol):
    """Purpose: talk with the vehicle in a dock.

    The request is a state that is sent cyclically until another is set; the vehicle's answer is its own status.
    ``stop()`` sets the request to NONE; it moves nothing.
    """

    @property
    def request(self) -> VehicleRequest:
        """The request being sent."""
        ...

    async def set_request(self, request: VehicleRequest) -> None:
        """Send this request from here on; returns when the first frame is on the bus.

        Raises:
            LinkDown: NOT_SENT. NotClaimed, StopLatched: REFUSED.
        """
        ...


class SafetyMonitor(Monitor[SafetyInputs], Protocol):
    """Purpose: observe the safety relay or safety PLC of one zone. Read only, on a link of its own.

    Must never: offer a way to reset, mute or enable: that is a person's, at the panel.
    """


class ZoneMonitor(Monitor[ZoneStatus], Protocol):
    """Purpose: smoke, gas and water of one zone."""


class RemoteIo(Monitor[Mapping[str, bool]], Protocol):
    """Purpose: named inputs (presence of places, vehicle in place, gate) and outputs (stack light, horn).

    Outputs carry no motion; they need no claim. Values: 0 off, 1 on, 2 flashing.
    """

    @property
    def outputs(self) -> Mapping[str, int]:
        """What was last written, by name."""
        ...

    async def set_output(self, name: str, value: int) -> None:
        """Write one output. Idempotent.

        Raises:
            LinkDown: NOT_SENT. NoReply: UNKNOWN. DeviceRefused: REFUSED.
        """
        ...


@dataclass(frozen=True, slots=True)
class LinkReport:
    """One bus or line for `swapctl bus`: state, since when (loop time), counters by name, last error text."""

    link_id: str
    state: LinkState
    since: float
    counters: Mapping[str, int]
    last_error: str


class HalSet(Protocol):
    """All devices of a station, by id.

    ``run()`` starts links and polling and returns only by cancellation; it never fails because a device is dead.
    """

    @property
    def axes(self) -> Mapping[str, Axis]: ...  # noqa: D102 - the class says it
    @property
    def locks(self) -> Mapping[str, LockBank]: ...  # noqa: D102 - the class says it
    @property
    def connectors(self) -> Mapping[str, Connector]: ...  # noqa: D102 - the class says it
    @property
    def chargers(self) -> Mapping[str, Charger]: ...  # noqa: D102 - the class says it
    @property
    def packs(self) -> Mapping[str, PackMonitor]: ...  # noqa: D102 - the class says it
    @property
    def vehicles(self) -> Mapping[str, VehicleLink]: ...  # noqa: D102 - the class says it
    @property
    def safety(self) -> Mapping[str, SafetyMonitor]: ...  # noqa: D102 - the class says it
    @property
    def zones(self) -> Mapping[str, ZoneMonitor]: ...  # noqa: D102 - the class says it
    @property
    def io(self) -> Mapping[str, RemoteIo]: ...  # noqa: D102 - the class says it

    def links(self) -> tuple[LinkReport, ...]:
        """Report every link."""
        ...

    def on_reading(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call ``listener(device_id)`` after every new reading or quality change; returns how to stop that.

        Listeners run inside the reader's loop turn and must not block.
        """
        ...

    def latch_stop(self, reason: str, devices: Collection[str]) -> None:
        """Latch a stop on these devices, in this loop turn, without awaiting.

        Stops the heartbeat of every controller that owns one of them, queues their safe outputs ahead of
        everything else on each link, and refuses their commands (StopLatched) until cleared. The first reason
        stays.
        """
        ...

    @property
    def stop_latched(self) -> Mapping[str, str]:
        """Device id → reason, for every latched device."""
        ...

    def clear_stop_latch(self, devices: Collection[str]) -> None:
        """Allow these devices' commands again and resume their heartbeat. Moves and energises nothing."""
        ...

    async def run(self) -> None:
        """Own all links and pollers until cancelled; then stop every axis, bounded, and close."""
        ...
