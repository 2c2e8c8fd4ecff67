"""The in-loop CAN bus: bit time, arbitration, errors, bus-off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import can
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hal.types import CanFrame
from sim_hw.wire_can import (
    SEND_QUEUE_FRAMES,
    LoopCan,
    NodeState,
    RawFrame,
    WireFault,
    arbitration_key,
    frame_bits,
    raw_frame,
)

virtual = pytest.mark.asyncio(loop_factories=["virtual"])


def _ignore(_frame: CanFrame) -> None:
    return


def _frame(can_id: int, data: bytes = b"", *, extended: bool = True) -> CanFrame:
    return CanFrame(can_id, data, extended)


@pytest.mark.parametrize(
    ("extended", "length", "bits"),
    [(False, 0, 55), (False, 8, 135), (True, 0, 80), (True, 8, 160)],
)
def test_frame_lengths_are_those_of_the_literature(extended: bool, length: int, bits: int) -> None:
    """Worst-case frame lengths equal the published ones (Davis et al. 2007, equation 1)."""
    assert frame_bits(raw_frame(_frame(1, bytes(length), extended=extended))) == bits


@virtual
async def test_a_frame_arrives_after_its_time_on_the_wire() -> None:
    """At 500 kbit/s an extended frame of 8 bytes arrives 320 µs after it was sent, stamped with that instant."""
    wire = LoopCan(500_000)
    heard: list[CanFrame] = []
    wire.attach(heard.append)
    assert wire.attach(_ignore).send(_frame(0x19001001, b"12345678"))
    await asyncio.sleep(319e-6)
    assert heard == []
    await asyncio.sleep(2e-6)
    assert heard == [CanFrame(0x19001001, b"12345678", True, heard[0].received_at)]
    assert heard[0].received_at == pytest.approx(320e-6, abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2**29 - 1)), min_size=2, max_size=8, unique=True))
def test_arbitration_is_won_by_the_first_dominant_bit(ids: list[tuple[bool, int]]) -> None:
    """The arbitration key orders frames as their bits do on the wire."""

    def bits(extended: bool, can_id: int) -> str:
        if not extended:
            return f"{can_id & 0x7FF:011b}" + "0" + "0"  # identifier, RTR, IDE
        return f"{can_id >> 18:011b}" + "11" + f"{can_id & 0x3FFFF:018b}" + "0"  # base, SRR, IDE, rest, RTR

    by_key = sorted(ids, key=lambda i: (arbitration_key(i[1] | 0x80000000 if i[0] else i[1] & 0x7FF), i))
    by_bits = sorted(ids, key=lambda i: (bits(*i).ljust(40, "0"), i))
    assert [bits(*i) for i in by_key] == [bits(*i) for i in by_bits]


@virtual
async def test_the_lowest_identifier_goes_first_and_each_node_keeps_its_order() -> None:
    """Of frames that wait in different nodes the lowest goes first; one node's own frames are never re-ordered."""
    wire = LoopCan(500_000)
    heard: list[int] = []
    wire.attach(lambda frame: heard.append(frame.can_id))
    first, second = wire.attach(_ignore), wire.attach(_ignore)
    for can_id in (0x50, 0x10):
        first.send(_frame(can_id))
    for can_id in (0x30, 0x20):
        second.send(_frame(can_id))
    await asyncio.sleep(0.01)
    assert heard == [0x30, 0x20, 0x50, 0x10]


@virtual
async def test_a_node_does_not_hear_itself() -> None:
    """A sender gets no copy of its frame."""
    wire = LoopCan(500_000)
    heard: list[CanFrame] = []
    wire.attach(heard.append).send(_frame(1))
    await asyncio.sleep(0.01)
    assert heard == []


@virtual
async def test_a_corrupted_frame_is_sent_again_by_the_controller() -> None:
    """One disturbance costs an error frame and one more transmission; the frame arrives once, later."""
    wire = LoopCan(500_000)
    disturbances = iter((WireFault.CORRUPT, None))
    wire.fault = lambda _frame: next(disturbances)
    heard: list[CanFrame] = []
    receiver = wire.attach(heard.append)
    sender = wire.attach(_ignore)
    sender.send(_frame(1, b"x"))
    await asyncio.sleep(0.01)
    assert [frame.data for frame in heard] == [b"x"]
    assert heard[0].received_at > 2 * frame_bits(RawFrame(1, 1, b"x")) / 500_000
    assert (sender.tec, receiver.rec) == (7, 0)  # plus 8 for the error, minus 1 for the success


