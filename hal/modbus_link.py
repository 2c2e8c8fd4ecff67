"""One Modbus line, TCP or RTU, with one owner task. With modbus_framer.py the only importer of pymodbus in hal.

pymodbus carries the bytes (socket, serial port, in-memory transport), numbers the requests and waits for the answer.
What an answer may look like is decided by modbus_frames.py, against the one request that is on the wire: pymodbus
3.16 accepts an answer with transaction id 0, of another function code or with a byte count that does not fit, and
empties its buffer at each send, which puts a TCP stream out of step. docs/adr/0006-modbus-line-owner.md: the costs.
"""

from __future__ import annotations

import asyncio
import logging
import termios
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.client.base import ModbusBaseClient
from pymodbus.exceptions import ConnectionException, ModbusException, ModbusIOException
from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
)

from hal.api import LinkReport
from hal.device import retrieve
from hal.errors import DeviceRefused, HalError, LinkDown, NoReply, ProtocolError, invariant
from hal.modbus_framer import Carrier, JudgingFramer, RtuFramer, TcpFramer
from hal.modbus_frames import EXCEPTION_TEXTS, Answer, RtuStream, TcpStream
from hal.types import LinkState, ModbusLinkSpec, Table

BACKOFF_MIN_S = 0.2
BACKOFF_MAX_S = 5.0
QUEUE_LIMIT = 64  # a line serves 45 (RTU at 19200) to some thousand requests/s: more waiting than this is a jam
URGENT_LIMIT = 256  # far above one stop for each device of a line
SILENT_AFTER = 3  # time-outs in a row before a unit is tried only now and then
PROBE_MIN_S = 0.5
PROBE_MAX_S = 5.0
REOPEN_AFTER = 4  # time-outs in a row on a whole TCP line: the peer may be gone without a FIN
QUIET_TRIES = 10  # RTU: a line that babbles on is used again after this many quiet times
CLOCK_RESOLUTION_S = 1e-6
WRITE_MAX = 123  # registers in one write (MODBUS Application Protocol V1.1b3, 6.12)

# Requests by table: class, most items per request (the same, 6.1 to 6.4).
_READS: dict[Table, tuple[type[ModbusPDU], int]] = {
    Table.COIL: (ReadCoilsRequest, 2000),
    Table.DISCRETE: (ReadDiscreteInputsRequest, 2000),
    Table.HOLDING: (ReadHoldingRegistersRequest, 125),
    Table.INPUT: (ReadInputRegistersRequest, 125),
}
_COUNTERS = (
    *("ok", "timeout", "lost", "protocol", "not_sent", "queue_full", "cancelled", "skipped", "unasked"),
    *("urgent", "reconnects", "queue_max", "wait_ms_max", "urgent_wait_ms_max", "answer_ms_max"),
)

_log = logging.getLogger(__name__)
# pymodbus writes a line for each time-out; what matters is reported here, once per change.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


class _LostWhileWaiting(ModbusException):
    """The connection ended between a request and its answer."""


class _Garbled(ModbusException):
    """Bytes came that are not the answer."""


# Which error, which counter: the whole mapping from the library's errors to ours.
_ERRORS: dict[type, tuple[type[HalError], str]] = {
    ConnectionException: (LinkDown, "not_sent"),
    ModbusIOException: (NoReply, "timeout"),
    _LostWhileWaiting: (NoReply, "lost"),
    _Garbled: (ProtocolError, "protocol"),
    ModbusException: (ProtocolError, "protocol"),
}


def open_pymodbus_client(spec: ModbusLinkSpec) -> ModbusBaseClient:
    """Make, but do not connect, the client of a line: no retries, no reconnecting of its own."""
    if spec.kind == "modbus_tcp":
        return AsyncModbusTcpClient(
            spec.host, port=spec.port, name=spec.link_id, timeout=spec.timeout_s, retries=0, reconnect_delay=0
        )
    invariant(spec.kind == "modbus_rtu", f"{spec.link_id}: {spec.kind} is no Modbus line")
    return AsyncModbusSerialClient(
        spec.serial_port,
        baudrate=spec.baud_rate,
        parity=spec.parity,
        name=spec.link_id,
        timeout=spec.timeout_s,
        retries=0,
        reconnect_delay=0,
    )


@dataclass(slots=True, eq=False)
class _Request:
    pdu: ModbusPDU
    device: str
    operation: str
    future: asyncio.Future[Any]  # the values of a read, None after a write
    queued_at: float


