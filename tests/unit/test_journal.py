from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.records import database
from controller.records.database import (
    Database,
    StoreBusy,
    StoreSpec,
    StoreTooNew,
    StoreUnreadable,
    StoreWriteFailed,
)
from controller.records.journal import Journal


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """An open journal."""
    opened = Journal(tmp_path / "journal.db")
    await opened.open()
    yield opened
    await opened.close()


async def test_entries_come_back_in_order_after_reopening(tmp_path: Path) -> None:
    """What was appended is read back by a later process, in the order of its numbers and with its body intact."""
    path = tmp_path / "station" / "journal.db"
    first = Journal(path)
    await first.open()
    numbers = [await first.append("intent", {"n": n, "place": "slot01", "text": "é"}) for n in range(5)]
    await first.close()
    second = Journal(path)
    await second.open()
    entries = await second.read_all()
    assert numbers == [entry.seq for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry.body["n"] for entry in entries] == [0, 1, 2, 3, 4]
    assert {(entry.kind, entry.body["text"]) for entry in entries} == {("intent", "é")}
    assert await second.append("outcome", {}) == 6
    await second.close()


async def test_concurrent_appends_share_commits(journal: Journal) -> None:
    """A hundred entries that come together cost a few syncs, keep their order, and get a hundred numbers."""
    before = journal.commits
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(journal.append("k", {"n": n})) for n in range(100)]
    assert [task.result() for task in tasks] == list(range(1, 101))
    assert journal.commits - before <= 3


async def test_a_bad_body_is_refused_before_anything_is_written(journal: Journal) -> None:
    """A body that is not JSON raises at once and takes no number."""
    with pytest.raises(TypeError):
        await journal.append("k", {"x": object()})
    with pytest.raises(ValueError, match="not JSON compliant"):
        await journal.append("k", {"x": float("nan")})
    assert await journal.append("k", {}) == 1


