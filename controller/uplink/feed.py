"""Turns what happens in the station into messages for the cloud, without ever making it wait."""

from __future__ import annotations

from collections.abc import Callable

from controller.events import Event, EventBus, FaultEvent, PackEvent, StepEvent, SwapEvent, UnitEvent
from controller.records.outbox import Outbox, TopicClass


def feed_outbox(events: EventBus, outbox: Outbox) -> Callable[[], None]:
    """Post every event worth telling from now on; returns how to stop that."""

    def listener(event: Event) -> None:
        subject = _subject(event)
        if subject is not None:
            outbox.post(*subject, event.to_json())

    return events.subscribe(listener)


def _subject(event: Event) -> tuple[TopicClass, str] | None:
    """What a message is about, and which one; None for what only people on site watch (starts of steps)."""
    match event:
        case SwapEvent():
            return TopicClass.SWAP, event.dock
        case UnitEvent():
            return TopicClass.UNIT, event.unit
        case FaultEvent():
            return TopicClass.FAULT, event.device
        case PackEvent():
            return TopicClass.PACK, event.pack
        case StepEvent() if event.state in {"done", "failed"}:
            return TopicClass.TELEMETRY, event.dock or "store"
    return None
