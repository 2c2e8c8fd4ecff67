"""The station file as the simulator reads it: links, devices, docks, slots and the stacker's taught positions.

Read with ``tomllib`` and nothing of the controller's, so that a station file misread there is not misread here in the
same way. Keys that the simulator has no use for are tolerated; a value of the wrong shape is named by its key path.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hal.profiles import profile_kind
from hal.types import CanLinkSpec, DeviceSpec, LinkSpec, ModbusLinkSpec

FORK = "stacker.fork"


class StationFileError(ValueError):
    """The station file lacks something or has it in the wrong shape; names the key path."""


@dataclass(frozen=True, slots=True)
class DockFile:
    """One dock. Mounts and tables are full place ids; ``align_mm``: (mount, table) → shuttle travel."""

    dock_id: str
    mounts: tuple[str, ...]
    tables: tuple[str, ...]
    clamp_open_mm: float
    clamp_closed_mm: float
    vehicle_lift_down_mm: float | None
    vehicle_lift_up_mm: float | None
    shuttle_exchange_mm: float
    shuttle_lift_down_mm: float
    shuttle_lift_up_mm: float
    align_mm: Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class TaughtPlace:
    """Where the stacker stands to serve a place; ``z_mm`` with the fork just under the pack."""

    x_mm: float
    z_mm: float
    fork_mm: float


@dataclass(frozen=True, slots=True)
class StationFile:
    """A whole station as declared. ``devices`` and ``links`` in file order."""

    station_id: str
    links: Mapping[str, LinkSpec]
    devices: Mapping[str, DeviceSpec]
    docks: Mapping[str, DockFile]
    slots: tuple[str, ...]
    quarantine: tuple[str, ...]
    stacker_places: Mapping[str, TaughtPlace]
    fork_retracted_mm: float
    carry_offset_mm: float

    def of_kind(self, kind: str) -> tuple[DeviceSpec, ...]:
        """Return the devices of one kind (``axis``, ``lock_bank``, ``io``, ...), in file order."""
        return tuple(device for device in self.devices.values() if device.kind == kind)

    @property
    def zones(self) -> tuple[str, ...]:
        """The zones that have a safety device: the docks and the store."""
        return tuple(self.zone_of(device.device_id) for device in self.of_kind("safety"))

    def zone_of(self, device_id: str) -> str:
        """Return the safety zone of a device: its dock, else ``store`` (stacker, slots, store)."""
        head = device_id.split(".", 1)[0]
        return head if head in self.docks else "store"


class _At:
    """A table of the file with its key path, so that every complaint can say where."""

    def __init__(self, data: Mapping[str, object], path: str) -> None:
        self.data = data
        self.path = path

    def where(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def table(self, key: str) -> _At:
        value = self.data.get(key)
        if not isinstance(value, dict):
            raise StationFileError(f"{self.where(key)}: a table is wanted, found {value!r}")
        return _At(value, self.where(key))

    def number(self, key: str, default: float | None = None) -> float:
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise StationFileError(f"{self.where(key)}: a number is wanted, found {value!r}")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str):
            raise StationFileError(f"{self.where(key)}: a text is wanted, found {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise StationFileError(f"{self.where(key)}: a list of texts is wanted, found {value!r}")
        return tuple(value)


def read_station(path: Path) -> StationFile:
    """Read a station file.

    Raises:
        StationFileError: missing, not TOML, or something in it has the wrong shape.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise StationFileError(f"{path}: {error}") from error
    root = _At(raw, "")
    store, stacker = root.table("store"), root.table("stacker")
    docks = root.table("docks")
    links = root.table("links")
    devices = root.table("devices")
    taught = stacker.table("places")
    return StationFile(
        station_id=root.table("station").text("id"),
        links={name: _link(name, links.table(name)) for name in links.data},
        devices={name: _device(name, devices.table(name)) for name in devices.data},
        docks={name: _dock(name, docks.table(name)) for name in docks.data},
        slots=store.texts("slots"),
        quarantine=store.texts("quarantine"),
        stacker_places={name: _taught(taught.table(name)) for name in taught.data},
        fork_retracted_mm=stacker.number("fork_retracted_mm"),
        carry_offset_mm=stacker.number("carry_offset_mm"),
    )


def _taught(at: _At) -> TaughtPlace:
    return TaughtPlace(at.number("x_mm"), at.number("z_mm"), at.number("fork_mm"))


def _link(name: str, at: _At) -> LinkSpec:
    kind = at.text("kind")
    if kind == "can":
        return CanLinkSpec(name, at.text("interface"), at.text("channel"), int(at.number("bitrate")))
    if kind not in {"modbus_tcp", "modbus_rtu"}:
        raise StationFileError(f"{at.where('kind')}: unknown link kind {kind!r}")
    tcp = kind == "modbus_tcp"
    return ModbusLinkSpec(
        link_id=name,
        kind=kind,
        timeout_s=at.number("timeout_s"),
        host=at.text("host") if tcp else "",
        port=int(at.number("port")) if tcp else 0,
        serial_port="" if tcp else at.text("serial_port"),
        baud_rate=0 if tcp else int(at.number("baud_rate")),
        parity=at.text("parity", "N"),
        quiet_time_s=at.number("quiet_time_s", 0.0),
    )


_OWN_KEYS = {"profile", "link", "address", "index"}


def _device(name: str, at: _At) -> DeviceSpec:
    profile = at.text("profile")
    return DeviceSpec(
        device_id=name,
        kind=profile_kind(profile),
        profile=profile,
        link_id=at.text("link"),
        address=int(at.number("address")),
        index=int(at.number("index", 0)),
        settings={key: value for key, value in at.data.items() if key not in _OWN_KEYS},
    )


def _dock(name: str, at: _At) -> DockFile:
    clamp, lift = at.table("clamp_mm"), at.table("shuttle_lift_mm")
    raises_vehicle = "vehicle_lift_mm" in at.data
    align = at.table("shuttle_align_mm")
    return DockFile(
        dock_id=name,
        mounts=tuple(f"{name}.{mount}" for mount in at.texts("mounts")),
        tables=tuple(f"{name}.{table}" for table in at.texts("tables")),
        clamp_open_mm=clamp.number("open"),
        clamp_closed_mm=clamp.number("closed"),
        vehicle_lift_down_mm=at.table("vehicle_lift_mm").number("down") if raises_vehicle else None,
        vehicle_lift_up_mm=at.table("vehicle_lift_mm").number("up") if raises_vehicle else None,
        shuttle_exchange_mm=at.number("shuttle_exchange_mm"),
        shuttle_lift_down_mm=lift.number("down"),
        shuttle_lift_up_mm=lift.number("up"),
        align_mm={
            (f"{name}.{mount}", f"{name}.{table}"): align.table(mount).number(table)
            for mount in align.data
            for table in align.table(mount).data
        },
    )
