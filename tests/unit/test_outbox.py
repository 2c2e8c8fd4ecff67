from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.events import Event, EventBus, FaultEvent, PackEvent, StepEvent, SwapEvent, UnitEvent
from controller.records.database import StoreWriteFailed
from controller.records.outbox import Outbox, TopicClass
from controller.uplink.feed import feed_outbox


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    """An open outbox of at most ten messages."""
    opened = Outbox(tmp_path / "outbox.db", messages_max=10)
    await opened.open()
    yield opened
    await opened.close()


async def test_messages_wait_in_order_over_a_restart(tmp_path: Path) -> None:
    """Messages that were put are pending in order until they are sent, also for a later process."""
    first = Outbox(tmp_path / "outbox.db")
    await first.open()
    ids = [await first.put(TopicClass.SWAP, "dock1", {"n": n}) for n in range(5)]
    await first.sent(ids[:2])
    series = first.series
    await first.close()
    second = Outbox(tmp_path / "outbox.db")
    await second.open()
    assert [message.payload["n"] for message in await second.pending()] == [2, 3, 4]
    assert [message.id for message in await second.pending(limit=1)] == [ids[2]]
    assert second.count == 3
    assert second.added.is_set()
    assert second.series == series
    assert await second.put(TopicClass.SWAP, "dock1", {}) == ids[-1] + 1
    await second.close()


async def test_telemetry_goes_first_and_swaps_and_faults_never(outbox: Outbox) -> None:
    """A full outbox drops telemetry, then packs, then unit states, oldest first, and keeps every swap and fault."""
    for topic_class in (TopicClass.UNIT, TopicClass.PACK, TopicClass.TELEMETRY):
        for n in range(3):
            await outbox.put(topic_class, "x", {"n": n})
    for n in range(4):
        await outbox.put(TopicClass.SWAP, "x", {"n": n})
    kept = [(m.topic_class, m.payload["n"]) for m in await outbox.pending()]
    assert [n for topic_class, n in kept if topic_class is TopicClass.TELEMETRY] == []
    assert [n for topic_class, n in kept if topic_class is TopicClass.PACK] == [0, 1, 2]
    for n in range(20):
        await outbox.put(TopicClass.FAULT, "x", {"n": n})
    kept = [(m.topic_class, m.payload["n"]) for m in await outbox.pending()]
    assert {topic_class for topic_class, _ in kept} == {TopicClass.SWAP, TopicClass.FAULT}
    assert len(kept) == 24
    assert outbox.dropped == 9
    assert outbox.count == 24


async def test_posting_never_waits_and_never_raises(tmp_path: Path) -> None:
    """Posting returns in the same loop turn; a disk that refuses is counted, and nobody hears an exception."""
    outbox = Outbox(tmp_path / "outbox.db")
    await outbox.open()
    for n in range(3):
        outbox.post(TopicClass.UNIT, "dock1", {"n": n})
    assert outbox.count == 0
    assert len(await outbox.pending()) == 3
    assert outbox.count == 3
    outbox._database._connection.execute("PRAGMA query_only=ON")  # type: ignore[union-attr] # it is open
    outbox.post(TopicClass.UNIT, "dock1", {"n": 4})
    with pytest.raises(StoreWriteFailed, match="readonly"):
        await outbox.put(TopicClass.UNIT, "dock1", {"n": 5})
    assert outbox.failed == 2
    outbox._database._connection.execute("PRAGMA query_only=OFF")  # type: ignore[union-attr] # it is open
    assert len(await outbox.pending()) == outbox.count == 3
    await outbox.close()


async def test_what_is_refused_stands_aside_until_it_is_tried_again(outbox: Outbox) -> None:
    """A refused message no longer blocks the ones behind it, is not lost, and comes back when asked for."""
    bad, good = [await outbox.put(TopicClass.SWAP, "x", {}) for _ in range(2)]
    await outbox.refused([bad])
    assert [m.id for m in await outbox.pending()] == [good]
    await outbox.retry_refused()
    assert [m.id for m in await outbox.pending()] == [bad, good]


async def test_events_become_messages_of_their_class(outbox: Outbox) -> None:
    """Each event lands in the outbox under its class and object; a start of a step is not worth a message."""
    bus = EventBus()
    stop = feed_outbox(bus, outbox)
    bus.publish(SwapEvent(1.0, "swap-1", "dock1", "DOCKING"))
    bus.publish(UnitEvent(1.0, "dock1", "EXECUTE", 6, "PRODUCTION"))
    bus.publish(FaultEvent(1.0, 101, "estop", "dock1.safety", "raised"))
    bus.publish(PackEvent(1.0, "PK/1", "slot01", "dock1.table_1"))
    bus.publish(StepEvent(1.0, "clamp_vehicle", "started", dock="dock1"))
    bus.publish(StepEvent(2.0, "clamp_vehicle", "done", dock="dock1"))
    bus.publish(StepEvent(2.0, "move_stacker", "failed"))
    stop()
    bus.publish(SwapEvent(3.0, "swap-1", "dock1", "DONE"))
    found = [(m.topic_class, m.object_id) for m in await outbox.pending()]
    assert found == [
        (TopicClass.SWAP, "dock1"),
        (TopicClass.UNIT, "dock1"),
        (TopicClass.FAULT, "dock1.safety"),
        (TopicClass.PACK, "PK/1"),
        (TopicClass.TELEMETRY, "dock1"),
        (TopicClass.TELEMETRY, "store"),
    ]


async def test_a_listener_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The publisher and the other listeners go on; the failure is counted each time and logged once."""
    bus = EventBus()
    heard: list[Event] = []

    def broken(_event: object) -> None:
        raise RuntimeError("listener")

    bus.subscribe(broken)
    bus.subscribe(heard.append)
    for _ in range(3):
        bus.publish(PackEvent(1.0, "PK1", "", "slot01"))
    assert len(heard) == 3
    assert bus.listener_errors == 3
    assert len(caplog.records) == 1


async def test_an_event_is_json_with_its_type_first() -> None:
    """``to_json`` gives the type and every field, with tuples as lists."""
    event = StepEvent(1.5, "lock_pack", "done", dock="dock1", devices=("a", "b"), expected_s=14.0, elapsed_s=13.0)
    body = event.to_json()
    assert next(iter(body)) == "type"
    assert body["type"] == "step"
    assert body["devices"] == ["a", "b"]
    assert body["at"] == 1.5


async def test_the_waiting_uplink_is_woken(outbox: Outbox) -> None:
    """A message that is posted sets the event that the uplink sleeps on."""
    outbox.added.clear()
    outbox.post(TopicClass.SWAP, "dock1", {})
    async with asyncio.timeout(5):
        await outbox.added.wait()
    assert outbox.count == 1
