"""What happens in the station, as values; and the synchronous bus that hands them round.

Every event carries ``at``, the loop time (s) at which it happened, and turns into JSON by ``to_json()``: the
fields as they are, with ``type`` first. The local API, the uplink and the demo all listen to this one stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """What all events have in common."""

    type: ClassVar[str] = "event"

    at: float

    def to_json(self) -> dict[str, object]:
        """Return the event as a JSON object; ``type`` names which one it is, tuples become lists."""
        body = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"type": self.type, **body}


@dataclass(frozen=True, slots=True)
class SwapEvent(Event):
    """A swap entered a phase, or ended: ``result`` is empty until then, then DONE, RETURNED, HELD or CANCELLED."""

    type: ClassVar[str] = "swap"

    swap_id: str
    dock: str
    phase: str
    result: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StepEvent(Event):
    """A step started, waits for a requirement, was done, or failed (``state``). Times in seconds.

    ``devices``: those it commands. ``detail``: what it waits for, or why it failed.
    """

    type: ClassVar[str] = "step"

    kind: str
    state: str  # started | waiting | done | failed
    dock: str = ""
    place: str = ""
    pack: str = ""
    swap_id: str = ""
    devices: tuple[str, ...] = ()
    expected_s: float = 0.0
    elapsed_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class UnitEvent(Event):
    """A unit changed state. ``state_no`` is the number of ISA-TR88.00.02, ``cause`` one sentence for a person."""

    type: ClassVar[str] = "unit"

    unit: str
    state: str
    state_no: int
    mode: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class FaultEvent(Event):
    """A fault was raised, has cleared, or was acknowledged (``state``: raised | cleared | acked)."""

    type: ClassVar[str] = "fault"

    number: int
    name: str
    device: str
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PackEvent(Event):
    """A pack changed places. ``origin`` is empty for one that arrived, ``destination`` for one that left."""

    type: ClassVar[str] = "pack"

    pack: str
    origin: str
    destination: str


Listener = Callable[[Event], None]


class EventBus:
    """Synchronous publish and subscribe. Listeners are called in the order in which they subscribed.

    A listener must not block. One that raises is counted in ``listener_errors`` and logged once with its trace; it
    stays subscribed, and neither the publisher nor the other listeners notice.
    """

    def __init__(self) -> None:
        self._listeners: dict[object, Listener] = {}
        self._logged: set[object] = set()
        self.listener_errors = 0

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every event from now on; returns how to stop that (idempotent)."""
        key = object()  # the same function may subscribe twice
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)
            self._logged.discard(key)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Hand ``event`` to every listener. Never raises a listener's error."""
        for key, listener in tuple(self._listeners.items()):
            if key not in self._listeners:
                continue  # an earlier listener unsubscribed it
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a listener's bug must not end the publisher's work
                self.listener_errors += 1
                if key not in self._logged:
                    self._logged.add(key)
                    _log.exception("a listener failed on %s; further failures of it are only counted", event)
