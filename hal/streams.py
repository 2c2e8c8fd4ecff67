"""Cyclic CAN messages that a DBC file describes: are they new, whole, in time and consistent?

A message is split into *parts* where it says several things in turn (the thirds of a serial, one mount after the
other). A part is good when its frame has the right length, checksum and a counter that moved. A device's reading is
GOOD when every part that it needs was heard within the message's time-out; time-outs run on the loop's timers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial, reduce
from operator import xor
from typing import Protocol, TypeVar

import cantools
from cantools.database import DecodeError
from cantools.database.can import Database, Message, Signal

from hal.device import Device
from hal.errors import LinkDown, NoReply, ProtocolError, invariant
from hal.profiles import ProfileError, dbc_path
from hal.types import CanFrame, DeviceSpec, LinkState, Quality, Reading

S = TypeVar("S")

ADDRESS_MASK = 0x1FFFFF00  # the low byte of an identifier is the device's bus address; the DBC leaves it 0
CHECKSUM_SEED = 0xA5  # the profiles' own checksum: bytes 0 to 6, the identifier's bytes and this, by exclusive or
TEXT_BYTES = 7

# The leaky bucket of a message: a bad frame fills it faster than a good one empties it.
BAD_FRAME = 2
GOOD_FRAME = 1
INVALID_AT = 5
BUCKET_MAX = 10

CARRYING = (LinkState.UP, LinkState.ERROR_PASSIVE)

Values = Mapping[str, float]
PartKey = tuple[str, int]

_SILENCE = re.compile(r"silent for ([\d.]+) s")


class FramePort(Protocol):
    """What devices need of a CAN bus; ``can_port.CanPort`` is it."""

    @property
    def state(self) -> LinkState:
        """Whether it carries frames."""
        ...

    def subscribe(
        self, can_id: int, mask: int, callback: Callable[[CanFrame], None], *, extended: bool = True
    ) -> Callable[[], None]:
        """Call back for each frame whose id, masked, is ``can_id``."""
        ...

    def send(self, frame: CanFrame) -> None:
        """Send a frame without blocking; raises LinkDown."""
        ...

    def on_state(self, callback: Callable[[LinkState], None]) -> Callable[[], None]:
        """Call back on each change of state."""
        ...


@cache  # read once, used by every slot
def load_dbc(profile: str) -> Database:
    """Return the database of a profile, identifiers compared without the address byte."""
    database = cantools.database.load_file(dbc_path(profile), frame_id_mask=ADDRESS_MASK)
    if not isinstance(database, Database):
        raise ProfileError(f"{profile}: no CAN database")
    return database


def checksum(can_id: int, data: bytes) -> int:
    """Return the checksum of a frame's bytes 0 to 6: for byte 7."""
    return reduce(xor, (*data[:7], *can_id.to_bytes(4, "big")), CHECKSUM_SEED)


@dataclass(slots=True)
class Part:
    """What was last heard of one part."""

    seen_at: float
    body: int
    values: Values


@dataclass(frozen=True, slots=True)
class _Bits:
    """Where a signal is in a frame that is taken as one little-endian number."""

    shift: int = 0
    mask: int = 0

    @classmethod
    def of(cls, signal: Signal | None) -> _Bits:
        if signal is None:
            return cls()
        invariant(signal.byte_order == "little_endian", f"{signal.name}: only little-endian signals")
        return cls(signal.start, (1 << signal.length) - 1)

    def get(self, raw: int) -> int:
        return raw >> self.shift & self.mask


