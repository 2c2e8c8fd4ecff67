"""The CAN port on the in-loop bus: frames in and out, and everything that can go wrong with a bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import can
import pytest

from hal.can_port import BATCH, CanPort
from hal.errors import InvariantError, LinkDown, Outcome
from hal.types import CanFrame, CanLinkSpec, LinkState
from sim_hw.wire_can import LoopCan, RawFrame, WireFault

virtual = pytest.mark.asyncio(loop_factories=["virtual"])
SPEC = CanLinkSpec("can_packs", "swapbus", "@test", 500_000)


@asynccontextmanager
async def running(port: CanPort) -> AsyncIterator[CanPort]:
    """Run a port for as long as the context lasts; it must never end by itself."""
    task = asyncio.create_task(port.run())
    try:
        await asyncio.sleep(0.001)
        yield port
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def port_on(wire: LoopCan) -> CanPort:
    """Return a port whose bus is ``wire``."""
    return CanPort(SPEC, open_bus=lambda _spec: wire.open_bus())


def state_of(port: CanPort) -> LinkState:
    """Return the port's state now; a type checker believes that a property cannot change."""
    return port.state


def _ignore(_frame: CanFrame) -> None:
    return


@virtual
async def test_frames_reach_their_subscribers_by_identifier_and_mask() -> None:
    """Each frame goes to every subscriber whose masked identifier and type it has, with the time of its arrival."""
    wire = LoopCan(500_000)
    port = port_on(wire)
    of_pack_1: list[CanFrame] = []
    states: list[CanFrame] = []
    standard: list[CanFrame] = []
    port.subscribe(0x19000001, 0x1F0000FF, of_pack_1.append)
    port.subscribe(0x19001000, 0x1FFFFF00, states.append)
    port.subscribe(0x101, 0x7FF, standard.append, extended=False)
    node = wire.attach(_ignore)
    async with running(port):
        for can_id in (0x19001001, 0x19001101, 0x19001002):
            node.send(CanFrame(can_id, b"x"))
        node.send(CanFrame(0x101, b"y", False))
        await asyncio.sleep(0.01)
    assert [frame.can_id for frame in of_pack_1] == [0x19001001, 0x19001101]
    assert [frame.can_id for frame in states] == [0x19001001, 0x19001002]
    assert [(frame.can_id, frame.extended) for frame in standard] == [(0x101, False)]
    assert 0.001 < of_pack_1[0].received_at < of_pack_1[1].received_at < 0.01


@virtual
async def test_a_frame_written_by_hand_is_understood() -> None:
    """A struct can_frame as another program would build it, byte by byte, arrives as what it says."""
    wire = LoopCan(500_000)
    port = port_on(wire)
    heard: list[CanFrame] = []
    port.subscribe(0x18FF50E5, 0x1FFFFFFF, heard.append)
    peer = wire.attach_raw(lambda _raw: None, lambda _raw: None)
    async with running(port):
        peer.send_raw(RawFrame(0x98FF50E5, 3, b"\x01\x02\x03"))  # bit 31 marks a 29-bit identifier
        await asyncio.sleep(0.01)
    assert [(frame.can_id, frame.data, frame.extended) for frame in heard] == [(0x18FF50E5, b"\x01\x02\x03", True)]


@virtual
async def test_sent_frames_arrive_as_they_were() -> None:
    """Identifier, type and data of a sent frame are what a node on the bus hears."""
    wire = LoopCan(500_000)
    heard: list[CanFrame] = []
    wire.attach(heard.append)
    async with running(port_on(wire)) as port:
        port.send(CanFrame(0x19002001, b"\x01\xff"))
        port.send(CanFrame(0x7FF, b"", False))
        await asyncio.sleep(0.01)
    assert [(frame.can_id, frame.data, frame.extended) for frame in heard] == [
        (0x19002001, b"\x01\xff", True),
        (0x7FF, b"", False),
    ]


