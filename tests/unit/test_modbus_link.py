"""The Modbus line's owner: every way a TCP answer can be wrong, cancelling, stops, silent units, reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.client.base import ModbusBaseClient

from hal.errors import DeviceRefused, HalError, InvariantError, LinkDown, NoReply, ProtocolError
from hal.modbus_link import QUEUE_LIMIT, ModbusLink, open_pymodbus_client
from hal.types import LinkState, ModbusLinkSpec, Table
from sim_hw.clock import run_virtual
from tests.support.modbus_lines import (
    DEVICE,
    MEMORY_HOST,
    UNIT,
    Line,
    memory_line,
    pty_line,
    reached,
    running,
    tcp_line,
    tcp_spec,
)
from tests.support.modbus_peer import (
    CLOSE,
    ModbusPeer,
    PeerRequest,
    Script,
    bit_value,
    memory_peer,
    register_value,
    right_pdu,
    tcp_frame,
    tcp_peer,
)

virtual = pytest.mark.asyncio(loop_factories=["virtual"])
TIMEOUT_S = 0.25


def _other_transaction(transaction: int) -> Script:
    return lambda _p, r: [tcp_frame(transaction, r.unit, right_pdu(r))]


def _pdu(change: Callable[[bytes], bytes]) -> Script:
    return lambda p, r: [p.frame(r, change(right_pdu(r)))]


# name: what the device does, and the error that must come of it (None: the right values).
FAULTS: dict[str, tuple[Script, type[HalError] | None]] = {
    "silence": (lambda _p, _r: [], NoReply),
    "late": (lambda p, r: [1.3 * TIMEOUT_S, p.answer(r)], NoReply),
    "other transaction": (_other_transaction(4711), NoReply),
    "transaction 0": (_other_transaction(0), NoReply),
    "old answer first": (
        lambda p, r: [tcp_frame(64999, r.unit, right_pdu(PeerRequest(r.unit, 3, 9, 3))), p.answer(r)],
        None,
    ),
    "other unit": (lambda p, r: [p.frame(r, right_pdu(r), unit=UNIT + 1)], ProtocolError),
    "other function": (_pdu(lambda pdu: b"\x04" + pdu[1:]), ProtocolError),
    "unknown function": (_pdu(lambda _: b"\x77\x01\x02"), ProtocolError),
    "function 0x80": (_pdu(lambda _: b"\x80\x01"), ProtocolError),
    "exception of another function": (_pdu(lambda _: b"\x84\x02"), ProtocolError),
    "function only": (_pdu(lambda pdu: pdu[:1]), ProtocolError),
    "one register too few": (_pdu(lambda pdu: b"\x03\x04" + pdu[2:6]), ProtocolError),
    "one register too many": (_pdu(lambda pdu: b"\x03\x08" + pdu[2:] + b"\0\0"), ProtocolError),
    "odd byte count": (_pdu(lambda pdu: b"\x03\x07" + pdu[2:] + b"\0"), ProtocolError),
    "byte count too low": (_pdu(lambda pdu: b"\x03\x05" + pdu[2:]), ProtocolError),
    "truncated": (lambda p, r: [p.answer(r)[:-1]], ProtocolError),
    "header only": (lambda p, r: [p.answer(r)[:5]], ProtocolError),
    "noise in front": (lambda p, r: [b"\x00\xff\x13", p.answer(r)], ProtocolError),
    "other protocol": (lambda p, r: [p.answer(r)[:2] + b"\x01\x00" + p.answer(r)[4:]], ProtocolError),
    "length 0": (lambda p, r: [p.answer(r)[:4] + b"\x00\x00" + p.answer(r)[6:]], ProtocolError),
    "split": (lambda p, r: [p.answer(r)[:4], 0.02, p.answer(r)[4:]], None),
    "byte by byte": (lambda p, r: [part for b in p.answer(r) for part in (bytes([b]), 0.002)], None),
    "byte by byte, too slow": (
        lambda p, r: [part for b in p.answer(r) for part in (bytes([b]), 0.05)],
        ProtocolError,
    ),
    "flood": (lambda p, r: [bytes(100_000), p.answer(r)], ProtocolError),
    "flood of frames": (lambda p, r: [tcp_frame(64998, 1, b"\x83\x02") * 5000, p.answer(r)], None),
    "two answers": (lambda p, r: [p.answer(r) * 2], None),
    "noise behind": (lambda p, r: [p.answer(r) + b"\x00"], ProtocolError),
    "truncated, filled up by an old answer": (
        lambda p, r: [
            p.answer(r)[:10],
            tcp_frame(r.transaction - 1, r.unit, right_pdu(PeerRequest(r.unit, 3, 9, 1))),
        ],
        ProtocolError,
    ),
    "closed": (lambda _p, _r: [CLOSE], NoReply),
    "closed mid-answer": (lambda p, r: [p.answer(r)[:7], 0.01, CLOSE], NoReply),
}


async def _fault_then_right(line: Line, script: Script, expected: type[HalError] | None) -> None:
    assert await line.outcome() is None
    line.peer.scripts.append(script)
    error = await line.outcome(50)
    assert type(error) is (expected or type(None)), error
    if error:
        assert error.device == DEVICE
    await reached(line.link, LinkState.UP)
    again = await line.outcome(60)
    if isinstance(again, LinkDown):  # the connection was out of step and is being made anew
        await reached(line.link, LinkState.UP)
        again = await line.outcome(60)
    assert again is None


@virtual
@pytest.mark.parametrize("name", FAULTS)
async def test_each_wrong_answer_ends_in_its_error_and_the_next_is_right(name: str) -> None:
    """Whatever a TCP device sends instead of its answer, the error is named and the next value is right."""
    async with memory_line(rtu=False, timeout_s=TIMEOUT_S) as line:
        await _fault_then_right(line, *FAULTS[name])


@pytest.mark.parametrize("name", FAULTS)
async def test_each_wrong_answer_on_a_real_socket(name: str) -> None:
    """The same holds through a real TCP connection."""
    async with tcp_line(TIMEOUT_S) as line:
        await _fault_then_right(line, *FAULTS[name])


@virtual
@pytest.mark.parametrize("code", [*range(1, 12), 99])
async def test_an_exception_answer_is_a_refusal_with_its_code(code: int) -> None:
    """Each exception code arrives as DeviceRefused with that code, and the line goes on."""
    async with memory_line(rtu=False) as line:
        line.peer.scripts.append(lambda p, r: [p.frame(r, bytes([r.function | 0x80, code]))])
        error = await line.outcome()
        assert isinstance(error, DeviceRefused)
        assert error.code == code
        assert f"exception {code}" in error.detail
        assert await line.outcome() is None


@virtual
async def test_a_late_answer_is_not_taken_for_the_next() -> None:
    """An answer that arrives while the next request waits is dropped by its transaction id."""
    async with memory_line(rtu=False, timeout_s=0.5) as line:
        line.peer.scripts.extend([lambda p, r: [0.7, p.answer(r)], lambda p, r: [0.4, p.answer(r)]])
        assert isinstance(await line.outcome(10), NoReply)
        assert await line.outcome(20) is None
        assert await line.outcome(30) is None
        assert line.link.report().counters["unasked"] == 1


@virtual
async def test_half_a_late_answer_does_not_put_the_stream_out_of_step() -> None:
    """A late answer whose first half comes before the next request and whose second half after it is skipped."""
    async with memory_line(rtu=False, timeout_s=0.5) as line:
        line.peer.scripts.append(lambda p, r: [0.6, p.answer(r)[:6], 0.3, p.answer(r)[6:]])
        assert isinstance(await line.outcome(10), NoReply)
        await asyncio.sleep(0.2)
        line.peer.scripts.append(lambda p, r: [0.3, p.answer(r)])
        assert await line.outcome(20) is None


@virtual
async def test_every_table_and_a_write() -> None:
    """Each table is asked for with its own function code, bits come as 0 and 1, and a write carries its values."""
    async with memory_line(rtu=False) as line:
        tables = {Table.COIL: 1, Table.DISCRETE: 2, Table.HOLDING: 3, Table.INPUT: 4}
        for table, function in tables.items():
            value = bit_value if function < 3 else register_value
            got = await line.link.read(UNIT, table, 100, 19, device=DEVICE)
            assert got == [value(UNIT, 100 + i) for i in range(19)]
            assert line.peer.requests[-1].function == function
        await line.link.write(UNIT, 16, [1, 65535], device=DEVICE)
        assert line.peer.requests[-1].values == (1, 65535)
        line.peer.scripts.append(lambda p, r: [p.frame(r, struct.pack(">BHH", 16, r.address + 1, r.count))])
        with pytest.raises(ProtocolError, match="echo"):
            await line.link.write(UNIT, 16, [1, 65535], device=DEVICE)


@virtual
async def test_the_bytes_are_those_of_the_standard() -> None:
    """The read of the TCP guide's example goes out byte for byte, and its answer by hand is understood."""
    async with memory_line(rtu=False) as line:
        packets: list[tuple[bool, bytes]] = []
        line.link.tap = lambda sending, packet: packets.append((sending, packet))
        answer = bytes.fromhex("00 01 00 00 00 05 ff 03 02 00 05")
        line.peer.scripts.append(lambda _p, _r: [answer])
        assert await line.link.read(0xFF, Table.HOLDING, 4, 1, device=DEVICE) == [5]
        assert packets == [(True, bytes.fromhex("00 01 00 00 00 06 ff 03 00 04 00 01")), (False, answer)]


