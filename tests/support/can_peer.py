"""A pack's and a vehicle's frames from plain numbers, as the DBC files define them, for tests of the CAN drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import reduce
from operator import xor

from hal.can_port import CanPort
from hal.types import CanFrame, CanLinkSpec, LinkState
from sim_hw.wire_can import LoopCan
from tests.support.hal_peer import running

SPEC = CanLinkSpec("can", "swapbus", "@test", 500_000)


@asynccontextmanager
async def port_on(wire: LoopCan) -> AsyncIterator[CanPort]:
    """A port that is up on ``wire``."""
    port = CanPort(SPEC, open_bus=lambda _spec: wire.open_bus())
    up = asyncio.Event()
    port.on_state(lambda state: up.set() if state is LinkState.UP else None)
    async with running(port.run()):
        await up.wait()
        yield port


def sealed(can_id: int, fields: int, counter: int) -> CanFrame:
    """A frame with counter and checksum: six bytes of signals, least significant first."""
    body = (fields | (counter & 15) << 48).to_bytes(7, "little")
    return CanFrame(can_id, body + bytes([reduce(xor, (*body, *can_id.to_bytes(4, "big")), 0xA5)]))


def text(can_id: int, part: int, characters: str) -> CanFrame:
    """One part of a text."""
    return CanFrame(can_id, bytes([part]) + characters.encode("ascii").ljust(7, b"\0"))


class PackFrames:
    """The frames of one pack at bus address ``address``; each round counts on."""

    def __init__(self, address: int, serial: str) -> None:
        self.address = address
        self.serial = serial.ljust(21, "\0")
        self.counter = 0
        self.soc = 8000

    def state(self) -> CanFrame:
        """PackState: soc in 0.01 %, soh 100 %, contactors closed."""
        return sealed(0x19001000 + self.address, self.soc | 200 << 16 | 1 << 24, self.counter)

    def electric(self) -> CanFrame:
        """PackElectric: 400.0 V, 0.0 A, 5000 kOhm."""
        return sealed(0x19001100 + self.address, 4000 | 10000 << 16 | 5000 << 32, self.counter)

    def cells(self) -> CanFrame:
        """PackCells: 3.340 and 3.330 V, 25 and 23 C."""
        return sealed(0x19001200 + self.address, 3340 | 3330 << 16 | 75 << 32 | 73 << 40, self.counter)

    def limits(self) -> CanFrame:
        """PackLimits: 460.0 V, 100.0 A."""
        return sealed(0x19001300 + self.address, 4600 | 1000 << 16, self.counter)

    def identity(self, part: int) -> CanFrame:
        """PackIdentity."""
        return text(0x19001400 + self.address, part, self.serial[7 * part : 7 * part + 7])

    def round(self) -> list[CanFrame]:
        """Everything once, with the next counter."""
        self.counter += 1
        return [self.state(), self.electric(), self.cells(), self.limits(), *map(self.identity, range(3))]


class VehicleFrames:
    """The frames of one vehicle at bus address ``address``, parked and secured, with these packs on its mounts."""

    def __init__(self, address: int, vehicle_id: str, packs: list[str | None]) -> None:
        self.address = address
        self.vehicle_id = vehicle_id.ljust(21, "\0")
        self.packs = packs
        self.echo = 0
        self.counter = 0

    def state(self) -> CanFrame:
        """VehicleState: park, brake, high voltage off, doors closed; 0.0 A; 100.0 km."""
        return sealed(0x19002000 + self.address, 0b1111 | self.echo << 5 | 10000 << 8 | 1000 << 24, self.counter)

    def identity(self, part: int) -> CanFrame:
        """VehicleIdentity."""
        return text(0x19002100 + self.address, part, self.vehicle_id[7 * part : 7 * part + 7])

    def mount(self, number: int) -> CanFrame:
        """MountState: soc 50 %."""
        present = self.packs[number] is not None
        fields = number | present << 8 | present << 9 | len(self.packs) << 12 | 5000 << 16
        return sealed(0x19002200 + self.address, fields, self.counter)

    def mount_identity(self, number: int, part: int) -> CanFrame:
        """MountIdentity."""
        serial = (self.packs[number] or "").ljust(21, "\0")
        return text(0x19002300 + self.address, 4 * number + part, serial[7 * part : 7 * part + 7])

    def round(self) -> list[CanFrame]:
        """Everything once, with the next counter."""
        self.counter += 1
        numbers = range(len(self.packs))
        return [
            self.state(),
            *map(self.identity, range(3)),
            *map(self.mount, numbers),
            *(self.mount_identity(number, part) for number in numbers for part in range(3)),
        ]
