"""Frames worked out by hand from the meaning of the profiles: hex in, values out; values in, hex out.

Neither the drivers' codec nor the simulator's made these numbers; the arithmetic stands beside each of them. Modbus
PDUs are those of MODBUS Application Protocol V1.1b3: function, byte count, registers, most significant byte first.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import astuple
from typing import Any

import pytest

from hal.bms.dbc import DbcPack
from hal.charger import ModbusCharger
from hal.connector import ModbusConnector
from hal.factory import build_hal
from hal.io import ModbusRemoteIo
from hal.locks import ModbusLockBank
from hal.motion import ModbusAxis
from hal.profiles import load_register_map
from hal.safety import ModbusSafety
from hal.types import (
    AxisState,
    AxisStatus,
    BoltResult,
    BoltState,
    BoltStatus,
    CanFrame,
    ChargerState,
    ChargerStatus,
    ConnectorState,
    ConnectorStatus,
    DeviceSpec,
    HalSpec,
    LockBankState,
    LockBankStatus,
    ModbusLinkSpec,
    MountStatus,
    PackStatus,
    SafetyInputs,
    Table,
    VehicleRequest,
    VehicleStatus,
    ZoneStatus,
)
from hal.unit import ModbusDevice, ModbusUnit
from hal.vehicle import CanVehicle
from hal.zones import ModbusZone
from sim_hw.wire_can import LoopCan
from tests.support.can_peer import port_on
from tests.support.hal_peer import PeerLine, running

virtual = pytest.mark.asyncio(loop_factories=["virtual"])


def registers(pdu: str) -> list[int]:
    """The registers of the answer to a read, from its hex."""
    data = bytes.fromhex(pdu)
    assert data[1] == len(data) - 2
    return list(struct.unpack(f">{data[1] // 2}H", data[2:]))


def bits(pdu: str) -> list[int]:
    """The bits of the answer to a read, from its hex: bit 0 of the first byte is the first input."""
    data = bytes.fromhex(pdu)
    assert data[1] == len(data) - 2
    return [byte >> bit & 1 for byte in data[2:] for bit in range(8)]


class Golden:
    """One device of a profile on a line that notes each write as the PDU that it is on the wire."""

    def __init__(self, kind: type[ModbusDevice[Any]], profile: str, index: int = 0, **settings: object) -> None:
        self.line = PeerLine()
        self.pdus: list[str] = []
        self.line.on_write[1] = self._written
        self.unit = ModbusUnit(self.line, 1, load_register_map(profile))
        self.device = kind(DeviceSpec("device", "", profile, "line", 1, index, settings), self.unit)

    def _written(self, address: int, values: list[int]) -> None:
        count = len(values)
        head = struct.pack(">BHHB", 16, address, count, 2 * count)
        self.pdus.append((head + struct.pack(f">{count}H", *values)).hex(" "))

    async def reads(self, table: Table, address: int, values: list[int]) -> object:
        """What the device makes of these registers or bits from ``address`` on."""
        self.line.image.update({(1, table, address + i): value for i, value in enumerate(values)})
        async with running(self.line.run(), self.unit.poller.run()):
            await asyncio.sleep(0)
            reading = await self.device.refresh()
        return reading.value

    async def writes(self, act: Callable[[], Any], seconds: float = 0.1) -> list[str]:
        """What the device writes in the first moments of a command."""
        async with running(self.line.run(), self.unit.poller.run()):
            await asyncio.sleep(0)
            await self.device.refresh()
            task = asyncio.ensure_future(act())
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.wait({task})
        return self.pdus


async def commanded(device: Any, act: Callable[[], Any]) -> None:
    """Run a command under a claim."""
    async with device.claim("test"):
        await act()


# motion/positioning_axis, block 1: input registers 32 to 41.
#   state 3 moving; accepted 0x0102 = 258; refused 0; refusal 0; done 0x0101 = 257; flags 0b001 homed;
#   position 0xFFFF FFFE = -2, times 0.001 = -0.002 mm; torque 0xFF9C = -100, times 0.1 = -10.0 %; fault 0
AXIS_PDU = "04 14 0003 0102 0000 0000 0101 0001 ffff fffe ff9c 0000"
# a move to 123.456 mm: raw 123456 = 0x0001E240; speed 100 % = 1000 = 0x03E8; command 1, id 1;
# block 1 starts at 16 + 16 = 32 = 0x0020; 5 registers, 10 bytes
AXIS_MOVE = "10 00 20 00 05 0a 00 01 00 01 00 01 e2 40 03 e8"
# a stop: command 2 under the next id; command and id only
AXIS_STOP = "10 00 20 00 02 04 00 02 00 02"


@virtual
async def test_axis_status() -> None:
    """An axis block by hand, negative position and torque included."""
    golden = Golden(ModbusAxis, "motion/positioning_axis", 1, range_mm=(-5.0, 250.0))
    assert await golden.reads(Table.INPUT, 32, registers(AXIS_PDU)) == AxisStatus(
        AxisState.MOVING, -0.002, -10.0, True, 258, 0, 0, 257, 0
    )


@virtual
async def test_axis_move_and_stop() -> None:
    """A move and the stop that follows its cancellation, byte for byte."""
    golden = Golden(ModbusAxis, "motion/positioning_axis", 1, range_mm=(-5.0, 250.0))
    axis = golden.device
    assert isinstance(axis, ModbusAxis)
    golden.line.image[1, Table.INPUT, 32] = 2  # standstill
    sent = await golden.writes(lambda: commanded(axis, lambda: axis.move_to(123.456)))
    assert sent == [AXIS_MOVE, AXIS_STOP]


# locks/lock_bank, block 0, two bolts: input registers 16 to 31.
#   state 2 turning; accepted 7; refused 6; refusal 1; done 5; flags 1 heads engaged; fault 4; bolt count 2;
#   bolt 1: locked 1, ok 1, torque 0x04B0 = 1200 times 0.1 = 120.0 Nm, angle 0x0708 = 1800 deg
#   bolt 2: moving 3, torque_early 3, 0x00FF = 255 -> 25.5 Nm, 90 deg
LOCK_PDU = "04 20 0002 0007 0006 0001 0005 0001 0004 0002 0001 0001 04b0 0708 0003 0003 00ff 005a"
# lock = 2, id 1, mask of bolts 1 and 2 = 0b11; registers 16 to 18; then stop = 3, id 2, the same mask
LOCK_LOCK = "10 00 10 00 03 06 00 02 00 01 00 03"
LOCK_STOP = "10 00 10 00 03 06 00 03 00 02 00 03"


@virtual
async def test_lock_bank_status() -> None:
    """A bank of two bolts by hand."""
    golden = Golden(ModbusLockBank, "locks/lock_bank", bolts=2)
    assert await golden.reads(Table.INPUT, 16, registers(LOCK_PDU)) == LockBankStatus(
        LockBankState.TURNING, True, 7, 6, 1, 5, 4,
        (
            BoltStatus(BoltState.LOCKED, BoltResult.OK, 120.0, 1800),
            BoltStatus(BoltState.MOVING, BoltResult.TORQUE_EARLY, 25.5, 90),
        ),
    )  # fmt: skip


@virtual
async def test_lock_bank_lock_and_stop() -> None:
    """Lock, and the stop after its cancellation, byte for byte."""
    golden = Golden(ModbusLockBank, "locks/lock_bank", bolts=2)
    bank = golden.device
    assert isinstance(bank, ModbusLockBank)
    golden.line.image[1, Table.INPUT, 16] = 1  # ready
    assert await golden.writes(lambda: commanded(bank, bank.lock)) == [LOCK_LOCK, LOCK_STOP]


# connectors/slot_connector, block 3: input registers 24 to 30, holding from 12.
#   state 2 moving; accepted 9; refused 8; refusal 9 current_flows; done 7; switches 0b10 disengaged; fault 1 jammed
CONNECTOR_PDU = "04 0e 0002 0009 0008 0009 0007 0002 0001"
CONNECTOR_ENGAGE = "10 00 0c 00 02 04 00 01 00 01"  # engage = 1, id 1, at 3 x 4 = 12
CONNECTOR_STOP = "10 00 0c 00 02 04 00 03 00 02"  # stop = 3, id 2


@virtual
async def test_connector_status() -> None:
    """A connector block by hand."""
    golden = Golden(ModbusConnector, "connectors/slot_connector", 3)
    assert await golden.reads(Table.INPUT, 24, registers(CONNECTOR_PDU)) == ConnectorStatus(
        ConnectorState.MOVING, False, True, 9, 8, 9, 7, 1
    )


@virtual
async def test_connector_engage_and_stop() -> None:
    """Engage, and the stop after its cancellation, byte for byte."""
    golden = Golden(ModbusConnector, "connectors/slot_connector", 3)
    connector = golden.device
    assert isinstance(connector, ModbusConnector)
    golden.line.image[1, Table.INPUT, 24] = 1  # ready
    sent = await golden.writes(lambda: commanded(connector, connector.engage))
    assert sent == [CONNECTOR_ENGAGE, CONNECTOR_STOP]


# chargers/generic_dc: input registers 0 to 7.
#   charging 3; 0x0F06 = 3846 -> 384.6 V; 0x0078 = 120 -> 12.0 A; 0x1200 = 4608 -> 460.8 V; 0x007B = 123 -> 12.3 A;
#   0xFFF6 = -10 -> -1.0 C; watchdog 1; fault 9
CHARGER_PDU = "04 10 0003 0f06 0078 1200 007b fff6 0001 0009"
# on = 1, 460.8 V = 4608 = 0x1200, 12.3 A = 123 = 0x007B, from register 0; off: three zeros
CHARGER_ON = "10 00 00 00 03 06 00 01 12 00 00 7b"
CHARGER_OFF = "10 00 00 00 03 06 00 00 00 00 00 00"


@virtual
async def test_charger_status() -> None:
    """A charger by hand, below freezing."""
    golden = Golden(ModbusCharger, "chargers/generic_dc")
    assert await golden.reads(Table.INPUT, 0, registers(CHARGER_PDU)) == ChargerStatus(
        ChargerState.CHARGING, 384.6, 12.0, 460.8, 12.3, -1.0, True, 9
    )


@virtual
async def test_charger_on_and_off() -> None:
    """Enable, and the switching off after its cancellation, byte for byte."""
    golden = Golden(ModbusCharger, "chargers/generic_dc")
    charger = golden.device
    assert isinstance(charger, ModbusCharger)
    sent = await golden.writes(lambda: commanded(charger, lambda: charger.enable(460.8, 12.3)))
    assert sent == [CHARGER_ON, CHARGER_OFF]


@virtual
async def test_safety_status() -> None:
    """Block 1 is discrete inputs 16 to 23; 0xC5 = 0b1100_0101: inputs 0, 2, 6 and 7 of the block are on."""
    golden = Golden(ModbusSafety, "safety/safety_status", 1)
    assert await golden.reads(Table.DISCRETE, 16, bits("02 01 c5")) == SafetyInputs(
        estop_ok=True, guard_closed=False, curtain_clear=True, curtain_muted=False,
        fire=False, heartbeat_seen=False, drives_enabled=True, key_on_site=True,
    )  # fmt: skip


@virtual
async def test_zone_status() -> None:
    """Block 2 is discrete inputs 16 to 18; 0x06 = 0b110: gas and water."""
    golden = Golden(ModbusZone, "zones/environment", 2)
    assert await golden.reads(Table.DISCRETE, 16, bits("02 01 06")) == ZoneStatus(False, True, True)


@virtual
async def test_io_inputs() -> None:
    """Channels 0, 7 and 9 by name; 0x81 0x02 = inputs 0, 7 and 9 on."""
    golden = Golden(ModbusRemoteIo, "io/remote_io", inputs={"a": 0, "b": 7, "c": 8, "d": 9}, outputs={})
    assert await golden.reads(Table.DISCRETE, 0, bits("02 02 81 02")) == {
        "a": True, "b": True, "c": False, "d": True,
    }  # fmt: skip


@virtual
async def test_io_output() -> None:
    """Output channel 4, flashing = 2: one register at address 4."""
    golden = Golden(ModbusRemoteIo, "io/remote_io", inputs={"a": 0}, outputs={"horn": 4})
    module = golden.device
    assert isinstance(module, ModbusRemoteIo)
    assert await golden.writes(lambda: module.set_output("horn", 2)) == ["10 00 04 00 01 02 00 02"]
    assert module.outputs == {"horn": 2}


# packs/generic_pack, bus address 7.
PACK_FRAMES = {
    # soc 85.37 % = 8537 = 0x2159; soh 97.5 % = 195 = 0xC3; contactors 1; fault 18 = 0x0012; counter 5
    # 59^21^C3^01^12^00^05 = AD; identifier 19^00^10^07 = 0E; AD^0E^A5 = 06
    0x19001007: ["59 21 c3 01 12 00 05 06"],
    # 384.6 V = 3846 = 0x0F06; -12.3 A: (-12.3 + 1000) / 0.1 = 9877 = 0x2695; 5200 kOhm = 0x1450; counter 10
    # 06^0F^95^26^50^14^0A = F4; 19^00^11^07 = 0F; F4^0F^A5 = 5E
    0x19001107: ["06 0f 95 26 50 14 0a 5e"],
    # 3.349 V = 3349 = 0x0D15; 3.328 V = 0x0D00; 24 C: 24 + 50 = 74 = 0x4A; -7 C: 43 = 0x2B; counter 0
    # 15^0D^00^0D^4A^2B^00 = 74; 19^00^12^07 = 0C; 74^0C^A5 = DD
    0x19001207: ["15 0d 00 0d 4a 2b 00 dd"],
    # 460.8 V = 4608 = 0x1200; 143.0 A = 1430 = 0x0596; counter 15
    # 00^12^96^05^00^00^0F = 8E; 19^00^13^07 = 0D; 8E^0D^A5 = 26
    0x19001307: ["00 12 96 05 00 00 0f 26"],
    # "SWAP-00", "042", ""
    0x19001407: ["00 53 57 41 50 2d 30 30", "01 30 34 32 00 00 00 00", "02 00 00 00 00 00 00 00"],
}


@virtual
async def test_pack_frames() -> None:
    """A pack's five messages by hand, checksums included, over a CAN bus."""
    wire = LoopCan(500_000)
    tap = wire.attach(lambda _frame: None)
    async with port_on(wire) as port:
        pack = DbcPack(DeviceSpec("slot07.pack", "pack", "packs/generic_pack", "can", 7), port)
        for can_id, payloads in PACK_FRAMES.items():
            for payload in payloads:
                tap.send(CanFrame(can_id, bytes.fromhex(payload)))
        await asyncio.sleep(0.1)
        assert pack.reading.value == PackStatus(
            serial="SWAP-00042", soc_pct=85.37, soh_pct=97.5, pack_voltage_v=384.6, pack_current_a=-12.3,
            charge_voltage_v_max=460.8, charge_current_a_max=143.0, cell_voltage_v_max=3.349,
            cell_voltage_v_min=3.328, temperature_c_max=24, temperature_c_min=-7, insulation_kohm=5200,
            contactors_closed=True, fault_code=18,
        )  # fmt: skip
        pack.close()


