"""The CAN bus between processes: the python-can interface ``swapbus``, its hub, and the threads for slow drivers."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import can
import pytest

from hal.can_port import CanPort
from hal.errors import LinkDown
from hal.types import CanFrame, CanLinkSpec, LinkState
from sim_hw.can_plugin import FRAME, Hub, SwapBus, serve, socket_address
from sim_hw.wire_can import SEND_QUEUE_FRAMES, LoopCan, WireFault
from tests.support.can_running import Inbox, reached, running


@pytest.fixture
def channel() -> str:
    """Return an abstract channel of this test's own."""
    return f"@swapbus-test-{os.getpid()}-{os.urandom(4).hex()}"


def _spec(channel: str) -> CanLinkSpec:
    return CanLinkSpec("can1", "swapbus", channel, 1_000_000)


async def test_the_entry_point_opens_a_bus_and_a_port_talks_over_it(channel: str) -> None:
    """python-can finds ``swapbus`` by name; frames pass from a port to a simulated node and back."""
    wire = LoopCan(1_000_000)
    async with serve(channel, wire):
        port = CanPort(_spec(channel))
        from_node, from_port = Inbox(), Inbox()
        port.subscribe(0x19001001, 0x1FFFFFFF, from_node)
        node = wire.attach(from_port)
        async with running(port):
            port.send(CanFrame(0x19002001, b"ask"))
            (asked,) = await from_port.wait_for(1)
            assert (asked.can_id, asked.data) == (0x19002001, b"ask")
            node.send(CanFrame(0x19001001, b"answer"))
            (answered,) = await from_node.wait_for(1)
            assert answered.data == b"answer"


class DescriptorOnly(SwapBus):
    """A bus of which a reader knows the descriptor and nothing more, as of most of python-can's."""

    can_frame_socket = None  # type: ignore[assignment] # none on this host


async def test_a_bus_that_has_only_a_descriptor_is_read_and_its_end_is_noticed(channel: str) -> None:
    """Messages in both directions through python-can's own calls, a full queue, and the hub's end."""
    wire = LoopCan(1_000_000)
    port = CanPort(_spec(channel), open_bus=lambda spec: DescriptorOnly(spec.channel))
    from_node, from_port = Inbox(), Inbox()
    port.subscribe(0, 0, from_node)
    async with serve(channel, wire) as hub, running(port):
        node = wire.attach(from_port)
        for number in range(200):
            node.send(CanFrame(number, b"x"))
        assert [frame.can_id for frame in await from_node.wait_for(200)] == list(range(200))
        port.send(CanFrame(7, b"y"))
        assert [frame.data for frame in await from_port.wait_for(1)] == [b"y"]
        refusal = None
        while refusal is None:
            try:
                port.send(CanFrame(7, b"y"))
            except LinkDown as error:
                refusal = error
        assert "queue full" in refusal.detail
        assert port.state is LinkState.UP
        hub.close()
        await reached(port, LinkState.DOWN)
        assert port.report().last_error.startswith("CanOperationError: swapbus")


async def test_a_raw_packet_by_hand_is_a_frame(channel: str) -> None:
    """A foreign program that writes struct can_frame to the socket is heard, and reads the same layout back."""
    wire = LoopCan(1_000_000)
    heard = Inbox()
    async with serve(channel, wire):
        node = wire.attach(heard)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.setblocking(False)
            peer.connect(socket_address(channel))
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(peer, bytes.fromhex("01100099 08 000000 0102030405060708"))
            (frame,) = await heard.wait_for(1)
            assert (frame.can_id, frame.extended, frame.data.hex()) == (0x19001001, True, "0102030405060708")
            node.send(CanFrame(0x123, b"\xaa", False))
            packet = await asyncio.wait_for(loop.sock_recv(peer, 100), 10)
            assert packet.hex() == "2301000001000000aa00000000000000"


