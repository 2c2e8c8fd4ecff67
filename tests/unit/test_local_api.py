from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from controller.local import server as server_module
from controller.local.protocol import ErrorKind, ServiceRefused, StationService
from controller.local.roles import Peer, Role, RoleTable, UnknownGroup, peer_of
from controller.local.server import LocalServer, SocketTaken
from hal.errors import DeviceFaulted, HalError, NoReply, NotClaimed
from tests.support.api import RawClient, TinyStation, until


class Bench:
    """A server with its station, its audit trail and a way in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.station = TinyStation()
        self.audited: list[Mapping[str, object]] = []
        self.audit_error: Exception | None = None
        self.roles = RoleTable({})
        service: StationService = self.station
        self.server = LocalServer(path, service, self.roles, self.audit)

    async def audit(self, record: Mapping[str, object]) -> None:
        if self.audit_error is not None:
            raise self.audit_error
        self.audited.append(record)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[RawClient]:
        client = await RawClient.connect(self.path)
        try:
            yield client
        finally:
            await client.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A serving bench."""
    made = Bench(tmp_path / "run" / "s.sock")
    async with made.server.serving():
        yield made
    assert not made.path.exists()


@pytest.mark.parametrize("method", ["status", "slots", "devices", "io", "bus"])
async def test_every_read_answers_with_its_schema(bench: Bench, method: str) -> None:
    """Each read returns what the service says, under the request's id, and leaves no audit."""
    async with bench.client() as client:
        answer = await client.ask(method)
    assert answer == {"id": 7, "ok": True, "result": getattr(bench.station, method)()}
    assert answer["result"]["schema"].startswith("swap-station/")
    assert bench.audited == []


async def test_commands_reach_the_service_and_the_audit(bench: Bench) -> None:
    """Each command arrives with its parameters; the audit has who asked, before and after."""
    async with bench.client() as client:
        started = await client.ask("swap_start", dock="dock1", goals={"mount_a": "fresh"})
        for name in ("start", "stop", "abort", "clear", "reset"):
            assert (await client.ask(name, unit="dock1"))["ok"]
        assert (await client.ask("stop"))["ok"]
    assert started["result"]["swap_id"] == "swap-1"
    assert bench.station.asked[0] == ("swap_start", ("dock1", {"mount_a": "fresh"}))
    assert bench.station.asked[1:] == [(n, "dock1") for n in ("start", "stop", "abort", "clear", "reset")] + [
        ("stop", None)
    ]
    assert {record["uid"] for record in bench.audited} == {os.getuid()}
    assert {record["pid"] for record in bench.audited} == {os.getpid()}
    trail = [(record["method"], record["outcome"]) for record in bench.audited]
    assert trail[:3] == [("swap_start", "asked"), ("swap_start", "ok"), ("start", "asked")]
    assert ("stop", "asked") not in trail
    assert ("reset", "asked") in trail


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense\n", "one JSON object"),
        (b"[1]\n", "one JSON object"),
        (b"\xff\xfe\n", "one JSON object"),
        (b"[" * 50_000 + b"\n", "one JSON object"),
        (b'{"id":1}\n', "no method None"),
        (b'{"id":1,"method":["status"]}\n', "no method"),
        (b'{"id":1,"method":"format_disk"}\n', "no method 'format_disk'"),
        (b'{"id":1,"method":"status","params":[]}\n', "must be an object"),
        (b'{"id":1,"method":"stop","params":{"unti":"dock1"}}\n', "no parameter 'unti'"),
        (b'{"id":1,"method":"stop","params":{"unit":7}}\n', "'unit' must be a text"),
        (b'{"id":1,"method":"swap_start","params":{}}\n', "'dock' must be a text"),
        (b'{"id":1,"method":"swap_start","params":{"dock":"dock1","goals":{"a":1}}}\n', "'goals' must be"),
    ],
)
async def test_bad_requests_get_a_reason_and_the_connection_lives(bench: Bench, line: bytes, message: str) -> None:
    """A line that is no request is answered with kind "usage"; the next request on the same connection works."""
    async with bench.client() as client:
        client.send(line)
        answer = await client.receive()
        assert answer["ok"] is False
        assert answer["error"]["kind"] == "usage"
        assert message in answer["error"]["message"]
        assert (await client.ask("status"))["ok"]
    assert bench.station.asked == []


