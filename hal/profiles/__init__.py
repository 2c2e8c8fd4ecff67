"""Device descriptions as data: register maps (TOML) and CAN databases (DBC), one file per device type.

A profile is named by its path without the ending: ``motion/positioning_axis``. This loader turns a register map
into rows; it does not encode or decode: each side of a wire has its own codec, so that a wrong one cannot be wrong
on both sides.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from hal.types import Table

WORDS = {"u16": 1, "s16": 1, "u32": 2, "s32": 2, "f32": 2, "u64": 4, "bit": 1}


class ProfileError(Exception):
    """A profile is missing or its data is wrong; names the file, the row and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class RegisterSpec:
    """One row of a register map.

    ``address`` counts within the block of the device (block ``index`` lies ``index`` times the map's ``stride``
    further), or within the unit for rows of ``[[unit_register]]``, which all blocks of the unit share. The physical
    value is the raw one times ``scale``.
    Two-word types are big-endian words, or little-endian where ``word_order`` is "little".
    """

    name: str
    table: Table
    address: int
    type: str
    scale: float
    unit: str
    access: str  # "r", "w" or "rw"
    word_order: str  # "big" | "little"
    values: Mapping[str, int]  # names of an enumeration or of bits
    meaning: str

    @property
    def words(self) -> int:
        """How many 16-bit registers the row takes."""
        return WORDS[self.type]


@dataclass(frozen=True, slots=True)
class RegisterMap:
    """A whole register map. ``constants`` holds the profile's declared numbers (times, limits), by name."""

    name: str
    kind: str
    source: str
    safe_output: str
    stride: Mapping[Table, int]
    constants: Mapping[str, float]
    registers: Mapping[str, RegisterSpec]
    unit_registers: Mapping[str, RegisterSpec]


_TOP_KEYS = {"kind", "title", "source", "safe_output", "stride", "constants", "register", "unit_register"}
_ROW_KEYS = {
    *("name", "table", "address", "type", "scale", "unit", "access", "word_order", "values", "meaning"),
    *("count", "pitch"),
}


def profile_path(name: str, ending: str) -> Path:
    """Return the file of a profile; raises ProfileError naming what was looked for."""
    path = Path(str(files("hal.profiles"))) / f"{name}{ending}"
    if not path.is_file():
        raise ProfileError(f"no profile {name!r} ({ending} file) under hal/profiles")
    return path


def dbc_path(name: str) -> Path:
    """Return the path of a CAN database profile."""
    return profile_path(name, ".dbc")


def profile_kind(name: str) -> str:
    """Return the device kind of a profile: a register map says it; a DBC is by folder a pack or a vehicle."""
    if name.startswith("packs/"):
        return "pack"
    if name.startswith("vehicles/"):
        return "vehicle"
    return load_register_map(name).kind


@cache
def load_register_map(name: str) -> RegisterMap:
    """Read and check a register map; raises ProfileError naming the file, the row and the mistake."""
    path = profile_path(name, ".toml")
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    if unknown := set(raw) - _TOP_KEYS:
        raise ProfileError(f"{name}: unknown key {min(unknown)!r}")
    stride = {Table(table): int(value) for table, value in raw.get("stride", {}).items()}
    return RegisterMap(
        name=name,
        kind=raw["kind"],
        source=raw["source"],
        safe_output=raw["safe_output"],
        stride=stride,
        constants={key: float(value) for key, value in raw.get("constants", {}).items()},
        registers=_rows(name, raw.get("register", [])),
        unit_registers=_rows(name, raw.get("unit_register", [])),
    )


def _rows(name: str, raw_rows: list[dict[str, object]]) -> Mapping[str, RegisterSpec]:
    rows: dict[str, RegisterSpec] = {}
    taken: dict[tuple[Table, int], str] = {}
    for raw in raw_rows:
        if unknown := set(raw) - _ROW_KEYS:
            raise ProfileError(f"{name}: row {raw.get('name')!r}: unknown key {min(unknown)!r}")
        for row in _repeated(name, raw):
            if row.name in rows:
                raise ProfileError(f"{name}: row {row.name!r} stands twice")
            for offset in range(row.words):
                at = (row.table, row.address + offset)
                if at in taken:
                    raise ProfileError(f"{name}: rows {taken[at]!r} and {row.name!r} both take {at[0]} {at[1]}")
                taken[at] = row.name
            rows[row.name] = row
    return rows


def _repeated(name: str, raw: dict[str, object]) -> list[RegisterSpec]:
    """A row with ``count`` and ``pitch`` stands for ``name_1`` … ``name_count``, ``pitch`` registers apart."""
    count, pitch = raw.get("count"), raw.get("pitch")
    if (count is None) != (pitch is None):
        raise ProfileError(f"{name}: row {raw.get('name')!r}: count and pitch go together")
    if count is None:
        return [_row(name, raw, str(raw["name"]), 0)]
    total, step = int(str(count)), int(str(pitch))
    return [_row(name, raw, f"{raw['name']}_{i + 1}", i * step) for i in range(total)]


def _row(name: str, raw: dict[str, object], row_name: str, offset: int) -> RegisterSpec:
    kind = str(raw.get("type", ""))
    if kind not in WORDS:
        raise ProfileError(f"{name}: row {row_name!r}: unknown type {kind!r}")
    if not raw.get("meaning"):
        raise ProfileError(f"{name}: row {row_name!r}: no meaning or source")
    values = raw.get("values", {})
    if not isinstance(values, dict):
        raise ProfileError(f"{name}: row {row_name!r}: values must be a table")
    return RegisterSpec(
        name=row_name,
        table=Table(str(raw["table"])),
        address=int(str(raw["address"])) + offset,
        type=kind,
        scale=float(str(raw.get("scale", 1))),
        unit=str(raw.get("unit", "")),
        access=str(raw.get("access", "r")),
        word_order=str(raw.get("word_order", "big")),
        values={str(key): int(value) for key, value in values.items()},
        meaning=str(raw["meaning"]),
    )
