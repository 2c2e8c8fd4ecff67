"""Error states and bus-off on a kernel driver with a controller behind it: slcan on a pty."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator

import pytest

from hal.can_port import CanPort
from hal.errors import LinkDown
from hal.types import CanFrame, CanLinkSpec, LinkState
from tests.support.can_running import Inbox, reached, running
from tests.support.slcan_adapter import SlcanAdapter


@pytest.fixture
async def adapter() -> AsyncIterator[SlcanAdapter]:
    """Return an adapter whose interface is up at 500 kbit/s."""
    with SlcanAdapter() as plugged:
        await plugged.up()
        yield plugged


def port_on(adapter: SlcanAdapter) -> CanPort:
    """Return a port on the adapter's interface."""
    return CanPort(CanLinkSpec("can1", "socketcan", adapter.name, 500_000))


async def test_frames_pass_an_interface_with_a_bit_rate(adapter: SlcanAdapter) -> None:
    """A frame from the adapter is heard and one to it is sent, at the bit rate that was set."""
    port = port_on(adapter)
    inbox = Inbox()
    port.subscribe(0x123, 0x7FF, inbox, extended=False)
    async with running(port):
        await adapter.said("S6")
        adapter.line("t1232abcd")
        assert [frame.data for frame in await inbox.wait_for(1)] == [b"\xab\xcd"]
        port.send(CanFrame(0x18FF50E5, b"\x01"))
        await adapter.said("T18FF50E5101")


async def test_a_bit_rate_that_the_adapter_lacks_is_refused(adapter: SlcanAdapter) -> None:
    """The kernel refuses it when the interface is configured."""
    await adapter.down()
    with pytest.raises(subprocess.CalledProcessError):
        await adapter.up(333_333)


async def test_a_missing_acknowledge_is_counted(adapter: SlcanAdapter) -> None:
    """An error frame that the driver builds from the adapter's report is counted by its class."""
    async with running(port_on(adapter)) as port:
        adapter.line("e1a")
        adapter.line("sw097010")  # a later state change shows that the first line was taken
        async with asyncio.timeout(10):
            while "error_warning" not in port.report().counters:  # noqa: ASYNC110 - counters tell nobody
                await asyncio.sleep(0.01)
        assert port.report().counters["no_acknowledge"] == 1
        assert port.state is LinkState.UP


async def test_error_passive_and_back(adapter: SlcanAdapter) -> None:
    """The driver's state changes are the port's states."""
    async with running(port_on(adapter)) as port:
        adapter.line("sp010130")
        await reached(port, LinkState.ERROR_PASSIVE)
        adapter.line("sa000000")
        await reached(port, LinkState.UP)


async def test_bus_off_refuses_sends_and_the_interface_going_up_again_ends_it(adapter: SlcanAdapter) -> None:
    """In bus-off the kernel would take frames and lose them; the port refuses each. Down and up is the way back."""
    async with running(port_on(adapter)) as port:
        adapter.line("sb000255")
        await reached(port, LinkState.BUS_OFF)
        for _ in range(50):
            with pytest.raises(LinkDown, match="bus_off"):
                port.send(CanFrame(1, b"x"))
        await adapter.down()
        await reached(port, LinkState.DOWN)
        await adapter.up()
        await reached(port, LinkState.UP)
        port.send(CanFrame(0x19002001, b"\x02"))
        await adapter.said("T19002001102")


async def test_a_port_opened_on_an_interface_in_bus_off_says_so(adapter: SlcanAdapter) -> None:
    """No error frame tells a socket what happened before it was opened; the missing carrier does."""
    async with running(port_on(adapter)) as first:
        adapter.line("sb000255")
        await reached(first, LinkState.BUS_OFF)
        async with running(port_on(adapter), until=LinkState.BUS_OFF) as second:
            with pytest.raises(LinkDown):
                second.send(CanFrame(1, b""))


async def test_an_unplugged_adapter_is_down(adapter: SlcanAdapter) -> None:
    """The interface vanishes with its adapter, and the port says why."""
    async with running(port_on(adapter)) as port:
        adapter.unplug()
        await reached(port, LinkState.DOWN)
        assert "No such device" in port.report().last_error or "Network is down" in port.report().last_error
