"""Chargers: set-points kept fresh and compared, safe at the end, never on again by themselves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from hal.charger import ModbusCharger
from hal.errors import DeviceFaulted, DeviceRefused, LinkDown, NoReply, NotClaimed, NotReady, StopLatched
from hal.profiles import load_register_map
from hal.types import ChargerState, DeviceSpec, Lifecycle, LinkState, Quality, Table
from hal.unit import ModbusUnit
from tests.support.hal_peer import PeerLine, running

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])

STANDBY, STARTING, CHARGING, STOPPING, FAULT = 1, 2, 3, 4, 5
UNIT = 4


class Module:
    """A charger module: starts in ``start_s``, falls to 0 A in ``fall_s``, follows unless told not to."""

    def __init__(self, line: PeerLine) -> None:
        self.line = line
        self.start_s = 0.5
        self.fall_s = 0.5
        self.follows = True
        self.writes: list[tuple[list[int], float]] = []
        line.on_write[UNIT] = self._written
        self.show(0, STANDBY)

    def show(self, address: int, value: int) -> None:
        """Set an input register."""
        self.line.image[UNIT, Table.INPUT, address] = value

    def _state(self, state: int, current: int) -> None:
        if self.line.image[UNIT, Table.INPUT, 0] != FAULT:
            self.show(0, state)
            self.show(2, current)

    def _written(self, _address: int, values: list[int]) -> None:
        loop = asyncio.get_running_loop()
        self.writes.append((values, loop.time()))
        wanted, voltage, current = values
        if wanted == 2:
            self.show(0, STANDBY)
            self.show(7, 0)
            return
        if self.follows:
            self.show(3, voltage)
            self.show(4, current)
        now = self.line.image[UNIT, Table.INPUT, 0]
        if wanted == 0 and now != STANDBY:
            self._state(STOPPING, self.line.image.get((UNIT, Table.INPUT, 2), 0))
            loop.call_later(self.fall_s, self._state, STANDBY, 0)
        elif wanted == 1 and now == CHARGING:
            self.show(2, current)
        elif wanted == 1:
            self._state(STARTING, 0)
            loop.call_later(self.start_s, self._state, CHARGING, current)


@dataclass
class Rig:
    """One charger, its unit, its line and the module behind it."""

    line: PeerLine
    module: Module
    unit: ModbusUnit
    charger: ModbusCharger


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    """A charger under polling and refreshing."""
    line = PeerLine()
    module = Module(line)
    unit = ModbusUnit(line, UNIT, load_register_map("chargers/generic_dc"))
    charger = ModbusCharger(DeviceSpec("slot01.charger", "charger", "chargers/generic_dc", "chargers", UNIT), unit)
    async with running(line.run(), *unit.runners()):
        await asyncio.sleep(0)
        await charger.refresh()
        yield Rig(line, module, unit, charger)


async def test_enable_returns_when_charging_with_equal_read_back() -> None:
    """Enable is one write of on, volts and amperes in tenths; it returns with CHARGING and the same read back."""
    async with rig() as r, r.charger.claim("slot01"):
        await r.charger.enable(400.0, 12.3)
        assert r.module.writes[0][0] == [1, 4000, 123]
        value = r.charger.reading.value
        assert value is not None
        assert (value.state, value.setpoint_voltage_v, value.setpoint_current_a) == (ChargerState.CHARGING, 400, 12.3)
        assert r.charger.lifecycle is Lifecycle.ENABLED


async def test_set_points_are_written_well_inside_the_watchdog_and_end_with_stop() -> None:
    """While enabled a write comes at least every 2.5 s, carrying the newest limits; after stop none comes."""
    async with rig() as r, r.charger.claim("slot01"):
        await r.charger.enable(400.0, 12.3)
        await r.charger.set_limits(401.0, 0.0)
        await asyncio.sleep(60.0)
        times = [at for _, at in r.module.writes]
        assert max(b - a for a, b in itertools.pairwise(times)) <= 2.6
        assert r.module.writes[-1][0] == [1, 4010, 0]
        await r.charger.stop()
        count = len(r.module.writes)
        await asyncio.sleep(20.0)
        assert len(r.module.writes) == count
        assert r.module.writes[-1][0] == [0, 0, 0]


async def test_stop_returns_only_at_a_safe_current() -> None:
    """Stop waits until the measured current is at most 1 A, not for the command's answer."""
    async with rig() as r, r.charger.claim("slot01"):
        await r.charger.enable(400.0, 100.0)
        r.module.fall_s = 5.0
        began = asyncio.get_running_loop().time()
        await r.charger.stop()
        assert asyncio.get_running_loop().time() - began >= 5.0
        assert r.charger.reading.value is not None
        assert r.charger.reading.value.output_current_a <= 1.0