# vehicles/generic_vehicle, bus address 1.
VEHICLE_FRAMES = {
    # park, brake, high voltage off, doors closed = 0x0F, echo 1 << 5 = 0x20; 0.0 A = 10000 = 0x2710;
    # 12345.6 km = 123456 = 0x01E240; counter 3
    # 2F^10^27^40^E2^01^03 = B8; 19^00^20^01 = 38; B8^38^A5 = 25
    0x19002001: ["2f 10 27 40 e2 01 03 25"],
    # "VIN-7"
    0x19002101: ["00 56 49 4e 2d 37 00 00", "01 00 00 00 00 00 00 00", "02 00 00 00 00 00 00 00"],
    # mount 0; present and ok = 0x03, one mount in the high four bits = 0x10; 27.18 % = 2718 = 0x0A9E; counter 9
    # 00^13^9E^0A^00^00^09 = 8E; 19^00^22^01 = 3A; 8E^3A^A5 = 11
    0x19002201: ["00 13 9e 0a 00 00 09 11"],
    # mount 0, parts 0 to 2: "FIELD-1"
    0x19002301: ["00 46 49 45 4c 44 2d 31", "01 00 00 00 00 00 00 00", "02 00 00 00 00 00 00 00"],
}
# SECURE = 1, counter 1: 01^01 = 00; identifier 19^00^28^01 = 30; 00^30^A5 = 95
REQUEST_FRAME = (0x19002801, "01 00 00 00 00 00 01 95")


