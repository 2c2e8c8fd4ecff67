"""The CAN port on the kernel's raw CAN sockets, against a peer that writes struct can_frame by itself."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from hal.can_port import CanPort
from hal.errors import LinkDown
from hal.types import CanFrame, CanLinkSpec, LinkState
from tests.support.can_running import Inbox, reached, running
from tests.support.slcan_adapter import ip_link

LAYOUT = struct.Struct("=IB3x8s")
EXTENDED, REMOTE, ERROR = 0x80000000, 0x40000000, 0x20000000


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """Return a raw CAN socket on vcan0, with nothing of ours in between."""
    with socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as raw:
        raw.bind(("vcan0",))
        raw.setblocking(False)
        yield raw


def port_on(interface: str) -> tuple[CanPort, Inbox]:
    """Return a port, and an inbox for whatever it hears."""
    port = CanPort(CanLinkSpec("can1", "socketcan", interface, 500_000))
    inbox = Inbox()
    port.subscribe(0, 0, inbox)
    port.subscribe(0, 0, inbox, extended=False)
    return port, inbox


def write(peer: socket.socket, can_id: int, data: bytes = b"") -> None:
    """Send one frame by hand."""
    peer.send(LAYOUT.pack(can_id, len(data), data))


async def test_frames_written_by_hand_are_understood(peer: socket.socket) -> None:
    """Standard and extended identifiers and every length arrive as they were written."""
    port, inbox = port_on("vcan0")
    async with running(port):
        for length in range(9):
            write(peer, 0x123, bytes(range(length)))
            write(peer, EXTENDED | 0x19001001, bytes(range(length)))
        frames = await inbox.wait_for(18)
    assert [(frame.can_id, frame.extended) for frame in frames] == [(0x123, False), (0x19001001, True)] * 9
    assert [frame.data for frame in frames[::2]] == [bytes(range(length)) for length in range(9)]


async def test_sent_frames_are_what_another_program_reads(peer: socket.socket) -> None:
    """What the port sends is the kernel's struct, byte for byte, and the port does not hear itself."""
    port, inbox = port_on("vcan0")
    async with running(port):
        port.send(CanFrame(0x19002001, b"\x01\xff"))
        port.send(CanFrame(0x7FF, b"", False))
        loop = asyncio.get_running_loop()
        packets = [await asyncio.wait_for(loop.sock_recv(peer, 72), 10) for _ in range(2)]
        write(peer, 1)
        await inbox.wait_for(1)
    assert packets == [LAYOUT.pack(EXTENDED | 0x19002001, 2, b"\x01\xff"), LAYOUT.pack(0x7FF, 0, b"")]
    assert [frame.can_id for frame in inbox.frames] == [1]


async def test_subscriptions_filter_by_identifier_mask_and_type(peer: socket.socket) -> None:
    """Only what matches is delivered; the rest is counted for what it is."""
    port = CanPort(CanLinkSpec("can1", "socketcan", "vcan0", 500_000))
    inbox = Inbox()
    port.subscribe(0x100, 0x700, inbox, extended=False)
    async with running(port):
        for can_id in (0x0FF, 0x100, EXTENDED | 0x100, REMOTE | 0x100, 0x200, 0x1AB):
            write(peer, can_id)
        frames = await inbox.wait_for(2)
        counters = port.report().counters
    assert [frame.can_id for frame in frames] == [0x100, 0x1AB]
    assert (counters["unknown_id"], counters["wrong_id_type"], counters["remote_frames"]) == (2, 1, 1)


async def test_a_full_second_of_a_busy_bus_arrives_whole_and_in_order(peer: socket.socket) -> None:
    """4000 frames, as many as 500 kbit/s carries in a second, in bursts of 250: none lost, none out of order."""
    port, inbox = port_on("vcan0")
    async with running(port):
        for start in range(0, 4000, 250):
            for number in range(start, start + 250):
                write(peer, 0x100, number.to_bytes(8, "little"))
            await inbox.wait_for(start + 250)
        assert "dropped" not in port.report().counters
    assert [int.from_bytes(frame.data, "little") for frame in inbox.frames] == list(range(4000))


