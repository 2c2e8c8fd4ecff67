"""The simulator's own codecs against bytes worked out by hand from the profiles."""

from __future__ import annotations

import pytest

from hal.profiles import RegisterSpec, load_register_map
from hal.types import CanFrame, Table
from sim_hw import can_codec
from sim_hw.codec import ExcCode, UnitImage, Values, device_block, from_words, refuse_write, to_words


def row(kind: str, scale: float = 1.0, word_order: str = "big") -> RegisterSpec:
    """Return a row at input register 0."""
    return RegisterSpec("row", Table.INPUT, 0, kind, scale, "", "r", word_order, {}, "a row of the test")


@pytest.mark.parametrize(
    ("spec", "value", "words"),
    [
        (row("u16", 0.1), 12.3, [123]),
        (row("s16", 0.1), -25.0, [0xFF06]),
        (row("s32", 0.001), 4000.0, [0x003D, 0x0900]),
        (row("s32", 0.001), -5.0, [0xFFFF, 0xEC78]),
        (row("s32", 0.001, "little"), -5.0, [0xEC78, 0xFFFF]),
        (row("u32"), 0x12345678, [0x1234, 0x5678]),
        (row("bit"), 1.0, [1]),
    ],
)
def test_a_value_and_its_registers_are_each_others_inverse(
    spec: RegisterSpec, value: float, words: list[int]
) -> None:
    """Each register type encodes to the words worked out by hand, and decodes back."""
    assert to_words(spec, value) == words
    assert from_words(spec, words) == pytest.approx(value)


def test_a_value_that_does_not_fit_saturates() -> None:
    """A value beyond a register's range gives the range's end, never a wrapped number."""
    assert to_words(row("u16"), 70000) == [0xFFFF]
    assert to_words(row("u16"), -1) == [0]
    assert to_words(row("s16"), -40000) == [0x8000]


@pytest.mark.parametrize(
    ("frame", "can_id", "data"),
    [
        (
            can_codec.checked(
                can_codec.PACK_STATE | 3, can_codec.pack_state(85.0, 98.0, 0, contactors=True), counter=5
            ),
            0x19001003,
            "34 21 C4 01 00 00 05 7A",
        ),
        (
            can_codec.checked(can_codec.PACK_ELECTRIC | 1, can_codec.pack_electric(350.4, -12.3, 2000), counter=15),
            0x19001101,
            "B0 0D 95 26 D0 07 0F 7A",
        ),
        (
            can_codec.checked(can_codec.PACK_CELLS | 2, can_codec.pack_cells(3.331, 3.318, 31, 29), counter=16),
            0x19001202,
            "03 0D F6 0C 51 4F 00 46",
        ),
        (
            can_codec.checked(can_codec.PACK_LIMITS | 8, can_codec.pack_limits(404.5, 120.0), counter=9),
            0x19001308,
            "CD 0F B0 04 00 00 09 D8",
        ),
        (
            can_codec.text_part(can_codec.PACK_IDENTITY | 5, 1, "PK-2024-000017", 1),
            0x19001405,
            "01 2D 30 30 30 30 31 37",
        ),
        (
            can_codec.text_part(can_codec.MOUNT_IDENTITY | 1, 6, "PK-2024-000017", 2),
            0x19002301,
            "06 00 00 00 00 00 00 00",
        ),
        (
            can_codec.checked(
                can_codec.VEHICLE_STATE | 1,
                can_codec.vehicle_state((True, True, True, True, False), 1, 0.4, 12345.6),
                counter=3,
            ),
            0x19002001,
            "2F 14 27 40 E2 01 03 21",
        ),
        (
            can_codec.checked(
                can_codec.MOUNT_STATE | 1, can_codec.mount_state(2, 3, 21.5, present=True, pack_ok=False), counter=7
            ),
            0x19002201,
            "02 31 66 08 00 00 07 C5",
        ),
    ],
)
def test_each_can_message_has_the_bytes_worked_out_by_hand(frame: CanFrame, can_id: int, data: str) -> None:
    """Identifier, layout, counter and checksum of every message are those of the DBC files."""
    assert frame.can_id == can_id
    assert frame.data == bytes.fromhex(data)


def test_a_station_request_is_read_and_a_damaged_one_is_not() -> None:
    """Only a request of eight bytes with the right checksum counts."""
    good = CanFrame(0x19002802, bytes.fromhex("03 00 00 00 00 00 04 91"))
    assert can_codec.station_request(good) == (3, 4)
    assert can_codec.station_request(CanFrame(0x19002802, good.data[:7])) is None
    assert can_codec.station_request(CanFrame(0x19002801, good.data)) is None