@virtual
@pytest.mark.parametrize(
    ("unit", "count", "values"), [(0, 1, [1]), (256, 1, [1]), (1, 0, []), (1, 126, [1] * 124), (1, 126, [65536])]
)
async def test_what_no_device_could_answer_is_a_bug(unit: int, count: int, values: list[int]) -> None:
    """Broadcasts and impossible counts or values are refused before they reach the line's owner."""
    async with memory_line(rtu=False) as line:
        with pytest.raises(InvariantError):
            await line.link.read(unit, Table.HOLDING, 0, count, device=DEVICE)
        with pytest.raises(InvariantError):
            await line.link.write(unit, 0, values, device=DEVICE)
        with pytest.raises(InvariantError):
            line.link.post_urgent(unit, 0, values, device=DEVICE)
        assert line.peer.requests == []


# --- order, cancelling, limits ------------------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize("rtu", [False, True])
async def test_cancelling_ends_the_wait_and_never_the_request(rtu: bool) -> None:
    """A caller that gives up mid-request changes nothing on the wire, and nobody gets its answer."""
    async with memory_line(rtu=rtu, timeout_s=0.5, quiet_time_s=0.1) as line:
        line.peer.scripts.append(lambda p, r: [0.3, p.answer(r)])
        reading = asyncio.get_running_loop().create_task(line.outcome(40))
        await line.peer.saw(1)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
        assert await line.outcome(41) is None
        assert [request.address for request in line.peer.requests] == [40, 41]
        assert line.link.report().counters["cancelled"] == 1
        assert line.link.report().counters["timeout"] == 0