async def test_a_line_without_end_is_cut_off(bench: Bench) -> None:
    """A line over the limit is answered with an error and the connection closed; others go on."""
    async with bench.client() as client:
        client.send(b"x" * (server_module.LINE_BYTES_MAX * 3))
        with contextlib.suppress(ConnectionError):
            answer = await client.receive()
            assert "bytes at most" in answer["error"]["message"]
            assert await client.receive() is None
    async with bench.client() as client:
        assert (await client.ask("status"))["ok"]


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ServiceRefused(ErrorKind.INTERLOCK, "door open", ["gate"]), "interlock"),
        (ServiceRefused(ErrorKind.REFUSED, "dock1 is busy"), "refused"),
        (NoReply("dock1.clamp", "stop", "nothing came back"), "unknown_outcome"),
        (NotClaimed("dock1.clamp", "move_to", "held by swap-1"), "refused"),
        (DeviceFaulted("dock1.clamp", "move_to", "drive fault", 7), "failed"),
        (TimeoutError(), "timeout"),
        (RuntimeError("a bug"), "failed"),
    ],
)
async def test_every_failure_has_its_kind(bench: Bench, failure: HalError | ServiceRefused, kind: str) -> None:
    """However a command ends badly, the caller gets its kind and a text, the audit the outcome, and the API lives."""
    bench.station.failure = failure
    async with bench.client() as client:
        answer = await client.ask("reset")
        assert answer["error"]["kind"] == kind
        assert answer["error"]["message"]
        assert (await client.ask("status"))["ok"]
    assert bench.audited[-1]["outcome"] != "ok"
    assert len(bench.audited) == 2


async def test_a_viewer_may_look_stop_and_abort_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a role every read, stop and abort work; the rest is refused, does not arrive, and is audited."""
    monkeypatch.setattr(bench.roles, "role_of", lambda _peer: Role.VIEWER)
    async with bench.client() as client:
        for method in ("status", "stop", "abort"):
            assert (await client.ask(method))["ok"], method
        for method in ("clear", "reset"):
            answer = await client.ask(method)
            assert answer["error"]["kind"] == "permission", method
            assert "technician" in answer["error"]["message"]
        assert (await client.ask("swap_start", dock="dock1"))["error"]["kind"] == "permission"
        answer = await client.ask("start", unit="store")
        assert answer["error"]["kind"] == "permission"
        assert "operator" in answer["error"]["message"]
    assert [name for name, _ in bench.station.asked] == ["stop", "abort"]
    refused = [record["method"] for record in bench.audited if record["outcome"] == "permission"]
    assert refused == ["clear", "reset", "swap_start", "start"]


async def test_an_operator_may_start_but_not_reset(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator starts swaps and units; clear and reset need a technician."""
    monkeypatch.setattr(bench.roles, "role_of", lambda _peer: Role.OPERATOR)
    async with bench.client() as client:
        assert (await client.ask("swap_start", dock="dock1"))["ok"]
        assert (await client.ask("start", unit="store"))["ok"]
        assert (await client.ask("reset"))["error"]["kind"] == "permission"


async def test_without_an_audit_only_stop_and_abort_act(bench: Bench) -> None:
    """When the audit cannot be written, stop and abort are carried out all the same and nothing else is begun."""
    bench.audit_error = OSError("disk full")
    async with bench.client() as client:
        assert (await client.ask("stop"))["ok"]
        assert (await client.ask("abort"))["ok"]
        assert (await client.ask("reset"))["error"]["kind"] == "failed"
    assert [name for name, _ in bench.station.asked] == ["stop", "abort"]


async def test_watch_streams_events_until_the_client_leaves(bench: Bench) -> None:
    """After the answer every event follows in order; requests still work meanwhile; leaving unsubscribes."""
    async with bench.client() as client:
        assert (await client.ask("watch"))["result"]["status"]["station"] == "tiny"
        bench.station.tell({"type": "swap", "n": 1})
        bench.station.tell({"type": "swap", "n": 2})
        assert [(await client.receive())["event"]["n"] for _ in range(2)] == [1, 2]
        assert (await client.ask("stop"))["ok"]
        assert len(bench.station.listeners) == 1
    await until(lambda: bench.station.listeners == [])


async def test_a_watcher_that_does_not_read_is_dropped(bench: Bench) -> None:
    """Events pile up for a deaf watcher to a limit only; then it is cut off, and a reading one misses nothing."""
    async with bench.client() as deaf, bench.client() as keen:
        await deaf.ask("watch")
        await keen.ask("watch")
        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined] # private
        event: dict[str, object] = {"type": "swap", "filler": "x" * 10_000}
        for n in range(200):
            bench.station.tell({**event, "n": n})
            assert (await keen.receive())["event"]["n"] == n
        assert bench.server.counters["dropped_slow"] == 1
        await until(lambda: len(bench.station.listeners) == 1)
        deaf.reader._transport.resume_reading()  # type: ignore[attr-defined] # private


