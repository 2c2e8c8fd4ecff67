"""One SQLite file with a thread of its own: opened with suspicion, written with group commit, never lost silently.

Every access goes through ``Database.submit``. All that is waiting when the thread becomes free goes into one
transaction, hence one sync: on an SD card a sync takes 10 to 100 ms, and ten records then cost what one does. Each
piece of work has a savepoint, so that one that fails takes none of its neighbours along.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from controller.clock import utc_now
from hal.errors import invariant

_log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

WRITE_LIMIT_S = 10.0  # a commit that takes longer is a failing disk, and what depends on it must not wait for ever
BUSY_LIMIT_S = 2.0  # for a person's own sqlite3 session that holds a lock


class StoreError(Exception):
    """A store cannot be used. ``path`` is its file; the text says what is wrong and what to do."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class StoreUnreadable(StoreError):
    """Damaged, not ours, or not to be opened. It is kept as it is: starting afresh would forget where packs are."""


class StoreTooNew(StoreError):
    """Written by a newer version of this software."""


class StoreBusy(StoreError):
    """Another process has it: two controllers must not run one station."""


class StoreWriteFailed(StoreError):
    """A write is not on disk (full, failing, too slow). Whether it will be later is unknown."""


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """What a store is called and how it grew. ``migrations[n]`` takes version n to n + 1, statement by statement."""

    name: str
    migrations: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    work: Work[Any]
    done: asyncio.Future[Any]