@virtual
async def test_what_nobody_asked_for_is_counted_and_ignored() -> None:
    """Unknown identifiers, the other identifier type, remote frames and impossible lengths end in counters only."""
    wire = LoopCan(500_000)
    port = port_on(wire)
    heard: list[CanFrame] = []
    port.subscribe(0x100, 0x7FF, heard.append, extended=False)
    peer = wire.attach_raw(lambda _raw: None, lambda _raw: None)
    async with running(port):
        peer.send_raw(RawFrame(0x200, 0, b""))
        peer.send_raw(RawFrame(0x8000_0100, 0, b""))
        peer.send_raw(RawFrame(0x4000_0100, 8, b""))
        peer.send_raw(RawFrame(0x100, 12, bytes(12)))
        peer.send_raw(RawFrame(0x100, 4, b"\x01"))
        peer.send_raw(RawFrame(0x100, 1, b"\x01"))
        await asyncio.sleep(0.01)
        counters = port.report().counters
    assert [frame.data for frame in heard] == [b"\x01"]
    assert counters["unknown_id"] == 1
    assert counters["wrong_id_type"] == 1
    assert counters["remote_frames"] == 1
    assert counters["invalid_frames"] == 2


@virtual
async def test_a_short_frame_reaches_its_subscriber_as_it_is() -> None:
    """The port does not pad: a frame shorter than its meaning needs is the subscriber's to refuse."""
    wire = LoopCan(500_000)
    port = port_on(wire)
    heard: list[CanFrame] = []
    port.subscribe(0, 0, heard.append)
    node = wire.attach(_ignore)
    async with running(port):
        node.send(CanFrame(0x19001001, b"\x01\x02"))
        node.send(CanFrame(0x19001001, b""))
        await asyncio.sleep(0.01)
    assert [frame.data for frame in heard] == [b"\x01\x02", b""]


@virtual
async def test_a_silent_bus_stays_up() -> None:
    """Silence is a device's matter: a port that hears nothing for an hour is up and has counted nothing."""
    async with running(port_on(LoopCan(500_000))) as port:
        await asyncio.sleep(3600)
        report = port.report()
    assert report.state is LinkState.UP
    assert report.counters == {"opens": 1}


@virtual
async def test_a_callback_that_raises_is_counted_and_harms_nobody() -> None:
    """The error is kept as the link's last one; other subscribers and later frames are served."""
    wire = LoopCan(500_000)
    port = port_on(wire)
    heard: list[int] = []

    def buggy(_frame: CanFrame) -> None:
        raise KeyError("bug")

    port.subscribe(0, 0, buggy)
    port.subscribe(0, 0, lambda frame: heard.append(frame.can_id))
    port.on_state(lambda _state: buggy(CanFrame(0, b"")))
    node = wire.attach(_ignore)
    async with running(port):
        node.send(CanFrame(1, b""))
        node.send(CanFrame(2, b""))
        await asyncio.sleep(0.01)
        report = port.report()
    assert heard == [1, 2]
    assert report.counters["callback_errors"] == 3
    assert report.last_error == "KeyError: 'bug'"
    assert report.state is LinkState.UP


@virtual
async def test_unsubscribed_callbacks_are_not_called_again() -> None:
    """What subscribe and on_state return ends them, once and for all."""
    wire = LoopCan(500_000)
    port = port_on(wire)
    heard: list[object] = []
    stops: list[Callable[[], None]] = [port.subscribe(0, 0, heard.append), port.on_state(heard.append)]
    for stop in stops:
        stop()
        stop()
    node = wire.attach(_ignore)
    async with running(port):
        node.send(CanFrame(1, b""))
        await asyncio.sleep(0.01)
    assert heard == []