@dataclass(slots=True)
class Stream:
    """One message of one device: how to check it, and how many of its frames were bad of late."""

    message: Message
    name: str
    length: int
    can_id: int
    timeout_s: float
    key: _Bits
    key_max: int
    counter: _Bits
    seal: int | None  # what the eight bytes come to by exclusive or; None: a message without a checksum
    body_mask: int
    bucket: int = 0
    counters: dict[str, int] = field(default_factory=lambda: {"good": 0, "bad": 0, "repeated": 0})

    def is_sealed(self, raw: int) -> bool:
        """Whether the checksum fits: the bytes of ``raw`` folded onto each other, the checksum's own included."""
        folded = raw ^ raw >> 32
        folded ^= folded >> 16
        return self.seal is None or (folded ^ folded >> 8) & 0xFF == self.seal

    @classmethod
    def of(cls, message: Message, address: int, key_signal: str | None) -> Stream:
        """Describe a message; ``key_signal`` says which part a frame is, None for a message of one part."""
        found = _SILENCE.search(message.comment or "")
        if found is None:
            raise ProfileError(f"{message.name}: its comment does not say when it is lost")
        signals = {signal.name: signal for signal in message.signals}
        counter, check = signals.get(f"{message.name}_counter"), signals.get(f"{message.name}_checksum")
        key = signals[key_signal] if key_signal else None
        invariant(check is None or (message.length, check.start) == (8, 56), f"{message.name}: checksum in byte 7")
        moving = [_Bits.of(signal) for signal in (counter, check)]
        return cls(
            message=message,
            name=str(message.name),
            length=message.length,
            can_id=message.frame_id & ADDRESS_MASK | address,
            timeout_s=float(found.group(1)),
            key=_Bits.of(key),
            key_max=int(key.maximum or 0) if key is not None else 0,
            counter=_Bits.of(counter),
            seal=None if check is None else checksum(message.frame_id & ADDRESS_MASK | address, bytes(8)),
            body_mask=reduce(lambda mask, bits: mask & ~(bits.mask << bits.shift), moving, (1 << 64) - 1),
        )


