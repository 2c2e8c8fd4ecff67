"""CAN buses: one ``CanPort`` per bus, over every interface of python-can. Its only importer in this package.

The port reads the bus by itself instead of through python-can's Notifier, whose descriptor path drops errors so that
a dead bus goes unseen (docs/adr/0005). On SocketCAN it reads the kernel's frames directly, with their time stamps
and the count of those that the kernel dropped.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import queue
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import can
from can.interfaces.socketcan import SocketcanBus

from hal.api import LinkReport
from hal.can_frames import (
    ERROR,
    EXTENDED,
    EXTENDED_IDS,
    REMOTE,
    RESTARTED,
    STANDARD_IDS,
    QueueFull,
    RawFrame,
    can_message,
    decode_error_frame,
    raw_frame,
)
from hal.can_socket import SocketCanTransport
from hal.errors import LinkDown, invariant
from hal.types import CanFrame, CanLinkSpec, LinkState

log = logging.getLogger(__name__)

BATCH = 64  # frames per wake-up: 16 ms of a full 500 kbit/s bus, and about 1 ms of work
BACK_OFF_S = (0.2, 5.0)
BUS_OFF_SETTLE_S = 0.1  # frames that were already under way when the controller went off prove nothing
BUS_OFF_REOPEN_S = 5.0
GARBLED_IN_A_ROW = 16  # unreadable input before the bus counts as dead
AT_ONCE_IN_A_ROW = 20  # reads that end at once and empty-handed before a server counts as gone
SEND_QUEUE_FRAMES = 256
POLL_S = 0.1  # how long a reading thread waits before it looks whether to end
THREAD_END_S = 1.0
ECHO_S = 1.0
LOG_PAUSE_S = 5.0
WRITE_S = 1.0
SOCKETCAND_GREETING_S = 2.0

# --- opening ------------------------------------------------------------------------------------------------


def open_arguments(spec: CanLinkSpec) -> dict[str, Any]:
    """Return python-can's arguments for a link; raises ValueError for a channel that cannot be right."""
    arguments: dict[str, Any] = {"interface": spec.interface, "channel": spec.channel, "ignore_config": True}
    if spec.interface == "slcan":
        # The default sleeps 2 s after opening and 1 ms in every read that finds no whole line.
        arguments |= {"bitrate": spec.bitrate, "sleep_after_open": 0, "timeout": 0}
    elif spec.interface == "socketcand":
        channel, _, server = spec.channel.partition("@")
        host, _, port = server.rpartition(":")
        if not (channel and host and port.isdecimal()):
            raise ValueError(f"a socketcand channel reads can0@host:29536, not {spec.channel!r}")
        arguments |= {"channel": channel, "host": host, "port": int(port)}
    elif spec.interface == "udp_multicast":
        arguments |= {"hop_limit": 0, "fd": False}  # the default of 1 leaves through the network card
    elif spec.interface != "socketcan":  # there the bit rate belongs to the interface's own configuration
        arguments["bitrate"] = spec.bitrate
    return arguments


def open_python_can_bus(spec: CanLinkSpec) -> can.BusABC:
    """Open a bus with python-can; no configuration file or environment variable is looked at.

    Blocks: on ``slcan`` and ``socketcand`` for as long as adapter or server take, otherwise not at all.

    Raises:
        CanError, OSError, ValueError: it cannot be opened.
    """
    arguments = open_arguments(spec)
    if spec.interface == "socketcan" and spec.channel not in {name for _, name in socket.if_nameindex()}:
        # python-can would leave an open socket behind, once per attempt.
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), spec.channel)
    if spec.interface == "socketcand":
        # python-can tries a refused connection for 10 s without a pause, and waits for a greeting without an end.
        with socket.create_connection((arguments["host"], arguments["port"]), SOCKETCAND_GREETING_S) as probe:
            if not probe.recv(64).startswith(b"< hi"):
                raise can.CanInitializationError("no socketcand there")
    return can.Bus(**arguments)


# --- transports: how frames come out of an open bus and get into it -----------------------------------------