async def test_a_full_house_makes_room_for_a_stop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every place taken by idle clients, a new one still gets in, at the cost of the one idle for longest."""
    monkeypatch.setattr(server_module, "CLIENTS_MAX", 3)
    async with contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(bench.client()) for _ in range(3)]
        for client in idle:
            assert (await client.ask("status"))["ok"]
        late = await stack.enter_async_context(bench.client())
        assert (await late.ask("stop"))["ok"]
        assert await idle[0].receive() is None
        assert (await idle[1].ask("status"))["ok"]
    assert bench.server.counters["dropped_for_room"] == 1


async def test_a_client_that_leaves_does_not_take_its_command_back(bench: Bench) -> None:
    """A command whose caller went away is carried through and audited."""
    bench.station.gate = asyncio.Event()
    async with bench.client() as client:
        client.send(b'{"id":1,"method":"reset"}\n')
        await until(lambda: bool(bench.station.asked))
    bench.station.gate.set()
    await until(lambda: bool(bench.audited) and bench.audited[-1]["outcome"] == "ok")


async def test_a_result_that_is_not_json_is_an_error_and_not_the_end(bench: Bench) -> None:
    """A service that returns what JSON has no word for yields kind "failed", and the connection lives."""
    bench.station.faults = [{"age_s": float("inf")}]
    async with bench.client() as client:
        assert (await client.ask("status"))["error"]["kind"] == "failed"
        bench.station.faults = []
        assert (await client.ask("status"))["ok"]


async def test_closing_ends_a_waiting_command(tmp_path: Path) -> None:
    """When the server closes, clients are dropped and a command that still waits is cancelled and audited."""
    bench = Bench(tmp_path / "s.sock")
    bench.station.gate = asyncio.Event()
    async with bench.server.serving():
        client = await RawClient.connect(bench.path)
        client.send(b'{"id":1,"method":"reset"}\n')
        await until(lambda: bool(bench.station.asked))
    assert bench.audited[-1]["outcome"] == "interrupted"
    assert await client.receive() is None
    await client.close()


async def test_the_socket_is_not_for_everybody(bench: Bench) -> None:
    """The socket is for its owner and its group from the moment it exists."""
    assert stat.S_IMODE(bench.path.stat().st_mode) == 0o660


async def test_a_dead_controllers_socket_is_replaced_and_a_live_ones_is_not(bench: Bench, tmp_path: Path) -> None:
    """A socket that nobody serves is taken over; one that is served, or a plain file, is refused and kept."""
    with pytest.raises(SocketTaken, match="another controller"):
        async with Bench(bench.path).server.serving():
            pass
    async with bench.client() as client:
        assert (await client.ask("status"))["ok"]
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(dead))
    async with Bench(dead).server.serving():
        pass
    plain = tmp_path / "plain"
    plain.write_text("keep me")
    with pytest.raises(SocketTaken, match="no socket"):
        async with Bench(plain).server.serving():
            pass
    assert plain.read_text() == "keep me"
    with pytest.raises(SocketTaken, match="cannot be bound"):
        async with Bench(plain / "below.sock").server.serving():
            pass


def test_the_kernel_says_who_is_there() -> None:
    """Credentials of the other end are this process's own, groups included."""
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        peer = peer_of(left)
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())
    assert peer.groups == frozenset(os.getgroups())


def test_roles_follow_users_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root and our own user are technicians; others have the highest role of their groups, first or further."""
    monkeypatch.setattr(os, "geteuid", lambda: 990)
    table = RoleTable({})
    table._gids = {Role.OPERATOR: 100, Role.TECHNICIAN: 200}
    cases = [
        (Peer(1, 0, 0, frozenset()), Role.TECHNICIAN),
        (Peer(1, 990, 990, frozenset()), Role.TECHNICIAN),
        (Peer(1, 1000, 1000, frozenset()), Role.VIEWER),
        (Peer(1, 1000, 100, frozenset()), Role.OPERATOR),
        (Peer(1, 1000, 1000, frozenset({100})), Role.OPERATOR),
        (Peer(1, 1000, 100, frozenset({200, 5})), Role.TECHNICIAN),
    ]
    assert [table.role_of(peer) for peer, _ in cases] == [role for _, role in cases]


def test_an_unknown_group_is_named() -> None:
    """A group that does not exist is refused when the table is made, with what to do."""
    with pytest.raises(UnknownGroup, match="groupadd no-such-group"):
        RoleTable({Role.OPERATOR: "no-such-group"})