@virtual
async def test_a_dropped_frame_looks_sent_and_reaches_nobody() -> None:
    """DROP loses one frame silently."""
    wire = LoopCan(500_000)
    wire.fault = lambda frame: WireFault.DROP if frame.can_id == 1 else None
    heard: list[int] = []
    wire.attach(lambda frame: heard.append(frame.can_id))
    sender = wire.attach(_ignore)
    sender.send(_frame(1))
    sender.send(_frame(2))
    await asyncio.sleep(0.01)
    assert heard == [2]
    assert sender.tec == 0


@virtual
async def test_a_disturbed_sender_goes_passive_then_off_and_comes_back() -> None:
    """32 errors in a row put the sender into bus-off, by way of error passive, and a restart brings it back."""
    wire = LoopCan(500_000, restart_s=0.5)
    wire.fault = lambda _frame: WireFault.CORRUPT
    wire.attach(_ignore)
    states: list[NodeState] = []
    errors: list[RawFrame] = []
    sender = wire.attach_raw(lambda _raw: None, errors.append)
    sender.send(_frame(1, b"x"))
    while asyncio.get_running_loop().time() < 0.4:
        await asyncio.sleep(0.0001)
        if not states or states[-1] is not sender.state:
            states.append(sender.state)
    assert states == [NodeState.ACTIVE, NodeState.WARNING, NodeState.PASSIVE, NodeState.BUS_OFF]
    assert wire.counters["corrupted"] == 32
    assert not sender.send(_frame(2))
    await asyncio.sleep(0.5)
    assert sender.state is NodeState.ACTIVE
    assert errors[-1].can_id == 0x2000_0100
    wire.fault = None
    assert sender.send(_frame(3))


@virtual
async def test_a_receiver_of_garbage_goes_passive_but_never_off() -> None:
    """Disturbed receivers count one per error and stop at error passive."""
    wire = LoopCan(500_000, restart_s=0)
    wire.fault = lambda _frame: WireFault.CORRUPT
    receiver = wire.attach(_ignore)
    for _ in range(10):
        wire.attach(_ignore).send(_frame(1))
    await asyncio.sleep(1)
    assert receiver.state is NodeState.PASSIVE
    assert receiver.rec == 255


@virtual
async def test_a_full_transmit_queue_refuses() -> None:
    """A node that sends faster than the bus carries is refused, and nothing that was taken is lost."""
    wire = LoopCan(500_000)
    heard: list[CanFrame] = []
    wire.attach(heard.append)
    sender = wire.attach(_ignore)
    assert [sender.send(_frame(n)) for n in range(SEND_QUEUE_FRAMES + 1)] == [True] * SEND_QUEUE_FRAMES + [False]
    await asyncio.sleep(1)
    assert [frame.can_id for frame in heard] == list(range(SEND_QUEUE_FRAMES))


@virtual
async def test_a_bus_that_goes_down_fails_its_buses_and_forgets_what_was_queued() -> None:
    """bus_down breaks open buses, refuses new ones and drops what is queued; bus_up lets new ones in."""
    wire = LoopCan(500_000)
    heard: list[CanFrame] = []
    wire.attach(heard.append)
    sender = wire.attach(_ignore)
    with wire.open_bus() as bus:
        sender.send(_frame(1))
        wire.bus_down()
        assert not sender.send(_frame(2))
        with pytest.raises(can.CanOperationError):
            bus.recv(0)
        with pytest.raises(can.CanInitializationError):
            wire.open_bus()
    wire.bus_up()
    with wire.open_bus():
        sender.send(_frame(3))
        await asyncio.sleep(0.01)
    assert [frame.can_id for frame in heard] == [3]


@virtual
async def test_a_bus_that_is_switched_by_who_hears_a_frame_carries_one_frame_at_a_time() -> None:
    """A node that takes the bus down and up while it hears a frame, and sends, is heard once, in its own bit time."""
    wire = LoopCan(500_000)
    heard: list[tuple[int, float]] = []
    loop = asyncio.get_running_loop()

    def switch(frame: CanFrame) -> None:
        if frame.can_id == 1:
            wire.bus_down()
            wire.bus_up()
            nodes[0].send(_frame(2))
            nodes[1].send(_frame(3))

    nodes = [wire.attach(switch), wire.attach(_ignore)]
    wire.attach(lambda frame: heard.append((frame.can_id, round((loop.time() - began_at) * 500_000))))
    began_at = loop.time()
    wire.attach(_ignore).send(_frame(1))
    await asyncio.sleep(0.01)
    assert heard == [(1, 80), (2, 160), (3, 240)]


