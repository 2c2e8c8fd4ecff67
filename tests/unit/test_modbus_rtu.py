"""Modbus over a serial line: every way an answer can be wrong, the quiet time, the port itself."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from hal.errors import DeviceRefused, HalError, LinkDown, NoReply, ProtocolError
from hal.modbus_link import ModbusLink
from hal.types import LinkState, Table
from tests.support.modbus_lines import DEVICE, UNIT, Line, memory_line, pty_line, reached, rtu_spec, running
from tests.support.modbus_peer import (
    Action,
    ModbusPeer,
    PeerRequest,
    Script,
    pty_peer,
    register_value,
    right_pdu,
    rtu_frame,
)

virtual = pytest.mark.asyncio(loop_factories=["virtual"])


def _garbled(peer: ModbusPeer, request: PeerRequest) -> Sequence[Action]:
    right = peer.answer(request)
    return [right[:-1] + bytes([right[-1] ^ 1])]


def _two_answers(peer: ModbusPeer, request: PeerRequest) -> Sequence[Action]:
    old = PeerRequest(request.unit, request.function, request.address + 1, request.count)
    return [peer.answer(old) + peer.answer(request)]


# name: what the device does, and the error that must come of it (None: the right values).
FAULTS: dict[str, tuple[Script, type[HalError] | None]] = {
    "silence": (lambda _p, _r: [], NoReply),
    "crc": (_garbled, ProtocolError),
    "truncated": (lambda p, r: [p.answer(r)[:-2]], ProtocolError),
    "one byte": (lambda p, r: [p.answer(r)[:1]], ProtocolError),
    "noise in front": (lambda p, r: [b"\x00\xff\x07", p.answer(r)], None),
    "noise with our unit in front": (lambda p, r: [bytes([UNIT, 3, UNIT, 3]), p.answer(r)], None),
    "long noise in front": (lambda p, r: [b"\x55" * 9 + p.answer(r)], ProtocolError),
    "noise behind": (lambda p, r: [p.answer(r) + b"\x00"], None),
    "other unit": (lambda p, r: [p.frame(r, right_pdu(r), unit=UNIT + 1)], ProtocolError),
    "other function": (lambda p, r: [p.frame(r, b"\x04" + right_pdu(r)[1:])], ProtocolError),
    "unknown function": (lambda p, r: [p.frame(r, b"\x77\x01\x02")], ProtocolError),
    "function 0x80": (lambda p, r: [p.frame(r, b"\x80\x01")], ProtocolError),
    "exception of another function": (lambda p, r: [p.frame(r, b"\x84\x02")], ProtocolError),
    "one register too few": (lambda p, r: [p.frame(r, b"\x03\x04" + right_pdu(r)[2:6])], ProtocolError),
    "one register too many": (lambda p, r: [p.frame(r, b"\x03\x08" + right_pdu(r)[2:] + b"\0\0")], ProtocolError),
    "byte count too low": (lambda p, r: [p.frame(r, b"\x03\x05" + right_pdu(r)[2:])], ProtocolError),
    "split": (lambda p, r: [p.answer(r)[:3], 0.02, p.answer(r)[3:]], None),
    "byte by byte": (lambda p, r: [part for b in p.answer(r) for part in (bytes([b]), 0.002)], None),
    "flood": (lambda p, r: [b"\x07\x03" * 800, p.answer(r)], ProtocolError),
    "two answers": (_two_answers, ProtocolError),
}


async def _fault_then_right(line: Line, script: Script, expected: type[HalError] | None) -> None:
    assert await line.outcome() is None
    line.peer.scripts.append(script)
    error = await line.outcome(50)
    assert type(error) is (expected or type(None)), error
    if error:
        assert error.device == DEVICE
    assert await line.outcome(60) is None
    assert line.link.state is LinkState.UP


@virtual
@pytest.mark.parametrize("name", FAULTS)
async def test_each_wrong_answer_ends_in_its_error_and_the_next_is_right(name: str) -> None:
    """Whatever a serial device sends instead of its answer, the error is named and the next value is right."""
    async with memory_line(rtu=True) as line:
        await _fault_then_right(line, *FAULTS[name])


@pytest.mark.parametrize("name", FAULTS)
async def test_each_wrong_answer_on_a_real_port(name: str) -> None:
    """The same holds through a real serial driver."""
    async with pty_line() as line:
        await _fault_then_right(line, *FAULTS[name])


@virtual
@pytest.mark.parametrize("code", [*range(1, 12), 99])
async def test_an_exception_answer_is_a_refusal_with_its_code(code: int) -> None:
    """Each exception code arrives as DeviceRefused with that code, and the line goes on."""
    async with memory_line(rtu=True) as line:
        line.peer.scripts.append(lambda p, r: [p.frame(r, bytes([r.function | 0x80, code]))])
        error = await line.outcome()
        assert isinstance(error, DeviceRefused)
        assert error.code == code
        assert await line.outcome() is None
        assert line.link.report().counters[f"exception_{code}"] == 1


@virtual
@pytest.mark.parametrize("lateness", [1.1, 1.4, 1.75])
async def test_a_late_answer_dies_in_the_quiet_time(lateness: float) -> None:
    """An answer that comes after its time-out is never taken for that of the next request, which looks the same."""
    async with memory_line(rtu=True, timeout_s=0.5, quiet_time_s=0.4) as line:
        line.peer.scripts.append(lambda p, r: [0.5 * lateness, p.answer(r)])
        assert isinstance(await line.outcome(10), NoReply)
        assert await line.outcome(20) is None
        assert line.link.report().counters["unasked"] == 11


@virtual
async def test_the_quiet_time_starts_again_while_bytes_come() -> None:
    """A late answer that dribbles on through the quiet time is waited out to its last byte."""
    async with memory_line(rtu=True, timeout_s=0.5, quiet_time_s=0.4) as line:
        line.peer.scripts.append(lambda p, r: [0.6, *(x for b in p.answer(r) for x in (bytes([b]), 0.2))])
        assert isinstance(await line.outcome(10), NoReply)
        assert await line.outcome(20) is None


@virtual
async def test_a_babbling_line_delays_a_stop_by_a_bound() -> None:
    """A device that never stops sending cannot keep a stop from being sent: ten quiet times are the limit."""
    async with memory_line(rtu=True, timeout_s=0.5, quiet_time_s=0.1) as line:
        loop = asyncio.get_running_loop()
        line.peer.scripts.append(lambda _p, _r: [part for _ in range(100) for part in (b"\x55", 0.05)])
        reading = loop.create_task(line.outcome())
        await line.peer.saw(1)
        posted_at = loop.time()
        stopping = line.link.post_urgent(UNIT, 0, [1], device=DEVICE)
        await line.peer.saw(2)
        assert line.peer.requests[1].function == 16
        assert loop.time() - posted_at <= 0.5 + 10 * 0.1 + 0.001
        assert isinstance(await reading, ProtocolError)
        await stopping


@virtual
async def test_frames_keep_their_distance() -> None:
    """Between an answer and the next request there are at least 3.5 characters of silence (2 ms at 19200)."""
    async with memory_line(rtu=True) as line:
        loop = asyncio.get_running_loop()
        times: list[tuple[bool, float]] = []
        line.link.tap = lambda sending, _packet: times.append((sending, loop.time()))
        for address in range(5):
            assert await line.outcome(address) is None
        gaps = [now - before for (was, before), (sends, now) in pairwise(times) if sends and not was]
        assert len(gaps) == 4
        assert all(0.002 <= gap < 0.0021 for gap in gaps)


@virtual
async def test_the_bytes_are_those_of_the_standard() -> None:
    """A read of ten registers of unit 1 is 01 03 00 00 00 0A C5 CD, the example that every RTU guide prints."""
    async with memory_line(rtu=True) as line:
        sent: list[bytes] = []
        line.link.tap = lambda sending, packet: sent.append(packet) if sending else None
        values = await line.link.read(1, Table.HOLDING, 0, 10, device=DEVICE)
        await line.link.write(0x11, 1, [10, 258], device=DEVICE)
        assert values == [register_value(1, i) for i in range(10)]
        assert sent[0].hex(" ") == "01 03 00 00 00 0a c5 cd"
        # spec 6.12: the example of write multiple registers, with the CRC that goes with unit 17
        assert sent[1].hex(" ") == "11 10 00 01 00 02 04 00 0a 01 02 c6 f0"


@virtual
async def test_an_answer_by_hand_is_understood() -> None:
    """The standard's own example answer (registers 107 to 109 of unit 17) reads as 555, 0 and 100."""
    async with memory_line(rtu=True) as line:
        line.peer.scripts.append(lambda _p, _r: [bytes.fromhex("11 03 06 02 2b 00 00 00 64 c8 ba")])
        assert rtu_frame(0x11, bytes.fromhex("03 06 02 2b 00 00 00 64")).hex(" ")[-5:] == "c8 ba"
        assert await line.link.read(0x11, Table.HOLDING, 107, 3, device=DEVICE) == [555, 0, 100]
        assert struct.unpack(">H", b"\x02\x2b") == (555,)