async def test_frames_that_the_kernel_dropped_are_counted(peer: socket.socket) -> None:
    """When the process cannot read for a while, received and dropped add up to what was sent."""
    port, inbox = port_on("vcan0")
    sent = 20_000
    async with running(port):
        for number in range(sent):  # in one turn of the loop: the port cannot read
            write(peer, 0x100, number.to_bytes(8, "little"))
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while port.report().counters.get("dropped", 0) == 0:
                write(peer, 0x101)  # the kernel tells the count with the next frame that it can keep
                sent += 1
                await asyncio.sleep(0.01)
        dropped = port.report().counters["dropped"]
        await inbox.wait_for(sent - dropped)
    assert dropped > 0
    assert len(inbox.frames) + dropped == sent
    assert len(inbox.frames) > 5000  # the enlarged buffer; the default one holds 278


async def test_time_stamps_say_when_a_frame_came_not_when_it_was_read(peer: socket.socket) -> None:
    """A frame that waits in the kernel while the loop is busy is stamped with its arrival, in loop time."""
    port, inbox = port_on("vcan0")
    loop = asyncio.get_running_loop()
    async with running(port):
        await asyncio.sleep(0.05)
        before = loop.time()
        write(peer, 0x100)
        after = loop.time()
        threading.Event().wait(0.3)
        (frame,) = await inbox.wait_for(1)
        read_at = loop.time()
    assert before - 0.01 <= frame.received_at <= after + 0.01
    assert read_at - frame.received_at > 0.25


async def test_error_frames_are_states_and_counters(peer: socket.socket) -> None:
    """Injected error frames take the port through passive, bus-off and restart."""
    port, _ = port_on("vcan0")
    states: list[LinkState] = []
    port.on_state(states.append)
    async with running(port):
        for can_id, data in (
            (0x204, "002000000000820a"),
            (0x0A8, "0000000000000000"),
            (0x040, "0000000000000000"),
            (0x100, "0000000000000000"),
        ):
            write(peer, ERROR | can_id, bytes.fromhex(data))
        await reached(port, LinkState.BUS_OFF)
        await reached(port, LinkState.UP)
        counters = port.report().counters
    assert states == [LinkState.UP, LinkState.ERROR_PASSIVE, LinkState.BUS_OFF, LinkState.UP, LinkState.DOWN]
    assert (counters["tec"], counters["rec"]) == (130, 10)
    assert counters["error_frames"] == 4
    assert counters["no_acknowledge"] == 1


async def test_an_interface_taken_down_and_up() -> None:
    """Down is DOWN and refuses sends; up is UP again without anybody's help, and frames flow."""
    port, inbox = port_on("vcan0")
    async with running(port):
        ip_link("set", "vcan0", "down")
        try:
            await reached(port, LinkState.DOWN)
            with pytest.raises(LinkDown):
                port.send(CanFrame(1, b""))
            assert "Network is down" in port.report().last_error
            await asyncio.sleep(1)  # through at least one attempt on the interface that is down
            assert port.report().counters["opens"] > 1
        finally:
            ip_link("set", "vcan0", "up")
        await reached(port, LinkState.UP)
        with socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as fresh:
            fresh.bind(("vcan0",))
            write(fresh, 0x321)
            await inbox.wait_for(1)


async def test_an_interface_that_vanishes_and_returns() -> None:
    """An unplugged adapter is DOWN; plugged in again it is UP."""
    ip_link("add", "dev", "vcan7", "type", "vcan")
    ip_link("set", "vcan7", "up")
    port, _ = port_on("vcan7")
    async with running(port):
        ip_link("del", "vcan7")
        await reached(port, LinkState.DOWN)
        ip_link("add", "dev", "vcan7", "type", "vcan")
        ip_link("set", "vcan7", "up")
        await reached(port, LinkState.UP)
        ip_link("del", "vcan7")
        await reached(port, LinkState.DOWN)


async def test_an_interface_that_does_not_exist_yet() -> None:
    """A missing interface is DOWN with the reason, never an end."""
    port, _ = port_on("vcan9")
    async with running(port, until=LinkState.DOWN):
        assert "No such device" in port.report().last_error
