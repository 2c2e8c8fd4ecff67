"""The hardware of a whole station, simulated: one plant, a node for each device, and the wires between.

``in_process()`` puts it on in-memory wires for one event loop, ``on_sockets()`` on loopback sockets and ptys for
other processes. Either way the same bytes flow.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import can
from pymodbus.client.base import ModbusBaseClient

from hal.errors import invariant
from hal.profiles import RegisterMap, load_register_map
from hal.types import CanLinkSpec, DeviceSpec, LinkSpec, ModbusLinkSpec
from sim_hw import can_plugin
from sim_hw.codec import UnitImage
from sim_hw.nodes.chargers import add_chargers
from sim_hw.nodes.connectors import add_connectors
from sim_hw.nodes.io import add_io
from sim_hw.nodes.locks import add_lock_banks
from sim_hw.nodes.motion import add_axes
from sim_hw.nodes.pack import PackNode
from sim_hw.nodes.safety import add_safety
from sim_hw.nodes.vehicle import VehicleNode
from sim_hw.nodes.zones import add_zones
from sim_hw.plant import Plant
from sim_hw.station_file import StationFile
from sim_hw.wire_can import LoopCan
from sim_hw.wire_modbus import ModbusServer, WireModbus
from sim_hw.world import World

_ADD: dict[str, Callable[[UnitImage, RegisterMap, Sequence[DeviceSpec], Plant], None]] = {
    "axis": add_axes,
    "lock_bank": add_lock_banks,
    "connector": add_connectors,
    "charger": add_chargers,
    "io": add_io,
    "safety": add_safety,
    "zone": add_zones,
}
_CAN_NODES: dict[str, type[PackNode | VehicleNode]] = {"pack": PackNode, "vehicle": VehicleNode}


@dataclass(frozen=True, slots=True)
class _Units:
    """The images of one line's units, and which devices each unit carries."""

    images: dict[int, UnitImage]
    devices: dict[int, tuple[str, ...]]


def _units(link_id: str, plant: Plant) -> _Units:
    specs = [spec for spec in plant.station.devices.values() if spec.link_id == link_id]
    images: dict[int, UnitImage] = {}
    groups: dict[tuple[int, str], list[DeviceSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.address, spec.profile), []).append(spec)
    for (address, profile_name), members in groups.items():
        profile = load_register_map(profile_name)
        _ADD[profile.kind](images.setdefault(address, UnitImage()), profile, members, plant)
    devices = {a: tuple(spec.device_id for spec in specs if spec.address == a) for a in images}
    return _Units(images, devices)


class SimulatedHardware:
    """A station's simulated hardware; make it inside a running loop, whose time is the plant's.

    Attributes:
        plant: the physical truth; tests and injections act on it.
        wires: the Modbus lines by link id; their ``faults`` act on the bytes.
        buses: the CAN buses by link id.
    """

    def __init__(self, station: StationFile, world: World) -> None:
        self.plant = Plant(station, world, asyncio.get_running_loop())
        self.wires: dict[str, WireModbus] = {}
        self.buses: dict[str, LoopCan] = {}
        self._servers: dict[str, ModbusServer] = {}
        self._nodes: list[PackNode | VehicleNode] = []
        for link in station.links.values():
            if isinstance(link, CanLinkSpec):
                self._add_bus(link, world.seed)
            else:
                self._add_line(link, world.seed)

    def _add_line(self, link: ModbusLinkSpec, seed: int) -> None:
        units = _units(link.link_id, self.plant)

        def is_silent(unit: int) -> bool:
            return any(self.plant.is_silent(device) for device in units.devices.get(unit, ()))

        wire = WireModbus(link, units.images, seed=seed, is_silent=is_silent)
        self.wires[link.link_id] = wire
        self._servers[link.link_id] = ModbusServer(wire)

    def _add_bus(self, link: CanLinkSpec, seed: int) -> None:
        bus = LoopCan(bitrate=link.bitrate)
        self.buses[link.link_id] = bus
        for spec in self.plant.station.devices.values():
            if spec.link_id != link.link_id:
                continue
            rng = random.Random(f"{seed}/{spec.device_id}/node")  # noqa: S311  # repeatable, not for secrets
            invariant(spec.kind in _CAN_NODES, f"{spec.device_id}: no CAN node for kind {spec.kind}")
            self._nodes.append(_CAN_NODES[spec.kind](spec, self.plant, bus, rng))

    def open_bus(self, spec: CanLinkSpec) -> can.BusABC:
        """Return a bus object on the in-memory CAN bus of this link."""
        return self.buses[spec.link_id].open_bus()

    def open_client(self, spec: ModbusLinkSpec) -> ModbusBaseClient:
        """Return a Modbus client on the in-memory line of this link; only inside ``in_process()``."""
        return self._servers[spec.link_id].open_client()

    @asynccontextmanager
    async def in_process(self) -> AsyncIterator[SimulatedHardware]:
        """Serve on in-memory wires; ``open_bus`` and ``open_client`` give the other ends."""
        try:
            for server in self._servers.values():
                server.start_in_memory()
            yield self
        finally:
            self._close()

    @asynccontextmanager
    async def on_sockets(self) -> AsyncIterator[SimulatedHardware]:
        """Serve on the addresses of the station file.

        Raises:
            ValueError: a host other than 127.0.0.1, or a CAN interface other than the project's own.
            OSError: an address is taken.
        """
        try:
            async with AsyncExitStack() as stack:
                for server in self._servers.values():
                    await server.start()
                for link in self.plant.station.links.values():
                    if isinstance(link, CanLinkSpec):
                        _require_swapbus(link)
                        await stack.enter_async_context(can_plugin.serve(link.channel, self.buses[link.link_id]))
                yield self
        finally:
            self._close()

    def _close(self) -> None:
        for node in self._nodes:
            node.close()
        for server in self._servers.values():
            server.close()


def _require_swapbus(link: LinkSpec) -> None:
    if isinstance(link, CanLinkSpec) and link.interface != "swapbus":
        raise ValueError(f"{link.link_id}: simulated hardware serves interface swapbus only, not {link.interface!r}")