@virtual
async def test_a_bus_that_goes_down_and_comes_back() -> None:
    """Down is seen at once and refuses sends; after the bus is back the port is up within its longest pause."""
    wire = LoopCan(500_000)
    port = port_on(wire)
    heard: list[int] = []
    states: list[LinkState] = []
    port.subscribe(0, 0, lambda frame: heard.append(frame.can_id))
    port.on_state(states.append)
    node = wire.attach(_ignore)
    async with running(port):
        wire.bus_down()
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        assert state_of(port) is LinkState.DOWN
        with pytest.raises(LinkDown) as refused:
            port.send(CanFrame(1, b""))
        assert refused.value.outcome is Outcome.NOT_SENT
        assert refused.value.device == "can_packs"
        await asyncio.sleep(60)
        assert "Network is down" in port.report().last_error
        wire.bus_up()
        await asyncio.sleep(5.001)
        node.send(CanFrame(7, b""))
        await asyncio.sleep(0.01)
    assert heard == [7]
    assert states == [LinkState.UP, LinkState.DOWN, LinkState.UP, LinkState.DOWN]


@virtual
async def test_attempts_to_open_follow_the_back_off() -> None:
    """A bus that cannot be opened is tried after 0.2, 0.4, 0.8, 1.6, 3.2 and then every 5 s."""
    loop = asyncio.get_running_loop()
    tried_at: list[float] = []

    def never(_spec: CanLinkSpec) -> can.BusABC:
        tried_at.append(loop.time())
        raise OSError(19, "No such device")

    async with running(CanPort(SPEC, open_bus=never)) as port:
        await asyncio.sleep(20)
        assert state_of(port) is LinkState.DOWN
        assert port.report().last_error == "OSError: [Errno 19] No such device"
    gaps = [round(after - before, 6) for before, after in pairwise(tried_at)]
    assert gaps[:7] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@virtual
async def test_whatever_a_driver_raises_ends_nothing() -> None:
    """A driver that raises something absurd on opening is tried again like any other."""
    attempts = 0
    wire = LoopCan(500_000)

    def odd(_spec: CanLinkSpec) -> can.BusABC:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ZeroDivisionError("a driver's bug")
        return wire.open_bus()

    async with running(CanPort(SPEC, open_bus=odd)) as port:
        await asyncio.sleep(2)
        assert state_of(port) is LinkState.UP


@virtual
async def test_error_passive_and_bus_off_are_states_and_a_restart_ends_them() -> None:
    """A disturbed wire takes the port over error passive to bus-off; sends are refused; the restart brings it up."""
    wire = LoopCan(500_000, restart_s=1.0)
    wire.attach(_ignore)
    port = port_on(wire)
    states: list[LinkState] = []
    port.on_state(states.append)
    wire.fault = lambda _frame: WireFault.CORRUPT
    async with running(port):
        port.send(CanFrame(1, b""))
        await asyncio.sleep(0.1)
        with pytest.raises(LinkDown, match="bus_off"):
            port.send(CanFrame(2, b""))
        wire.fault = None
        await asyncio.sleep(1.0)
        port.send(CanFrame(3, b""))
        counters = port.report().counters
    assert states == [LinkState.UP, LinkState.ERROR_PASSIVE, LinkState.BUS_OFF, LinkState.UP, LinkState.DOWN]
    assert counters["bus_off"] == 1
    assert counters["restarts"] == 1
    assert counters["bus_errors"] == 32


@virtual
async def test_error_passive_ends_with_the_controllers_counters() -> None:
    """Twenty disturbed frames make the controller passive; undisturbed ones make it active, and the port up."""
    wire = LoopCan(500_000)
    wire.attach(_ignore)
    port = port_on(wire)
    disturbed = 20

    def fault(_frame: CanFrame) -> WireFault | None:
        nonlocal disturbed
        disturbed -= 1
        return WireFault.CORRUPT if disturbed >= 0 else None

    wire.fault = fault
    async with running(port):
        port.send(CanFrame(1, b""))
        await asyncio.sleep(0.1)
        assert state_of(port) is LinkState.ERROR_PASSIVE
        for _ in range(40):
            port.send(CanFrame(1, b""))
        await asyncio.sleep(0.1)
        assert state_of(port) is LinkState.UP


