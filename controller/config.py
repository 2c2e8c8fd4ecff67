"""The station file: one TOML in, a typed and checked StationConfig out, or every mistake in it at once.

It reads one file and nothing else: no environment, no network. What the tables hold is config_tables', what must
fit between them config_checks'.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from controller.config_checks import ConfigProblem, Draft, cross_checks, did_you_mean, key_path
from controller.config_tables import (
    LINK_TABLES,
    CanTable,
    DataTable,
    DeviceTable,
    DockTable,
    LinkTable,
    LocalApiTable,
    ModbusRtuTable,
    ModbusTcpTable,
    MqttTable,
    StackerPlaceTable,
    StackerTable,
    StationTable,
    StepTiming,
    StoreTable,
    Table,
)
from controller.model.intent import StepKind
from controller.model.layout import (
    DockLayout,
    Layout,
    LockBankLayout,
    StackerLayout,
    StackerPlace,
    StoreLayout,
    locks_of,
)
from hal.profiles import load_register_map, profile_kind
from hal.types import CanLinkSpec, DeviceSpec, HalSpec, LinkSpec, ModbusLinkSpec

__all__ = ["ConfigError", "ConfigProblem", "StationConfig", "StepTiming", "load_station"]

SCHEMA = 1  # of the station file; raised when an older file would be misread

T = TypeVar("T", bound=Table)


class ConfigError(Exception):
    """A station file cannot be used. ``errors`` names every mistake; the text has one a line."""

    def __init__(self, path: Path, errors: Sequence[ConfigProblem]) -> None:
        count = "1 mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
        super().__init__("\n".join([f"{path}: {count}", *(f"  {problem}" for problem in errors)]))
        self.path = path
        self.errors = list(errors)


class StationConfig(Table):
    """A whole station file, checked. Frozen; built by ``load_station`` only."""

    schema_version: Literal[1] = Field(alias="schema", description="version of this format")
    station: StationTable
    links: dict[str, LinkTable]
    docks: dict[str, DockTable]
    store: StoreTable
    stacker: StackerTable
    steps: dict[StepKind, StepTiming]
    devices: dict[str, DeviceTable]
    local_api: LocalApiTable
    data: DataTable
    mqtt: MqttTable | None = None

    def hal_spec(self) -> HalSpec:
        """Return the links and devices in the HAL's own terms."""
        return HalSpec(
            links=tuple(_link_spec(link_id, link) for link_id, link in self.links.items()),
            devices=tuple(_device_spec(device_id, device) for device_id, device in self.devices.items()),
        )

    def layout(self) -> Layout:
        """Return places, carriers and taught positions."""
        return Layout(
            station_id=self.station.id,
            docks={dock_id: self._dock_layout(dock_id, dock) for dock_id, dock in self.docks.items()},
            store=StoreLayout(
                slots=self.store.slots,
                quarantine=self.store.quarantine,
                neighbours=self.store.neighbours,
                pack_soc_pct_min=self.store.pack_soc_pct_min,
            ),
            stacker=StackerLayout(
                places={
                    place: StackerPlace(x_mm=at.x_mm, z_mm=at.z_mm, fork_mm=at.fork_mm)
                    for place, at in self.stacker.places.items()
                },
                fork_retracted_mm=self.stacker.fork_retracted_mm,
                carry_offset_mm=self.stacker.carry_offset_mm,
            ),
        )

    def _dock_layout(self, dock_id: str, dock: DockTable) -> DockLayout:
        lift = dock.vehicle_lift_mm
        mounts = tuple(f"{dock_id}.{mount}" for mount in dock.mounts)
        return DockLayout(
            dock_id=dock_id,
            mounts=mounts,
            tables=tuple(f"{dock_id}.{table}" for table in dock.tables),
            clamp_open_mm=dock.clamp_mm.open,
            clamp_closed_mm=dock.clamp_mm.closed,
            vehicle_lift_down_mm=lift.down if lift else None,
            vehicle_lift_up_mm=lift.up if lift else None,
            shuttle_exchange_mm=dock.shuttle_exchange_mm,
            shuttle_lift_down_mm=dock.shuttle_lift_mm.down,
            shuttle_lift_up_mm=dock.shuttle_lift_mm.up,
            align_mm={
                (f"{dock_id}.{mount}", f"{dock_id}.{table}"): position_mm
                for mount, by_table in dock.shuttle_align_mm.items()
                for table, position_mm in by_table.items()
            },
            lock_banks={mount: _lock_bank_layout(self.devices[locks_of(mount)]) for mount in mounts},
        )


