"""The local API's server: a unix socket, one JSON object per line, peer credentials, roles and an audit trail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controller.local.protocol import ErrorKind, ServiceRefused, StationService
from controller.local.roles import Peer, Role, RoleTable, peer_of
from hal.errors import HalError, Outcome

_log = logging.getLogger(__name__)

LINE_BYTES_MAX = 65_536  # a request is some hundred bytes
CLIENTS_MAX = 32
UNREAD_BYTES_MAX = 262_144  # events that a watcher has not read: about a thousand
REPLY_LIMIT_S = 5.0  # for a client to take its answer
SOCKET_MODE = 0o660  # who is in the socket's group may look and stop; roles decide the rest

Audit = Callable[[Mapping[str, object]], Awaitable[object]]
Params = Mapping[str, object]
Result = dict[str, object]


class SocketTaken(Exception):
    """The socket's path cannot be used: another controller serves it, or it is something else."""


@dataclass(frozen=True, slots=True)
class _Method:
    """A row of the method table. ``always``: never refused for a role, and done before it is audited."""

    role: Role
    params: frozenset[str]
    read: Callable[[StationService], Result] | None = None
    command: Callable[[StationService, Params], Awaitable[Result]] | None = None
    always: bool = False


def _unit(params: Params) -> str | None:
    return _text(params, "unit") if params.get("unit") is not None else None


