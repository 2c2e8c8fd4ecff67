"""Packs and vehicles on their buses: cycles, counters, checksums and texts, read by hand; requests, by hand too."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

import pytest

from hal.types import CanFrame, VehicleRequest
from sim_hw.hardware import SimulatedHardware
from tests.support.sim_station import demo_hardware

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])


def check_byte(frame: CanFrame) -> int:
    """Work out a checksum: exclusive or of bytes 0 to 6, the identifier's bytes, and 0xA5."""
    result = 0xA5
    for byte in frame.data[:7] + frame.can_id.to_bytes(4, "big"):
        result ^= byte
    return result


class Ear:
    """Everything heard on a bus, and a mouth."""

    def __init__(self, hardware: SimulatedHardware, link_id: str) -> None:
        self.frames: list[CanFrame] = []
        self.tap = hardware.buses[link_id].attach(self.frames.append)
        self._counter = 0

    def by_id(self) -> dict[int, list[CanFrame]]:
        """Return the frames by identifier."""
        result: dict[int, list[CanFrame]] = defaultdict(list)
        for frame in self.frames:
            result[frame.can_id].append(frame)
        return result

    def ask(self, request: int, counter: int, dock: int = 1) -> None:
        """Send a StationRequest."""
        body = CanFrame(0x19002800 | dock, bytes([request, 0, 0, 0, 0, 0, counter & 0xF, 0]))
        self.tap.send(CanFrame(body.can_id, body.data[:7] + bytes([check_byte(body)])))

    async def ask_for(self, request: int, seconds: float) -> None:
        """Ask every 100 ms, as the profile says."""
        for _ in range(round(seconds * 10)):
            self._counter += 1
            self.ask(request, self._counter)
            await asyncio.sleep(0.1)


async def test_a_plugged_in_pack_sends_every_message_in_its_cycle() -> None:
    """In 30 s: 100 ms messages 300 times, cells every 500 ms, identity every 200 ms; only slots with packs talk."""
    async with demo_hardware() as hardware:
        ear = Ear(hardware, "can_packs")
        await asyncio.sleep(30.0)
        for slot in range(1, 7):
            counts = [
                len(ear.by_id()[base | slot]) for base in (0x19001000, 0x19001100, 0x19001200, 0x19001300, 0x19001400)
            ]
            assert counts == pytest.approx([300, 300, 60, 300, 150], rel=0.05)
        assert {frame.can_id & 0xFF for frame in ear.frames} == set(range(1, 7))
        assert all(frame.extended and len(frame.data) == 8 for frame in ear.frames)


async def test_counters_count_and_checksums_hold() -> None:
    """Each checked message counts by one modulo 16, and carries the checksum that the profile defines."""
    async with demo_hardware() as hardware:
        ear = Ear(hardware, "can_packs")
        await asyncio.sleep(10.0)
        for can_id, frames in ear.by_id().items():
            if can_id & 0xFF00 == 0x1400:
                continue
            counters = [frame.data[6] & 0xF for frame in frames]
            assert counters == [(counters[0] + n) % 16 for n in range(len(frames))]
            assert all(frame.data[7] == check_byte(frame) for frame in frames)


async def test_a_packs_values_and_serial_are_on_the_bus() -> None:
    """State of charge, voltage and the serial in three parts are those of the pack in the slot."""
    async with demo_hardware() as hardware:
        ear = Ear(hardware, "can_packs")
        await asyncio.sleep(5.0)
        pack = hardware.plant.pack_on_bus("slot03")
        assert pack is not None
        state, electric = ear.by_id()[0x19001003][-1].data, ear.by_id()[0x19001103][-1].data
        assert int.from_bytes(state[:2], "little") * 0.01 == pytest.approx(pack.soc_pct, abs=0.01)
        assert int.from_bytes(electric[:2], "little") * 0.1 == pytest.approx(pack.voltage_v, abs=1.0)
        assert int.from_bytes(electric[2:4], "little") * 0.1 - 1000 == pytest.approx(0.0, abs=0.5)
        parts = {frame.data[0]: frame.data[1:] for frame in ear.by_id()[0x19001403]}
        assert (parts[0] + parts[1] + parts[2]).rstrip(b"\0").decode() == pack.serial


async def test_an_unplugged_pack_falls_silent_and_a_plugged_in_one_wakes() -> None:
    """Without supply nothing is heard of a pack; once plugged in again it talks after its boot time."""
    async with demo_hardware() as hardware:
        ear, connector = Ear(hardware, "can_packs"), hardware.plant.connectors["slot01.connector"]
        await asyncio.sleep(1.0)
        connector.disengage()
        await asyncio.sleep(10.0)
        ear.frames.clear()
        await asyncio.sleep(5.0)
        assert not [frame for frame in ear.frames if frame.can_id & 0xFF == 1]
        connector.engage()
        await asyncio.sleep(15.0)
        assert [frame for frame in ear.frames if frame.can_id & 0xFF == 1]


