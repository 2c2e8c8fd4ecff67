"""The outbox: what the cloud is to be told, kept on disk until it has been.

A file of its own beside the journal: a drain's deletes and a burst of telemetry then never share a commit with what
motion waits for, and a damaged outbox stops the uplink only, never the station. What it holds is a copy of what the
journal and the fault list know.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from controller.clock import utc_now
from controller.records.database import Database, StoreSpec

_log = logging.getLogger(__name__)


class TopicClass(StrEnum):
    """What a message is about; a level of its topic."""

    SWAP = "swap"
    FAULT = "fault"
    UNIT = "unit"
    PACK = "pack"
    TELEMETRY = "telemetry"


# What goes first when the outbox is full, oldest first within a class. Swaps and faults are not in it: never dropped.
DROP_ORDER = (TopicClass.TELEMETRY, TopicClass.PACK, TopicClass.UNIT)

MESSAGES_MAX = 50_000  # about 20 MB: a station's week without uplink, telemetry included

OUTBOX = StoreSpec(
    name="outbox",
    migrations=(
        (
            """
            CREATE TABLE message (
                id INTEGER PRIMARY KEY AUTOINCREMENT, class TEXT NOT NULL, object TEXT NOT NULL, utc TEXT NOT NULL,
                payload TEXT NOT NULL, refused INTEGER NOT NULL DEFAULT 0
            )
            """,
            "CREATE INDEX message_by_class ON message (class, id)",
        ),
    ),
)

FILE_NAME = "outbox.db"


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """One message. ``id`` only rises, so that a receiver sees gaps and repeats; ``payload`` is a JSON object."""

    id: int
    topic_class: TopicClass
    object_id: str
    utc: str
    payload: Mapping[str, object]


class Outbox:
    """A bounded queue on disk. ``post`` never waits; ``put`` waits for the disk.

    Attributes:
        dropped: how many messages were given up since the start because the outbox was full.
        failed: how many could not be written since the start.
        added: set whenever there is something new to send; the uplink clears it.
    """

    def __init__(self, path: Path, *, messages_max: int = MESSAGES_MAX) -> None:
        self._database = Database(path, OUTBOX)
        self._messages_max = messages_max
        self._count = 0
        self._series = ""
        self.dropped = 0
        self.failed = 0
        self.added = asyncio.Event()

    @property
    def path(self) -> Path:
        """The outbox's file."""
        return self._database.path

    @property
    def count(self) -> int:
        """How many messages wait."""
        return self._count

    @property
    def series(self) -> str:
        """When this outbox was made (UTC): with a message's id it names the message for ever."""
        return self._series

    async def open(self) -> None:
        """Open and check the file, or create it. Raises StoreError if it cannot be used."""
        await self._database.open()

        def look(connection: sqlite3.Connection) -> tuple[int, str]:
            count: int = connection.execute("SELECT count(*) FROM message").fetchone()[0]
            made: str = connection.execute("SELECT applied_utc FROM schema_version WHERE version = 1").fetchone()[0]
            return count, made

        self._count, self._series = await self._database.do(look)
        if self._count:
            self.added.set()

    async def close(self) -> None:
        """Finish what was posted and close the file."""
        await self._database.close()

    def post(self, topic_class: TopicClass, object_id: str, payload: Mapping[str, object]) -> None:
        """Queue a message for the disk and return at once. A failure is counted and logged, never raised.

        Args:
            topic_class: what it is about.
            object_id: which one: ``dock1``, a pack's serial, a device id.
            payload: a JSON object.
        """
        self._submit(topic_class, object_id, payload)

    async def put(self, topic_class: TopicClass, object_id: str, payload: Mapping[str, object]) -> int:
        """As ``post``, but return the message's id once it is on disk. Raises StoreWriteFailed."""
        number, _ = await self._database.finished(self._submit(topic_class, object_id, payload))
        return number

    async def pending(self, limit: int = 50) -> list[OutboxMessage]:
        """Return the oldest messages that were not refused, in order."""

        def select(connection: sqlite3.Connection) -> list[OutboxMessage]:
            rows = connection.execute(
                "SELECT id, class, object, utc, payload FROM message WHERE refused = 0 ORDER BY id LIMIT ?", (limit,)
            )
            return [
                OutboxMessage(number, TopicClass(kind), object_id, utc, json.loads(payload))
                for number, kind, object_id, utc, payload in rows
            ]

        return await self._database.do(select)

    async def sent(self, ids: Collection[int]) -> None:
        """Forget messages that the receiver has acknowledged."""

        def delete(connection: sqlite3.Connection) -> int:
            return connection.executemany("DELETE FROM message WHERE id = ?", [(number,) for number in ids]).rowcount

        deleted = await self._database.do(delete)
        self._count -= deleted  # only now: others were posted meanwhile

    async def refused(self, ids: Collection[int]) -> None:
        """Set aside messages that the receiver refuses, so that they do not hold up the others."""

        def update(connection: sqlite3.Connection) -> None:
            connection.executemany("UPDATE message SET refused = 1 WHERE id = ?", [(number,) for number in ids])

        await self._database.do(update)

    async def retry_refused(self) -> None:
        """Offer what was refused once more: the receiver's rules may have been mended."""
        await self._database.do(lambda connection: connection.execute("UPDATE message SET refused = 0 WHERE refused"))

    # --- writing -------------------------------------------------------------------------------------------------

    def _submit(
        self, topic_class: TopicClass, object_id: str, payload: Mapping[str, object]
    ) -> asyncio.Future[tuple[int, int]]:
        """Queue an insert; the future has the message's id and how many were dropped to make room for it."""
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        row = (topic_class.value, object_id, utc_now(), text)

        def insert(connection: sqlite3.Connection) -> tuple[int, int]:
            cursor = connection.execute("INSERT INTO message (class, object, utc, payload) VALUES (?, ?, ?, ?)", row)
            return cursor.lastrowid or 0, self._make_room(connection)

        done = self._database.submit(insert)
        done.add_done_callback(self._written)
        return done

    def _written(self, done: asyncio.Future[tuple[int, int]]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is None and not done.cancelled():
            _, dropped = done.result()
            self._count += 1 - dropped
            self.dropped += dropped
            self.added.set()
            return
        self.failed += 1
        if self.failed == 1:
            _log.error("the outbox cannot be written, further failures are only counted: %s", error)

    def _make_room(self, connection: sqlite3.Connection) -> int:
        """Drop the oldest of the least important class while there are too many; returns how many were dropped."""
        count: int = connection.execute("SELECT count(*) FROM message").fetchone()[0]
        too_many = count - self._messages_max
        dropped = 0
        for topic_class in DROP_ORDER:
            if dropped >= too_many:
                break
            dropped += connection.execute(
                "DELETE FROM message WHERE id IN (SELECT id FROM message WHERE class = ? ORDER BY id LIMIT ?)",
                (topic_class.value, too_many - dropped),
            ).rowcount
        return dropped