async def test_current_that_does_not_fall_is_device_faulted() -> None:
    """A module that goes on delivering after a stop is DeviceFaulted once the longest ramp is over."""
    async with rig() as r, r.charger.claim("slot01"):
        await r.charger.enable(400.0, 100.0)
        r.module.fall_s = 1000.0
        with pytest.raises(DeviceFaulted, match="not safe"):
            await r.charger.stop()


@pytest.mark.parametrize(
    ("voltage", "current"), [(500.1, 1), (-0.1, 1), (400, 250.1), (400, -1), (float("nan"), 1), (400, float("inf"))]
)
async def test_limits_beyond_the_profile_are_never_sent(voltage: float, current: float) -> None:
    """Volts and amperes outside the profile's constants are refused before anything is sent."""
    async with rig() as r, r.charger.claim("slot01"):
        with pytest.raises(DeviceRefused):
            await r.charger.enable(voltage, current)
        assert not r.module.writes


async def test_refusal_by_the_module_leaves_a_running_charge_as_it_was() -> None:
    """New limits that the module refuses raise DeviceRefused, and the old ones are written on."""
    async with rig() as r, r.charger.claim("slot01"):
        await r.charger.enable(400.0, 10.0)
        refusal = DeviceRefused("line", "write", "illegal data value", 3)
        r.line.fail = lambda name: refusal if name.startswith("write") else None
        with pytest.raises(DeviceRefused) as caught:
            await r.charger.set_limits(410.0, 20.0)
        assert caught.value.device == "slot01.charger"
        r.line.fail = lambda _name: None
        await asyncio.sleep(3.0)
        assert r.module.writes[-1][0] == [1, 4000, 100]


async def test_fault_is_not_energised_again_by_itself() -> None:
    """A module that faults while charging is FAULTED, is not written on, and stays off after clear_fault."""
    async with rig() as r, r.charger.claim("slot01"):
        await r.charger.enable(400.0, 10.0)
        r.module.show(0, FAULT)
        r.module.show(7, 1)
        await r.charger.refresh()
        assert r.charger.lifecycle is Lifecycle.FAULTED
        await asyncio.sleep(20.0)
        assert [values[0] for values, _ in r.module.writes] == [1]
        with pytest.raises(NotReady, match="over_temperature"):
            await r.charger.enable(400.0, 10.0)
        await r.charger.clear_fault()
        await asyncio.sleep(20.0)
        assert [values[0] for values, _ in r.module.writes] == [1, 2]
        assert r.charger.reading.value is not None
        assert r.charger.reading.value.state is ChargerState.STANDBY


async def test_fault_during_enable_is_named_and_switched_off() -> None:
    """A fault while starting ends enable with the profile's name, and off is written."""
    async with rig() as r, r.charger.claim("slot01"):
        loop = asyncio.get_running_loop()
        loop.call_later(0.3, r.module.show, 7, 5)
        loop.call_later(0.3, r.module.show, 0, FAULT)
        with pytest.raises(DeviceFaulted, match="no_pack_voltage") as caught:
            await r.charger.enable(400.0, 10.0)
        assert caught.value.code == 5
        assert r.module.writes[-1][0] == [0, 0, 0]


async def test_cancelled_enable_is_switched_off() -> None:
    """Cancelled at any instant, enable leaves the module off and nothing wanted."""
    for at_ms in range(0, 400, 20):
        async with rig() as r, r.charger.claim("slot01"):
            r.module.start_s = 5.0
            task = asyncio.get_running_loop().create_task(r.charger.enable(400.0, 10.0))
            await asyncio.sleep(at_ms / 1000)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            await asyncio.sleep(6.0)
            assert [values[0] for values, _ in r.module.writes][-1:] in ([0], [])