class Database:
    """A store's file. Open it once with ``await open()``, close it with ``await close()``."""

    def __init__(self, path: Path, spec: StoreSpec) -> None:
        self.path = path
        self._spec = spec
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=spec.name)
        self._connection: sqlite3.Connection | None = None
        self._lock_fd = -1
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self.commits = 0

    async def open(self) -> None:
        """Lock, check and migrate the file, or create it. Blocks for a read of the whole file.

        Raises:
            StoreBusy: another process has it. StoreUnreadable: damaged or not ours. StoreTooNew: of a newer version.
        """
        invariant(self._connection is None, "a database is opened once")
        loop = asyncio.get_running_loop()
        self._connection = await loop.run_in_executor(self._executor, self._open_here)

    async def close(self) -> None:
        """Finish what was submitted, then close. Idempotent."""
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=WRITE_LIMIT_S)
        if self._connection is not None and self._writer is None:
            connection, self._connection = self._connection, None
            await asyncio.get_running_loop().run_in_executor(self._executor, connection.close)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        self._executor.shutdown(wait=False)

    # --- work ----------------------------------------------------------------------------------------------------

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Queue ``work`` without waiting. The future has its result once that is synced, or its error.

        Work runs in the order of submission, on the store's thread, inside a transaction that it must not end.
        """
        invariant(self._connection is not None, "the database is open")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Waiting(work, done))
        if self._writer is None:
            self._writer = loop.create_task(self._write_all(), name=f"{self._spec.name}.writer")
        return done

    async def do(self, work: Work[T]) -> T:
        """Submit ``work`` and return its result when it is on disk. As ``finished``."""
        return await self.finished(self.submit(work))

    async def finished(self, done: asyncio.Future[T]) -> T:
        """Wait for submitted work.

        A cancelled caller leaves only when its work is finished: what was begun is never half known. The wait is
        bounded in any case.

        Raises:
            StoreWriteFailed: not on disk after 10 s, or the disk refused.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WRITE_LIMIT_S
        cancelled: asyncio.CancelledError | None = None
        while not done.done() and (left_s := deadline - loop.time()) > 0:
            try:
                await asyncio.wait({done}, timeout=left_s)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            done.add_done_callback(_retrieve)
            raise cancelled
        if not done.done():
            done.add_done_callback(_retrieve)
            raise StoreWriteFailed(self.path, f"not on disk after {WRITE_LIMIT_S:.0f} s; check the disk")
        return done.result()

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    works = [item.work for item in batch]
                    results = await loop.run_in_executor(self._executor, self._transact, works)
                except sqlite3.Error as error:  # not even the roll-back worked
                    results = [(None, self._named(error))] * len(batch)
                for item, (result, problem) in zip(batch, results, strict=True):
                    if item.done.done():
                        continue  # nobody waits any more
                    if problem is None:
                        item.done.set_result(result)
                    else:
                        item.done.set_exception(problem)
        finally:
            self._writer = None

    def _transact(self, works: Sequence[Work[Any]]) -> list[tuple[Any, Exception | None]]:
        connection = self._connection
        if connection is None:
            raise sqlite3.ProgrammingError("the database is closed")
        results: list[tuple[Any, Exception | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for work in works:
                connection.execute("SAVEPOINT work")
                try:
                    results.append((work(connection), None))
                except Exception as error:  # noqa: BLE001 - it belongs to whoever submitted this work
                    connection.execute("ROLLBACK TO work")
                    results.append((None, self._named(error)))
                connection.execute("RELEASE work")
            connection.execute("COMMIT")
            self.commits += 1
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return [(None, self._named(error))] * len(works)
        return results

    def _named(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        failed = StoreWriteFailed(self.path, f"{error} ({getattr(error, 'sqlite_errorname', 'sqlite')})")
        failed.__cause__ = error
        return failed

    # --- opening, on the store's thread -----------------------------------------------------------------------------

    def _open_here(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._take_lock()
        except OSError as error:
            raise StoreUnreadable(self.path, f"cannot be opened: {error.strerror}") from error
        connection: sqlite3.Connection | None = None
        try:
            if not self.path.exists():
                self._create()
            connection = self._connect(self.path)
            self._check(connection)
            self._migrate(connection)
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise StoreUnreadable(self.path, "its file system cannot hold a write-ahead log; use a local disk")
        except (sqlite3.Error, StoreError, OSError) as error:
            if connection is not None:
                connection.close()
            os.close(self._lock_fd)
            self._lock_fd = -1
            if isinstance(error, StoreError):
                raise
            detail = f"{error}; restore it from a backup, or move it away after taking stock of every pack"
            raise StoreUnreadable(self.path, detail) from error
        return connection

    def _take_lock(self) -> None:
        """Hold a lock for as long as the process lives: the kernel drops it, whatever ends us."""
        fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise StoreBusy(
                self.path, "another process has it open; only one controller may run a station"
            ) from error
        self._lock_fd = fd

    def _connect(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=BUSY_LIMIT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous=FULL")  # the first look into the file: it may be none of SQLite's
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _create(self) -> None:
        """Make the file under another name first, so that an empty or half-made one is never taken for a new one."""
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists():
            raise StoreUnreadable(self.path, f"the file is gone but {log.name} is not; restore it from a backup")
        new = self.path.with_name(f"{self.path.name}.new")
        new.unlink(missing_ok=True)
        connection = self._connect(new)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "CREATE TABLE schema_version"
                " (version INTEGER PRIMARY KEY, store TEXT NOT NULL, applied_utc TEXT NOT NULL)"
            )
            self._apply(connection, 0)
            connection.execute("COMMIT")
        finally:
            connection.close()
        os.rename(new, self.path)  # noqa: PTH104 - beside the directory's sync, which pathlib does not have
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        _log.info("created %s", self.path)

    def _check(self, connection: sqlite3.Connection) -> None:
        """Refuse a file that is damaged, or not the store that it is said to be."""
        found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
        if found != ["ok"]:
            raise StoreUnreadable(self.path, f"damaged ({'; '.join(found)}); restore it from a backup")
        version, store = connection.execute("SELECT max(version), max(store) FROM schema_version").fetchone()
        if version is None or store != self._spec.name:
            raise StoreUnreadable(self.path, f"is not a {self._spec.name}")
        if version > len(self._spec.migrations):
            detail = f"has version {version}, this software knows {len(self._spec.migrations)}; install the newer one"
            raise StoreTooNew(self.path, detail)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version: int = connection.execute("SELECT max(version) FROM schema_version").fetchone()[0]
        if version == len(self._spec.migrations):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._apply(connection, version)
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _apply(self, connection: sqlite3.Connection, from_version: int) -> None:
        for number, statements in enumerate(self._spec.migrations[from_version:], from_version + 1):
            for statement in statements:
                connection.execute(statement)
            row = (number, self._spec.name, utc_now())
            connection.execute("INSERT INTO schema_version (version, store, applied_utc) VALUES (?, ?, ?)", row)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Take the error of work that nobody waits for any more, so that the loop does not report it as forgotten."""
    if not future.cancelled():
        future.exception()