@virtual
async def test_a_stop_goes_next_and_in_order() -> None:
    """Urgent writes are sent right after the request on the wire, in their order, ahead of all that waits."""
    async with memory_line(rtu=False) as line:
        line.peer.scripts.append(lambda p, r: [0.1, p.answer(r)])
        async with asyncio.TaskGroup() as group:
            for address in range(10):
                group.create_task(line.outcome(address))
            await line.peer.saw(1)
            first = line.link.post_urgent(UNIT, 900, [1], device=DEVICE)
            second = line.link.post_urgent(UNIT, 901, [2], device=DEVICE)
            await asyncio.wait([first, second])
            assert first.exception() is None
            assert second.exception() is None
        assert [request.address for request in line.peer.requests] == [0, 900, 901, *range(1, 10)]
        assert line.link.report().counters["urgent_wait_ms_max"] == 100


@virtual
async def test_a_cancelled_read_that_waits_is_not_sent_but_a_cancelled_stop_is() -> None:
    """Nobody's clean-up can take a stop back: its future cancelled, it is sent all the same."""
    async with memory_line(rtu=False) as line:
        line.peer.scripts.append(lambda p, r: [0.1, p.answer(r)])
        tasks = [asyncio.get_running_loop().create_task(line.outcome(address)) for address in (1, 2)]
        await line.peer.saw(1)
        stop = line.link.post_urgent(UNIT, 900, [1], device=DEVICE)
        stop.cancel()
        tasks[1].cancel()
        await asyncio.wait(tasks)
        assert await line.outcome(3) is None
        assert [request.address for request in line.peer.requests] == [1, 900, 3]


