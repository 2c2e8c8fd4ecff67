"""Packs and vehicles on CAN: whole, new, in time, consistent; and the request that the station sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest

from hal.bms.dbc import DbcPack
from hal.device import Device
from hal.errors import LinkDown, NoReply, NotClaimed, ProtocolError, StopLatched
from hal.types import CanFrame, DeviceSpec, PackStatus, Quality, Reading, VehicleRequest, VehicleStatus
from hal.vehicle import CanVehicle
from sim_hw.wire_can import LoopCan, LoopCanTap
from tests.support.can_peer import PackFrames, VehicleFrames, port_on
from tests.support.hal_peer import running

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])

ON_THE_WIRE_S = 0.02  # the longest burst of these tests at 500 kbit/s


@dataclass
class Bus:
    """A bus with somebody at the far end."""

    wire: LoopCan
    tap: LoopCanTap
    heard: list[CanFrame]

    async def send(self, frames: Sequence[CanFrame]) -> None:
        """Send frames, and let them arrive."""
        for frame in frames:
            self.tap.send(frame)
        await asyncio.sleep(ON_THE_WIRE_S)


@asynccontextmanager
async def pack_rig() -> AsyncIterator[tuple[Bus, DbcPack, PackFrames]]:
    """The monitor of slot 7, and the frames of a pack there."""
    wire = LoopCan(500_000)
    heard: list[CanFrame] = []
    bus = Bus(wire, wire.attach(heard.append), heard)
    async with port_on(wire) as port:
        pack = DbcPack(DeviceSpec("slot07.pack", "pack", "packs/generic_pack", "can", 7), port)
        yield bus, pack, PackFrames(7, "SWAP-00042")
        pack.close()


@asynccontextmanager
async def vehicle_rig() -> AsyncIterator[tuple[Bus, CanVehicle, VehicleFrames]]:
    """The vehicle link of a dock, and the frames of a vehicle with two mounts, one of them empty."""
    wire = LoopCan(500_000)
    heard: list[CanFrame] = []
    bus = Bus(wire, wire.attach(heard.append), heard)
    async with port_on(wire) as port:
        vehicle = CanVehicle(DeviceSpec("dock1.vehicle", "vehicle", "vehicles/generic_vehicle", "can", 1), port)
        async with running(vehicle.keep()):
            yield bus, vehicle, VehicleFrames(1, "VIN-0000007", ["FIELD-0001-A", None])
        vehicle.close()


def quality(device: Device[PackStatus] | Device[VehicleStatus]) -> Quality:
    """The quality now; a type checker believes that a property cannot change."""
    return device.reading.quality


def good(reading: Reading[PackStatus]) -> PackStatus:
    """The value of a good reading."""
    assert reading.quality is Quality.GOOD
    assert reading.value is not None
    return reading.value


async def test_a_pack_is_good_once_everything_was_heard() -> None:
    """Until the last part of the serial the reading is NEVER; then it is GOOD and dated by its oldest message."""
    async with pack_rig() as (bus, pack, frames):
        messages = frames.round()
        await bus.send(messages[:-1])
        assert quality(pack) is Quality.NEVER
        await bus.send(messages[-1:])
        value = good(pack.reading)
        assert (value.serial, value.soc_pct, value.pack_current_a) == ("SWAP-00042", 80.0, 0.0)
        assert pack.reading.measured_at < asyncio.get_running_loop().time() - ON_THE_WIRE_S


async def test_frames_of_other_packs_and_unknown_identifiers_are_not_this_packs() -> None:
    """Another address, an identifier of no message and a standard identifier change nothing."""
    async with pack_rig() as (bus, pack, frames):
        await bus.send(PackFrames(8, "OTHER").round())
        await bus.send([CanFrame(0x19001507, bytes(8)), CanFrame(0x100, bytes(8), extended=False)])
        assert quality(pack) is Quality.NEVER
        await bus.send(frames.round())
        assert good(pack.reading).serial == "SWAP-00042"


@pytest.mark.parametrize(("silent", "limit_s"), [(0, 1.0), (1, 1.0), (2, 3.0), (3, 1.0), (4, 3.0)])
async def test_one_silent_message_loses_the_pack_in_its_own_time(silent: int, limit_s: float) -> None:
    """With any one message silent the reading is LOST after that message's time-out, by a timer, and not before."""
    async with pack_rig() as (bus, pack, frames):
        loop = asyncio.get_running_loop()
        told: list[float] = []
        await bus.send(frames.round())
        silent_since = loop.time()
        pack.on_reading(lambda _: told.append(loop.time()) if quality(pack) is Quality.LOST else None)
        while loop.time() < silent_since + limit_s + 0.2:
            await bus.send([frame for i, frame in enumerate(frames.round()) if min(i, 4) != silent])
            if not told:
                assert good(pack.reading).soc_pct == 80.0
        assert quality(pack) is Quality.LOST
        assert limit_s - ON_THE_WIRE_S <= told[0] - silent_since <= limit_s
        assert pack.reading.value is not None