async def test_malformed_packets_are_counted_and_harm_nobody(channel: str) -> None:
    """Packets of a wrong size, impossible lengths and would-be error frames are dropped; the next good one counts."""
    wire = LoopCan(1_000_000)
    heard = Inbox()
    wire.attach(heard)
    async with serve(channel, wire) as hub:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(socket_address(channel))
            for packet in (b"x", bytes(72), FRAME.pack(1, 9, b""), FRAME.pack(0x2000_0040, 8, b"")):
                peer.send(packet)
            peer.send(FRAME.pack(1, 1, b"y"))
            assert [frame.data for frame in await heard.wait_for(1)] == [b"y"]
            assert hub.malformed == 4


async def test_thousands_of_frames_arrive_whole_and_in_order(channel: str) -> None:
    """5000 frames through hub and port: none lost, none twice, none out of order."""
    wire = LoopCan(100_000_000)
    async with serve(channel, wire) as hub:
        port = CanPort(_spec(channel))
        inbox = Inbox()
        port.subscribe(0x19001001, 0x1FFFFFFF, inbox)
        node = wire.attach(lambda _frame: None)
        async with running(port):
            for start in range(0, 5000, SEND_QUEUE_FRAMES):
                for number in range(start, min(start + SEND_QUEUE_FRAMES, 5000)):
                    assert node.send(CanFrame(0x19001001, number.to_bytes(8, "little")))
                await inbox.wait_for(min(start + SEND_QUEUE_FRAMES, 5000))
        assert [int.from_bytes(frame.data, "little") for frame in inbox.frames] == list(range(5000))
        assert hub.overruns == 0


async def test_a_client_that_sends_too_fast_is_held_back_not_cut(channel: str) -> None:
    """What the hub has taken is on the wire in the end; what it cannot take makes ``send`` fail at once."""
    wire = LoopCan(20_000)  # slow: 125 frames of 8 bytes a second
    heard = Inbox()
    wire.attach(heard)
    async with serve(channel, wire):
        with SwapBus(channel) as bus:
            sent = 0
            with suppress(can.CanTimeoutError):
                for number in range(100_000):
                    bus.send(can.Message(arbitration_id=1, data=number.to_bytes(8, "little")))
                    sent += 1
                    if number % 50 == 0:
                        await asyncio.sleep(0)
            assert SEND_QUEUE_FRAMES < sent < 100_000
            wire.bitrate = 1_000_000_000
            frames = await heard.wait_for(sent)
    assert [int.from_bytes(frame.data, "little") for frame in frames] == list(range(sent))


async def test_a_client_that_does_not_read_overruns_and_the_others_go_on(channel: str) -> None:
    """Frames that a sleeping client loses are counted; a reading client misses none."""
    wire = LoopCan(1_000_000_000)
    async with serve(channel, wire) as hub:
        port = CanPort(_spec(channel))
        inbox = Inbox()
        port.subscribe(0, 0, inbox)
        node = wire.attach(lambda _frame: None)
        with SwapBus(channel):
            async with running(port):
                sent = 0
                while hub.overruns == 0:
                    for _ in range(SEND_QUEUE_FRAMES):
                        sent += node.send(CanFrame(1, bytes(8)))
                    await inbox.wait_for(sent)
                assert len(inbox.frames) == sent


async def test_bus_off_reaches_the_client_as_a_state(channel: str) -> None:
    """Disturbed frames put the client's controller into bus-off and a restart brings it back, across the socket."""
    wire = LoopCan(1_000_000, restart_s=0.05)
    wire.attach(lambda _frame: None)
    wire.fault = lambda _frame: WireFault.CORRUPT
    async with serve(channel, wire):
        port = CanPort(_spec(channel))
        states: list[LinkState] = []
        port.on_state(states.append)
        async with running(port):
            port.send(CanFrame(1, b""))
            await reached(port, LinkState.BUS_OFF)
            await reached(port, LinkState.UP)
    assert states == [LinkState.UP, LinkState.ERROR_PASSIVE, LinkState.BUS_OFF, LinkState.UP, LinkState.DOWN]