def _lock_bank_layout(device: DeviceTable) -> LockBankLayout:
    window = load_register_map(device.profile).constants
    return LockBankLayout(
        bolts=device.bolts or 0,
        torque_nm_min=window["torque_min_nm"],
        torque_nm_max=window["torque_max_nm"],
        angle_deg_min=window["angle_min_deg"],
        angle_deg_max=window["angle_max_deg"],
    )


def _link_spec(link_id: str, link: LinkTable) -> LinkSpec:
    match link:
        case ModbusTcpTable():
            return ModbusLinkSpec(link_id, link.kind, link.timeout_s, host=link.host, port=link.port)
        case ModbusRtuTable():
            return ModbusLinkSpec(
                link_id,
                link.kind,
                link.timeout_s,
                serial_port=link.serial_port,
                baud_rate=link.baud_rate,
                parity=link.parity,
                quiet_time_s=link.quiet_time_s,
            )
        case CanTable():
            return CanLinkSpec(link_id, link.interface, link.channel, link.bitrate)


def _device_spec(device_id: str, device: DeviceTable) -> DeviceSpec:
    settings: dict[str, object] = {
        "range_mm": device.range_mm,
        "bolts": device.bolts,
        "inputs": device.inputs,
        "outputs": device.outputs,
    }
    return DeviceSpec(
        device_id=device_id,
        kind=profile_kind(device.profile),
        profile=device.profile,
        link_id=device.link,
        address=device.address,
        index=device.index,
        settings={key: value for key, value in settings.items() if value is not None},
    )


# --- reading -----------------------------------------------------------------------------------------------------


def load_station(path: Path) -> StationConfig:
    """Read and check a station file. Blocks for the read of one small file.

    Raises:
        ConfigError: with every mistake in the file, or the one reason why it cannot be read.
    """
    raw = _read_toml(path)
    problems: list[ConfigProblem] = []
    draft = _draft(raw, problems)
    problems += cross_checks(draft)
    config = None if problems else _assemble(draft)
    if config is None:
        raise ConfigError(path, problems)
    return config


def _read_toml(path: Path) -> Mapping[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = "no such file"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start})"
    except tomllib.TOMLDecodeError as error:
        reason = f"is not TOML: {error}"  # names line and column
    except RecursionError:
        reason = "is not TOML: nested too deeply"
    raise ConfigError(path, [ConfigProblem("", reason)])


class _Reader:
    """Validates piece by piece, so that one bad piece hides no other. Collects into ``problems``."""

    def __init__(self, problems: list[ConfigProblem]) -> None:
        self.problems = problems

    def table(self, model: type[T], raw: object, *where: str | int) -> T | None:
        """Return the piece, or None after noting all that is wrong with it."""
        try:
            return model.model_validate(raw)
        except ValidationError as error:
            for detail in error.errors():
                at = (*where, *detail["loc"])
                self.problems.append(ConfigProblem(key_path(*at), _message(model, detail["type"], detail["msg"], at)))
            return None

    def tables(self, model: type[T], raw: Mapping[str, object], section: str) -> dict[str, T | None]:
        """Return every entry of a table of tables."""
        return {key: self.table(model, value, section, key) for key, value in self.entries(raw, section).items()}

    def entries(self, raw: Mapping[str, object], section: str, prefix: str = "") -> Mapping[str, object]:
        """Return the entries of a table of tables; notes a section that is missing or none."""
        value = raw.get(section)
        if isinstance(value, dict):
            return value
        self.problems.append(ConfigProblem(prefix + section, "missing" if value is None else "must be a table"))
        return {}

    def link(self, link_id: str, raw: object) -> LinkTable | None:
        """Return a link by its kind."""
        kind = raw.get("kind") if isinstance(raw, dict) else None
        model = LINK_TABLES.get(kind) if isinstance(kind, str) else None
        if model is None:
            kinds = ", ".join(LINK_TABLES)
            hint = did_you_mean(kind, list(LINK_TABLES)) if isinstance(kind, str) else ""
            self.problems.append(ConfigProblem(key_path("links", link_id, "kind"), f"must be one of {kinds}{hint}"))
            return None
        return self.table(model, raw, "links", link_id)