async def test_short_frames_and_bad_checksums_are_never_decoded_and_fill_the_bucket() -> None:
    """Two bad frames are borne, the third makes the reading INVALID, and good ones make it GOOD again."""
    async with pack_rig() as (bus, pack, frames):
        await bus.send(frames.round())
        frames.soc = 1234
        whole = frames.state()
        short = CanFrame(whole.can_id, whole.data[:7])
        wrong = CanFrame(whole.can_id, whole.data[:7] + bytes([whole.data[7] ^ 1]))
        await bus.send([short])
        await bus.send([wrong])
        assert good(pack.reading).soc_pct == 80.0
        await bus.send([short])
        assert quality(pack) is Quality.INVALID
        assert pack.reading.value is not None
        assert pack.reading.value.soc_pct == 80.0
        await bus.send(frames.round())
        assert quality(pack) is Quality.INVALID
        await bus.send(frames.round())
        assert good(pack.reading).soc_pct == 12.34
        assert pack.streams["PackState"].counters == {"good": 3, "bad": 3, "repeated": 0}


async def test_a_counter_that_stands_still_is_not_news() -> None:
    """Repeated frames with valid checksums do not keep a frozen pack alive: it is LOST after the time-out."""
    async with pack_rig() as (bus, pack, frames):
        frozen = frames.round()
        await bus.send(frozen)
        measured_at = pack.reading.measured_at
        for _ in range(200):
            await bus.send(frozen)
            if asyncio.get_running_loop().time() > measured_at + 1.0:
                assert quality(pack) is Quality.LOST
        assert pack.reading.measured_at == measured_at


async def test_another_packs_serial_never_mixes_with_the_first() -> None:
    """From the first part that differs on nothing is GOOD until the new pack was heard whole."""
    async with pack_rig() as (bus, pack, frames):
        await bus.send(frames.round())
        serials: list[str] = []
        pack.on_reading(
            lambda _: serials.append(good(pack.reading).serial) if quality(pack) is Quality.GOOD else None
        )
        other = PackFrames(7, "SWAP-00099")
        other.counter = 7
        await bus.send([other.identity(1)])
        assert quality(pack) is Quality.LOST
        await bus.send([frames.identity(0), *other.round()])
        assert good(pack.reading).serial == "SWAP-00099"
        assert set(serials) == {"SWAP-00099"}


async def test_refresh_waits_for_a_round_that_began_after_the_call() -> None:
    """Refresh returns a reading of which no message is older than the call."""
    async with pack_rig() as (bus, pack, frames):
        await bus.send(frames.round())
        began = asyncio.get_running_loop().time()
        task = asyncio.get_running_loop().create_task(pack.refresh())
        frames.counter += 1
        await bus.send([frames.state(), frames.electric(), frames.limits()])
        assert not task.done()
        await bus.send(frames.round())
        assert (await task).measured_at >= began


async def test_a_silent_pack_is_no_reply_within_the_time_out() -> None:
    """Refresh of a pack that says nothing raises NoReply after the shortest time-out of its messages."""
    async with pack_rig() as (_bus, pack, _frames):
        began = asyncio.get_running_loop().time()
        with pytest.raises(NoReply, match=r"not heard within 1\.0 s"):
            await pack.refresh()
        assert asyncio.get_running_loop().time() - began == pytest.approx(1.0)


async def test_refresh_of_a_pack_that_talks_rubbish_is_a_protocol_error() -> None:
    """While only bad frames come, refresh raises ProtocolError."""
    async with pack_rig() as (bus, pack, frames):
        await bus.send(frames.round())
        task = asyncio.get_running_loop().create_task(pack.refresh())
        for _ in range(10):
            await bus.send([CanFrame(0x19001007, b"\1\2\3")] * 5)
            assert quality(pack) is Quality.INVALID
        with pytest.raises(ProtocolError):
            await task
        assert quality(pack) is Quality.LOST


async def test_bus_down_loses_the_pack_at_once_and_up_finds_it() -> None:
    """A bus that goes down makes the reading LOST in that turn and refresh LinkDown; it recovers when frames come."""
    async with pack_rig() as (bus, pack, frames):
        await bus.send(frames.round())
        bus.wire.bus_down()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert quality(pack) is Quality.LOST
        with pytest.raises(LinkDown):
            await pack.refresh()
        bus.wire.bus_up()
        await asyncio.sleep(6.0)
        await bus.send(frames.round())
        await bus.send(frames.round())
        assert good(pack.reading).serial == "SWAP-00042"


async def test_text_that_is_not_ascii_is_a_bad_frame() -> None:
    """A serial byte beyond ASCII is counted as bad and never shown."""
    async with pack_rig() as (bus, pack, frames):
        await bus.send([*frames.round()[:-1], CanFrame(0x19001407, b"\x02\xff\xff\0\0\0\0\0")])
        assert quality(pack) is Quality.NEVER
        await bus.send([CanFrame(0x19001407, b"\x03AAAAAAA")])
        assert pack.streams["PackIdentity"].counters["bad"] == 2


