"""The world file: durations, strengths of noise and the stock at the start, by station. Data for the plant only."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class WorldError(ValueError):
    """The world file lacks something or has it in the wrong shape; names the key path."""


@dataclass(frozen=True, slots=True)
class Gait:
    """One way an axis moves: ``stroke_mm`` in ``out_s`` towards larger positions, in ``back_s`` towards smaller."""

    stroke_mm: float
    out_s: float
    back_s: float


@dataclass(frozen=True, slots=True)
class AxisWorld:
    """How an axis moves. ``settle_s`` after each motion; gaits by name, ``normal`` always there."""

    ramp_s: float
    settle_s: float
    gaits: Mapping[str, Gait]

    def gait(self, name: str) -> Gait:
        """Return the gait, or the normal one where the axis has none of that name."""
        return self.gaits.get(name, self.gaits["normal"])


@dataclass(frozen=True, slots=True)
class LockWorld:
    """Nut runners and bolts."""

    unlock_s: float
    lock_s: float
    angle_deg: float
    torque_nm: float
    stall_s: float


@dataclass(frozen=True, slots=True)
class ConnectorWorld:
    """Slot plugs."""

    engage_s: float
    disengage_s: float


@dataclass(frozen=True, slots=True)
class ChargerWorld:
    """Charger modules; ramp, limits and watchdog are the profile's."""

    start_s: float
    stop_s: float
    voltage_noise_v: float
    current_noise_a: float


@dataclass(frozen=True, slots=True)
class PackModel:
    """One type of pack: cells in series, capacity, resistance of the whole pack at 25 °C."""

    chemistry: str
    cells: int
    capacity_ah: float
    resistance_mohm: float
    heat_capacity_j_per_k: float
    charge_current_a_max: float


@dataclass(frozen=True, slots=True)
class VehicleWorld:
    """Vehicles and drivers. ``soc_pct`` and ``packs``: lowest and highest of what they bring."""

    soc_pct: tuple[float, float]
    packs: tuple[int, int]
    approach_s: float
    drive_in_s: float
    secure_s: float
    check_s: float
    wake_s: float
    react_s: float
    drive_out_s: float
    bounce_s: float


@dataclass(frozen=True, slots=True)
class GateWorld:
    """The lane door and its own controller."""

    wait_s: float
    close_s: float
    open_s: float


@dataclass(frozen=True, slots=True)
class World:
    """Everything the plant needs that is no fact of the station file."""

    seed: int
    duration_noise: float
    axes: Mapping[str, AxisWorld]
    locks: LockWorld
    connectors: ConnectorWorld
    chargers: ChargerWorld
    pack_model: PackModel
    bms_boot_s: float
    ambient_c: float
    stock_packs: int
    stock_soc_pct: tuple[float, float]
    vehicles: VehicleWorld
    gate: GateWorld

    def axis(self, device_id: str) -> AxisWorld:
        """Return how an axis moves: by device id, else by role (the id's last part)."""
        found = self.axes.get(device_id) or self.axes.get(device_id.rsplit(".", 1)[-1])
        if found is None:
            raise WorldError(f"axes: nothing says how {device_id} moves")
        return found


def world_path(station_id: str) -> Path:
    """Return the packaged world file of a station id; it need not exist."""
    return Path(str(files("sim_hw"))) / "worlds" / f"{station_id}.toml"


def load_world(path: Path, seed: int | None = None) -> World:
    """Read a world file; ``seed`` replaces the file's.

    Raises:
        WorldError: missing, not TOML, or something lacking or in the wrong shape.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise WorldError(f"{path}: {error}") from error
    packs, stock = _table(raw, "packs"), _table(raw, "stock")
    models, model = _table(packs, "models", "packs."), packs.get("model")
    return World(
        seed=seed if seed is not None else int(_number(raw, "seed")),
        duration_noise=_number(raw, "duration_noise"),
        axes={name: _axis(name, table) for name, table in _tables(_table(raw, "axes"), "axes.")},
        locks=_fill(LockWorld, _table(raw, "locks"), "locks."),
        connectors=_fill(ConnectorWorld, _table(raw, "connectors"), "connectors."),
        chargers=_fill(ChargerWorld, _table(raw, "chargers"), "chargers."),
        pack_model=_fill(PackModel, _table(models, str(model), "packs.models."), f"packs.models.{model}."),
        bms_boot_s=_number(packs, "bms_boot_s", "packs."),
        ambient_c=_number(packs, "ambient_c", "packs."),
        stock_packs=int(_number(stock, "packs", "stock.")),
        stock_soc_pct=_pair(stock, "soc_pct", "stock."),
        vehicles=_vehicles(_table(raw, "vehicles")),
        gate=_fill(GateWorld, _table(raw, "gate"), "gate."),
    )


def _axis(name: str, table: Mapping[str, object]) -> AxisWorld:
    path = f"axes.{name}."
    gaits = {
        key: _fill(Gait, value, f"{path}gaits.{key}.") for key, value in _tables(_table(table, "gaits", path), path)
    }
    if "normal" not in gaits:
        raise WorldError(f"{path}gaits.normal: missing")
    ramp_s, settle_s = _number(table, "ramp_s", path), _number(table, "settle_s", path)
    for key, gait in gaits.items():
        if min(gait.out_s, gait.back_s) <= ramp_s:
            raise WorldError(f"{path}gaits.{key}: a stroke takes longer than ramp_s")
    return AxisWorld(ramp_s, settle_s, gaits)


def _vehicles(table: Mapping[str, object]) -> VehicleWorld:
    lowest, highest = _pair(table, "packs", "vehicles.")
    numbers = {key: _number(table, key, "vehicles.") for key in table if key not in {"soc_pct", "packs"}}
    try:
        return VehicleWorld(_pair(table, "soc_pct", "vehicles."), (int(lowest), int(highest)), **numbers)
    except TypeError as error:
        raise WorldError(f"vehicles: {error}") from error


def _fill(kind: type[T], table: Mapping[str, object], path: str) -> T:
    """Make a dataclass of numbers and texts from a table with exactly its fields."""
    values = {key: value if isinstance(value, str) else _number(table, key, path) for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise WorldError(f"{path.rstrip('.')}: {error}") from error


def _tables(table: Mapping[str, object], path: str) -> list[tuple[str, Mapping[str, object]]]:
    return [(key, _table(table, key, path)) for key in table]


def _table(table: Mapping[str, object], key: str, path: str = "") -> Mapping[str, object]:
    value = table.get(key)
    if not isinstance(value, dict):
        raise WorldError(f"{path}{key}: a table is wanted, found {value!r}")
    return value


def _number(table: Mapping[str, object], key: str, path: str = "") -> float:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WorldError(f"{path}{key}: a number is wanted, found {value!r}")
    return value


def _pair(table: Mapping[str, object], key: str, path: str) -> tuple[float, float]:
    value = table.get(key)
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(item, int | float) for item in value):
        raise WorldError(f"{path}{key}: two numbers, lowest and highest, are wanted, found {value!r}")
    return float(value[0]), float(value[1])