def _text(params: Params, name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise ServiceRefused(ErrorKind.USAGE, f"parameter {name!r} must be a text that is not empty")
    return value


def _goals(params: Params) -> Mapping[str, str] | None:
    goals = params.get("goals")
    if goals is None:
        return None
    if not isinstance(goals, dict) or not all(isinstance(goal, str) for goal in goals.values()):
        raise ServiceRefused(ErrorKind.USAGE, "parameter 'goals' must be an object of mount and goal")
    return goals


_UNIT = frozenset({"unit"})
_NONE: frozenset[str] = frozenset()
METHODS: Mapping[str, _Method] = {
    "status": _Method(Role.VIEWER, _NONE, read=lambda s: s.status()),
    "slots": _Method(Role.VIEWER, _NONE, read=lambda s: s.slots()),
    "devices": _Method(Role.VIEWER, _NONE, read=lambda s: s.devices()),
    "io": _Method(Role.VIEWER, _NONE, read=lambda s: s.io()),
    "bus": _Method(Role.VIEWER, _NONE, read=lambda s: s.bus()),
    "watch": _Method(Role.VIEWER, _NONE, read=lambda s: {"schema": "swap-station/watch/1", "status": s.status()}),
    "swap_start": _Method(
        Role.OPERATOR,
        frozenset({"dock", "goals"}),
        command=lambda s, p: s.swap_start(_text(p, "dock"), _goals(p)),
    ),
    "start": _Method(Role.OPERATOR, _UNIT, command=lambda s, p: s.start(_unit(p))),
    "stop": _Method(Role.VIEWER, _UNIT, command=lambda s, p: s.stop(_unit(p)), always=True),
    "abort": _Method(Role.VIEWER, _UNIT, command=lambda s, p: s.abort(_unit(p)), always=True),
    "clear": _Method(Role.TECHNICIAN, _UNIT, command=lambda s, p: s.clear(_unit(p))),
    "reset": _Method(Role.TECHNICIAN, _UNIT, command=lambda s, p: s.reset(_unit(p))),
}


@dataclass(eq=False, slots=True)
class _Client:
    """One connection."""

    writer: asyncio.StreamWriter
    peer: Peer
    role: Role
    task: asyncio.Task[None] | None
    used_at: float
    busy: bool = False
    unsubscribes: list[Callable[[], None]] = field(default_factory=list)


class LocalServer:
    """Serves a StationService on a unix socket.

    Reading is open to whoever can open the socket, and so are stop and abort; the rest needs a role. Every command
    goes to the audit with who asked and what came of it; a command that could not be audited is not begun, except
    stop and abort, which are done first. A client that goes away does not take its command back.
    """

    def __init__(self, path: Path, service: StationService, roles: RoleTable, audit: Audit) -> None:
        """``audit`` writes one record, for example ``journal.append`` bound to the kind "audit"."""
        self._path = path
        self._service = service
        self._roles = roles
        self._audit = audit
        self._clients: set[_Client] = set()
        self.counters = {"clients": 0, "requests": 0, "refused": 0, "dropped_slow": 0, "dropped_for_room": 0}

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve for as long as the context lasts; then drop every client and remove the socket.

        Raises:
            SocketTaken: another controller serves this path, or a file that is no socket is in the way.
        """
        listening = _bind(self._path)
        inode = self._path.stat().st_ino
        server = await asyncio.start_unix_server(self._accept, sock=listening, limit=LINE_BYTES_MAX)
        try:
            yield
        finally:
            server.close()
            tasks = [client.task for client in self._clients if client.task is not None]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            with contextlib.suppress(FileNotFoundError):
                if self._path.stat().st_ino == inode:
                    self._path.unlink()

    # --- connections -----------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer.get_extra_info("socket"))
        now = asyncio.get_running_loop().time()
        client = _Client(writer, peer, self._roles.role_of(peer), asyncio.current_task(), now)
        self._make_room()
        self._clients.add(client)
        self.counters["clients"] += 1
        try:
            await self._serve(client, reader)
        except (ConnectionError, TimeoutError):
            pass  # the client is gone, or does not read its answers
        finally:
            for unsubscribe in client.unsubscribes:
                unsubscribe()
            self._clients.discard(client)
            writer.transport.abort() if client.busy else writer.close()

    def _make_room(self) -> None:
        """With all places taken, the one idle for longest gives way: a stop must always get in."""
        if len(self._clients) < CLIENTS_MAX:
            return
        oldest = min(self._clients, key=lambda client: (client.busy, client.used_at))
        self.counters["dropped_for_room"] += 1
        self._clients.discard(oldest)
        oldest.writer.transport.abort()  # a command of its goes on, only the answer is lost

    async def _serve(self, client: _Client, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # asyncio's name for a line over the limit; what follows it cannot be trusted
                too_long = _error(ErrorKind.USAGE, f"a line is {LINE_BYTES_MAX} bytes at most")
                await self._reply(client, _line({"id": None, **too_long}))
                return
            if not line:
                return
            self.counters["requests"] += 1
            client.busy = True
            client.used_at = asyncio.get_running_loop().time()
            await self._reply(client, await self._answer(client, line))
            client.busy = False

    async def _reply(self, client: _Client, answer: bytes) -> None:
        client.writer.write(answer)
        try:
            async with asyncio.timeout(REPLY_LIMIT_S):
                await client.writer.drain()
        except TimeoutError:
            self.counters["dropped_slow"] += 1
            client.writer.transport.abort()
            raise

    def _stream(self, client: _Client, request_id: object) -> None:
        """Send every event from now on; a client that does not read them is dropped, nobody waits for it."""
        transport = client.writer.transport

        def send(event: dict[str, object]) -> None:
            if transport.is_closing():
                return
            if transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
                self.counters["dropped_slow"] += 1
                transport.abort()
                return
            transport.write(_line({"id": request_id, "event": event}))

        client.unsubscribes.append(self._service.subscribe(send))

    # --- requests --------------------------------------------------------------------------------------------------

    async def _answer(self, client: _Client, line: bytes) -> bytes:
        request_id: object = None
        try:
            request = _parse(line)
            request_id = request.get("id")
            name, method, params = _method_of(request)
            if method.read is not None:
                result = method.read(self._service)
                if name == "watch":
                    self._stream(client, request_id)
            else:
                result = await self._command(client, name, method, params)
            return _line({"id": request_id, "ok": True, "result": result})
        except ServiceRefused as refusal:
            self.counters["refused"] += 1
            error = _error(refusal.kind, refusal.message, refusal.details)
        except Exception as failure:  # noqa: BLE001 - one bad request must not end the API; it is logged and answered
            _log.exception("the local API failed on %.200r", line)
            error = _error(ErrorKind.FAILED, f"{type(failure).__name__}: {failure}")
        return _line({"id": request_id, **error})

    async def _command(self, client: _Client, name: str, method: _Method, params: Params) -> Result:
        record: dict[str, object] = {
            "method": name,
            "params": dict(params),
            "uid": client.peer.uid,
            "pid": client.peer.pid,
            "role": client.role.name.lower(),
        }
        if client.role < method.role and not method.always:
            await self._audit({**record, "outcome": ErrorKind.PERMISSION})
            raise ServiceRefused(
                ErrorKind.PERMISSION,
                f"{name} needs the role {method.role.name.lower()}, you (uid {client.peer.uid}) are "
                f"{client.role.name.lower()}",
            )
        if not method.always:
            await self._audit({**record, "outcome": "asked"})
        outcome = "interrupted"
        try:
            result = await _carried_out(method, self._service, params)
            outcome = "ok"
        except ServiceRefused as refusal:
            outcome = f"{refusal.kind}: {refusal.message}"
            raise
        finally:
            await self._audit_outcome({**record, "outcome": outcome})
        return result

    async def _audit_outcome(self, record: Mapping[str, object]) -> None:
        """What was done was done: a record that cannot be written is logged, not turned into a failed command."""
        try:
            await self._audit(record)
        except Exception:  # noqa: BLE001 - whatever it is, the command's own result stands
            _log.exception("no audit record could be written of %s", record)


async def _carried_out(method: _Method, service: StationService, params: Params) -> Result:
    """Run a command and put every way in which it can end badly into the API's words."""
    if method.command is None:
        raise ServiceRefused(ErrorKind.USAGE, "not a command")
    try:
        return await method.command(service, params)
    except TimeoutError as error:
        raise ServiceRefused(ErrorKind.TIMEOUT, str(error) or "not done within its limit") from error
    except HalError as error:
        kinds = {Outcome.UNKNOWN: ErrorKind.UNKNOWN_OUTCOME, Outcome.REFUSED: ErrorKind.REFUSED}
        raise ServiceRefused(kinds.get(error.outcome, ErrorKind.FAILED), str(error)) from error


def _parse(line: bytes) -> Mapping[str, object]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ServiceRefused(ErrorKind.USAGE, "a request is one JSON object on one line") from None
    if not isinstance(request, dict):
        raise ServiceRefused(ErrorKind.USAGE, "a request is one JSON object on one line")
    return request


def _method_of(request: Mapping[str, object]) -> tuple[str, _Method, Params]:
    name, params = request.get("method"), request.get("params", {})
    method = METHODS.get(name) if isinstance(name, str) else None
    if method is None or not isinstance(name, str):
        raise ServiceRefused(ErrorKind.USAGE, f"no method {name!r}", sorted(METHODS))
    if not isinstance(params, dict):
        raise ServiceRefused(ErrorKind.USAGE, "'params' must be an object")
    if unknown := sorted(set(params) - method.params):
        raise ServiceRefused(ErrorKind.USAGE, f"{name} has no parameter {unknown[0]!r}", sorted(method.params))
    return name, method, params


def _error(kind: ErrorKind, message: str, details: tuple[str, ...] = ()) -> Mapping[str, object]:
    return {"ok": False, "error": {"kind": kind, "message": message, "details": list(details)}}


def _line(value: Mapping[str, object]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def _bind(path: Path) -> socket.socket:
    """Bind the socket with its mode from the first moment, replacing one that a dead controller left behind."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_the_way(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        previous = os.umask(0o777 & ~SOCKET_MODE)  # the whole process's, hence for this one call
        try:
            listening.bind(str(path))
        except OSError:
            listening.close()
            raise
        finally:
            os.umask(previous)
    except OSError as error:
        raise SocketTaken(f"{path} cannot be bound: {error.strerror or error}") from error
    return listening


def _clear_the_way(path: Path) -> None:
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise SocketTaken(f"{path} is in the way and is no socket; remove it or name another")
    if _answers(path):
        raise SocketTaken(f"another controller serves {path}; stop it first")
    path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