@virtual
async def test_a_bus_off_that_nobody_restarts_ends_in_a_new_opening() -> None:
    """Without an automatic restart the port opens the bus again after 5 s."""
    wire = LoopCan(500_000, restart_s=0)
    wire.attach(_ignore)
    wire.fault = lambda _frame: WireFault.CORRUPT
    async with running(port_on(wire)) as port:
        port.send(CanFrame(1, b""))
        await asyncio.sleep(4.0)
        assert state_of(port) is LinkState.BUS_OFF
        wire.fault = None
        await asyncio.sleep(2.0)
        assert state_of(port) is LinkState.UP
        assert port.report().counters["opens"] == 2


class ScriptedBus(can.BusABC):
    """A bus without descriptor that yields what a test puts in: messages, or exceptions to raise."""

    def __init__(self) -> None:
        self.script: list[can.Message | Exception] = []
        self.sent: list[can.Message] = []
        self.full = False
        self.callback: Callable[[], None] | None = None
        self.closed = False
        super().__init__(channel="scripted")

    def attach_reader(self, callback: Callable[[], None] | None) -> None:
        self.callback = callback

    def put(self, *items: can.Message | Exception) -> None:
        self.script += items
        if self.callback is not None:
            self.callback()

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        del timeout
        if not self.script:
            return None, False
        item = self.script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item, False

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        assert timeout == 0, "a send that waits would stop the loop"
        if self.full:
            raise can.CanTimeoutError("full")
        self.sent.append(msg)

    def shutdown(self) -> None:
        super().shutdown()
        self.closed = True


def _message(can_id: int, data: bytes = b"", **flags: bool) -> can.Message:
    return can.Message(arbitration_id=can_id, data=data, **flags)


def _error(kind: int, data: bytes = bytes(8)) -> can.Message:
    return can.Message(arbitration_id=kind, data=data, is_error_frame=True, is_extended_id=False)


@virtual
async def test_fresh_data_end_bus_off_but_frames_already_under_way_do_not() -> None:
    """A frame 50 ms after bus-off is a leftover; one 200 ms after it shows that the bus carries frames again."""
    bus = ScriptedBus()
    async with running(CanPort(SPEC, open_bus=lambda _spec: bus)) as port:
        bus.put(_error(0x40))
        await asyncio.sleep(0.05)
        bus.put(_message(1))
        assert state_of(port) is LinkState.BUS_OFF
        await asyncio.sleep(0.15)
        bus.put(_message(1))
        assert state_of(port) is LinkState.UP


@virtual
async def test_a_burst_is_taken_in_batches_that_let_others_run() -> None:
    """A burst of ten batches is delivered whole and in order, and other tasks get turns in between."""
    bus = ScriptedBus()
    port = CanPort(SPEC, open_bus=lambda _spec: bus)
    heard: list[int] = []
    port.subscribe(0, 0, lambda frame: heard.append(frame.can_id))
    async with running(port):
        bus.put(*(_message(n) for n in range(10 * BATCH)))
        turns = 0
        while len(heard) < 10 * BATCH:
            turns += 1
            await asyncio.sleep(0)
    assert heard == list(range(10 * BATCH))
    assert turns >= 9


@virtual
async def test_a_full_transmit_queue_refuses_and_leaves_the_bus_up() -> None:
    """QueueFull becomes LinkDown (NOT_SENT); the bus is not opened again for it."""
    bus = ScriptedBus()
    async with running(CanPort(SPEC, open_bus=lambda _spec: bus)) as port:
        bus.full = True
        with pytest.raises(LinkDown, match="full"):
            port.send(CanFrame(1, b""))
        assert state_of(port) is LinkState.UP
        bus.full = False
        port.send(CanFrame(2, b""))
    assert [message.arbitration_id for message in bus.sent] == [2]


