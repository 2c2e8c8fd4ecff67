"""One positioning axis with its unit and line, and the drive behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hal.motion import ModbusAxis
from hal.profiles import load_register_map
from hal.types import DeviceSpec
from hal.unit import ModbusUnit
from tests.support.hal_peer import HandshakePeer, PeerLine, running

UNIT = 1
MOVE, STOP, HOME, ENABLE, DISABLE, CLEAR = 1, 2, 3, 4, 5, 6
STANDSTILL, MOVING, HOMING, STOPPING = 2, 3, 4, 5


def axis_peer(line: PeerLine) -> HandshakePeer:
    """A drive that is enabled and homed."""
    peer = HandshakePeer(
        line, UNIT, 16, STANDSTILL, ends={MOVE: 2, HOME: 2, ENABLE: 2, DISABLE: 1, CLEAR: 1},
        moves={MOVE: MOVING, HOME: HOMING}, stop=STOP, still=STANDSTILL,
    )  # fmt: skip
    peer.stopping_state = STOPPING
    peer.show(5, 0b001)
    return peer


@dataclass
class Rig:
    """One axis, its unit, its line and the drive behind it."""

    line: PeerLine
    peer: HandshakePeer
    unit: ModbusUnit
    axis: ModbusAxis

    async def read(self) -> None:
        """Have the axis read once."""
        await self.axis.refresh()


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    """An axis under polling and heartbeat."""
    line = PeerLine()
    peer = axis_peer(line)
    unit = ModbusUnit(line, UNIT, load_register_map("motion/positioning_axis"))
    spec = DeviceSpec("dock1.clamp", "axis", "motion/positioning_axis", "plc", UNIT, 0, {"range_mm": (-5.0, 250.0)})
    made = Rig(line, peer, unit, ModbusAxis(spec, unit))
    async with running(line.run(), *unit.runners()):
        await asyncio.sleep(0)
        await made.read()
        yield made