class CanMonitor(Device[S]):
    """A device that is heard on CAN. Subclasses say which messages, and put the reading together."""

    def __init__(
        self, spec: DeviceSpec, port: FramePort, messages: Mapping[str, str | None], identity: frozenset[str]
    ) -> None:
        """Listen to ``messages`` (name → key signal); those in ``identity`` do not date the reading."""
        super().__init__(spec.device_id)
        self.port = port
        self.database = load_dbc(spec.profile)
        self.streams = {
            name: Stream.of(self.database.get_message_by_name(name), spec.address, key)
            for name, key in messages.items()
        }
        self.parts: dict[PartKey, Part] = {}
        self._identity = identity
        self._counters: dict[PartKey, int] = {}  # kept when a part is dropped: a frozen sender stays lost
        self._heard_at = float("-inf")
        self._rubbish_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        for stream in self.streams.values():
            port.subscribe(stream.can_id, 0x1FFFFFFF, partial(self._on_frame, stream))
        port.on_state(self._on_link)

    def assemble(self) -> S | None:
        """Return the status that ``parts`` make up; None while one is missing."""
        raise NotImplementedError

    def on_new_text(self, name: str, key: int) -> None:
        """Drop what no longer belongs together, now that a part of an identity message says something else."""
        raise NotImplementedError

    def text(self, name: str, keys: range) -> str | None:
        """Return the text that the parts ``keys`` of a message carry; None while one is missing."""
        parts = [self.parts.get((name, key)) for key in keys]
        if any(part is None for part in parts):
            return None
        return "".join(
            _ascii(part.values[f"{name}_text_{key}"])
            for key, part in zip(keys, parts, strict=True)
            if part is not None
        ).rstrip("\0")

    # --- frames -------------------------------------------------------------------------------------------

    def _on_frame(self, stream: Stream, frame: CanFrame) -> None:
        raw = int.from_bytes(frame.data, "little")
        key = stream.key.get(raw)
        if len(frame.data) != stream.length or key > stream.key_max or not stream.is_sealed(raw):
            self._bad(stream, frame)
            return
        part_key = (stream.name, key)
        part = self.parts.get(part_key)
        counter = stream.counter.get(raw)
        if stream.counter.mask and counter == self._counters.get(part_key):
            stream.counters["repeated"] += 1
            return
        body = raw & stream.body_mask
        changed = part is None or part.body != body
        if changed:
            try:
                values = _decoded(stream, frame.data)
            except (DecodeError, ValueError):
                self._bad(stream, frame)
                return
            if part is not None and stream.name in self._identity:
                self.on_new_text(stream.name, key)
            self.parts[part_key] = Part(frame.received_at, body, values)
            self._watch(frame.received_at + stream.timeout_s)
        elif part is not None:
            part.seen_at = frame.received_at
        self._counters[part_key] = counter
        stream.counters["good"] += 1
        stream.bucket = max(0, stream.bucket - GOOD_FRAME)
        self._heard_at = frame.received_at
        self._update(changed=changed)

    def _bad(self, stream: Stream, frame: CanFrame) -> None:
        self._rubbish_at = frame.received_at
        stream.counters["bad"] += 1
        stream.bucket = min(BUCKET_MAX, stream.bucket + BAD_FRAME)
        if stream.bucket >= INVALID_AT and self._reading.quality is Quality.GOOD:
            self.degrade(Quality.INVALID)

    def _update(self, *, changed: bool) -> None:
        """Put the reading together again where that may make a difference."""
        for stream in self.streams.values():
            if stream.bucket >= INVALID_AT:
                return
        good = self._reading.quality is Quality.GOOD
        value = self._reading.value if good and not changed else self.assemble()
        if value is None:
            self.degrade(Quality.LOST)
            return
        measured_at = min(part.seen_at for (name, _), part in self.parts.items() if name not in self._identity)
        if changed or not good or measured_at > self._reading.measured_at:
            self.publish(value, measured_at)

    # --- silence ------------------------------------------------------------------------------------------

    def _watch(self, at: float) -> None:
        """Look for silent parts at this loop time, if not earlier anyway."""
        if self._timer is None or at < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(at, self._drop_silent)

    def _drop_silent(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        ends = {key: part.seen_at + self.streams[key[0]].timeout_s for key, part in self.parts.items()}
        silent = [key for key, end in ends.items() if end <= now]
        for key in silent:
            del self.parts[key]
        if silent:
            self._lose_unless_whole()
        if self.parts:
            self._watch(min(ends[key] for key in self.parts))

    def _lose_unless_whole(self) -> None:
        if self.assemble() is None:
            self.degrade(Quality.LOST)

    def _on_link(self, state: LinkState) -> None:
        if state not in CARRYING:
            self.close()
            self.parts.clear()
            self.degrade(Quality.LOST)

    def close(self) -> None:
        """Stop watching for silence."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def refresh(self) -> Reading[S]:
        """Wait for the device's next full round of messages. See ``hal.api.Monitor``.

        Raises:
            LinkDown: NOT_SENT. NoReply: nothing within the shortest time-out of its messages, or not everything
            within the longest. ProtocolError: what it sends fails its checks.
        """
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        timeouts = [stream.timeout_s for stream in self.streams.values()]
        while self._reading.quality is not Quality.GOOD or self._reading.measured_at < began_at:
            if self.port.state not in CARRYING:
                raise LinkDown(self.device_id, "refresh", f"the bus is {self.port.state}")
            wait_s = max(timeouts) if self._heard_at >= began_at else min(timeouts)
            left_s = began_at + wait_s - loop.time()
            if left_s <= 0 and self._rubbish_at >= began_at:
                raise ProtocolError(self.device_id, "refresh", "its messages fail their checks")
            if left_s <= 0:
                raise NoReply(self.device_id, "refresh", f"not heard within {wait_s} s")
            await self.changed(left_s)
        return self._reading


def _decoded(stream: Stream, data: bytes) -> Values:
    """Return the physical values; raises ValueError where one is none of those that the DBC names, or no text."""
    decoded = stream.message.decode(data, decode_choices=False)
    invariant(isinstance(decoded, dict), f"{stream.name}: a container message")
    values: dict[str, float] = {}
    for name, value in decoded.items() if isinstance(decoded, dict) else ():
        if not isinstance(value, int | float):
            raise ValueError(f"{name}: {value!r} is no number")  # noqa: TRY004 - as what cantools raises
        values[name] = round(value, 9)
        choices = stream.message.get_signal_by_name(name).choices
        if choices is not None and value not in choices:
            raise ValueError(f"{name}: no such value: {value}")
        if "_text_" in name:
            _ascii(value)
    return values


def _ascii(number: float) -> str:
    return int(number).to_bytes(TEXT_BYTES, "little").decode("ascii")
