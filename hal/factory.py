"""All devices of a station, made from what the station file declares, and the tasks that keep them going."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hal.api import (
    Axis,
    Charger,
    Connector,
    LinkReport,
    LockBank,
    PackMonitor,
    RemoteIo,
    SafetyMonitor,
    VehicleLink,
    ZoneMonitor,
)
from hal.bms.dbc import DbcPack
from hal.can_port import CanPort, open_python_can_bus
from hal.charger import ModbusCharger
from hal.connector import ModbusConnector
from hal.device import Device, finish, retrieve
from hal.errors import HalError, invariant
from hal.handshake import HandshakeDevice
from hal.io import ModbusRemoteIo
from hal.locks import ModbusLockBank
from hal.modbus_link import ModbusLink, open_pymodbus_client
from hal.motion import ModbusAxis
from hal.profiles import ProfileError, load_register_map
from hal.safety import ModbusSafety
from hal.streams import CanMonitor
from hal.types import CanLinkSpec, DeviceSpec, HalSpec, ModbusLinkSpec, Quality
from hal.unit import ModbusActor, ModbusUnit
from hal.vehicle import CanVehicle
from hal.zones import ModbusZone

STOP_ALL_LIMIT_S = 1.0  # at the end: how long the axes are watched until they stand

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Devices:
    """The devices by role, as they are made."""

    axes: dict[str, Axis] = field(default_factory=dict)
    locks: dict[str, LockBank] = field(default_factory=dict)
    connectors: dict[str, Connector] = field(default_factory=dict)
    chargers: dict[str, Charger] = field(default_factory=dict)
    packs: dict[str, PackMonitor] = field(default_factory=dict)
    vehicles: dict[str, VehicleLink] = field(default_factory=dict)
    safety: dict[str, SafetyMonitor] = field(default_factory=dict)
    zones: dict[str, ZoneMonitor] = field(default_factory=dict)
    io: dict[str, RemoteIo] = field(default_factory=dict)
    all: dict[str, Device[Any]] = field(default_factory=dict)  # in the order of the station file

    def add_modbus(self, spec: DeviceSpec, unit: ModbusUnit) -> None:
        """Make a device of a Modbus unit."""
        name = spec.device_id
        match spec.kind:
            case "axis":
                self.all[name] = self.axes[name] = ModbusAxis(spec, unit)
            case "lock_bank":
                self.all[name] = self.locks[name] = ModbusLockBank(spec, unit)
            case "connector":
                self.all[name] = self.connectors[name] = ModbusConnector(spec, unit)
            case "charger":
                self.all[name] = self.chargers[name] = ModbusCharger(spec, unit)
            case "safety":
                self.all[name] = self.safety[name] = ModbusSafety(spec, unit)
            case "zone":
                self.all[name] = self.zones[name] = ModbusZone(spec, unit)
            case "io":
                self.all[name] = self.io[name] = ModbusRemoteIo(spec, unit)
            case other:
                raise ProfileError(f"{name}: no driver for a {other} on a Modbus line")

    def add_can(self, spec: DeviceSpec, port: CanPort) -> None:
        """Make a device on a CAN bus."""
        name = spec.device_id
        match spec.kind:
            case "pack":
                self.all[name] = self.packs[name] = DbcPack(spec, port)
            case "vehicle":
                self.all[name] = self.vehicles[name] = CanVehicle(spec, port)
            case other:
                raise ProfileError(f"{name}: no driver for a {other} on a CAN bus")


class Hal:
    """All devices of a station. See ``hal.api.HalSet``; made by ``build_hal``."""

    def __init__(
        self,
        lines: Mapping[str, ModbusLink],
        ports: Mapping[str, CanPort],
        units: Mapping[tuple[str, int, str], ModbusUnit],
        devices: _Devices,
    ) -> None:
        self._lines = lines
        self._ports = ports
        self._units = units
        self._made = devices
        self._all = devices.all
        self._latched: dict[str, str] = {}
        self._listeners: list[Callable[[str], None]] = []
        for device in self._all.values():
            device.on_reading(self._tell)
        for (line_id, _, _), unit in units.items():
            lines[line_id].on_state(unit.link_changed)

    @property
    def axes(self) -> Mapping[str, Axis]:
        """Positioning axes by id."""
        return MappingProxyType(self._made.axes)

    @property
    def locks(self) -> Mapping[str, LockBank]:
        """Lock banks by id."""
        return MappingProxyType(self._made.locks)

    @property
    def connectors(self) -> Mapping[str, Connector]:
        """Slot connectors by id."""
        return MappingProxyType(self._made.connectors)

    @property
    def chargers(self) -> Mapping[str, Charger]:
        """Chargers by id."""
        return MappingProxyType(self._made.chargers)

    @property
    def packs(self) -> Mapping[str, PackMonitor]:
        """Pack monitors by id."""
        return MappingProxyType(self._made.packs)

    @property
    def vehicles(self) -> Mapping[str, VehicleLink]:
        """Vehicle links by id."""
        return MappingProxyType(self._made.vehicles)

    @property
    def safety(self) -> Mapping[str, SafetyMonitor]:
        """Safety status by id."""
        return MappingProxyType(self._made.safety)

    @property
    def zones(self) -> Mapping[str, ZoneMonitor]:
        """Zone detectors by id."""
        return MappingProxyType(self._made.zones)

    @property
    def io(self) -> Mapping[str, RemoteIo]:
        """Remote I/O by id."""
        return MappingProxyType(self._made.io)

    def links(self) -> tuple[LinkReport, ...]:
        """Report every link, in the order of the station file."""
        lines = [line.report() for line in self._lines.values()]
        return (*lines, *(port.report() for port in self._ports.values()))

    def on_reading(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call ``listener(device_id)`` after every new reading or quality change. See ``hal.api.HalSet``.

        A listener that raises ends ``run()``: it is a bug, and nobody may drive on after one.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _tell(self, device_id: str) -> None:
        for listener in tuple(self._listeners):
            listener(device_id)

    # --- stop latch ----------------------------------------------------------------------------------------------

    def latch_stop(self, reason: str, devices: Collection[str]) -> None:
        """Latch a stop on these devices, now. See ``hal.api.HalSet``.

        Devices that only read, and remote I/O, whose outputs carry no motion, are listed as latched and go on.
        """
        for device_id, device in self._all.items():  # in file order, whatever the order of ``devices``
            if device_id in devices:
                self._latched.setdefault(device_id, reason)
                if isinstance(device, ModbusActor | CanVehicle):
                    device.latch(reason)
        unknown = sorted(set(devices) - set(self._all))
        invariant(not unknown, f"a stop was latched on devices that do not exist: {unknown}")

    @property
    def stop_latched(self) -> Mapping[str, str]:
        """Device id → reason, for every latched device."""
        return MappingProxyType(dict(self._latched))

    def clear_stop_latch(self, devices: Collection[str]) -> None:
        """Allow these devices' commands again. See ``hal.api.HalSet``."""
        for device_id in devices:
            self._latched.pop(device_id, None)
            device = self._all.get(device_id)
            if isinstance(device, ModbusActor | CanVehicle):
                device.unlatch()

    # --- running -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own links and pollers until cancelled. See ``hal.api.HalSet``.

        Cancelled, it posts a stop to everything that is not known to stand, waits up to 1 s for the standstill with
        links and heartbeats still running, and closes; a further cancellation does not cut this short.
        """
        owner = asyncio.get_running_loop().create_task(self._own())
        try:
            await asyncio.wait({owner})
            owner.result()
        except asyncio.CancelledError:
            await finish(self._stop_all())
            raise
        finally:
            owner.cancel()
            await finish(_ended(owner))
            for device in self._all.values():
                if isinstance(device, CanMonitor):
                    device.close()

    async def _own(self) -> None:
        async with asyncio.TaskGroup() as group:
            for line in self._lines.values():
                group.create_task(line.run())
            for port in self._ports.values():
                group.create_task(port.run())
            for unit in self._units.values():
                for runner in unit.runners():
                    group.create_task(runner)
            for device in self._all.values():
                if isinstance(device, CanVehicle):
                    group.create_task(device.keep())

    async def _stop_all(self) -> None:
        after = asyncio.get_running_loop().time()
        moving = [
            device
            for device in self._all.values()
            if isinstance(device, HandshakeDevice) and not device.known_still()
        ]
        for device in moving:
            device.guard.revoke()
            device.post_safe_output()
        try:
            async with asyncio.timeout(STOP_ALL_LIMIT_S):
                for device in moving:
                    await _stands(device, after)
        except TimeoutError:
            names = ", ".join(device.device_id for device in moving)
            _log.warning("closing, not all of these were seen standing after a stop: %s", names)


async def _stands(device: HandshakeDevice[Any], after: float) -> None:
    """Wait until a device that is still heard stands."""
    if device.reading.quality is not Quality.GOOD:
        return
    try:
        with device.unit.poller.fast():
            await device.until_still("stop", after, STOP_ALL_LIMIT_S)
    except HalError as error:
        _log.warning("closing: %s", error)


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
    retrieve(task)


def build_hal(
    spec: HalSpec,
    *,
    open_bus: Callable[[CanLinkSpec], Any] = open_python_can_bus,
    open_client: Callable[[ModbusLinkSpec], Any] = open_pymodbus_client,
) -> Hal:
    """Make all links and devices of a station; opens nothing until ``run()``.

    ``open_bus`` and ``open_client`` say how a link is opened, by default at its own address. They return what
    ``CanPort`` and ``ModbusLink`` take, whose libraries are named in those two modules only.

    Raises:
        ProfileError: a device's profile cannot be used. InvariantError: the specification contradicts itself.
    """
    lines: dict[str, ModbusLink] = {}
    ports: dict[str, CanPort] = {}
    for link in spec.links:
        if isinstance(link, ModbusLinkSpec):
            lines[link.link_id] = ModbusLink(link, open_client=open_client)
        else:
            ports[link.link_id] = CanPort(link, open_bus=open_bus)
    units: dict[tuple[str, int, str], ModbusUnit] = {}
    devices = _Devices()
    for device in spec.devices:
        invariant(device.device_id not in devices.all, f"{device.device_id} stands twice")
        if device.link_id in ports:
            devices.add_can(device, ports[device.link_id])
            continue
        invariant(device.link_id in lines, f"{device.device_id}: no link {device.link_id}")
        key = (device.link_id, device.address, device.profile)
        if key not in units:
            units[key] = ModbusUnit(lines[device.link_id], device.address, load_register_map(device.profile))
        devices.add_modbus(device, units[key])
    return Hal(lines, ports, units, devices)