async def test_no_two_packs_tick_alike() -> None:
    """Cycles start at their own phases and drift by a few per mille at most, so that no burst stays together."""
    async with demo_hardware() as hardware:
        ear = Ear(hardware, "can_packs")
        await asyncio.sleep(100.0)
        states = {slot: ear.by_id()[0x19001000 | slot] for slot in range(1, 7)}
        phases = {round(frames[0].received_at % 0.1, 5) for frames in states.values()}
        periods = [(f[-1].received_at - f[0].received_at) / (len(f) - 1) for f in states.values()]
        assert len(phases) == 6
        assert all(abs(period / 0.1 - 1) < 0.004 for period in periods)
        assert max(periods) - min(periods) > 0.00005


async def test_an_empty_dock_is_silent() -> None:
    """No vehicle, no frame."""
    async with demo_hardware() as hardware:
        ear = Ear(hardware, "can_dock1")
        await asyncio.sleep(10.0)
        assert ear.frames == []


async def test_a_vehicle_sends_its_state_identity_and_mounts() -> None:
    """Once it is heard, identity, mounts and their packs' serials are on the bus, checked and counted."""
    async with demo_hardware() as hardware:
        ear = Ear(hardware, "can_dock1")
        vehicle = hardware.plant.bring_vehicle("dock1", "CAR-0001")
        await asyncio.sleep(20.0)
        heard = ear.by_id()
        assert len(heard[0x19002001]) == pytest.approx(200, rel=0.06)
        assert len(heard[0x19002201]) == pytest.approx(200, rel=0.06)
        assert len(heard[0x19002101]) == pytest.approx(100, rel=0.06)
        for can_id in (0x19002001, 0x19002201):
            counters = [frame.data[6] & 0xF for frame in heard[can_id]]
            assert counters == [(counters[0] + n) % 16 for n in range(len(counters))]
            assert all(frame.data[7] == check_byte(frame) for frame in heard[can_id])
        names = {frame.data[0]: frame.data[1:] for frame in heard[0x19002101]}
        assert (names[0] + names[1] + names[2]).rstrip(b"\0") == b"CAR-0001"
        serials = {frame.data[0]: frame.data[1:] for frame in heard[0x19002301]}
        pack = vehicle.mounts[0].pack
        assert pack is not None
        assert (serials[0] + serials[1] + serials[2]).rstrip(b"\0").decode() == pack.serial
        mount = heard[0x19002201][-1].data
        assert (mount[0], mount[1] & 1, mount[1] >> 4) == (0, 1, 1)
        assert int.from_bytes(mount[2:4], "little") * 0.01 == pytest.approx(pack.soc_pct, abs=0.01)


async def test_a_vehicle_obeys_the_request_and_echoes_it() -> None:
    """Asked to be secured it sets park, brake and high voltage off, and says so; a lost request changes nothing."""
    async with demo_hardware() as hardware:
        ear = Ear(hardware, "can_dock1")
        hardware.plant.bring_vehicle("dock1", "CAR-0001", approach_s=10.0)
        await asyncio.sleep(12.0)
        await ear.ask_for(VehicleRequest.SECURE, 12.0)
        await asyncio.sleep(0.2)
        state = ear.by_id()[0x19002001][-1].data
        assert state[0] & 0b0000_0111 == 0b111
        assert state[0] >> 5 == VehicleRequest.SECURE
        assert int.from_bytes(state[1:3], "little") == 10000  # 0.0 A
        await asyncio.sleep(3.0)
        state = ear.by_id()[0x19002001][-1].data
        assert (state[0] & 0b111, state[0] >> 5) == (0b111, VehicleRequest.NONE)


async def test_only_a_sound_and_new_request_to_this_dock_counts() -> None:
    """A wrong checksum, another dock's address, an unknown request or a counter that stands still is not obeyed."""
    async with demo_hardware() as hardware:
        ear = Ear(hardware, "can_dock1")

        async def echo() -> int:
            await asyncio.sleep(0.25)
            return ear.by_id()[0x19002001][-1].data[0] >> 5

        hardware.plant.bring_vehicle("dock1", "CAR-0001", approach_s=10.0)
        await asyncio.sleep(12.0)
        ear.tap.send(CanFrame(0x19002801, bytes([1, 0, 0, 0, 0, 0, 1, 0])))
        ear.ask(VehicleRequest.SECURE, 2, dock=2)
        ear.ask(7, 3)
        assert await echo() == VehicleRequest.NONE
        for _ in range(30):
            ear.ask(VehicleRequest.SECURE, 4)
            await asyncio.sleep(0.1)
        assert await echo() == VehicleRequest.NONE  # obeyed at first, lost a second later
        ear.ask(VehicleRequest.SECURE, 5)
        assert await echo() == VehicleRequest.SECURE


async def test_a_busy_pack_bus_is_far_from_full() -> None:
    """Six packs take less than a tenth of 500 kbit/s, so that twelve on a bus leave most of it free."""
    async with demo_hardware() as hardware:
        await asyncio.sleep(10.0)
        counters: Counter[str] = hardware.buses["can_packs"].counters
        assert 0 < counters["bits"] / (10.0 * 500_000) < 0.1
        assert counters["refused"] == 0