@virtual
async def test_who_answers_in_the_callback_arbitrates_with_what_waits() -> None:
    """A frame that is sent while another is heard goes first at its end if its identifier is lower."""
    wire = LoopCan(500_000)
    heard: list[int] = []

    def answer(frame: CanFrame) -> None:
        if frame.can_id == 4:
            answering.send(_frame(1))

    answering = wire.attach(answer)
    wire.attach(lambda frame: heard.append(frame.can_id))
    talker = wire.attach(_ignore)
    for can_id in (4, 5):
        talker.send(_frame(can_id))
    await asyncio.sleep(0.01)
    assert heard == [4, 1, 5]


@virtual
async def test_a_python_can_bus_carries_every_kind_of_frame() -> None:
    """Standard, extended and remote frames pass between two python-can buses on one wire."""
    wire = LoopCan(500_000)
    sent = [
        can.Message(arbitration_id=0x7FF, is_extended_id=False, data=b"ab"),
        can.Message(arbitration_id=0x19001401, is_extended_id=True, data=bytes(8)),
        can.Message(arbitration_id=5, is_extended_id=False, is_remote_frame=True, dlc=3),
    ]
    with wire.open_bus() as one, wire.open_bus() as two:
        for message in sent:
            one.send(message)
        await asyncio.sleep(0.01)
        got = [two.recv(0) for _ in sent]
        assert two.recv(0) is None
    assert all(a is not None and a.equals(b, None, check_direction=False) for a, b in zip(got, sent, strict=True))


@virtual
async def test_one_nodes_bug_keeps_no_frame_from_the_others() -> None:
    """A node that raises is reported to the loop, and the rest of the bus goes on."""
    wire = LoopCan(500_000)
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))

    def buggy(_frame: CanFrame) -> None:
        raise KeyError("bug")

    heard: list[int] = []
    wire.attach(buggy)
    wire.attach(lambda frame: heard.append(frame.can_id))
    sender = wire.attach(_ignore)
    sender.send(_frame(1))
    sender.send(_frame(2))
    await asyncio.sleep(0.01)
    assert heard == [1, 2]
    assert [type(error) for error in reported] == [KeyError, KeyError]


@virtual
async def test_a_node_that_answers_within_the_same_turn_is_sent_once() -> None:
    """A receiver's callback that sends on the transmitting node puts one frame on the bus, not two."""
    wire = LoopCan(500_000)
    heard: list[int] = []
    asking = wire.attach(_ignore)

    def answer(frame: CanFrame) -> None:
        heard.append(frame.can_id)
        if frame.can_id < 5:
            asking.send(_frame(frame.can_id + 1))

    wire.attach(answer)
    asking.send(_frame(1))
    await asyncio.sleep(0.01)
    assert heard == [1, 2, 3, 4, 5]
    assert wire.counters["frames"] == 5


@virtual
async def test_a_node_that_only_talks_takes_part_in_the_errors() -> None:
    """A deaf node's controller still counts what goes wrong on the bus."""
    wire = LoopCan(500_000)
    wire.fault = lambda _frame: WireFault.CORRUPT
    deaf = wire.attach_raw(None, lambda _error: None)
    wire.attach(_ignore).send(_frame(1))
    await asyncio.sleep(0.001)
    assert deaf.rec > 0


@virtual
async def test_a_detached_node_hears_and_says_nothing_more() -> None:
    """What a node had queued when it left is gone."""
    wire = LoopCan(500_000)
    heard: list[int] = []
    stays = wire.attach(lambda frame: heard.append(frame.can_id))
    leaves = wire.attach(_forbidden)
    leaves.send(_frame(1))
    leaves.detach()
    stays.send(_frame(2))
    await asyncio.sleep(0.01)
    assert heard == []
    assert not leaves.send(_frame(3))


def _forbidden(frame: CanFrame) -> None:
    raise AssertionError(f"{frame} must not arrive here")


@pytest.mark.parametrize(
    "make", [lambda: CanFrame(0x800, b"", False), lambda: CanFrame(1 << 29, b""), lambda: CanFrame(1, bytes(9))]
)
def test_what_classic_can_cannot_carry_is_refused(make: Callable[[], CanFrame]) -> None:
    """Identifiers out of range and more than 8 bytes raise ValueError."""
    with pytest.raises(ValueError, match="not a classic CAN frame"):
        raw_frame(make())