@virtual
async def test_vehicle_frames() -> None:
    """A vehicle's four messages by hand, and the station's request to it."""
    wire = LoopCan(500_000)
    heard: list[CanFrame] = []
    tap = wire.attach(heard.append)
    async with port_on(wire) as port:
        vehicle = CanVehicle(DeviceSpec("dock1.vehicle", "vehicle", "vehicles/generic_vehicle", "can", 1), port)
        for can_id, payloads in VEHICLE_FRAMES.items():
            for payload in payloads:
                tap.send(CanFrame(can_id, bytes.fromhex(payload)))
        await asyncio.sleep(0.1)
        assert vehicle.reading.value == VehicleStatus(
            vehicle_id="VIN-7", park_applied=True, brake_applied=True, high_voltage_off=True, doors_closed=True,
            pack_current_a=0.0, ready_to_drive=False, odometer_km=12345.6,
            mounts=(MountStatus("FIELD-1", 27.18, True),), acknowledged=VehicleRequest.SECURE,
        )  # fmt: skip
        async with vehicle.claim("test"):
            await vehicle.set_request(VehicleRequest.SECURE)
        await asyncio.sleep(0.01)
        assert (heard[-1].can_id, heard[-1].data.hex(" ")) == REQUEST_FRAME
        vehicle.close()