async def test_module_that_does_not_follow_is_an_error() -> None:
    """A read-back that stays different is DeviceFaulted after two refreshes, naming both."""
    async with rig() as r, r.charger.claim("slot01"):
        r.module.follows = False
        with pytest.raises(DeviceFaulted, match=r"follows 0\.0 V 0\.0 A, not 400\.0 V 10\.0 A"):
            await r.charger.enable(400.0, 10.0)


async def test_running_charge_that_stops_following_shows_as_faulted() -> None:
    """A read-back that changes by itself, or a tripped watchdog, makes a running charger FAULTED; then it ends."""
    async with rig() as r, r.charger.claim("slot01"):
        await r.charger.enable(400.0, 10.0)
        r.module.follows = False
        for address, bad, good in ((4, 999, 100), (6, 1, 0)):
            r.module.show(address, bad)
            await asyncio.sleep(6.5)
            assert r.charger.lifecycle is Lifecycle.FAULTED
            with pytest.raises(DeviceFaulted):
                await r.charger.clear_fault()
            r.module.show(address, good)
            await r.charger.refresh()
            assert r.charger.reading.value is not None
            assert r.charger.reading.value.state is ChargerState.CHARGING
            await r.charger.clear_fault()


async def test_line_lost_and_back_applies_the_set_points_at_once() -> None:
    """A charger that is still enabled gets its set-points again as soon as the line is back."""
    async with rig() as r, r.charger.claim("slot01"):
        await r.charger.enable(400.0, 10.0)
        r.line.state = LinkState.DOWN
        r.unit.link_changed(LinkState.DOWN)
        assert r.charger.reading.quality is Quality.LOST
        with pytest.raises(LinkDown):
            await r.charger.set_limits(400.0, 11.0)
        await asyncio.sleep(20.0)
        count = len(r.module.writes)
        r.line.state = LinkState.UP
        r.unit.link_changed(LinkState.UP)
        await asyncio.sleep(0.05)
        assert [values for values, _ in r.module.writes[count:]] == [[1, 4000, 100]]


async def test_latch_switches_off_and_forgets() -> None:
    """Latched, a charger is written off at once, refuses, and stays off when the latch is cleared."""
    async with rig() as r, r.charger.claim("slot01"):
        await r.charger.enable(400.0, 10.0)
        r.charger.latch("fire")
        with pytest.raises(StopLatched):
            await r.charger.enable(400.0, 10.0)
        await r.charger.refresh()
        assert r.module.writes[-1][0] == [0, 0, 0]
        r.charger.unlatch()
        await asyncio.sleep(20.0)
        assert r.module.writes[-1][0] == [0, 0, 0]
        with pytest.raises(NotReady, match="not enabled"):
            await r.charger.set_limits(400.0, 1.0)


async def test_stop_during_enable_wins() -> None:
    """A stop while a charger starts ends enable with NotReady, and it stays off."""
    async with rig() as r, r.charger.claim("slot01"):
        task = asyncio.get_running_loop().create_task(r.charger.enable(400.0, 10.0))
        await asyncio.sleep(0.2)
        await r.charger.stop()
        with pytest.raises(NotReady, match="stop"):
            await task
        await asyncio.sleep(20.0)
        assert r.module.writes[-1][0] == [0, 0, 0]


async def test_silent_module_is_no_reply_and_off_is_posted() -> None:
    """A module that falls silent while starting ends enable with NoReply, and off is posted."""
    async with rig() as r, r.charger.claim("slot01"):
        r.module.start_s = 100.0
        task = asyncio.get_running_loop().create_task(r.charger.enable(400.0, 10.0))
        await asyncio.sleep(0.5)
        r.line.fail = lambda name: NoReply("l", "r", "none") if name.startswith("read") else None
        with pytest.raises(NoReply):
            await task
        assert r.module.writes[-1][0] == [0, 0, 0]


async def test_commands_need_the_claim() -> None:
    """Enable and set_limits without the claim are NotClaimed; stop needs none."""
    async with rig() as r:
        with pytest.raises(NotClaimed):
            await r.charger.enable(400.0, 1.0)
        with pytest.raises(NotClaimed):
            await r.charger.set_limits(400.0, 1.0)
        await r.charger.stop()