class _Transport(Protocol):
    """One open bus. ``read`` never blocks; it and ``write`` raise OSError or CanError when the bus has died.

    ``read`` also says whether to come back at once, because nothing else will call again.
    """

    def start(self, ready: Callable[[], None]) -> None: ...
    def read(self, limit: int) -> tuple[list[RawFrame], bool]: ...
    def write(self, frame: CanFrame) -> None: ...
    async def close(self) -> None: ...


class _MessageBus:
    """A bus that can be read without waiting: by ``attach_reader`` where it has that, else by its descriptor."""

    def __init__(self, bus: can.BusABC) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._attach: Callable[[Callable[[], None] | None], None] | None = getattr(bus, "attach_reader", None)
        self._failure: Exception | None = None

    def start(self, ready: Callable[[], None]) -> None:
        if self._attach is not None:
            self._attach(ready)
        else:
            self._loop.add_reader(self._bus.fileno(), ready)

    def read(self, limit: int) -> tuple[list[RawFrame], bool]:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        frames: list[RawFrame] = []
        now = self._loop.time()
        for _ in range(limit):
            try:
                message = self._bus.recv(0)
            except (OSError, can.CanError, ValueError) as error:
                if not frames:
                    raise
                self._failure = error  # what came before it still counts
                return frames, True
            if message is None:
                return frames, False
            frames.append(raw_frame(message, now))
        return frames, self._attach is not None

    def write(self, frame: CanFrame) -> None:
        try:
            self._bus.send(can_message(frame), 0)
        except can.CanTimeoutError as error:
            raise QueueFull(str(error)) from error

    async def close(self) -> None:
        if self._attach is not None:
            self._attach(None)
        else:
            self._loop.remove_reader(self._bus.fileno())
        self._bus.shutdown()


