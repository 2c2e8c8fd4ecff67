"""Register images of simulated Modbus units: numbers to 16-bit words and back, from the rows of a register map.

The simulator's own codec. Values are computed when they are read; holding registers keep what was last written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from hal.errors import invariant
from hal.profiles import RegisterMap, RegisterSpec
from hal.types import Table

_WORD = 0xFFFF

Values = Mapping[str, float]


class ExcCode(IntEnum):
    """Modbus exception codes (MODBUS Application Protocol V1.1b3, section 7)."""

    ILLEGAL_FUNCTION = 1
    ILLEGAL_ADDRESS = 2
    ILLEGAL_VALUE = 3
    DEVICE_FAILURE = 4
    ACKNOWLEDGE = 5
    BUSY = 6
    GATEWAY_NO_RESPONSE = 11


# type → (lowest, highest, where its words lie). The simulated devices have integers and bits only.
_INTEGERS = {
    "bit": (0, 1, (0,)),
    "u16": (0, 0xFFFF, (0,)),
    "s16": (-0x8000, 0x7FFF, (0,)),
    "u32": (0, 0xFFFF_FFFF, (0, 16)),
    "s32": (-0x8000_0000, 0x7FFF_FFFF, (0, 16)),
}


def to_words(row: RegisterSpec, value: float) -> list[int]:
    """Return the registers of a physical value; a value that does not fit saturates, as devices do."""
    low, high, shifts = _INTEGERS[row.type]
    raw = max(low, min(high, round(value / row.scale)))
    words = [raw >> shift & _WORD for shift in shifts]
    return words if row.word_order == "little" else words[::-1]


def from_words(row: RegisterSpec, words: Sequence[int]) -> float:
    """Return the physical value of a row's registers."""
    _, high, shifts = _INTEGERS[row.type]
    ordered = words if row.word_order == "little" else list(reversed(words))
    raw = sum(word << shift for word, shift in zip(ordered, shifts, strict=True))
    if raw > high:
        raw -= 1 << 16 * len(shifts)
    return round(raw * row.scale, 9)  # 4999 x 0.1 is 499.9, not 499.90000000000003


@dataclass(frozen=True, slots=True)
class Block:
    """What one device, or the unit itself, contributes to a unit's image.

    ``values`` gives the physical values of the read-only rows at the moment of the call, ``write`` takes the
    written rows and answers with an exception code or None.
    """

    rows: Mapping[str, RegisterSpec]
    offset: Mapping[Table, int]
    values: Callable[[], Values]
    write: Callable[[Values], ExcCode | None]


def device_block(
    profile: RegisterMap,
    index: int,
    values: Callable[[], Values],
    write: Callable[[Values], ExcCode | None],
) -> Block:
    """Return the block of a device: the map's rows, ``index`` strides up."""
    offset = {table: index * step for table, step in profile.stride.items()}
    return Block(profile.registers, offset, values, write)


def refuse_write(_values: Values) -> ExcCode | None:
    """Answer a write to a device that has nothing to write."""
    return ExcCode.ILLEGAL_ADDRESS


@dataclass(frozen=True, slots=True)
class _Part:
    """What one block contributes to a read: its read-only rows, and where each of their words goes in the answer."""

    block: Block
    targets: Mapping[str, Sequence[tuple[int, int]]]  # row → (position in the answer, word)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a read is answered: read-only rows by block, held registers by position; the rest is reserved."""

    parts: tuple[_Part, ...]
    held: tuple[tuple[int, tuple[Table, int]], ...]  # position in the answer, register


