"""Asks a running controller over its unix socket, one request per line. Imports nothing that is slow to load."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping

LINE_BYTES_MAX = 16 * 2**20  # an answer of a big station is some hundred kilobytes; more is no controller


class NotReachable(Exception):
    """No controller answers at this socket."""


class TimedOut(Exception):
    """The controller did not answer in time; whether it acted is unknown to this client."""


class RequestFailed(Exception):
    """The controller answered with an error. ``kind`` is one of its words, see docs/adr/0010-local-api.md."""

    def __init__(self, kind: str, message: str, details: list[str]) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.details = details


class Client:
    """One connection. Use it as a context manager; every wait is bounded by ``timeout_s`` unless it is None."""

    def __init__(self, path: str, timeout_s: float | None) -> None:
        """Connect. Raises NotReachable, with what to do."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._received = bytearray()
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise NotReachable(_advice(path, error)) from error

    def __enter__(self) -> Client:  # noqa: PYI034 - typing.Self would load typing for one word; nothing derives
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, method: str, params: Mapping[str, object]) -> dict[str, object]:
        """Send a request and return its result. Raises RequestFailed, TimedOut, NotReachable."""
        request = json.dumps({"id": 1, "method": method, "params": params})
        try:
            self._socket.sendall(request.encode() + b"\n")
        except TimeoutError as error:
            raise TimedOut(f"the controller at {self._path} does not take requests") from error
        except OSError as error:
            raise NotReachable(_advice(self._path, error)) from error
        answer = self._next_line()
        if answer.get("ok"):
            result = answer.get("result")
            return result if isinstance(result, dict) else {}
        failure = answer.get("error")
        body = failure if isinstance(failure, dict) else {}
        details = [str(detail) for detail in body.get("details", [])]
        raise RequestFailed(str(body.get("kind", "failed")), str(body.get("message", "no reason given")), details)

    def events(self) -> Iterator[dict[str, object]]:
        """Yield events after ``ask("watch")``; waits without limit for each. Raises NotReachable at the end."""
        self._socket.settimeout(None)
        while True:
            event = self._next_line().get("event")
            if isinstance(event, dict):
                yield event

    def _next_line(self) -> dict[str, object]:
        while (end := self._received.find(b"\n")) < 0:
            try:
                chunk = self._socket.recv(65_536)
            except TimeoutError as error:
                raise TimedOut(f"no answer from the controller at {self._path} in time") from error
            except OSError as error:
                raise NotReachable(f"the connection to {self._path} broke: {error.strerror}") from error
            if not chunk:
                raise NotReachable(f"the controller at {self._path} closed the connection; has it just stopped?")
            self._received += chunk
            if len(self._received) > LINE_BYTES_MAX:
                raise NotReachable(f"what answers at {self._path} is no station controller")
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise NotReachable(f"what answers at {self._path} is no station controller")
        return value


def _advice(path: str, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"no permission to open {path}; join the group that owns it (ls -l {path})"
    if isinstance(error, FileNotFoundError):
        return (
            f"no controller at {path}; is it running? (systemctl status swap-station), or name its socket: --socket"
        )
    if isinstance(error, ConnectionRefusedError):
        return f"the controller that had {path} is gone; start it (systemctl start swap-station)"
    return f"cannot reach the controller at {path}: {error.strerror or error}"