@virtual
async def test_a_full_queue_refuses_with_a_reason_but_takes_a_stop() -> None:
    """Above its limit the queue ends new requests at once as NOT_SENT; urgent ones still go."""
    async with memory_line(rtu=False, timeout_s=5.0) as line:
        line.peer.scripts.append(lambda p, r: [1.0, p.answer(r)])
        async with asyncio.TaskGroup() as group:
            first = group.create_task(line.outcome(0))
            await line.peer.saw(1)
            rest = [group.create_task(line.outcome(address)) for address in range(1, QUEUE_LIMIT + 1)]
            await asyncio.sleep(0)
            error = await line.outcome(999)
            assert isinstance(error, LinkDown)
            assert "jammed" in error.detail
            stop = line.link.post_urgent(UNIT, 900, [1], device=DEVICE)
            await stop
        assert [task.result() for task in (first, *rest)] == [None] * (QUEUE_LIMIT + 1)
        assert line.link.report().counters["queue_full"] == 1


@virtual
@pytest.mark.parametrize("rtu", [False, True])
async def test_a_silent_unit_does_not_starve_the_others(rtu: bool) -> None:
    """A dead unit is soon asked only now and then, the others keep the line, and its stop is sent at once."""
    async with memory_line(rtu=rtu, timeout_s=0.5, quiet_time_s=0.1) as line:
        loop = asyncio.get_running_loop()
        line.peer.default = lambda p, r: [] if r.unit == 9 else [0.005, p.answer(r)]
        until = loop.time() + 60.0

        async def poll(unit: int) -> None:
            while loop.time() < until:
                with contextlib.suppress(NoReply):
                    await line.link.read(unit, Table.HOLDING, 0, 1, device=f"unit{unit}")
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            group.create_task(poll(9))
            group.create_task(poll(1))
        asked = [request.unit for request in line.peer.requests]
        assert 10 <= asked.count(9) <= 20
        assert asked.count(1) > 800
        assert line.link.state is LinkState.UP
        before = len(line.peer.requests)
        stop = line.link.post_urgent(9, 900, [1], device="unit9")
        await line.peer.saw(before + 1)
        assert line.peer.requests[-1].unit == 9
        with pytest.raises(NoReply):
            await stop
        line.peer.default = lambda p, r: [p.answer(r)]
        await asyncio.sleep(5.0)
        assert await line.link.read(9, Table.HOLDING, 0, 1, device="unit9") == [register_value(9, 0)]
        assert await line.link.read(9, Table.HOLDING, 1, 1, device="unit9") == [register_value(9, 1)]


@virtual
async def test_a_unit_that_is_silent_for_hours_is_still_asked() -> None:
    """However often a unit did not answer, the next try is at most five seconds and a time-out away."""
    async with memory_line(rtu=True) as line:
        loop = asyncio.get_running_loop()
        line.peer.default = lambda _p, _r: []
        while loop.time() < 3 * 3600.0:
            assert isinstance(await line.outcome(), NoReply)
            await asyncio.sleep(5.0)
        asked = len(line.peer.requests)
        await asyncio.sleep(5.0)
        await line.outcome()
        assert len(line.peer.requests) == asked + 1


# --- the connection -----------------------------------------------------------------------------------------------