async def test_the_port_survives_the_hub(channel: str) -> None:
    """When the hub dies the port is DOWN and refuses; when a new one serves the channel the port is UP again."""
    port = CanPort(_spec(channel))
    inbox = Inbox()
    port.subscribe(0, 0, inbox)
    async with serve(channel, LoopCan(1_000_000)):
        task = asyncio.create_task(port.run())
        await reached(port, LinkState.UP)
    await reached(port, LinkState.DOWN)
    with pytest.raises(LinkDown):
        port.send(CanFrame(1, b""))
    assert "other end has closed" in port.report().last_error
    wire = LoopCan(1_000_000)
    async with serve(channel, wire):
        await reached(port, LinkState.UP)
        wire.attach(lambda _frame: None).send(CanFrame(2, b""))
        assert [frame.can_id for frame in await inbox.wait_for(1)] == [2]
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_bus_taken_down_cuts_its_clients_off_and_lets_them_in_again(channel: str) -> None:
    """The hub follows its wire: down refuses and disconnects, up serves again."""
    wire = LoopCan(1_000_000)
    async with serve(channel, wire) as hub, running(CanPort(_spec(channel))) as port:
        wire.bus_down()
        assert hub.clients == 0
        await reached(port, LinkState.DOWN)
        with pytest.raises(can.CanInitializationError):
            SwapBus(channel)
        wire.bus_up()
        await reached(port, LinkState.UP)


async def test_a_port_that_dies_leaves_the_hub_serving(channel: str) -> None:
    """A client that goes away frees its place on the wire."""
    wire = LoopCan(1_000_000)
    async with serve(channel, wire) as hub:
        async with running(CanPort(_spec(channel))):
            assert hub.clients == 1
        async with asyncio.timeout(10):
            while hub.clients:  # noqa: ASYNC110 - the hub finds out in its own turn, and tells nobody
                await asyncio.sleep(0)


async def test_a_path_is_a_channel_too_and_a_stale_one_is_taken_over(tmp_path: Path) -> None:
    """A socket file left by a dead process is replaced; one that is served is refused; a clean end removes it."""
    path = tmp_path / "bus.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with serve(str(path), LoopCan(1_000_000)):
        SwapBus(str(path)).shutdown()
        with pytest.raises(OSError, match="in use"):
            Hub(str(path), LoopCan(1_000_000)).open()
    assert not path.exists()


async def test_filters_and_blocking_reads_work_as_python_can_promises(channel: str) -> None:
    """A plain python-can program on a thread gets what its filter lets through, and None after its time-out."""
    wire = LoopCan(1_000_000)
    node = wire.attach(lambda _frame: None)
    async with serve(channel, wire):
        filters: can.typechecking.CanFilters = [{"can_id": 0x100, "can_mask": 0x700, "extended": False}]
        with can.Bus(channel, interface="swapbus", can_filters=filters, ignore_config=True) as bus:
            for can_id in (0x200, 0x1AB):
                node.send(CanFrame(can_id, b"", False))
            got = await asyncio.to_thread(bus.recv, 10)
            assert got is not None
            assert got.arbitration_id == 0x1AB
            assert await asyncio.to_thread(bus.recv, 0.01) is None


