"""Claims, clean-ups and what only reads: remote I/O, safety, zones; and the errors that they end in."""

from __future__ import annotations

import asyncio

import pytest

from hal.device import Guard, Revocable, addressed, finish, stands
from hal.errors import (
    DeviceFaulted,
    DeviceRefused,
    HalError,
    LinkDown,
    MotionFailed,
    NoReply,
    NotClaimed,
    ProtocolError,
    StopLatched,
)
from hal.io import ModbusRemoteIo
from hal.profiles import load_register_map
from hal.types import DeviceSpec, Lifecycle, LinkState, Quality, Table
from hal.unit import ModbusUnit
from hal.zones import ModbusZone
from tests.support.hal_peer import PeerLine, running

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])


async def test_claims_nest_for_one_owner_and_end_with_the_last() -> None:
    """An owner may claim twice; the device is free after the outer claim ends, in whatever order claims end."""
    a, b = Guard("a"), Guard("b")
    first, second, other = a.claim("swap-1"), a.claim("swap-1"), b.claim("swap-1")
    await first.__aenter__()
    await second.__aenter__()
    await other.__aenter__()
    await second.__aexit__(None, None, None)
    a.check("move")
    await first.__aexit__(None, None, None)
    with pytest.raises(NotClaimed, match="nobody"):
        a.check("move")
    b.check("move")
    await other.__aexit__(None, None, None)
    async with a.claim("cli"):
        a.check("move")


async def test_an_old_claim_is_worth_nothing_after_it_ended() -> None:
    """A task that was started under a claim loses it when the claim ends, even if another is made since."""
    guard = Guard("a")
    go = asyncio.Event()

    async def late() -> None:
        await go.wait()
        guard.check("move")

    async with guard.claim("swap-1"):
        task = asyncio.get_running_loop().create_task(late())
        await asyncio.sleep(0)
    async with guard.claim("swap-2"):
        go.set()
        with pytest.raises(NotClaimed, match="swap-2"):
            await task


async def test_a_claim_ends_with_an_exception() -> None:
    """An error inside a claim releases it and goes on."""
    guard = Guard("a")
    with pytest.raises(RuntimeError):
        async with guard.claim("swap-1"):
            raise RuntimeError
    async with guard.claim("swap-2"):
        pass


async def test_waiting_for_less_than_the_clock_can_tell_lets_time_pass() -> None:
    """Waiting for a rest of 1e-15 s again and again ends: a loop fires such timers without moving its clock."""
    module = io_module(PeerLine())
    loop = asyncio.get_running_loop()
    await asyncio.sleep(4.5)
    deadline = loop.time() + 1e-15
    turns = 0
    while (left_s := deadline - loop.time()) > 0:
        assert not await module.changed(left_s)
        turns += 1
    assert turns <= 1


async def test_finish_ends_what_it_began_and_lets_the_cancellation_through() -> None:
    """A clean-up runs to its end however often its caller is cancelled, and the caller is cancelled then."""
    done: list[str] = []

    async def clean_up() -> None:
        await asyncio.sleep(1.0)
        done.append("clean")

    task = asyncio.get_running_loop().create_task(finish(clean_up()))
    for _ in range(3):
        await asyncio.sleep(0.1)
        task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert done == ["clean"]


async def test_finish_passes_an_error_on() -> None:
    """An error of the clean-up is raised where nobody cancelled."""

    async def fail() -> None:
        raise LinkDown("a", "stop", "down")

    with pytest.raises(LinkDown):
        await finish(fail())


async def test_a_write_that_is_taken_back_says_so() -> None:
    """Revoked writes end as not sent; revoking reaches those that have not begun to run."""
    began: list[int] = []

    async def write(number: int) -> None:
        began.append(number)
        await asyncio.sleep(1.0)

    writes = Revocable()
    first = asyncio.get_running_loop().create_task(writes.send(write(1)))
    await asyncio.sleep(0.1)
    second = asyncio.get_running_loop().create_task(writes.send(write(2)))
    await asyncio.sleep(0)
    writes.revoke()
    assert (await first, await second) == (False, False)
    assert began == [1]
    assert await writes.send(write(3)) is True


@pytest.mark.parametrize(
    ("error", "still"),
    [
        (LinkDown("a", "b", "c"), True),
        (DeviceRefused("a", "b", "c", 1), True),
        (MotionFailed("a", "b", "c"), True),
        (DeviceFaulted("a", "b", "c", 1), True),
        (NoReply("a", "b", "c"), False),
        (ProtocolError("a", "b", "c"), False),
        (StopLatched("a", "b", "c"), False),
        (TimeoutError(), False),
        (asyncio.CancelledError(), False),
    ],
)
async def test_what_proves_a_standstill(error: BaseException, *, still: bool) -> None:
    """Only an error that says what happened spares the stop."""
    assert stands(error) is still