@virtual
async def test_the_back_off_doubles_to_its_limit_and_starts_anew() -> None:
    """Attempts are 0.2, 0.4, ... 5 s apart while nobody listens, and requests fail at once meanwhile."""
    attempts: list[float] = []

    def open_client(spec: ModbusLinkSpec) -> ModbusBaseClient:
        attempts.append(asyncio.get_running_loop().time())
        return open_pymodbus_client(spec)

    link = ModbusLink(tcp_spec(1, 0.5, MEMORY_HOST), open_client=open_client)
    states: list[LinkState] = []
    link.on_state(states.append)
    with pytest.raises(LinkDown, match="not connected yet"):
        await link.read(UNIT, Table.HOLDING, 0, 1, device=DEVICE)
    async with running(link):
        await asyncio.sleep(18.0)
        gaps = [round(after - before, 3) for before, after in pairwise(attempts)]
        assert gaps == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        assert states == [LinkState.DOWN]
        with pytest.raises(LinkDown, match="cannot open"):
            await link.read(UNIT, Table.HOLDING, 0, 1, device=DEVICE)
        with pytest.raises(LinkDown, match="cannot open"):
            await link.post_urgent(UNIT, 0, [1], device=DEVICE)
        async with memory_peer(1, rtu=False) as peer:
            await reached(link, LinkState.UP)
            assert await Line(link, peer, tcp_spec(1, 0.5)).outcome() is None
            lost_at = asyncio.get_running_loop().time()
            peer.wires[-1].close()
            await reached(link, LinkState.DOWN)
            await reached(link, LinkState.UP)
            assert round(asyncio.get_running_loop().time() - lost_at, 3) == 0.2
        assert states == [LinkState.DOWN, LinkState.UP, LinkState.DOWN, LinkState.UP]
        assert link.report().counters["reconnects"] == 1