@pytest.fixture
def adapter() -> Iterator[tuple[int, str]]:
    """Return the adapter's end of a pty, non-blocking, and the path of the other end."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    yield master, os.ttyname(slave)
    os.close(slave)
    with suppress(OSError):
        os.close(master)


async def test_a_serial_line_adapter_carries_frames_and_survives_garbage(adapter: tuple[int, str]) -> None:
    """Over slcan on a pty frames pass both ways, a garbled line is counted, and unplugging is DOWN."""
    master, path = adapter
    written = bytearray()
    changed = asyncio.Event()

    def read() -> None:
        with suppress(OSError):
            written.extend(os.read(master, 4096))
            changed.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(master, read)
    port = CanPort(CanLinkSpec("can1", "slcan", path, 500_000))
    inbox = Inbox()
    port.subscribe(0, 0, inbox, extended=False)
    async with running(port):
        os.write(master, b"t1232abcd\rtXYZ\rt1241ff\r")
        frames = await inbox.wait_for(2)
        assert [(frame.can_id, frame.data) for frame in frames] == [(0x123, b"\xab\xcd"), (0x124, b"\xff")]
        assert port.report().counters["invalid_frames"] == 1
        port.send(CanFrame(0x19001001, b"\x01"))
        async with asyncio.timeout(10):
            while b"T19001001101\r" not in written:
                changed.clear()
                await changed.wait()
        assert b"S6\r" in written
        loop.remove_reader(master)
        os.close(master)
        await reached(port, LinkState.DOWN)


class Daemon:
    """A socketcand of a few lines: greets, accepts everything, answers a frame with a frame, and can die."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.clients: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.append(writer)
        writer.write(b"< hi >")
        for _ in range(2):
            if not await reader.read(100):
                writer.close()
                return
            writer.write(b"< ok >")
        while data := await reader.read(100):
            self.received += data
            writer.write(b"< frame 123 1.000 0102 >")
        writer.close()


async def test_a_socketcand_server_that_dies_is_noticed() -> None:
    """python-can would spin for ever without an error; the port goes DOWN and tries again with its back-off."""
    daemon = Daemon()
    server = await asyncio.start_server(daemon.serve, "127.0.0.1", 0)
    host, number = server.sockets[0].getsockname()
    port = CanPort(CanLinkSpec("can1", "socketcand", f"can0@{host}:{number}", 500_000))
    inbox = Inbox()
    port.subscribe(0, 0, inbox, extended=False)
    async with running(port):
        port.send(CanFrame(0x321, b"\x0a", False))
        assert [frame.data for frame in await inbox.wait_for(1)] == [b"\x01\x02"]
        assert daemon.received == b"< send 321 1 a >"
        server.close()
        for client in daemon.clients:
            client.close()
        await reached(port, LinkState.DOWN)
        assert "closed the connection" in port.report().last_error
    await server.wait_closed()


async def test_a_server_that_is_no_socketcand_is_refused() -> None:
    """A server with another greeting cannot be opened, and says why."""

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    host, number = server.sockets[0].getsockname()
    port = CanPort(CanLinkSpec("can1", "socketcand", f"can0@{host}:{number}", 500_000))
    task = asyncio.create_task(port.run())
    await reached(port, LinkState.DOWN)
    assert "no socketcand" in port.report().last_error
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    server.close()
    await server.wait_closed()


async def test_an_opening_that_ends_after_its_port_is_closed_again() -> None:
    """Cancelling a port while a slow driver opens leaves no open bus behind."""
    opening, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Slow(can.BusABC):
        def __init__(self) -> None:
            super().__init__(channel="slow")

        def send(self, msg: can.Message, timeout: float | None = None) -> None:
            raise NotImplementedError

        def shutdown(self) -> None:
            super().shutdown()
            closed.set()

    def open_slowly(_spec: CanLinkSpec) -> can.BusABC:
        opening.set()
        go_on.wait(10)
        return Slow()

    task = asyncio.create_task(CanPort(CanLinkSpec("c", "slcan", "x", 1), open_bus=open_slowly).run())
    assert await asyncio.to_thread(opening.wait, 10)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    go_on.set()
    assert await asyncio.to_thread(closed.wait, 10)


def test_a_dead_channel_says_which() -> None:
    """Nobody there: CanInitializationError with the channel's name."""
    with pytest.raises(can.CanInitializationError, match="@nobody-serves-this"):
        can.Bus("@nobody-serves-this", interface="swapbus", ignore_config=True)