def _message(model: type[Table], code: str, text: str, at: tuple[str | int, ...]) -> str:
    if code == "extra_forbidden":
        return f"unknown key{did_you_mean(str(at[-1]), sorted(_known_keys(model)))}"
    if code == "missing":
        return "missing"
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _known_keys(model: type[Table]) -> set[str]:
    """Keys of a table and of the tables inside it."""
    keys = set()
    for name, field in model.model_fields.items():
        keys.add(field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
            keys |= _known_keys(field.annotation)
    return keys


def _draft(raw: Mapping[str, object], problems: list[ConfigProblem]) -> Draft:
    read = _Reader(problems)
    known = [field.alias or name for name, field in StationConfig.model_fields.items()]
    unknown = [key for key in raw if key not in known]
    problems += [ConfigProblem(key_path(key), f"unknown key{did_you_mean(key, known)}") for key in unknown]
    if raw.get("schema") != SCHEMA or isinstance(raw.get("schema"), bool):
        problems.append(ConfigProblem("schema", f"must be {SCHEMA}: the version of this format"))
    stacker = raw.get("stacker", {})
    places: Mapping[str, object] = {}
    if isinstance(stacker, dict):
        places = read.entries(stacker, "places", "stacker.") if "stacker" in raw else {}
        stacker = {**stacker, "places": {}}
    return Draft(
        station=_section(read, raw, "station", StationTable),
        links={key: read.link(key, value) for key, value in read.entries(raw, "links").items()},
        docks=read.tables(DockTable, raw, "docks"),
        store=_section(read, raw, "store", StoreTable),
        stacker=_section(read, {**raw, "stacker": stacker} if "stacker" in raw else raw, "stacker", StackerTable),
        stacker_places={
            key: read.table(StackerPlaceTable, value, "stacker", "places", key) for key, value in places.items()
        },
        steps=read.tables(StepTiming, raw, "steps"),
        devices=read.tables(DeviceTable, raw, "devices"),
        mqtt=read.table(MqttTable, raw["mqtt"], "mqtt") if "mqtt" in raw else None,
        local_api=_section(read, raw, "local_api", LocalApiTable),
        data=_section(read, raw, "data", DataTable),
    )


def _section(read: _Reader, raw: Mapping[str, object], name: str, model: type[T]) -> T | None:
    if name in raw:
        return read.table(model, raw[name], name)
    read.problems.append(ConfigProblem(name, "missing"))
    return None


def _assemble(draft: Draft) -> StationConfig:
    """Put a draft without mistakes together."""
    places = draft.stacker_places
    return StationConfig.model_validate(
        {
            "schema": SCHEMA,
            "station": draft.station,
            "links": draft.links,
            "docks": draft.docks,
            "store": draft.store,
            "stacker": draft.stacker.model_copy(update={"places": places}) if draft.stacker else None,
            "steps": {StepKind(kind): timing for kind, timing in draft.steps.items()},
            "devices": draft.devices,
            "mqtt": draft.mqtt,
            "local_api": draft.local_api,
            "data": draft.data,
        }
    )
