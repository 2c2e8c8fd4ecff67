"""One CAN bus inside the running loop: bit time, arbitration, errors and bus-off, and no thread.

Everything happens in loop time, so under a virtual clock a bus is deterministic. Simulated nodes talk through
``LoopCan.attach``; whoever needs a python-can bus gets one from ``LoopCan.open_bus``. One simplification: some other
controller on the bus always acknowledges, so a lone node gets no acknowledge errors.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
from collections import Counter, deque
from collections.abc import Callable
from enum import Enum, StrEnum
from itertools import count
from typing import NamedTuple

import can

from hal.types import CanFrame

# Flags of a raw identifier, and classes and details of an error frame: linux/can.h, linux/can/error.h.
EXTENDED_FLAG, REMOTE_FLAG, ERROR_FLAG = 0x8000_0000, 0x4000_0000, 0x2000_0000
EXTENDED_MASK, STANDARD_MASK = 0x1FFF_FFFF, 0x7FF
ERROR_CONTROLLER, ERROR_PROTOCOL, ERROR_BUS_OFF = 0x04, 0x08, 0x40
ERROR_BUS, ERROR_RESTARTED, ERROR_COUNTERS = 0x80, 0x100, 0x200
RX_OVERFLOW, RX_WARNING, TX_WARNING, RX_PASSIVE, TX_PASSIVE, ACTIVE = 0x01, 0x04, 0x08, 0x10, 0x20, 0x40

WARNING_AT, PASSIVE_AT, BUS_OFF_AT = 96, 128, 256  # ISO 11898-1:2015, 12.1.4 fault confinement
ERROR_FRAME_BITS = 23  # six to twelve flag bits, eight delimiter bits, three of intermission; ISO 11898-1, 10.4.4
SEND_QUEUE_FRAMES = 256
RECEIVE_QUEUE_FRAMES = 4096


class WireFault(Enum):
    """What the fault hook may do to a frame on the wire."""

    DROP = "drop"  # the sender sees success, nobody receives: what a broken gateway does
    CORRUPT = "corrupt"  # every node sees an error; the controller sends again by itself


class NodeState(StrEnum):
    """Fault confinement of one controller, worst last."""

    ACTIVE = "active"
    WARNING = "warning"
    PASSIVE = "passive"
    BUS_OFF = "bus_off"


class RawFrame(NamedTuple):
    """What is on the wire: the identifier with its flags as in ``struct can_frame``, the length code, the data."""

    can_id: int
    dlc: int
    data: bytes


def raw_frame(frame: CanFrame) -> RawFrame:
    """Return the wire form of a data frame; raises ValueError for one that classic CAN cannot carry."""
    limit = EXTENDED_MASK if frame.extended else STANDARD_MASK
    if not 0 <= frame.can_id <= limit or len(frame.data) > 8:
        raise ValueError(f"not a classic CAN frame: id {frame.can_id:#x}, {len(frame.data)} bytes")
    return RawFrame(frame.can_id | (EXTENDED_FLAG if frame.extended else 0), len(frame.data), frame.data)


def frame_bits(raw: RawFrame) -> int:
    """Return the longest time of a frame in bits, intermission included.

    Source: Davis, Burns, Bril, Lukkien, "Controller Area Network (CAN) schedulability analysis", Real-Time Systems
    35 (2007), equation 1: (g + 8 s + 13 + floor((g + 8 s - 1) / 4)), g = 34 or, with 29-bit identifiers, 54.
    """
    stuffed = (54 if raw.can_id & EXTENDED_FLAG else 34) + 8 * (0 if raw.can_id & REMOTE_FLAG else raw.dlc)
    return stuffed + 13 + (stuffed - 1) // 4


def arbitration_key(raw_id: int) -> int:
    """Return the arbitration field as a number: the lowest one wins the bus (ISO 11898-1, 10.4.2.2)."""
    remote = 1 if raw_id & REMOTE_FLAG else 0
    if not raw_id & EXTENDED_FLAG:
        return (raw_id & STANDARD_MASK) << 21 | remote << 20
    base, rest = raw_id >> 18 & STANDARD_MASK, raw_id & 0x3_FFFF
    return base << 21 | 0b11 << 19 | rest << 1 | remote


class LoopCanTap:
    """One controller on the bus, with its transmit queue and error counters."""

    def __init__(
        self, wire: LoopCan, on_raw: Callable[[RawFrame], None], on_error: Callable[[RawFrame], None]
    ) -> None:
        self._wire = wire
        self._on_raw = on_raw
        self._on_error = on_error
        self._queue: deque[RawFrame] = deque()
        self._attached = True
        self.tec = 0
        self.rec = 0
        self.state = NodeState.ACTIVE
        self.on_room: Callable[[], None] | None = None  # called when a frame has left the queue

    @property
    def room(self) -> int:
        """How many more frames the transmit queue takes."""
        return SEND_QUEUE_FRAMES - len(self._queue)

    def send(self, frame: CanFrame) -> bool:
        """Queue a frame; False, and counted on the wire as ``refused``, if it cannot be taken."""
        return self.send_raw(raw_frame(frame))

    def send_raw(self, raw: RawFrame) -> bool:
        """As ``send``, for remote frames too."""
        wire = self._wire
        if not (self._attached and wire.is_up and self.state is not NodeState.BUS_OFF and self.room > 0):
            wire.counters["refused"] += 1
            return False
        self._queue.append(raw)
        if len(self._queue) == 1:
            wire._offer(self)  # noqa: SLF001 - a tap is the wire's own half
        return True

    def restart(self) -> None:
        """Leave bus-off by hand."""
        if self.state is NodeState.BUS_OFF:
            self.tec = self.rec = 0
            self.state = NodeState.ACTIVE
            self._on_error(RawFrame(ERROR_FLAG | ERROR_RESTARTED, 8, bytes(8)))

    def detach(self) -> None:
        """Leave the bus; what is queued is lost."""
        self._attached = False
        self._queue.clear()
        self._wire._forget(self)  # noqa: SLF001 - a tap is the wire's own half

    def _count(self, *, tec: int = 0, rec: int = 0) -> None:
        self.tec = max(0, self.tec + tec)
        self.rec = min(255, max(0, self.rec + rec))
        worst = max(self.tec, self.rec)
        if self.tec >= BUS_OFF_AT:
            state = NodeState.BUS_OFF
        elif worst >= PASSIVE_AT:
            state = NodeState.PASSIVE
        else:
            state = NodeState.WARNING if worst >= WARNING_AT else NodeState.ACTIVE
        if state is not self.state:
            self.state = state
            self._report()

    def _report(self) -> None:
        """Say the new state as the kernel's CAN drivers do: class, controller flags, both counters."""
        by_tec = self.tec >= self.rec
        flags = {
            NodeState.ACTIVE: ACTIVE,
            NodeState.WARNING: TX_WARNING if by_tec else RX_WARNING,
            NodeState.PASSIVE: TX_PASSIVE if by_tec else RX_PASSIVE,
            NodeState.BUS_OFF: 0,
        }[self.state]
        kind = ERROR_BUS_OFF if self.state is NodeState.BUS_OFF else ERROR_CONTROLLER | ERROR_COUNTERS
        data = bytes((0, flags, 0, 0, 0, 0, min(self.tec, 255), self.rec))
        self._on_error(RawFrame(ERROR_FLAG | kind, 8, data))
        if self.state is NodeState.BUS_OFF:
            self._queue.clear()
            self._wire._bus_off(self)  # noqa: SLF001 - a tap is the wire's own half