# One axis behind a Modbus TCP server of a few lines: whole frames, in and out, as they stand on the wire.
# Transaction ids are left out of the table (they are the first two bytes); unit 1.
#   header and block 0: function 4, address 0, count 26 = 0x1A -> 52 = 0x34 bytes
ASKED_STATUS = "00 00 00 06 01 04 00 00 00 1a"
ASKED_ID = "00 00 00 06 01 03 00 11 00 01"  # function 3, command_id = holding register 17
SENT_MOVE = "00 00 00 11 01 10 00 10 00 05 0a 00 01 00 08 00 00 30 39 03 e8"  # id 8, 12.345 mm = 0x3039


@asynccontextmanager
async def raw_server() -> AsyncIterator[tuple[int, list[str]]]:
    """A drive as a script over a socket: it holds id 7, and is done with a move as soon as it is asked again."""
    frames: list[str] = []
    moved = False
    beat = 0

    def answer(body: bytes) -> bytes:
        nonlocal moved, beat
        frames.append(body.hex(" "))
        if body[5] == 16:
            if body.hex(" ") == SENT_MOVE:
                moved = True
            return bytes.fromhex("00 00 00 06") + body[4:10]
        if body[5] == 3:
            return bytes.fromhex("00 00 00 05 01 03 02 00 07")
        beat += 1
        header = struct.pack(">16H", beat & 0xFFFF, *[0] * 15)
        block = bytes.fromhex("0002 0007 0000 0000 0007 0003 0000 0000 0000 0000")  # standstill, id 7 done
        if moved:  # standstill, id 8 accepted and done, position 12345 um = 0x3039
            block = bytes.fromhex("0002 0008 0000 0000 0008 0003 0000 3039 0000 0000")
        return bytes.fromhex("00 00 00 37 01 04 34") + header + block

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(6)
                rest = await reader.readexactly(struct.unpack(">H", head[4:])[0])
                writer.write(head[:2] + answer(head[2:] + rest))
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], frames
    finally:
        server.close()
        await server.wait_closed()


async def test_axis_over_a_raw_socket() -> None:
    """The whole stack against a hand-written server: what it asks and sends, and what it makes of the answers."""
    async with raw_server() as (port, frames):
        spec = HalSpec(
            (ModbusLinkSpec("plc", "modbus_tcp", 1.0, host="127.0.0.1", port=port),),
            (DeviceSpec("axis", "axis", "motion/positioning_axis", "plc", 1, 0, {"range_mm": (0.0, 50.0)}),),
        )
        hal = build_hal(spec)
        read = asyncio.Event()
        hal.on_reading(lambda _: read.set())
        async with running(hal.run()), asyncio.timeout(20):
            await read.wait()
            axis = hal.axes["axis"]
            async with axis.claim("test"):
                await axis.move_to(12.345)
            assert axis.reading.value is not None
            assert astuple(axis.reading.value)[:2] == (AxisState.STANDSTILL, 12.345)
    assert {frame for frame in frames if frame[15:17] == "04"} == {ASKED_STATUS}
    commands = [frame for frame in frames if frame[15:17] == "03" or frame[18:23] == "00 10"]
    assert commands == [ASKED_ID, SENT_MOVE]