async def test_a_cancelled_append_is_finished_first(journal: Journal, tmp_path: Path) -> None:
    """A caller that is cancelled in the middle of a write leaves only once the entry is on disk."""
    gate = threading.Event()
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(_connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(started.set)
        gate.wait(10)

    holding = journal._database.submit(hold)
    await started.wait()
    task = asyncio.create_task(journal.append("intent", {"n": 1}))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await holding
    with sqlite3.connect(tmp_path / "journal.db") as other:
        assert other.execute("SELECT kind FROM entry").fetchall() == [("intent",)]
    other.close()


async def test_failing_work_spares_its_neighbours(tmp_path: Path) -> None:
    """Work that fails is rolled back alone; work in the same transaction is kept."""
    store = Database(tmp_path / "x.db", StoreSpec("x", (("CREATE TABLE t (n INTEGER PRIMARY KEY)",),)))
    await store.open()
    first = store.submit(lambda c: c.execute("INSERT INTO t VALUES (1)").rowcount)
    clash = store.submit(lambda c: c.executemany("INSERT INTO t VALUES (?)", [(2,), (1,)]).rowcount)
    last = store.submit(lambda c: c.execute("INSERT INTO t VALUES (3)").rowcount)
    assert await first == 1
    with pytest.raises(StoreWriteFailed, match="UNIQUE"):
        await clash
    assert await last == 1
    assert await store.do(lambda c: c.execute("SELECT n FROM t").fetchall()) == [(1,), (3,)]
    await store.close()


async def test_a_full_disk_is_a_named_error_and_not_the_end(journal: Journal) -> None:
    """A write that finds no room raises StoreWriteFailed; once there is room again, writing goes on."""
    pages = await journal._database.do(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    journal._database._connection.execute(f"PRAGMA max_page_count={pages}")  # type: ignore[union-attr] # it is open
    with pytest.raises(StoreWriteFailed, match="full"):
        await journal.append("k", {"x": "y" * 100_000})
    journal._database._connection.execute("PRAGMA max_page_count=100000")  # type: ignore[union-attr] # it is open
    assert await journal.append("k", {"x": "y" * 100_000}) >= 1
    assert len(await journal.read_all()) == 1


async def test_a_hanging_disk_is_a_named_error(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append that does not reach the disk within its limit raises instead of waiting for ever."""
    monkeypatch.setattr(database, "WRITE_LIMIT_S", 0.05)
    gate = threading.Event()
    journal._database.submit(lambda _c: gate.wait(10))
    with pytest.raises(StoreWriteFailed, match="not on disk after"):
        await journal.append("k", {})
    gate.set()
    monkeypatch.undo()
    await journal.append("k", {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no such table"),
        (b"not a database, but long enough to look like a file of one " * 20, "not a database"),
    ],
)
async def test_a_file_that_cannot_be_read_is_refused_and_kept(tmp_path: Path, content: bytes, reason: str) -> None:
    """An empty or foreign file is never taken for a fresh journal: opening names the reason and changes nothing."""
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnreadable, match=reason):
        await Journal(path).open()
    assert path.read_bytes() == content


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """A journal with a torn page is refused at open, before anybody decides anything on it."""
    path = tmp_path / "journal.db"
    journal = Journal(path)
    await journal.open()
    for n in range(50):
        await journal.append("k", {"n": n, "filler": "z" * 500})
    await journal.close()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(content)
    with pytest.raises(StoreUnreadable):
        await Journal(path).open()


async def test_a_lost_file_with_a_log_left_behind_is_refused(tmp_path: Path) -> None:
    """A write-ahead log without its journal means a lost journal, not a new station."""
    (tmp_path / "journal.db-wal").write_bytes(b"x")
    with pytest.raises(StoreUnreadable, match="restore it from a backup"):
        await Journal(tmp_path / "journal.db").open()


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A path through a file ends in a named error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnreadable, match="cannot be opened"):
        await Journal(tmp_path / "file" / "journal.db").open()


async def test_a_newer_or_foreign_store_is_refused(tmp_path: Path) -> None:
    """A store of a later version, and one of another kind, are refused by name."""
    path = tmp_path / "x.db"
    create = ("CREATE TABLE t (n)",)
    newer = Database(path, StoreSpec("x", (create, ("ALTER TABLE t ADD COLUMN m",))))
    await newer.open()
    await newer.close()
    with pytest.raises(StoreTooNew, match="version 2"):
        await Database(path, StoreSpec("x", (create,))).open()
    with pytest.raises(StoreUnreadable, match="not a y"):
        await Database(path, StoreSpec("y", (create,))).open()


async def test_an_older_store_is_migrated_and_keeps_its_rows(tmp_path: Path) -> None:
    """Opening an older store applies the missing migrations once, in order, and loses nothing."""
    path = tmp_path / "x.db"
    create = ("CREATE TABLE t (n)",)
    old = Database(path, StoreSpec("x", (create,)))
    await old.open()
    await old.do(lambda c: c.execute("INSERT INTO t VALUES (7)").rowcount)
    await old.close()
    for _ in range(2):
        store = Database(path, StoreSpec("x", (create, ("ALTER TABLE t ADD COLUMN m INTEGER DEFAULT 1",))))
        await store.open()
        assert await store.do(lambda c: c.execute("SELECT * FROM t").fetchall()) == [(7, 1)]
        await store.close()


async def test_a_failing_migration_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    """A migration that fails half-way is undone as a whole, and the store is refused."""
    path = tmp_path / "x.db"
    create = ("CREATE TABLE t (n)",)
    first = Database(path, StoreSpec("x", (create,)))
    await first.open()
    await first.close()
    with pytest.raises(StoreUnreadable):
        await Database(path, StoreSpec("x", (create, ("CREATE TABLE u (n)", "CREATE TABLE t (n)")))).open()
    again = Database(path, StoreSpec("x", (create,)))
    await again.open()
    assert await again.do(lambda c: c.execute("SELECT name FROM sqlite_master WHERE name = 'u'").fetchall()) == []
    await again.close()


async def test_only_one_process_has_a_journal(journal: Journal, tmp_path: Path) -> None:
    """While one controller has the journal open, a second is refused; afterwards it is not."""
    other = Journal(tmp_path / "journal.db")
    with pytest.raises(StoreBusy, match="only one controller"):
        await other.open()
    await journal.close()
    await other.open()
    await other.close()


async def test_entries_survive_kill_9(tmp_path: Path) -> None:
    """Every entry whose append returned is there after the writing process was killed, and the lock is free."""
    script = (
        "import asyncio, pathlib, sys\n"
        "from controller.records.journal import Journal\n"
        "async def main():\n"
        "    journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "    await journal.open()\n"
        "    while True:\n"
        "        print(await journal.append('k', {}), flush=True)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "journal.db"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - nothing else runs
        assert process.stdout is not None
        for _ in range(50):
            process.stdout.readline()
        process.kill()
        rest = process.stdout.read().split("\n")[:-1]
    told = int(rest[-1]) if rest else 50
    journal = Journal(path)
    await journal.open()
    numbers = [entry.seq for entry in await journal.read_all()]
    assert len(numbers) >= told
    assert numbers == list(range(1, len(numbers) + 1))
    await journal.close()


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_the_journal_works_in_virtual_time(tmp_path: Path) -> None:
    """On the virtual clock the journal needs no thread and takes no time."""
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    began = asyncio.get_running_loop().time()
    assert await journal.append("k", {"a": 1}) == 1
    assert [entry.body for entry in await journal.read_all()] == [{"a": 1}]
    assert asyncio.get_running_loop().time() == began
    await journal.close()


async def test_syncing_is_full(journal: Journal) -> None:
    """The file is in WAL mode and every commit is synced."""
    found = await journal._database.do(
        lambda c: (c.execute("PRAGMA journal_mode").fetchone()[0], c.execute("PRAGMA synchronous").fetchone()[0])
    )
    assert found == ("wal", 2)