@virtual
async def test_garbled_input_is_counted_and_only_much_of_it_ends_the_bus() -> None:
    """A driver that cannot parse is not a dead bus until sixteen times in a row; frames before an error count."""
    buses = [ScriptedBus(), ScriptedBus()]
    opened = iter(buses)
    port = CanPort(SPEC, open_bus=lambda _spec: next(opened))
    heard: list[int] = []
    port.subscribe(0, 0, lambda frame: heard.append(frame.can_id))
    async with running(port):
        for n in range(10):
            buses[0].put(_message(n), ValueError("invalid literal"))
            await asyncio.sleep(0.01)
        assert heard == list(range(10))
        assert state_of(port) is LinkState.UP
        assert port.report().counters["invalid_frames"] == 10
        for _ in range(16):
            buses[0].put(ValueError("invalid literal"))
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert state_of(port) is LinkState.DOWN
        assert buses[0].closed
        await asyncio.sleep(1)
        assert state_of(port) is LinkState.UP
        assert buses[1].callback is not None


@virtual
async def test_frames_read_before_the_bus_died_are_delivered() -> None:
    """A dead bus takes nothing back that had arrived."""
    bus = ScriptedBus()
    port = CanPort(SPEC, open_bus=lambda _spec: bus)
    heard: list[int] = []
    port.subscribe(0, 0, lambda frame: heard.append(frame.can_id))
    async with running(port):
        bus.put(_message(1), _message(2), can.CanOperationError("Network is down", 100))
        await asyncio.sleep(0.01)
        assert heard == [1, 2]
        assert state_of(port) is LinkState.DOWN
        assert bus.closed


@virtual
async def test_a_send_that_finds_the_bus_dead_ends_it() -> None:
    """A driver's error on sending is LinkDown for the caller and a reason to open the bus again."""
    wire = LoopCan(500_000)
    async with running(port_on(wire)) as port:
        bus = wire._buses[0]
        bus.attach_reader(None)  # so that only the send can find out
        wire.bus_down()
        with pytest.raises(LinkDown, match="Network is down"):
            port.send(CanFrame(1, b""))
        wire.bus_up()
        await asyncio.sleep(1)
        assert state_of(port) is LinkState.UP


@virtual
async def test_own_echoes_of_multicast_are_dropped_once_each() -> None:
    """On an interface that echoes, as many copies of a sent frame are dropped as were sent, for one second."""
    bus = ScriptedBus()
    port = CanPort(CanLinkSpec("can1", "udp_multicast", "239.1.1.1", 500_000), open_bus=lambda _spec: bus)
    heard: list[int] = []
    port.subscribe(0, 0, lambda frame: heard.append(frame.can_id))
    async with running(port):
        port.send(CanFrame(1, b"a"))
        bus.put(_message(1, b"a"), _message(1, b"a"), _message(1, b"b"))
        port.send(CanFrame(2, b"a"))  # whose echo gets lost
        await asyncio.sleep(1.5)
        bus.put(_message(2, b"a"))
        await asyncio.sleep(0.01)
        assert port.report().counters["own_echoes"] == 1
    assert heard == [1, 1, 2]


@virtual
async def test_sending_what_classic_can_cannot_carry_is_a_bug() -> None:
    """An identifier out of range or nine bytes raise InvariantError before anything is sent."""
    port = CanPort(SPEC)
    for frame in (CanFrame(0x800, b"", False), CanFrame(1 << 29, b""), CanFrame(1, bytes(9))):
        with pytest.raises(InvariantError):
            port.send(frame)


@virtual
async def test_a_port_can_be_run_again_after_it_was_cancelled() -> None:
    """Cancelling closes the bus and says DOWN; a second run opens it anew; two runs at once are a bug."""
    wire = LoopCan(500_000)
    port = port_on(wire)
    for _ in range(2):
        async with running(port):
            assert state_of(port) is LinkState.UP
            with pytest.raises(InvariantError, match="already running"):
                await port.run()
        assert state_of(port) is LinkState.DOWN
        assert wire._buses == []