@dataclass(slots=True)
class _Silence:
    """A unit that did not answer: how often in a row, and when it is tried again."""

    misses: int = 0
    next_try_at: float = float("-inf")


class ModbusLink:
    """One line and its only user: every request of every device goes through ``run()``, one at a time.

    The spec's ``timeout_s`` counts from the sending of a request; on RTU it must cover both frames' time on the wire.
    A request that was sent is always waited for, whoever gave up on it. On RTU a time-out, or bytes that nobody asked
    for, is followed by the line's quiet time, so that a late answer dies instead of being taken for the next
    request's: RTU has no transaction id. The time from ``post_urgent`` to its bytes is therefore at most one time-out
    plus, on RTU, the quiet time (at most ten of them while the line babbles), plus the urgent requests ahead.

    A unit that missed three answers in a row is asked at most once per 0.5 s, doubling to 5 s; other requests to it
    fail at once, so that one dead unit does not slow a whole line. Urgent requests are always sent, those to units
    that answer first; after one to a silent unit has timed out, the line is the others' for as long as that took.

    Attributes:
        tap: called with (sending, packet) for all bytes of the line; must return at once and not raise.
    """

    def __init__(
        self,
        spec: ModbusLinkSpec,
        *,
        open_client: Callable[[ModbusLinkSpec], ModbusBaseClient] = open_pymodbus_client,
    ) -> None:
        self.tap: Callable[[bool, bytes], None] | None = None
        self._spec = spec
        self._open_client = open_client
        self._rtu = spec.kind == "modbus_rtu"
        # MODBUS over Serial Line V1.02, 2.5.1.1: 3.5 characters of 11 bits, above 19200 bit/s a fixed 1.75 ms
        self._gap_s = max(0.00175, 3.5 * 11 / spec.baud_rate) if self._rtu else 0.0
        self._quiet_s = max(spec.quiet_time_s, self._gap_s) if self._rtu else 0.0
        self._state = LinkState.CONNECTING
        self._since = 0.0
        self._last_error = ""
        self._listeners: list[Callable[[LinkState], None]] = []
        self._queue: deque[_Request] = deque()
        self._urgent: deque[_Request] = deque()
        self._in_flight: _Request | None = None
        self._silences: dict[int, _Silence] = {}
        self._wake = asyncio.Event()
        self._lost = ""  # why the present connection must end; empty while it is good
        self._was_up = False
        self._heard = False  # this connection has brought an answer
        self._misses = 0  # time-outs in a row, of all units
        self._doubt = False  # RTU: a late answer may still come
        self._silent_stops_at = float("-inf")  # when the next urgent request to a silent unit may go
        self._ended_at = float("-inf")
        self._framer = self._new_framer()
        self._counters: Counter[str] = Counter(dict.fromkeys(_COUNTERS, 0))

    # --- what devices call ---------------------------------------------------------------------------------------

    @property
    def state(self) -> LinkState:
        """UP while the connection stands, whether or not units answer."""
        return self._state

    def on_state(self, callback: Callable[[LinkState], None]) -> Callable[[], None]:
        """Call back on each change of state, in the owner's turn of the loop; returns how to stop that."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def report(self) -> LinkReport:
        """State, counters since the start, and the newest error. Times in the counters are milliseconds."""
        return LinkReport(self._spec.link_id, self._state, self._since, dict(self._counters), self._last_error)

    async def read(self, unit: int, table: Table, address: int, count: int, *, device: str) -> list[int]:
        """Read registers, or bits as 0 and 1. Moves nothing.

        Blocks at most the time-outs of what is queued ahead, plus its own. Cancelling ends the wait only.

        Raises:
            LinkDown: NOT_SENT, the line is down or its queue is full. NoReply: UNKNOWN. ProtocolError: UNKNOWN.
            DeviceRefused: REFUSED, ``code`` is the Modbus exception code, 5 (acknowledged) and 6 (busy) too.
        """
        request_class, most = _READS[table]
        invariant(1 <= unit <= 255, f"{device}: unit {unit}: 1 to 255, no broadcast")
        invariant(1 <= count <= most, f"{device}: {count} of {table} in one request, limit {most}")
        invariant(0 <= address <= 0x10000 - count, f"{device}: {table} address {address} + {count}")
        pdu = request_class(dev_id=unit, address=address, count=count)
        values: list[int] = await self._enqueue(pdu, device, f"read {table} {address}", self._queue)
        return values

    async def write(self, unit: int, address: int, values: Sequence[int], *, device: str) -> None:
        """Write holding registers (function 16). What the device does with them is the profile's to say.

        Blocks and raises as ``read``; on NoReply and ProtocolError the write may have happened.
        """
        await self._enqueue(_write_pdu(unit, address, values, device), device, f"write {address}", self._queue)

    def post_urgent(self, unit: int, address: int, values: Sequence[int], *, device: str) -> asyncio.Future[None]:
        """Queue a write ahead of everything but earlier urgent ones: for stops. Returns at once.

        It is sent even if the future is cancelled and even if the unit has been silent. The future ends as
        ``write`` does; it need not be awaited.
        """
        pdu = _write_pdu(unit, address, values, device)
        try:
            future = self._enqueue(pdu, device, f"urgent write {address}", self._urgent)
        except LinkDown as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        future.add_done_callback(retrieve)  # nobody may be waiting
        return future

    def _enqueue(self, pdu: ModbusPDU, device: str, operation: str, queue: deque[_Request]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        if self._state is not LinkState.UP:
            self._counters["not_sent"] += 1
            reason = self._last_error or "not connected yet"
            raise LinkDown(device, operation, f"{self._spec.link_id} is {self._state}: {reason}")
        limit = URGENT_LIMIT if queue is self._urgent else QUEUE_LIMIT
        if len(queue) >= limit:
            self._counters["queue_full"] += 1
            raise LinkDown(device, operation, f"{self._spec.link_id} is jammed: {len(queue)} requests wait")
        request = _Request(pdu, device, operation, loop.create_future(), loop.time())
        queue.append(request)
        self._counters["queue_max"] = max(self._counters["queue_max"], len(self._queue) + len(self._urgent))
        self._wake.set()
        return request.future

    # --- the owner -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the line until cancelled: open, serve, reopen with a back-off of 0.2 s doubling to 5 s."""
        self._since = asyncio.get_running_loop().time()
        delay_s = BACKOFF_MIN_S
        try:
            while True:
                try:
                    await self._connect_and_serve()
                except (OSError, termios.error, ValueError) as error:  # pyserial lets termios.error through
                    reason = str(error) or f"no connection within {self._spec.timeout_s} s"
                    self._lost = f"cannot open {_endpoint(self._spec)}: {reason}"
                self._close(self._lost)
                if self._heard:
                    delay_s = BACKOFF_MIN_S
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, BACKOFF_MAX_S)
        finally:
            self._close("the line was closed")

    async def _connect_and_serve(self) -> None:
        """One connection, from opening it until it is lost. Raises OSError and its like when it cannot be opened."""
        self._lost = ""
        self._heard = False
        self._framer = self._new_framer()
        client = self._open_client(self._spec)
        context = client.ctx
        context.framer = self._framer
        context.retries = 0  # a repeated write is the caller's decision
        context.max_buffer_size = 1 << 20  # above what one read brings: dropping bytes is the framer's to do
        context.trace_packet = self._trace
        context.trace_connect = lambda up: None if up else self._disconnected(client)
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                # What client.connect() does, but with the reason when it fails.
                context.transport, _ = await context.call_create()
            await self._serve(client)
        finally:
            client.close()

    async def _serve(self, client: ModbusBaseClient) -> None:
        self._misses = 0
        self._silences.clear()
        self._doubt = self._rtu  # whoever used the line before may have left an answer on its way
        self._ended_at = asyncio.get_running_loop().time()
        self._set_state(LinkState.UP, f"connected to {_endpoint(self._spec)}")
        while not self._lost:
            if not self._queue and self._stop_to_send() is None:
                await self._wait_for_work()
                continue
            await self._settle()
            if not self._lost and (request := self._next()):
                await self._exchange(client, request)

    async def _wait_for_work(self) -> None:
        self._wake.clear()
        timer = asyncio.get_running_loop().call_at(self._silent_stops_at, self._wake.set) if self._urgent else None
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _stop_to_send(self) -> _Request | None:
        """Return the urgent request that goes next, if one may go now."""
        answering = (request for request in self._urgent if not self._is_silent(request.pdu.dev_id))
        # A timer may fire within its clock's resolution of its time.
        others_turn = asyncio.get_running_loop().time() < self._silent_stops_at - CLOCK_RESOLUTION_S
        return next(answering, None if others_turn else next(iter(self._urgent), None))

    def _is_silent(self, unit: int) -> bool:
        silence = self._silences.get(unit)
        return silence is not None and silence.misses >= SILENT_AFTER

    async def _settle(self) -> None:
        """RTU: keep 3.5 characters of silence between frames, the quiet time while a late answer may still come."""
        loop = asyncio.get_running_loop()
        stream = self._framer.stream
        give_up_at = loop.time() + QUIET_TRIES * self._quiet_s
        while True:
            silence_s = self._quiet_s if self._doubt or stream.unasked else self._gap_s
            due = max(self._ended_at, self._framer.heard_at) + silence_s
            wait_s = min(due, give_up_at) - loop.time()
            if wait_s <= 0:
                break
            await asyncio.sleep(wait_s)
        self._doubt = False
        self._counters["unasked"] += stream.unasked
        stream.unasked = 0

    def _next(self) -> _Request | None:
        """Take the next request that is to be sent; end those that nobody waits for or whose unit is silent."""
        now = asyncio.get_running_loop().time()
        if (request := self._stop_to_send()) is not None:
            self._urgent.remove(request)
            self._counters["urgent"] += 1
            self._note_max("urgent_wait_ms_max", now - request.queued_at)
            return request
        while self._queue:
            # One that has just kept the line waiting comes after all that answer: their heartbeats are in the queue.
            request = next((r for r in self._queue if r.pdu.dev_id not in self._silences), self._queue[0])
            self._queue.remove(request)
            if request.future.done():
                self._counters["cancelled"] += 1
                continue
            silence = self._silences.get(request.pdu.dev_id)
            if silence and now < silence.next_try_at:
                self._counters["skipped"] += 1
                text = f"not sent: the unit is silent, next try in {silence.next_try_at - now:.1f} s"
                request.future.set_exception(NoReply(request.device, request.operation, text))
                continue
            self._note_max("wait_ms_max", now - request.queued_at)
            return request
        return None

    async def _exchange(self, client: ModbusBaseClient, request: _Request) -> None:
        """Send one request and wait for its end; never raises for what the line or the device does."""
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        self._in_flight = request
        try:
            carrier: Carrier = await client.execute(False, request.pdu)
            if carrier.answer.problem:
                raise _Garbled(carrier.answer.problem)
        except ModbusException as error:
            self._failed(request, self._what_happened(error))
        else:
            self._answered(request, carrier.answer, loop.time() - sent_at)
        self._in_flight = None
        self._framer.settle()
        self._ended_at = loop.time()

    def _what_happened(self, error: ModbusException) -> ModbusException:
        """Tell a time-out in silence from one after bytes that are no answer; those put a TCP stream out of step."""
        unread = bytes(self._framer.stream.unread)
        if not isinstance(error, ModbusIOException) or not unread:
            return error
        if not self._rtu:
            self._lose("an answer was cut short")
        return _Garbled(f"no whole answer within {self._spec.timeout_s} s, but {unread[:16].hex()}")

    def _failed(self, request: _Request, error: ModbusException) -> None:
        hal_class, counter = next(_ERRORS[kind] for kind in type(error).__mro__ if kind in _ERRORS)
        texts = {"timeout": f"no answer within {self._spec.timeout_s} s", "not_sent": "the line is not connected"}
        detail = texts.get(counter, error.string)
        self._counters[counter] += 1
        self._doubt = True
        if counter == "timeout":
            self._missed(request)
        elif counter == "protocol":
            self._heard_from(request.pdu.dev_id)
        failure = hal_class(request.device, request.operation, detail)
        failure.__cause__ = error
        self._end(request, failure)

    def _answered(self, request: _Request, answer: Answer, took_s: float) -> None:
        self._heard_from(request.pdu.dev_id)
        self._note_max("answer_ms_max", took_s)
        if answer.refusal is None:
            self._counters["ok"] += 1
            self._end(request, list(answer.values) or None)
            return
        self._counters[f"exception_{answer.refusal}"] += 1
        text = EXCEPTION_TEXTS.get(answer.refusal, "a code of the maker's own")
        detail = f"{text} (Modbus exception {answer.refusal})"
        self._end(request, DeviceRefused(request.device, request.operation, detail, answer.refusal))

    def _end(self, request: _Request, result: list[int] | HalError | None) -> None:
        if isinstance(result, HalError):
            self._last_error = str(result)
        if request.future.done():
            self._counters["cancelled"] += 1
        elif isinstance(result, HalError):
            request.future.set_exception(result)
        else:
            request.future.set_result(result)

    def _missed(self, request: _Request) -> None:
        """Count a time-out for the unit and for the line."""
        unit = request.pdu.dev_id
        silence = self._silences.setdefault(unit, _Silence())
        silence.misses += 1
        if silence.misses >= SILENT_AFTER:
            now = asyncio.get_running_loop().time()
            pause_s = min(PROBE_MIN_S * 2.0 ** min(silence.misses - SILENT_AFTER, 9), PROBE_MAX_S)
            silence.next_try_at = now + pause_s
            self._silent_stops_at = now + self._spec.timeout_s
        if silence.misses == SILENT_AFTER:
            self._log_edge(logging.WARNING, f"unit {unit} ({request.device}) does not answer")
        self._misses += 1
        if self._misses >= REOPEN_AFTER and not self._rtu:
            self._lose(f"no answer to {self._misses} requests in a row")

    def _heard_from(self, unit: int) -> None:
        self._heard = True
        self._misses = 0
        silence = self._silences.pop(unit, None)
        if silence and silence.misses >= SILENT_AFTER:
            self._log_edge(logging.INFO, f"unit {unit} answers again")

    # --- the connection ------------------------------------------------------------------------------------------

    def _new_framer(self) -> JudgingFramer:
        return RtuFramer(RtuStream(), self._lose) if self._rtu else TcpFramer(TcpStream(), self._lose)

    def _trace(self, sending: bool, packet: bytes) -> bytes:
        if self.tap:
            self.tap(sending, packet)
        return packet

    def _disconnected(self, client: ModbusBaseClient) -> None:
        """The transport ended: pymodbus would let the waiting request run into its time-out."""
        self._lose("the connection was closed by the other side")
        if self._in_flight and not client.ctx.response_future.done():
            client.ctx.response_future.set_exception(_LostWhileWaiting("connection lost while waiting"))

    def _lose(self, reason: str) -> None:
        """End the present connection, as soon as the request on the wire has ended. The first reason stays."""
        self._lost = self._lost or reason
        self._wake.set()

    def _close(self, reason: str) -> None:
        """Be down, and end all that waits: what was sent has an unknown outcome, what was queued was not sent."""
        self._last_error = reason
        self._set_state(LinkState.DOWN, reason)
        if self._in_flight:
            sent, self._in_flight = self._in_flight, None
            self._end(sent, NoReply(sent.device, sent.operation, reason))
        for request in (*self._urgent, *self._queue):
            self._end(request, LinkDown(request.device, request.operation, reason))
        self._urgent.clear()
        self._queue.clear()
        self._last_error = reason

    def _set_state(self, state: LinkState, reason: str) -> None:
        if state is self._state:
            return
        if state is LinkState.UP:
            self._counters["reconnects"] += self._was_up
            self._was_up = True
        self._state = state
        self._since = asyncio.get_running_loop().time()
        self._log_edge(logging.INFO if state is LinkState.UP else logging.WARNING, f"{state}: {reason}")
        for listener in tuple(self._listeners):
            listener(state)

    def _log_edge(self, level: int, text: str) -> None:
        _log.log(level, "%s: %s", self._spec.link_id, text, extra={"link": self._spec.link_id})

    def _note_max(self, name: str, seconds: float) -> None:
        self._counters[name] = max(self._counters[name], round(1000 * seconds))


def _write_pdu(unit: int, address: int, values: Sequence[int], device: str) -> ModbusPDU:
    invariant(1 <= unit <= 255, f"{device}: unit {unit}: 1 to 255, no broadcast")
    invariant(1 <= len(values) <= WRITE_MAX, f"{device}: {len(values)} registers in one write")
    invariant(0 <= address <= 0x10000 - len(values), f"{device}: address {address} + {len(values)}")
    invariant(all(0 <= value <= 0xFFFF for value in values), f"{device}: a register is 0 to 65535: {values}")
    return WriteMultipleRegistersRequest(dev_id=unit, address=address, registers=list(values))


def _endpoint(spec: ModbusLinkSpec) -> str:
    return spec.serial_port or f"{spec.host}:{spec.port}"
