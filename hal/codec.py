"""Registers to values and back, by the rows of a profile's register map.

Pure functions. A value is physical (raw times scale), rounded to nine decimals: 3 times 0.1 is 0.3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

from hal.profiles import RegisterMap, RegisterSpec
from hal.types import Table

E = TypeVar("E", bound=IntEnum)

_INTEGER_RANGE = {
    "bit": (0, 1),
    "u16": (0, 2**16 - 1),
    "s16": (-(2**15), 2**15 - 1),
    "u32": (0, 2**32 - 1),
    "s32": (-(2**31), 2**31 - 1),
    "u64": (0, 2**64 - 1),
}

# Modbus Application Protocol V1.1b3, 6.1 to 6.4: most registers and most bits in one read.
_READ_MAX = {Table.HOLDING: 125, Table.INPUT: 125, Table.COIL: 2000, Table.DISCRETE: 2000}

Image = Mapping[tuple[Table, int], int]
"""Raw words and bits of a unit, by table and address."""


class CodecError(ValueError):
    """A value does not fit its row, or what was read is none of the values that the profile names."""


@dataclass(frozen=True, slots=True)
class Window:
    """One read: ``count`` registers or bits of a table from ``start`` on."""

    table: Table
    start: int
    count: int

    @property
    def registers(self) -> tuple[tuple[Table, int], ...]:
        """The registers or bits that it reads, in order."""
        return tuple((self.table, at) for at in range(self.start, self.start + self.count))

    def covers(self, row: RegisterSpec) -> bool:
        """Whether the whole row is in this window."""
        return row.table is self.table and self.start <= row.address <= self.start + self.count - row.words


def rows_of_block(profile: RegisterMap, index: int) -> Mapping[str, RegisterSpec]:
    """Return the rows of block ``index``, at their addresses within the unit."""
    return {
        name: replace(row, address=row.address + index * profile.stride.get(row.table, 0))
        for name, row in profile.registers.items()
    }


def decode(row: RegisterSpec, words: Sequence[int]) -> float:
    """Return the physical value of ``words``; an int where the row has no scale."""
    ordered = tuple(words) if row.word_order == "big" else tuple(reversed(words))
    if row.type == "f32":
        packed = struct.pack(">2H", *ordered)
        (number,) = struct.unpack(">f", packed)
        return round(float(number) * row.scale, 9)
    raw = 0
    for word in ordered:
        raw = raw << 16 | word
    low, high = _INTEGER_RANGE[row.type]
    if low < 0 and raw > high:
        raw -= 1 << 16 * row.words
    return raw if row.scale == 1 else round(raw * row.scale, 9)


def encode(row: RegisterSpec, value: float) -> list[int]:
    """Return the registers that carry ``value``, rounded to the row's step.

    Raises:
        CodecError: the value is not finite or does not fit.
    """
    if not math.isfinite(value):
        raise CodecError(f"{row.name}: {value} is not a number that can be sent")
    if row.type == "f32":
        try:
            words = list(struct.unpack(">2H", struct.pack(">f", value / row.scale)))
        except OverflowError as error:
            raise CodecError(f"{row.name}: {value} {row.unit} does not fit {row.type}") from error
    else:
        exact = isinstance(value, int) and row.scale == 1  # a float would lose the low bits of 64
        raw = int(value) if exact else round(value / row.scale)
        low, high = _INTEGER_RANGE[row.type]
        if not low <= raw <= high:
            raise CodecError(f"{row.name}: {value} {row.unit} does not fit {row.type}")
        words = [raw >> 16 * shift & 0xFFFF for shift in reversed(range(row.words))]
    return words if row.word_order == "big" else words[::-1]


def encode_run(rows: Sequence[RegisterSpec], values: Mapping[str, float]) -> tuple[int, list[int]]:
    """Return start address and registers of one write over ``rows``, which must follow each other without a gap.

    Raises:
        CodecError: a value does not fit, or the rows leave a gap.
    """
    ordered = sorted(rows, key=lambda row: row.address)
    words: list[int] = []
    for row in ordered:
        if row.address != ordered[0].address + len(words):
            raise CodecError(f"{row.name}: a gap before register {row.address}")
        words += encode(row, values[row.name])
    return ordered[0].address, words


def decode_rows(rows: Mapping[str, RegisterSpec], image: Image) -> Mapping[str, float]:
    """Return the physical values of all rows, by name.

    Raises:
        CodecError: the image lacks a register.
    """
    values: dict[str, float] = {}
    for name, row in rows.items():
        try:
            words = [image[row.table, row.address + offset] for offset in range(row.words)]
        except KeyError as error:
            raise CodecError(f"{name}: {row.table} {row.address} was not read") from error
        values[name] = decode(row, words)
    return values


def member(kind: type[E], row: RegisterSpec, raw: float) -> E:
    """Return the enumeration member that the profile's name for ``raw`` stands for.

    Raises:
        CodecError: the profile does not name this value.
    """
    name = name_of(row, raw)
    try:
        return kind[name.upper()]
    except KeyError as error:
        raise CodecError(f"{row.name}: {raw:g} is no {kind.__name__} of this profile") from error


def name_of(row: RegisterSpec, raw: float) -> str:
    """Return the profile's name of an enumerated value, or the number where it has none."""
    return next((name for name, number in row.values.items() if number == raw), f"{raw:g}")


def flag(row: RegisterSpec, raw: float, name: str) -> bool:
    """Return one named bit of a row of bits."""
    return bool(int(raw) >> row.values[name] & 1)


def read_windows(groups: Sequence[Sequence[RegisterSpec]]) -> tuple[Window, ...]:
    """Return the fewest reads, in address order, that cover all rows without cutting a group in two.

    A group is what must be measured at one time: the block of one device. Groups of one table that fit the largest
    read that Modbus allows share it, gaps between them included.
    """
    spans: list[Window] = []
    for group in groups:
        for table in {row.table: None for row in group}:
            rows = [row for row in group if row.table is table]
            start = min(row.address for row in rows)
            end = max(row.address + row.words for row in rows)
            spans.append(Window(table, start, end - start))
    merged: list[Window] = []
    for span in sorted(spans, key=lambda span: (span.table, span.start)):
        last = merged[-1] if merged else None
        if last is not None and last.table is span.table:
            count = max(last.start + last.count, span.start + span.count) - last.start
            if count <= _READ_MAX[span.table]:
                merged[-1] = Window(last.table, last.start, count)
                continue
        merged.append(span)
    return tuple(merged)