@pytest.mark.parametrize("error", [LinkDown("x", "y", "why"), DeviceRefused("x", "y", "why", 4)])
async def test_a_shared_error_is_made_out_to_the_device(error: HalError) -> None:
    """Kind, detail and code stay; device and operation are the asker's."""
    mine = addressed(error, "dock1.io", "refresh")
    assert type(mine) is type(error)
    assert (mine.device, mine.operation, mine.detail) == ("dock1.io", "refresh", "why")
    assert getattr(mine, "code", None) == getattr(error, "code", None)


def io_module(line: PeerLine) -> ModbusRemoteIo:
    """A module with two inputs and one output."""
    unit = ModbusUnit(line, 4, load_register_map("io/remote_io"))
    settings = {"inputs": {"in_place": 0, "gate": 9}, "outputs": {"horn": 4}}
    return ModbusRemoteIo(DeviceSpec("dock1.io", "io", "io/remote_io", "plc", 4, 0, settings), unit)


async def test_outputs_are_checked_before_they_are_sent() -> None:
    """An unknown output and an unknown value are DeviceRefused; nothing is sent, nothing is shown as written."""
    line = PeerLine()
    module = io_module(line)
    async with running(line.run(), module.unit.poller.run()):
        for name, value in (("siren", 1), ("horn", 3), ("horn", -1)):
            with pytest.raises(DeviceRefused):
                await module.set_output(name, value)
        assert module.outputs == {}
        await module.set_output("horn", 1)
        assert module.outputs == {"horn": 1}
        assert line.image[4, Table.HOLDING, 4] == 1


async def test_an_output_that_failed_is_not_shown_as_written() -> None:
    """A write without an answer raises NoReply for this device, and ``outputs`` stays."""
    line = PeerLine()
    module = io_module(line)
    line.fail = lambda name: NoReply("line", "write", "none") if name.startswith("write") else None
    async with running(line.run()):
        with pytest.raises(NoReply) as caught:
            await module.set_output("horn", 1)
        assert caught.value.device == "dock1.io"
        assert module.outputs == {}


async def test_an_unchanged_device_has_a_new_reading_of_the_same_value() -> None:
    """Registers that did not change are not decoded again, but dated anew; after a loss they count as before."""
    line = PeerLine()
    module = io_module(line)
    line.image[4, Table.DISCRETE, 9] = 1
    async with running(line.run(), module.unit.poller.run()):
        await asyncio.sleep(0)
        first = await module.refresh()
        second = await module.refresh()
        assert second.value is first.value
        assert second.measured_at > first.measured_at
        module.unit.link_changed(LinkState.DOWN)
        third = await module.refresh()
        assert (third.quality, third.value) == (Quality.GOOD, {"in_place": False, "gate": True})
        line.image[4, Table.DISCRETE, 9] = 0
        assert (await module.refresh()).value == {"in_place": False, "gate": False}


async def test_inputs_are_lost_at_once_with_the_line() -> None:
    """When the line goes down, inputs are LOST in that very turn with their values, and listeners are told."""
    line = PeerLine()
    module = io_module(line)
    told: list[str] = []
    module.on_reading(told.append)
    line.image[4, Table.DISCRETE, 9] = 1
    async with running(line.run(), module.unit.poller.run()):
        await asyncio.sleep(0)
        assert (await module.refresh()).value == {"in_place": False, "gate": True}
        told.clear()
        module.unit.link_changed(LinkState.DOWN)
        assert (module.reading.quality, told) == (Quality.LOST, ["dock1.io"])
        assert module.lifecycle is Lifecycle.UNCONFIGURED


async def test_a_refused_read_turns_the_reading_invalid() -> None:
    """A unit that refuses to be read (a wrong map) is INVALID after a second, with the refusal on refresh."""
    line = PeerLine()
    unit = ModbusUnit(line, 9, load_register_map("zones/environment"))
    zone = ModbusZone(DeviceSpec("dock1.zone", "zone", "zones/environment", "slots", 9, 0), unit)
    async with running(line.run(), unit.poller.run()):
        await asyncio.sleep(0)
        await zone.refresh()
        line.fail = lambda _name: DeviceRefused("line", "read", "illegal data address", 2)
        await asyncio.sleep(2.0)
        assert zone.reading.quality is Quality.INVALID
        with pytest.raises(DeviceRefused) as caught:
            await zone.refresh()
        assert (caught.value.device, caught.value.code) == ("dock1.zone", 2)