class Axis:
    """Two axis blocks' worth of values, and what was written."""

    def __init__(self) -> None:
        self.position_mm = 1.5
        self.written: list[dict[str, float]] = []

    def values(self) -> Values:
        return {"state": 2, "position": self.position_mm}

    def write(self, values: Values) -> ExcCode | None:
        self.written.append(dict(values))
        return ExcCode.ILLEGAL_VALUE if values.get("command", 0) > 6 else None


def axis_image() -> tuple[UnitImage, Axis]:
    """Return the image of a unit that has an axis in its second block only."""
    profile = load_register_map("motion/positioning_axis")
    image, axis = UnitImage(), Axis()
    image.add_device(profile, device_block(profile, 1, axis.values, axis.write))
    return image, axis


def test_values_are_those_of_the_moment_of_reading() -> None:
    """A read shows what the device has now, and the second block lies one stride up."""
    image, axis = axis_image()
    assert image.read(Table.INPUT, 32, 1) == [2]
    axis.position_mm = -5.0
    assert image.read(Table.INPUT, 38, 2) == [0xFFFF, 0xEC78]


def test_reserved_registers_read_zero_and_anything_else_is_an_illegal_address() -> None:
    """Inside a block's stride a register without a row is 0; outside of all blocks it does not exist."""
    image, _ = axis_image()
    assert image.read(Table.INPUT, 42, 6) == [0] * 6
    for table, address, count in [
        (Table.INPUT, 31, 1),
        (Table.INPUT, 47, 2),
        (Table.COIL, 0, 1),
        (Table.DISCRETE, 0, 1),
    ]:
        assert image.read(table, address, count) is ExcCode.ILLEGAL_ADDRESS


def test_a_read_may_begin_and_end_inside_a_number_and_see_what_was_added_since() -> None:
    """Any part of a block can be read, the same part again with other values, and units that are added later too."""
    image, axis = axis_image()
    axis.position_mm = -5.0
    assert image.read(Table.INPUT, 39, 1) == [0xEC78]
    assert image.read(Table.INPUT, 32, 7) == [2, 0, 0, 0, 0, 0, 0xFFFF]
    axis.position_mm = 0.0
    assert image.read(Table.INPUT, 39, 1) == [0]
    assert image.read(Table.INPUT, 39, 1 + 9) is ExcCode.ILLEGAL_ADDRESS
    profile = load_register_map("motion/positioning_axis")
    third = Axis()
    image.add_device(profile, device_block(profile, 2, third.values, third.write))
    assert image.read(Table.INPUT, 39, 1 + 9) == [0] * 9 + [2]


def test_a_write_is_decoded_whole_and_can_be_read_back() -> None:
    """A command block arrives as physical values in one call and stays readable."""
    image, axis = axis_image()
    words = [1, 77, 0xFFFF, 0xEC78, 500]
    assert image.write(32, words) is None
    assert axis.written == [{"command": 1, "command_id": 77, "target": -5.0, "speed_limit": 50.0}]
    assert image.read(Table.HOLDING, 32, 5) == words


@pytest.mark.parametrize(
    ("address", "words"),
    [(0, [1]), (31, [1, 1]), (37, [1]), (34, [0]), (35, [0]), (36, [1, 1])],
    ids=["no such block", "across the start", "reserved", "first half", "second half", "into reserved"],
)
def test_a_write_to_the_wrong_place_is_an_illegal_address_and_changes_nothing(address: int, words: list[int]) -> None:
    """Half of a number, a reserved register or none at all cannot be written."""
    image, axis = axis_image()
    assert image.write(address, words) is ExcCode.ILLEGAL_ADDRESS
    assert axis.written == []


def test_a_refused_value_is_not_kept() -> None:
    """When the device refuses a value, the holding registers stay as they were."""
    image, _ = axis_image()
    assert image.write(32, [9, 78]) is ExcCode.ILLEGAL_VALUE
    assert image.read(Table.HOLDING, 32, 2) == [0, 0]


def test_a_read_only_unit_refuses_every_write() -> None:
    """A safety status has no register that can be written."""
    profile = load_register_map("safety/safety_status")
    image = UnitImage()
    image.add_device(profile, device_block(profile, 0, lambda: {"estop_ok": 1}, refuse_write))
    assert image.read(Table.DISCRETE, 0, 2) == [1, 0]
    assert image.write(0, [1]) is ExcCode.ILLEGAL_ADDRESS