async def test_a_vehicle_with_an_empty_mount_is_read_whole() -> None:
    """Status, identity and both mounts make one reading; an empty mount has no serial."""
    async with vehicle_rig() as (bus, vehicle, frames):
        await bus.send(frames.round())
        value = vehicle.reading.value
        assert value is not None
        assert vehicle.reading.quality is Quality.GOOD
        assert (value.vehicle_id, value.odometer_km, value.acknowledged) == (
            "VIN-0000007",
            100.0,
            VehicleRequest.NONE,
        )
        assert [mount.pack_serial for mount in value.mounts] == ["FIELD-0001-A", None]
        assert value.mounts[0].pack_ok


async def test_an_exchanged_pack_has_no_serial_until_all_of_it_was_heard() -> None:
    """While the serial of a mount changes it is empty, never a mixture, and the vehicle stays GOOD."""
    async with vehicle_rig() as (bus, vehicle, frames):
        await bus.send(frames.round())
        seen: list[str | None] = []
        qualities: set[Quality] = set()

        def note(_device: str) -> None:
            qualities.add(vehicle.reading.quality)
            if vehicle.reading.value is not None:
                seen.append(vehicle.reading.value.mounts[0].pack_serial)

        vehicle.on_reading(note)
        frames.packs[0] = "FRESH-0002-B"
        await bus.send(frames.round())
        assert qualities == {Quality.GOOD}
        assert list(dict.fromkeys(seen)) == ["FIELD-0001-A", "", "FRESH-0002-B"]


async def test_another_vehicle_is_never_mixed_with_the_first() -> None:
    """A vehicle identity that differs drops everything of the vehicle before."""
    async with vehicle_rig() as (bus, vehicle, frames):
        await bus.send(frames.round())
        other = VehicleFrames(1, "VIN-0000008", [None])
        other.counter = 5
        await bus.send([other.identity(0), other.identity(1)])
        assert quality(vehicle) is Quality.LOST
        await bus.send(other.round())
        assert vehicle.reading.value is not None
        assert (vehicle.reading.value.vehicle_id, len(vehicle.reading.value.mounts)) == ("VIN-0000008", 1)


async def test_an_answer_that_the_dbc_does_not_name_is_a_bad_frame() -> None:
    """A request echo without a name is not decoded."""
    async with vehicle_rig() as (bus, vehicle, frames):
        frames.echo = 7
        await bus.send([frames.state()])
        assert vehicle.streams["VehicleState"].counters["bad"] == 1


def requests(bus: Bus) -> list[int]:
    """The requests that the vehicle has heard."""
    return [frame.data[0] & 7 for frame in bus.heard if frame.can_id == 0x19002801]


async def test_the_request_is_sent_every_100_ms_until_another_is_set() -> None:
    """A request is on the bus at once, then every 0.1 s, its counter moving; NONE is said once, then silence."""
    async with vehicle_rig() as (bus, vehicle, _), vehicle.claim("swap-1"):
        await vehicle.set_request(VehicleRequest.SECURE)
        await asyncio.sleep(1.05)
        assert requests(bus) == [1] * 11
        counters = [frame.data[6] for frame in bus.heard]
        assert all((b - a) % 16 == 1 for a, b in pairwise(counters))
        await vehicle.set_request(VehicleRequest.NONE)
        await asyncio.sleep(1.0)
        assert requests(bus)[11:] == [0]
        assert vehicle.request is VehicleRequest.NONE


async def test_a_request_needs_the_claim_and_a_bus() -> None:
    """Without a claim NotClaimed; with the bus down LinkDown, and the request is not kept."""
    async with vehicle_rig() as (bus, vehicle, _):
        with pytest.raises(NotClaimed):
            await vehicle.set_request(VehicleRequest.SECURE)
        bus.wire.bus_down()
        await asyncio.sleep(0.01)
        async with vehicle.claim("swap-1"):
            with pytest.raises(LinkDown):
                await vehicle.set_request(VehicleRequest.SECURE)
        assert vehicle.request is VehicleRequest.NONE


@pytest.mark.parametrize(
    ("before", "after"),
    [("NONE", "NONE"), ("SECURE", "SECURE"), ("CHECK", "SECURE"), ("WAKE", "SECURE"), ("LEAVE", "NONE")],
)
async def test_a_latch_asks_for_nothing_that_releases(before: str, after: str) -> None:
    """Latched, the vehicle is asked to stay secured, or nothing; other requests are refused; stop() asks nothing."""
    async with vehicle_rig() as (bus, vehicle, _), vehicle.claim("swap-1"):
        await vehicle.set_request(VehicleRequest[before])
        await asyncio.sleep(0.25)
        vehicle.latch("emergency stop")
        await asyncio.sleep(0.5)
        assert requests(bus)[-1] == VehicleRequest[after]
        with pytest.raises(StopLatched):
            await vehicle.set_request(VehicleRequest.LEAVE)
        await vehicle.stop()
        assert await _state_of(lambda: vehicle.request) is VehicleRequest.NONE


async def _state_of(read: Callable[[], VehicleRequest]) -> VehicleRequest:
    return read()
