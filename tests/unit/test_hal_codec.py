"""Register codec: every type there and back, limits, word order, enumerations, and the reads that cover a unit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hal.codec import (
    CodecError,
    Window,
    decode,
    decode_rows,
    encode,
    encode_run,
    flag,
    member,
    name_of,
    read_windows,
    rows_of_block,
)
from hal.profiles import RegisterSpec, load_register_map
from hal.types import AxisState, Table

RANGES = {
    "u16": (0, 65535),
    "s16": (-32768, 32767),
    "u32": (0, 4294967295),
    "s32": (-2147483648, 2147483647),
    "u64": (0, 18446744073709551615),
}


def row(kind: str, *, scale: float = 1, order: str = "big", address: int = 0, name: str = "r") -> RegisterSpec:
    """A row of a register map."""
    return RegisterSpec(name, Table.INPUT, address, kind, scale, "", "r", order, {"low": 0, "high": 3}, "m")


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("order", ["big", "little"])
def test_limits_fit_and_one_beyond_does_not(kind: str, order: str) -> None:
    """Each integer type carries both its limits exactly, and refuses one below and one above."""
    spec = row(kind, order=order)
    for limit in RANGES[kind]:
        assert decode(spec, encode(spec, limit)) == limit
    for beyond in (RANGES[kind][0] - 1, RANGES[kind][1] + (1 if kind != "u64" else 4096)):
        with pytest.raises(CodecError, match="does not fit"):
            encode(spec, beyond)


@settings(derandomize=True)
@given(st.sampled_from(["s16", "u16", "s32", "u32"]), st.integers(0, 65535), st.integers(0, 65535))
def test_every_word_pattern_survives(kind: str, high: int, low: int) -> None:
    """Decoding and encoding again gives back the same words, whatever they were, at a scale of 0.1 too."""
    for scale in (1, 0.1, 0.001):
        spec = row(kind, scale=scale)
        words = [high, low][: spec.words]
        assert encode(spec, decode(spec, words)) == words


def test_words_stand_in_the_declared_order() -> None:
    """65538 is 0x0001 0x0002: high word first in big order, last in little order."""
    assert encode(row("u32"), 65538) == [1, 2]
    assert encode(row("u32", order="little"), 65538) == [2, 1]


def test_scaled_values_have_no_binary_dust() -> None:
    """Raw 3 at 0.1 is 0.3, not 0.30000000000000004."""
    assert decode(row("u16", scale=0.1), [3]) == 0.3


def test_floats_are_ieee_754() -> None:
    """1.5 is 0x3FC0 0x0000 as a 32-bit float."""
    assert encode(row("f32"), 1.5) == [0x3FC0, 0]
    assert decode(row("f32"), [0x3FC0, 0]) == 1.5
    with pytest.raises(CodecError):
        encode(row("f32"), 1e300)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_not_sent(value: float) -> None:
    """NaN and infinities raise CodecError."""
    with pytest.raises(CodecError):
        encode(row("u16"), value)


def test_enumerations_go_by_the_profiles_names() -> None:
    """A raw value becomes the member of that name; one that the profile does not name raises."""
    state = load_register_map("motion/positioning_axis").registers["state"]
    assert member(AxisState, state, 3) is AxisState.MOVING
    assert name_of(state, 99) == "99"
    with pytest.raises(CodecError, match="99"):
        member(AxisState, state, 99)
    with pytest.raises(CodecError):
        member(AxisState, row("u16"), 3)
    assert flag(row("u16"), 0b1000, "high") is True
    assert flag(row("u16"), 0b0111, "high") is False


def test_a_run_of_rows_is_one_write_without_a_gap() -> None:
    """Rows are sorted by address; a gap between them raises instead of being filled."""
    rows = [row("u16", address=2, name="b"), row("u32", address=0, name="a")]
    assert encode_run(rows, {"a": 65538, "b": 7}) == (0, [1, 2, 7])
    with pytest.raises(CodecError, match="gap"):
        encode_run([row("u16", address=0, name="a"), row("u16", address=2, name="b")], {"a": 1, "b": 2})


def test_a_row_that_was_not_read_raises() -> None:
    """A missing register is an error, not a zero."""
    with pytest.raises(CodecError, match="was not read"):
        decode_rows({"a": row("u32")}, {(Table.INPUT, 0): 1})


def test_blocks_stand_a_stride_apart() -> None:
    """Block 3 of an axis unit has its state at input register 16 + 3 x 16."""
    profile = load_register_map("motion/positioning_axis")
    assert rows_of_block(profile, 3)["state"].address == 64
    assert rows_of_block(profile, 3)["command"].address == 64
    assert rows_of_block(profile, 0)["state"].address == 16


def test_windows_cover_all_rows_whole_within_what_modbus_reads() -> None:
    """Eight axes with their header are read in two requests of at most 125 registers, no block cut in two."""
    profile = load_register_map("motion/positioning_axis")
    blocks = [[spec for spec in rows_of_block(profile, index).values() if spec.access == "r"] for index in range(8)]
    header = [spec for spec in profile.unit_registers.values() if spec.access == "r"]
    windows = read_windows([header, *blocks])
    assert windows == (Window(Table.INPUT, 0, 122), Window(Table.INPUT, 128, 10))
    assert all(sum(window.covers(spec) for spec in block) <= len(block) for block in blocks for window in windows)
    for block in blocks:
        assert any(all(window.covers(spec) for spec in block) for window in windows)


def test_tables_are_read_apart() -> None:
    """Input registers and discrete inputs are never one request."""
    safety = list(load_register_map("safety/safety_status").registers.values())
    windows = read_windows([safety, [row("u16")]])
    assert windows == (Window(Table.DISCRETE, 0, 8), Window(Table.INPUT, 0, 1))