class UnitImage:
    """The registers of one unit.

    A device block occupies a whole stride: registers in it that have no row are reserved, read as 0 and refuse
    writes. Everything outside the blocks is an illegal address, and so is a write that touches a read-only row,
    half a row, or two blocks.
    """

    def __init__(self) -> None:
        self._cells: dict[Table, dict[int, tuple[Block, RegisterSpec, int] | None]] = {t: {} for t in Table}
        self._held: dict[tuple[Table, int], int] = {}
        self._plans: dict[tuple[Table, int, int], _Plan] = {}  # clients ask for the same again and again

    def add_device(self, profile: RegisterMap, block: Block) -> None:
        """Add a device's block, and the reserved registers of its stride."""
        for table, step in profile.stride.items():
            first = min((r.address for r in profile.registers.values() if r.table is table), default=0)
            start = first + block.offset[table]
            for address in range(start, start + step):
                invariant(address not in self._cells[table], f"two devices at {table} {address}")
                self._cells[table][address] = None
        self._add_rows(block)

    def add_unit(self, profile: RegisterMap, block: Block) -> None:
        """Add the rows that all devices of the unit share, and the reserved registers before the first device."""
        for table in profile.stride:
            first = min((r.address for r in profile.registers.values() if r.table is table), default=0)
            self._cells[table].update(dict.fromkeys(range(first)))
        self._add_rows(block)

    def _add_rows(self, block: Block) -> None:
        self._plans.clear()
        for row in block.rows.values():
            start = row.address + block.offset.get(row.table, 0)
            for word in range(row.words):
                taken = self._cells[row.table].get(start + word)
                invariant(taken is None, f"{row.name}: register {row.table} {start + word} is taken twice")
                self._cells[row.table][start + word] = (block, row, word)

    def read(self, table: Table, address: int, count: int) -> list[int] | ExcCode:
        """Return ``count`` registers or bits as the devices have them now."""
        plan = self._plans.get((table, address, count))
        if plan is None:
            made = self._plan(table, address, count)
            if isinstance(made, ExcCode):
                return made
            plan = self._plans[table, address, count] = made
        answer = [0] * count
        for part in plan.parts:
            for name, value in part.block.values().items():
                if value and name in part.targets:  # registers of 0 are 0 in every type
                    words = to_words(part.block.rows[name], value)
                    for position, word in part.targets[name]:
                        answer[position] = words[word]
        for position, register in plan.held:
            answer[position] = self._held.get(register, 0)
        return answer

    def _plan(self, table: Table, address: int, count: int) -> _Plan | ExcCode:
        cells = self._cells[table]
        parts: dict[int, tuple[Block, dict[str, list[tuple[int, int]]]]] = {}  # by the block's identity
        held: list[tuple[int, tuple[Table, int]]] = []
        for position, at in enumerate(range(address, address + count)):
            if at not in cells:
                return ExcCode.ILLEGAL_ADDRESS
            cell = cells[at]
            if cell is None:
                continue
            block, row, word = cell
            if row.access == "r":
                parts.setdefault(id(block), (block, {}))[1].setdefault(row.name, []).append((position, word))
            else:
                held.append((position, (table, at)))
        return _Plan(tuple(_Part(block, targets) for block, targets in parts.values()), tuple(held))

    def write(self, address: int, words: Sequence[int]) -> ExcCode | None:
        """Write holding registers; all of them or, with an exception code, none."""
        cells = self._cells[Table.HOLDING]
        rows: dict[str, list[int]] = {}
        target: Block | None = None
        for at, word in enumerate(words, address):
            cell = cells.get(at)
            if cell is None or cell[1].access == "r" or (target is not None and cell[0] is not target):
                return ExcCode.ILLEGAL_ADDRESS
            target, row, part = cell
            if part != len(rows.setdefault(row.name, [])):
                return ExcCode.ILLEGAL_ADDRESS
            rows[row.name].append(word)
        if target is None or any(len(part) != target.rows[name].words for name, part in rows.items()):
            return ExcCode.ILLEGAL_ADDRESS
        code = target.write({name: from_words(target.rows[name], part) for name, part in rows.items()})
        if code is None:
            self._held.update({(Table.HOLDING, at): word for at, word in enumerate(words, address)})
        return code