async def test_a_refused_connection_is_down_with_its_reason_until_somebody_listens() -> None:
    """Nothing listening on a real port: LinkDown says so; as soon as something does, values come."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    link = ModbusLink(tcp_spec(port, 2.0))
    async with running(link):
        await reached(link, LinkState.DOWN)
        with pytest.raises(LinkDown, match="cannot open 127"):
            await link.read(UNIT, Table.HOLDING, 0, 1, device=DEVICE)
        async with tcp_peer(port):
            await reached(link, LinkState.UP)
            assert await link.read(UNIT, Table.HOLDING, 0, 1, device=DEVICE) == [register_value(UNIT, 0)]


@virtual
async def test_what_waits_when_the_line_is_lost_ends_at_once() -> None:
    """The request on the wire ends as UNKNOWN, those behind it as NOT_SENT, all in the moment of the loss."""
    async with memory_line(rtu=False, timeout_s=60.0) as line:
        loop = asyncio.get_running_loop()
        line.peer.scripts.append(lambda _p, _r: [1.0, CLOSE])
        tasks = [loop.create_task(line.outcome(address)) for address in range(3)]
        await line.peer.saw(1)
        stop = line.link.post_urgent(UNIT, 0, [1], device=DEVICE)
        began = loop.time()
        await asyncio.wait(tasks)
        assert [type(task.result()) for task in tasks] == [NoReply, LinkDown, LinkDown]
        with pytest.raises(LinkDown):
            await stop
        assert loop.time() - began <= 1.0


@virtual
async def test_a_mute_peer_is_connected_to_anew() -> None:
    """After four time-outs in a row the TCP connection, which may have died unseen, is replaced."""
    async with memory_line(rtu=False) as line:
        line.peer.scripts.extend([lambda _p, _r: []] * 4)
        errors = [await line.outcome(), await line.outcome(), await line.outcome()]
        await asyncio.sleep(1.0)
        errors.append(await line.outcome())
        assert [type(error) for error in errors] == [NoReply] * 4
        await line.peer.connected(2)
        await reached(line.link, LinkState.UP)
        assert await line.outcome() is None


@virtual
async def test_ending_the_owner_ends_every_call() -> None:
    """Cancelled, the owner leaves nobody waiting and the line down."""
    async with memory_line(rtu=False, timeout_s=60.0) as line:
        line.peer.default = lambda _p, _r: []
        loop = asyncio.get_running_loop()
        async with running(ModbusLink(line.spec)):
            pass
        link = ModbusLink(line.spec)
        async with running(link):
            await reached(link, LinkState.UP)
            tasks = [loop.create_task(Line(link, line.peer, line.spec).outcome()) for _ in range(2)]
            await line.peer.saw(1)
        await asyncio.wait(tasks)
        assert [type(task.result()) for task in tasks] == [NoReply, LinkDown]
        assert link.state is LinkState.DOWN
        assert link.report().last_error == "the line was closed"


@virtual
async def test_one_log_line_per_change(caplog: pytest.LogCaptureFixture) -> None:
    """A line that is down for long, and a unit silent for long, are each logged once when it begins and ends."""
    caplog.set_level(logging.DEBUG)
    link = ModbusLink(tcp_spec(1, 0.5, MEMORY_HOST))
    async with running(link):
        await asyncio.sleep(60.0)
        async with memory_peer(1, rtu=False) as peer:
            await reached(link, LinkState.UP)
            line = Line(link, peer, tcp_spec(1, 0.5))
            peer.default = lambda p, r: [] if r.unit == UNIT else [p.answer(r)]
            for _ in range(50):
                await line.outcome()
                await link.read(1, Table.HOLDING, 0, 1, device=DEVICE)
                await asyncio.sleep(0.2)
            peer.default = lambda p, r: [p.answer(r)]
            await asyncio.sleep(5.0)
            assert await line.outcome() is None
    texts = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert [text.split(":")[1].strip().split(" ")[0] for text in texts] == ["down", "up", "unit", "unit", "down"]


# --- never a wrong value ------------------------------------------------------------------------------------------


def _mix(seed: int, timeout_s: float, quiet_time_s: float) -> Script:
    """A device that goes wrong in one answer out of three, in a way that the seed draws."""
    rng = random.Random(seed)  # noqa: S311 - a seeded schedule, not a secret

    def answer(peer: ModbusPeer, request: PeerRequest) -> list[bytes | float | None]:
        right = peer.answer(request)
        late_s = timeout_s + rng.uniform(0.0, 0.9) * quiet_time_s
        old = peer.answer(
            PeerRequest(request.unit, 3, rng.randrange(200), request.count, (), request.transaction - 1)
        )
        bad: list[list[bytes | float | None]] = [
            [],
            [late_s, right],
            [right[:-1] + bytes([right[-1] ^ 1])] if peer.rtu else [late_s, right],
            [right[: rng.randrange(len(right))]],
            [right[:4], rng.uniform(0, 0.2) * timeout_s, right[4:]],
            [rng.randbytes(rng.randrange(1, 20)), right],
            [right, rng.randbytes(rng.randrange(1, 20))],
            [peer.frame(request, bytes([request.function | 0x80, 6]))],
            [old, right] if not peer.rtu else [peer.frame(request, right_pdu(request), unit=request.unit + 1)],
        ]
        return rng.choice(bad) if rng.random() < 1 / 3 else [right]

    return answer


async def _storm(line: Line, seed: int, requests: int) -> int:
    """Ask in a row, some callers giving up early; ``Line.outcome`` fails the test on a wrong value."""
    rng = random.Random(seed)  # noqa: S311 - a seeded schedule, not a secret
    line.peer.default = _mix(seed + 1, line.spec.timeout_s, line.spec.quiet_time_s or line.spec.timeout_s)
    right = 0
    for _ in range(requests):
        await reached(line.link, LinkState.UP)
        address, count = rng.randrange(200), rng.choice((1, 3, 3, 3))
        patience_s = rng.uniform(0.0, line.spec.timeout_s) if rng.random() < 1 / 5 else None
        try:
            async with asyncio.timeout(patience_s):
                error = await line.outcome(address, count)
                right += error is None
                if error and "not sent" in error.detail:
                    await asyncio.sleep(line.spec.timeout_s)
        except TimeoutError:
            continue
    return right


@pytest.mark.parametrize("rtu", [False, True])
@settings(derandomize=True, max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_never_a_wrong_value(rtu: bool, seed: int) -> None:
    """Under any mix of faults and of callers that give up, a value that is returned is that of its request."""

    async def storm() -> int:
        async with memory_line(rtu=rtu, timeout_s=0.5, quiet_time_s=0.4) as line:
            return await _storm(line, seed, 60)

    assert run_virtual(storm()) > 5


@pytest.mark.parametrize("open_line", [tcp_line, pty_line])
async def test_never_a_wrong_value_on_real_transports(
    open_line: Callable[[float], AbstractAsyncContextManager[Line]],
) -> None:
    """The same on a real socket and on a real serial port."""
    async with open_line(0.05) as line:
        assert await _storm(line, 1, 60) > 5