class LoopCan:
    """One CAN segment. Frames of one node keep their order; between nodes the lowest identifier goes first.

    Args:
        bitrate: bit/s; sets how long each frame occupies the wire.
        restart_s: a controller in bus-off comes back by itself after this long (an interface's ``restart-ms``);
            0: it stays off until ``restart()`` or until it is opened anew.

    Attributes:
        fault: asked for every data frame at its end of frame; None as its answer lets the frame pass.
        counters: frames, corrupted, dropped, refused, callback_errors, bits (time occupied, in bits).
    """

    def __init__(self, bitrate: int, *, restart_s: float = 0.1) -> None:
        self.bitrate = bitrate
        self.fault: Callable[[CanFrame], WireFault | None] | None = None
        self.counters: Counter[str] = Counter()
        self.on_up: list[Callable[[bool], None]] = []  # called with the new state by bus_down and bus_up
        self._restart_s = restart_s
        self._up = True
        self._taps: dict[LoopCanTap, None] = {}  # a dict keeps the order of attaching, which a set does not
        self._hearing: tuple[LoopCanTap, ...] = ()
        self._disturbed = False  # whether any error counter is above zero
        self._heads: list[tuple[int, int, LoopCanTap, RawFrame]] = []
        self._ticket = count()
        self._busy: asyncio.TimerHandle | asyncio.Handle | None = None
        self._buses: list[LoopCanBus] = []

    @property
    def is_up(self) -> bool:
        """Whether the bus carries frames."""
        return self._up

    def attach(self, on_frame: Callable[[CanFrame], None]) -> LoopCanTap:
        """Put a node on the bus; it hears every data frame of the others, stamped with loop time."""

        def on_raw(raw: RawFrame) -> None:
            if not raw.can_id & REMOTE_FLAG:
                on_frame(_data_frame(raw, asyncio.get_running_loop().time()))

        return self.attach_raw(on_raw, lambda _error: None)

    def attach_raw(
        self, on_raw: Callable[[RawFrame], None] | None, on_error: Callable[[RawFrame], None]
    ) -> LoopCanTap:
        """As ``attach``, with remote frames, and with the controller's own error frames on ``on_error``.

        A node that only talks gives None for ``on_raw``, which costs the others' frames nothing.
        """
        tap = LoopCanTap(self, on_raw or _ignore, on_error)
        self._taps[tap] = None
        if on_raw is not None:
            self._hearing = (*self._hearing, tap)
        return tap

    def open_bus(self) -> LoopCanBus:
        """Return a python-can bus on this wire; raises CanInitializationError while the bus is down."""
        if not self._up:
            raise can.CanInitializationError("Network is down", errno.ENETDOWN)
        bus = LoopCanBus(self)
        self._buses.append(bus)
        return bus

    def bus_down(self) -> None:
        """Take the bus away: what is under way and queued is lost, open python-can buses fail from now on."""
        if not self._up:
            return
        self._up = False
        if self._busy is not None:
            self._busy.cancel()
            self._busy = None
        self._heads.clear()
        for tap in self._taps:
            tap._queue.clear()  # noqa: SLF001 - a tap is the wire's own half
        for bus in tuple(self._buses):
            bus.fail("Network is down", errno.ENETDOWN)
        for listener in self.on_up:
            listener(False)

    def bus_up(self) -> None:
        """Bring the bus back."""
        if not self._up:
            self._up = True
            for listener in self.on_up:
                listener(True)

    def _forget(self, tap: LoopCanTap) -> None:
        self._taps.pop(tap, None)
        self._hearing = tuple(other for other in self._hearing if other is not tap)
        self._heads = [head for head in self._heads if head[2] is not tap]
        heapq.heapify(self._heads)

    def _offer(self, tap: LoopCanTap) -> None:
        raw = tap._queue[0]  # noqa: SLF001 - a tap is the wire's own half
        heapq.heappush(self._heads, (arbitration_key(raw.can_id), next(self._ticket), tap, raw))
        if self._busy is None:
            # Start of frame comes after this turn, so that nodes that react to the same event arbitrate.
            self._busy = asyncio.get_running_loop().call_soon(self._start_of_frame)

    def _start_of_frame(self) -> None:
        self._busy = None
        if self._heads:
            _, _, tap, raw = heapq.heappop(self._heads)
            bits = frame_bits(raw)
            fault = None
            if self.fault is not None and not raw.can_id & REMOTE_FLAG:
                fault = self.fault(_data_frame(raw, 0.0))
            if fault is WireFault.CORRUPT:
                bits += ERROR_FRAME_BITS
            self.counters["bits"] += bits
            loop = asyncio.get_running_loop()
            self._busy = loop.call_later(bits / self.bitrate, self._end_of_frame, tap, raw, fault)

    def _end_of_frame(self, tap: LoopCanTap, raw: RawFrame, fault: WireFault | None) -> None:
        ended = self._busy
        try:
            self._deliver_to_all(tap, raw, fault)
        finally:
            if self._busy is ended:  # else the bus went down meanwhile
                self._start_of_frame()  # at once: a frame's bits include the intermission that follows it

    def _deliver_to_all(self, tap: LoopCanTap, raw: RawFrame, fault: WireFault | None) -> None:
        queue = tap._queue  # noqa: SLF001 - a tap is the wire's own half
        # Callbacks may send in this very turn, so the sender's next frame is offered before anybody is called. Its
        # queue does not begin with this frame if the node was detached or went off while sending.
        if fault is WireFault.CORRUPT:
            self._error_frame(tap)
            if queue and queue[0] is raw:
                self._offer(tap)
            return
        mine = bool(queue) and queue[0] is raw
        if mine:
            queue.popleft()
            if queue:
                self._offer(tap)
        self._success(tap, raw, fault)
        if mine and tap.on_room is not None:
            tap.on_room()

    def _error_frame(self, sender: LoopCanTap) -> None:
        self.counters["corrupted"] += 1
        self._disturbed = True
        # ISO 11898-1, 12.1.4.2: a transmitter that sees an error counts 8, a receiver 1.
        error = RawFrame(ERROR_FLAG | ERROR_PROTOCOL | ERROR_BUS, 8, bytes(8))
        for tap in tuple(self._taps):
            if tap.state is not NodeState.BUS_OFF:
                tap._on_error(error)  # noqa: SLF001 - a tap is the wire's own half
                tap._count(**({"tec": 8} if tap is sender else {"rec": 1}))  # noqa: SLF001 - the same

    def _success(self, sender: LoopCanTap, raw: RawFrame, fault: WireFault | None) -> None:
        self.counters["dropped" if fault is WireFault.DROP else "frames"] += 1
        if self._disturbed:
            self._calm_down(sender, fault)
        if fault is WireFault.DROP:
            return
        for tap in self._hearing:
            if tap is not sender and tap.state is not NodeState.BUS_OFF:
                self._deliver(tap, raw)

    def _calm_down(self, sender: LoopCanTap, fault: WireFault | None) -> None:
        """Count a good frame: one less for its transmitter and for each receiver that had errors."""
        for tap in tuple(self._taps):
            if tap is sender and tap.tec:
                tap._count(tec=-1)  # noqa: SLF001 - a tap is the wire's own half
            elif tap is not sender and tap.rec and fault is None and tap.state is not NodeState.BUS_OFF:
                tap._count(rec=-1)  # noqa: SLF001 - the same
        self._disturbed = any(tap.tec or tap.rec for tap in self._taps)

    def _deliver(self, tap: LoopCanTap, raw: RawFrame) -> None:
        try:
            tap._on_raw(raw)  # noqa: SLF001 - a tap is the wire's own half
        except Exception as error:  # noqa: BLE001 - one node's bug must not keep the frame from the others
            self.counters["callback_errors"] += 1
            context = {"message": f"CAN node failed on {raw.can_id:#x}", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _bus_off(self, tap: LoopCanTap) -> None:
        self._heads = [head for head in self._heads if head[2] is not tap]
        heapq.heapify(self._heads)
        if self._restart_s:
            asyncio.get_running_loop().call_later(self._restart_s, tap.restart)


class LoopCanBus(can.BusABC):
    """A python-can bus on a ``LoopCan``, without descriptor and thread: ``recv`` never waits.

    Whoever reads it registers with ``attach_reader`` and is called whenever frames are waiting.
    """

    def __init__(self, wire: LoopCan) -> None:
        self._waiting: deque[can.Message] = deque()
        self._reader: Callable[[], None] | None = None
        self._dead: can.CanOperationError | None = None
        self._wire = wire
        self._tap = wire.attach_raw(self._take, self._take)
        self.channel_info = "LoopCan"
        super().__init__(channel="LoopCan")

    def attach_reader(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` whenever a frame or an error is waiting to be read; None ends that."""
        self._reader = callback
        if callback is not None and (self._waiting or self._dead):
            callback()

    def fail(self, text: str, code: int) -> None:
        """Make every later call raise CanOperationError."""
        self._dead = can.CanOperationError(text, code)
        self._waiting.clear()
        if self._reader is not None:
            self._reader()

    def _take(self, raw: RawFrame) -> None:
        if len(self._waiting) >= RECEIVE_QUEUE_FRAMES:
            overflow = bytes((0, RX_OVERFLOW, 0, 0, 0, 0, 0, 0))
            self._waiting[-1] = message(RawFrame(ERROR_FLAG | ERROR_CONTROLLER, 8, overflow), 0.0)
            return
        self._waiting.append(message(raw, asyncio.get_running_loop().time()))
        if self._reader is not None:
            self._reader()

    def recv(self, timeout: float | None = None) -> can.Message | None:
        """Return what waits, through the filters if there are any; None if nothing does."""
        return super().recv(timeout) if self._filters else self._recv_internal(timeout)[0]

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        del timeout
        if self._dead is not None:
            raise self._dead
        return (self._waiting.popleft() if self._waiting else None), False

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Queue a frame for the wire. Never waits.

        Raises:
            CanTimeoutError: the transmit queue is full, or the controller is in bus-off.
            CanOperationError: the bus is down.
        """
        del timeout
        if self._dead is not None:
            raise self._dead
        if not self._tap.send_raw(raw_of(msg)):
            raise can.CanTimeoutError("No buffer space available", errno.ENOBUFS)

    def shutdown(self) -> None:
        """Leave the wire."""
        super().shutdown()
        self._tap.detach()
        self._reader = None
        if self in self._wire._buses:  # noqa: SLF001 - a bus is the wire's own half
            self._wire._buses.remove(self)  # noqa: SLF001 - the same


def _ignore(_raw: RawFrame) -> None:
    return


def _data_frame(raw: RawFrame, at: float) -> CanFrame:
    extended = bool(raw.can_id & EXTENDED_FLAG)
    return CanFrame(raw.can_id & (EXTENDED_MASK if extended else STANDARD_MASK), raw.data, extended, at)


def message(raw: RawFrame, at: float) -> can.Message:
    """Return python-can's form of a raw frame, stamped ``at``."""
    extended = bool(raw.can_id & EXTENDED_FLAG)
    remote = bool(raw.can_id & REMOTE_FLAG)
    return can.Message(
        timestamp=at,
        arbitration_id=raw.can_id & EXTENDED_MASK,
        is_extended_id=extended,
        is_remote_frame=remote,
        is_error_frame=bool(raw.can_id & ERROR_FLAG),
        dlc=raw.dlc,
        data=None if remote else raw.data,
    )


def raw_of(msg: can.Message) -> RawFrame:
    """Return the raw form of python-can's message; raises ValueError for one that classic CAN cannot carry."""
    if msg.dlc > 8 or msg.is_fd:
        raise ValueError(f"not a classic CAN frame: {msg}")
    flags = (
        (EXTENDED_FLAG if msg.is_extended_id else 0)
        | (REMOTE_FLAG if msg.is_remote_frame else 0)
        | (ERROR_FLAG if msg.is_error_frame else 0)
    )
    return RawFrame(msg.arbitration_id | flags, msg.dlc, b"" if msg.is_remote_frame else bytes(msg.data))