class _ThreadedBus:
    """A bus whose driver may block (slcan, socketcand, and any without descriptor): two threads of its own."""

    def __init__(self, bus: can.BusABC) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._received: deque[RawFrame | Exception] = deque()
        self._to_send: queue.Queue[CanFrame | None] = queue.Queue(SEND_QUEUE_FRAMES)
        self._stop = threading.Event()
        self._ended = asyncio.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._reader, self._writer)]

    def start(self, ready: Callable[[], None]) -> None:
        self._ready = ready
        for thread in self._threads:
            thread.start()

    def read(self, limit: int) -> tuple[list[RawFrame], bool]:
        frames: list[RawFrame] = []
        while self._received and len(frames) < limit:
            item = self._received[0]
            if isinstance(item, Exception) and frames:
                break
            self._received.popleft()
            if isinstance(item, Exception):
                raise item
            frames.append(item)
        return frames, bool(self._received)

    def write(self, frame: CanFrame) -> None:
        try:
            self._to_send.put_nowait(frame)
        except queue.Full:
            raise QueueFull("the adapter does not keep up") from None

    async def close(self) -> None:
        if self._threads[0].ident is None:
            self._bus.shutdown()
            return
        self._stop.set()
        with suppress(queue.Full):  # a full queue wakes the writer by itself
            self._to_send.put_nowait(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(THREAD_END_S):
                await self._ended.wait()

    def _reader(self) -> None:
        """Read until told to stop; then close the bus here, where blocking does no harm."""
        empty_handed = 0
        while not self._stop.is_set():
            asked_at = time.perf_counter()
            try:
                # Not recv(): it hides that a read came back at once, which is all there is to see of a dead server.
                message, _ = self._bus._recv_internal(POLL_S)  # noqa: SLF001 - the reason stands above
            except Exception as error:  # noqa: BLE001 - whatever a driver raises is for the port to judge
                self._post(self._take, error)
                self._stop.wait(POLL_S)
                continue
            if message is not None:
                empty_handed = 0
                self._post(self._take, message)
            elif time.perf_counter() - asked_at > POLL_S / 2:
                empty_handed = 0
            else:
                empty_handed += 1
                self._stop.wait(POLL_S / 10)
                if empty_handed == AT_ONCE_IN_A_ROW:
                    self._post(self._take, ConnectionResetError("the server has closed the connection"))
        self._threads[1].join(THREAD_END_S)
        with suppress(Exception):
            self._bus.shutdown()
        self._post(self._ended.set)

    def _writer(self) -> None:
        while (frame := self._to_send.get()) is not None and not self._stop.is_set():
            try:
                self._bus.send(can_message(frame), WRITE_S)
            except Exception as error:  # noqa: BLE001 - as in the reader
                self._post(self._take, error)

    def _take(self, item: can.Message | Exception) -> None:
        self._received.append(item if isinstance(item, Exception) else raw_frame(item, self._loop.time()))
        self._ready()

    def _post(self, call: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has closed meanwhile: nobody is left to hear it
            self._loop.call_soon_threadsafe(call, *arguments)


# --- the port -----------------------------------------------------------------------------------------------

_BLOCKING_INTERFACES = frozenset({"slcan", "socketcand"})
_ECHOING_INTERFACES = frozenset({"udp_multicast"})
FrameCallback = Callable[[CanFrame], None]


class CanPort:
    """One CAN bus: opens it, reads it, says how it is, and opens it again for as long as ``run`` runs.

    Receiving: callbacks run inside the reader's loop turn and must not block. One that raises is counted and its
        error kept as ``last_error``; the others are still called.
    On link loss: the state says so, ``send`` raises, and the bus is opened again after 0.2 s, doubling to 5 s.
    Must never: end because of a bus or a callback.
    """

    def __init__(
        self, spec: CanLinkSpec, *, open_bus: Callable[[CanLinkSpec], can.BusABC] = open_python_can_bus
    ) -> None:
        self._spec = spec
        self._open_bus = open_bus
        self._state = LinkState.CONNECTING
        self._since = 0.0
        self._last_error = ""
        self._log_again_at = 0.0
        self._counters: Counter[str] = Counter()
        # extended → mask → masked identifier → callbacks
        self._subscribers: dict[bool, dict[int, dict[int, list[FrameCallback]]]] = {True: {}, False: {}}
        self._listeners: list[Callable[[LinkState], None]] = []
        self._transport: _Transport | None = None
        self._died: asyncio.Future[Exception] | None = None
        self._reopen: asyncio.TimerHandle | None = None
        self._garbled_in_a_row = 0
        self._echoes: dict[tuple[bool, int, bytes], deque[float]] | None = (
            {} if spec.interface in _ECHOING_INTERFACES else None
        )

    @property
    def state(self) -> LinkState:
        """How the bus is; DOWN whenever ``run`` is not running."""
        return self._state

    def on_state(self, callback: Callable[[LinkState], None]) -> Callable[[], None]:
        """Call ``callback`` after every change of state, inside the turn that saw it; returns how to stop that."""
        self._listeners.append(callback)
        return lambda: _remove(self._listeners, callback)

    def report(self) -> LinkReport:
        """Return state, counters and the last error's text. ``tec`` and ``rec`` are the controller's own counters."""
        return LinkReport(self._spec.link_id, self._state, self._since, dict(self._counters), self._last_error)

    def subscribe(
        self, can_id: int, mask: int, callback: FrameCallback, *, extended: bool = True
    ) -> Callable[[], None]:
        """Call ``callback`` for every data frame with ``id & mask == can_id & mask``; returns how to stop that."""
        table = self._subscribers[extended].setdefault(mask, {})
        callbacks = table.setdefault(can_id & mask, [])
        callbacks.append(callback)
        return lambda: _remove(callbacks, callback)

    def send(self, frame: CanFrame) -> None:
        """Hand a frame to the bus. Never blocks; that it returns is no evidence that the frame was sent.

        Raises:
            LinkDown: NOT_SENT, the bus is down or off, or its transmit queue is full.
        """
        limit = EXTENDED_IDS if frame.extended else STANDARD_IDS
        invariant(0 <= frame.can_id <= limit, f"identifier {frame.can_id:#x} is out of range")
        invariant(len(frame.data) <= 8, "a classic CAN frame carries at most 8 bytes")
        if self._transport is None or self._state is LinkState.BUS_OFF:
            raise self._refused(f"the bus is {self._state}")
        try:
            self._transport.write(frame)
        except QueueFull as error:
            raise self._refused(str(error)) from error
        except (OSError, can.CanError) as error:
            self._die(error)
            raise self._refused(str(error)) from error
        self._counters["frames_sent"] += 1
        if self._echoes is not None:
            expires_at = asyncio.get_running_loop().time() + ECHO_S
            self._echoes.setdefault((frame.extended, frame.can_id, frame.data), deque()).append(expires_at)

    def _refused(self, detail: str) -> LinkDown:
        self._counters["sends_refused"] += 1
        return LinkDown(self._spec.link_id, "send", detail)

    async def run(self) -> None:
        """Own the bus until cancelled."""
        invariant(self._died is None, f"{self._spec.link_id}: run() is already running")
        loop = asyncio.get_running_loop()
        back_off_s, longest_s = BACK_OFF_S
        try:
            while True:
                began_at = loop.time()
                error = await self._session(loop)
                self._note(error)
                self._set_state(LinkState.DOWN)
                if loop.time() - began_at > longest_s:
                    back_off_s = BACK_OFF_S[0]
                await asyncio.sleep(back_off_s)
                back_off_s = min(2 * back_off_s, longest_s)
        finally:
            self._died = None
            self._set_state(LinkState.DOWN)

    async def _session(self, loop: asyncio.AbstractEventLoop) -> Exception:
        """Open the bus, carry frames until it dies, and return why it did."""
        self._died = loop.create_future()
        try:
            transport = await self._open(loop)
        except Exception as error:  # noqa: BLE001 - drivers raise anything; a bus that cannot be opened ends nothing
            return error
        self._transport = transport
        self._counters["opens"] += 1
        try:
            self._drain()  # a dead interface says so at the first read: it has never been up then
            if not self._died.done():
                self._set_state(LinkState.BUS_OFF if self._lacks_carrier() else LinkState.UP)
                transport.start(self._drain)
            return await self._died
        finally:
            self._transport = None
            if self._reopen is not None:
                self._reopen.cancel()
                self._reopen = None
            try:
                await transport.close()
            except Exception as error:  # noqa: BLE001 - a driver that cannot close cleanly ends nothing either
                self._note(error)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> _Transport:
        if self._spec.interface in _BLOCKING_INTERFACES:
            opening = loop.run_in_executor(None, self._open_bus, self._spec)
            try:
                return _ThreadedBus(await asyncio.shield(opening))
            except asyncio.CancelledError:
                opening.add_done_callback(_close_unwanted)
                raise
        bus = self._open_bus(self._spec)
        raw_socket = bus.socket if isinstance(bus, SocketcanBus) else getattr(bus, "can_frame_socket", None)
        if raw_socket is not None:
            return SocketCanTransport(raw_socket, bus.shutdown, self._counters)
        if hasattr(bus, "attach_reader") or _has_descriptor(bus):
            return _MessageBus(bus)
        return _ThreadedBus(bus)

    def _lacks_carrier(self) -> bool:
        """Whether the kernel has taken the carrier of a SocketCAN interface: its controller is in bus-off."""
        carrier = Path("/sys/class/net") / self._spec.channel / "carrier"
        try:
            return self._spec.interface == "socketcan" and carrier.read_text(encoding="ascii").strip() == "0"
        except OSError:
            return False

    def _die(self, error: Exception) -> None:
        if self._died is not None and not self._died.done():
            self._died.set_result(error)

    def _note(self, error: Exception) -> None:
        """Keep an error for ``report``; log it when it is a new one, and not for every frame."""
        text = f"{type(error).__name__}: {error}"
        now = asyncio.get_running_loop().time()
        if text != self._last_error and now >= self._log_again_at:
            log.warning("%s: %s", self._spec.link_id, text)
            self._log_again_at = now + LOG_PAUSE_S
        self._last_error = text

    def _set_state(self, state: LinkState) -> None:
        if state is self._state:
            return
        loop = asyncio.get_running_loop()
        self._state, self._since = state, loop.time()
        log.info("%s: %s", self._spec.link_id, state)
        if self._reopen is not None:
            self._reopen.cancel()
            self._reopen = None
        if state is LinkState.BUS_OFF:
            off = can.CanOperationError(f"in bus-off for {BUS_OFF_REOPEN_S:g} s")
            self._reopen = loop.call_later(BUS_OFF_REOPEN_S, self._die, off)
        for listener in tuple(self._listeners):
            try:
                listener(state)
            except Exception as error:  # noqa: BLE001 - a listener's bug must not end the link
                self._counters["callback_errors"] += 1
                self._note(error)

    def _drain(self) -> None:
        """Take what is waiting, at most one batch, and come back for the rest after everybody else's turn."""
        transport = self._transport
        if transport is None:
            return
        try:
            frames, more = transport.read(BATCH)
        except Exception as error:  # noqa: BLE001 - drivers raise anything
            self._read_failed(error)
            return
        if frames:
            self._garbled_in_a_row = 0
        for frame in frames:
            self._take(frame)
        if more:
            asyncio.get_running_loop().call_soon(self._drain)

    def _read_failed(self, error: Exception) -> None:
        """Tell a dead bus, which an operating-system error stands behind, from input that cannot be read."""
        code = getattr(error, "error_code", None)
        if isinstance(error, OSError) or isinstance(error.__cause__, OSError) or code is not None:
            self._die(error)
            return
        self._counters["invalid_frames"] += 1
        self._garbled_in_a_row += 1
        self._note(error)
        if self._garbled_in_a_row >= GARBLED_IN_A_ROW:
            self._die(error)

    def _take(self, raw: RawFrame) -> None:
        can_id, dlc, data, at = raw
        counters = self._counters
        if can_id & ERROR:
            self._take_error(can_id, data)
            return
        if can_id & REMOTE:
            counters["remote_frames"] += 1
            return
        if dlc > 8 or len(data) != dlc:
            counters["invalid_frames"] += 1
            return
        extended = bool(can_id & EXTENDED)
        can_id &= EXTENDED_IDS if extended else STANDARD_IDS
        if self._echoes is not None and self._is_echo((extended, can_id, data)):
            counters["own_echoes"] += 1
            return
        counters["frames_received"] += 1
        if self._state is LinkState.BUS_OFF and at - self._since > BUS_OFF_SETTLE_S:
            self._set_state(LinkState.UP)
        found = self._callbacks(extended, can_id)
        if not found:
            counters["wrong_id_type" if self._callbacks(not extended, can_id) else "unknown_id"] += 1
            return
        frame = CanFrame(can_id, data, extended, at)
        for callback in found:
            try:
                callback(frame)
            except Exception as error:  # noqa: BLE001 - one subscriber's bug must not keep frames from the others
                counters["callback_errors"] += 1
                self._note(error)

    def _callbacks(self, extended: bool, can_id: int) -> list[FrameCallback]:
        found: list[FrameCallback] = []
        for mask, table in self._subscribers[extended].items():
            found += table.get(can_id & mask, ())
        return found

    def _is_echo(self, key: tuple[bool, int, bytes]) -> bool:
        now = asyncio.get_running_loop().time()
        echoes = self._echoes or {}
        waiting = echoes.get(key, deque())
        while waiting and waiting[0] < now:
            waiting.popleft()
        if waiting:
            waiting.popleft()
            return True
        echoes.pop(key, None)
        return False

    def _take_error(self, can_id: int, data: bytes) -> None:
        event = decode_error_frame(can_id, data)
        self._counters["error_frames"] += 1
        self._counters.update(event.counters)
        if event.tec is not None and event.rec is not None:
            self._counters["tec"], self._counters["rec"] = event.tec, event.rec
        # A controller leaves bus-off by a restart only; its counters' way back to zero says nothing before that.
        if event.state is not None and not (self._state is LinkState.BUS_OFF and not can_id & RESTARTED):
            self._set_state(event.state)


def _close_unwanted(opening: asyncio.Future[can.BusABC]) -> None:
    """Close a bus that was opened for a port that has ended meanwhile; on a thread, since closing may block."""
    if not opening.cancelled() and opening.exception() is None:
        threading.Thread(target=opening.result().shutdown, daemon=True).start()


def _has_descriptor(bus: can.BusABC) -> bool:
    try:
        return bus.fileno() >= 0
    except NotImplementedError:
        return False


def _remove(items: list[Any], item: object) -> None:
    with suppress(ValueError):
        items.remove(item)