async def test_a_missing_port_is_a_link_that_is_down() -> None:
    """A serial port that is not there ends calls with LinkDown and its reason; the owner goes on trying."""
    link = ModbusLink(rtu_spec("/dev/no-such-port", 0.1, 0.1))
    async with running(link) as owner:
        await reached(link, LinkState.DOWN)
        with pytest.raises(LinkDown, match="No such file"):
            await link.read(UNIT, Table.HOLDING, 0, 1, device=DEVICE)
        assert not owner.done()


async def test_settings_that_the_port_refuses_do_not_end_the_owner() -> None:
    """A port that cannot do the parity (a pty cannot) is a link that is down, or one that opens; never a crash."""
    master, slave = os.openpty()
    try:
        link = ModbusLink(rtu_spec(os.ttyname(slave), 0.1, 0.1, parity="E"))
        changed = asyncio.Event()
        link.on_state(lambda _state: changed.set())
        async with running(link) as owner:
            async with asyncio.timeout(10):
                await changed.wait()
            assert not owner.done()
    finally:
        os.close(master)
        os.close(slave)


async def test_a_port_that_vanishes_and_returns_is_used_again(tmp_path: Path) -> None:
    """Unplugged while a request waits: an error at once; plugged in again: the right values."""
    port = tmp_path / "ttyRS485"
    loop = asyncio.get_running_loop()
    master, slave = os.openpty()
    port.symlink_to(os.ttyname(slave))
    link = ModbusLink(rtu_spec(str(port), 10.0, 0.01))
    async with running(link):
        await reached(link, LinkState.UP)
        sent = asyncio.Event()
        loop.add_reader(master, sent.set)
        reading = loop.create_task(link.read(UNIT, Table.HOLDING, 0, 1, device=DEVICE))
        async with asyncio.timeout(5):
            await sent.wait()
            loop.remove_reader(master)
            port.unlink()
            os.close(slave)
            os.close(master)
            with pytest.raises(NoReply, match="lost"):
                await reading
        await reached(link, LinkState.DOWN)
        async with pty_peer() as (_, path):
            port.symlink_to(path)
            await reached(link, LinkState.UP)
            assert await link.read(UNIT, Table.HOLDING, 0, 1, device=DEVICE) == [register_value(UNIT, 0)]
