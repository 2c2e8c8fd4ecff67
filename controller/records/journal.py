"""The journal: what the station intended, what came of it, and who asked. Motion waits for it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.clock import utc_now
from controller.records.database import Database, StoreSpec

JOURNAL = StoreSpec(
    name="journal",
    migrations=(
        (
            # AUTOINCREMENT: a number is never given twice, not even after the newest entries were lost
            """
            CREATE TABLE entry (
                seq INTEGER PRIMARY KEY AUTOINCREMENT, utc TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL
            )
            """,
        ),
    ),
)

FILE_NAME = "journal.db"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One record. Order is by ``seq``; ``utc`` is for people, its clock may have jumped."""

    seq: int
    utc: str
    kind: str
    body: Mapping[str, object]


class Journal:
    """An append-only list of entries in one file, synced before anybody is told that they are there."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, JOURNAL)

    @property
    def path(self) -> Path:
        """The journal's file."""
        return self._database.path

    @property
    def commits(self) -> int:
        """How many syncs there were; entries that came together share one."""
        return self._database.commits

    async def open(self) -> None:
        """Open and check the file, or create it.

        Raises:
            StoreError: unreadable, too new, or in use; the station must not move on a journal that it cannot read.
        """
        await self._database.open()

    async def close(self) -> None:
        """Finish what was begun and close the file."""
        await self._database.close()

    async def append(self, kind: str, body: Mapping[str, object]) -> int:
        """Write one entry; returns its number once it is synced. A write that was begun is finished when cancelled.

        Raises:
            StoreWriteFailed: it is not on disk, or was not within 10 s.
            TypeError, ValueError: ``body`` is not JSON; nothing was written.
        """
        row = (utc_now(), kind, json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")))

        def insert(connection: sqlite3.Connection) -> int:
            cursor = connection.execute("INSERT INTO entry (utc, kind, body) VALUES (?, ?, ?)", row)
            return cursor.lastrowid or 0

        return await self._database.do(insert)

    async def read_all(self) -> list[JournalEntry]:
        """Return every entry, oldest first. Blocks for a read of the whole file, on the journal's thread."""

        def select(connection: sqlite3.Connection) -> list[JournalEntry]:
            rows = connection.execute("SELECT seq, utc, kind, body FROM entry ORDER BY seq")
            return [JournalEntry(seq, utc, kind, json.loads(body)) for seq, utc, kind, body in rows]

        return await self._database.do(select)
