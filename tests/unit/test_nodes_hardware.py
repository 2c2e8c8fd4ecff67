"""The whole simulated station: its wires reach its devices, and the same seed gives the same bytes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from types import MappingProxyType

import pytest
from pymodbus.exceptions import ModbusIOException

from hal.types import CanFrame, CanLinkSpec, ModbusLinkSpec
from sim_hw.clock import run_virtual
from sim_hw.hardware import SimulatedHardware
from sim_hw.station_file import read_station
from sim_hw.wire_modbus import WireFault, WireFaultKind
from tests.support.sim_station import DEMO, ROOT, Unit, demo_hardware, demo_world

virtual = pytest.mark.asyncio(loop_factories=["virtual"])


async def busy_minute(seed: int) -> str:
    """Run a minute with motion, charging, a vehicle and wire faults; return the hash of all that could be seen."""
    digest = hashlib.sha256()

    def see(frame: CanFrame) -> None:
        digest.update(f"{frame.received_at!r} {frame.can_id:x} {frame.data.hex()}\n".encode())

    async with demo_hardware(demo_world(seed)) as hardware:
        for bus in hardware.buses.values():
            bus.attach(see)
        hardware.wires["chargers"].faults[0] = WireFault(WireFaultKind.EXCEPTION, probability=0.2)
        link = hardware.plant.station.links["chargers"]
        assert isinstance(link, ModbusLinkSpec)
        client = hardware.open_client(link)
        assert await client.connect()
        unit = Unit(hardware, "plc", 1)
        async with unit.alive():
            hardware.plant.bring_vehicle("dock1", "CAR-0001", approach_s=20.0)
            unit.write(16, [4, 1])
            unit.write(16, [1, 2, 0x0002, 0x49F0, 1000])
            for _ in range(60):
                await client.write_registers(0, [1, 4200, 300], device_id=1)
                answer = await client.read_input_registers(0, count=8, device_id=1)
                digest.update(
                    f"{asyncio.get_running_loop().time()!r} {list(answer.registers)} {unit.inputs(16, 10)}\n".encode()
                )
                await asyncio.sleep(1.0)
        client.close()
        for event in hardware.plant.trace:
            digest.update(f"{event.at!r} {event.what}\n".encode())
        assert hardware.plant.violations == []
    return digest.hexdigest()


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    """Every frame, register and event of a minute is equal bit for bit for one seed, also under other hash seeds."""
    first = run_virtual(busy_minute(5))
    assert run_virtual(busy_minute(5)) == first
    assert run_virtual(busy_minute(6)) != first
    code = "from tests.unit.test_nodes_hardware import *; print(run_virtual(busy_minute(5)))"
    for hash_seed in ("1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        again = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True
        )
        assert again.stdout.decode().strip() == first


@virtual
async def test_every_modbus_device_of_the_station_answers_on_its_line() -> None:
    """Each declared device's first register can be read through a real client on the in-memory wire."""
    async with demo_hardware() as hardware:
        for link in hardware.plant.station.links.values():
            if not isinstance(link, ModbusLinkSpec):
                continue
            client = hardware.open_client(link)
            assert await client.connect()
            for spec in hardware.plant.station.devices.values():
                if spec.link_id != link.link_id:
                    continue
                reads_bits = spec.kind in {"io", "safety", "zone"}
                read = client.read_discrete_inputs if reads_bits else client.read_input_registers
                assert not (await read(0, count=1, device_id=spec.address)).isError(), spec.device_id
            assert (await client.read_input_registers(0, count=1, device_id=99)).exception_code == 11
            client.close()


@virtual
async def test_a_python_can_bus_hears_the_packs() -> None:
    """The other end of the in-memory CAN bus is a python-can bus."""
    async with demo_hardware() as hardware:
        link = hardware.plant.station.links["can_packs"]
        assert isinstance(link, CanLinkSpec)
        bus = hardware.open_bus(link)
        await asyncio.sleep(1.0)
        message = bus.recv(0)
        assert message is not None
        assert message.arbitration_id >> 16 == 0x1900
        bus.shutdown()


@virtual
async def test_a_silenced_device_does_not_answer() -> None:
    """Silence of one axis is silence of its controller: the client waits in vain; other units answer."""
    async with demo_hardware() as hardware:
        link = hardware.plant.station.links["plc"]
        assert isinstance(link, ModbusLinkSpec)
        client = hardware.open_client(link)
        assert await client.connect()
        hardware.plant.silent_devices.add("dock1.clamp")
        with pytest.raises(ModbusIOException):
            await client.read_input_registers(0, count=1, device_id=1)
        assert not (await client.read_input_registers(0, count=1, device_id=2)).isError()
        client.close()


@virtual
async def test_only_the_projects_own_can_interface_is_served() -> None:
    """A real CAN interface in the station file is refused, and nothing stays open."""
    station = read_station(DEMO)
    real = CanLinkSpec("can_packs", "socketcan", "can0", 500_000)
    links = {**station.links, "can_packs": real}
    lines = {name: link for name, link in links.items() if isinstance(link, CanLinkSpec)}
    station = replace(station, links=MappingProxyType(lines))
    hardware = SimulatedHardware(station, demo_world())
    with pytest.raises(ValueError, match="swapbus"):
        async with hardware.on_sockets():
            pytest.fail("served")
