"""CAN messages of the simulated packs and vehicles, packed by hand from the layouts in hal/profiles/*.dbc.

The simulator's own codec: integers shifted into place, least significant byte first. The two checks, a counter in
bits 48 to 51 and a checksum in byte 7, are those that the DBC files define. Physical values saturate.
"""

from __future__ import annotations

from collections.abc import Sequence

from hal.types import CanFrame

# 29-bit identifiers; the lowest byte is the bus address of the slot or dock.
PACK_STATE = 0x19001000
PACK_ELECTRIC = 0x19001100
PACK_CELLS = 0x19001200
PACK_LIMITS = 0x19001300
PACK_IDENTITY = 0x19001400
VEHICLE_STATE = 0x19002000
VEHICLE_IDENTITY = 0x19002100
MOUNT_STATE = 0x19002200
MOUNT_IDENTITY = 0x19002300
STATION_REQUEST = 0x19002800

TEXT_PARTS = 3  # 21 characters
_PART_CHARS = 7
_CHECK = 0xA5


def checksum(can_id: int, body: bytes) -> int:
    """Return the exclusive or of bytes 0 to 6, the identifier's four bytes, and 0xA5."""
    result = _CHECK
    for byte in (*body[:7], *can_id.to_bytes(4, "big")):
        result ^= byte
    return result


def _raw(value: float, scale: float, offset: float, bits: int) -> int:
    return max(0, min((1 << bits) - 1, round((value - offset) / scale)))


def checked(can_id: int, fields: int, counter: int) -> CanFrame:
    """Return the frame of a message: 48 bits of signals, then its counter, then its checksum."""
    body = (fields | (counter & 0xF) << 48).to_bytes(7, "little")
    return CanFrame(can_id, body + bytes([checksum(can_id, body)]))


def pack_state(soc_pct: float, soh_pct: float, fault: int, *, contactors: bool) -> int:
    """Return the signals of PackState."""
    percents = _raw(soc_pct, 0.01, 0, 16) | _raw(soh_pct, 0.5, 0, 8) << 16
    return percents | int(contactors) << 24 | (fault & 0xFFFF) << 32


def pack_electric(voltage_v: float, current_a: float, insulation_kohm: float) -> int:
    """Return the signals of PackElectric; current is positive while charging."""
    power = _raw(voltage_v, 0.1, 0, 16) | _raw(current_a, 0.1, -1000, 16) << 16
    return power | _raw(insulation_kohm, 1, 0, 16) << 32


def pack_cells(max_v: float, min_v: float, max_c: float, min_c: float) -> int:
    """Return the signals of PackCells: highest and lowest cell voltage and temperature."""
    voltages = _raw(max_v, 0.001, 0, 16) | _raw(min_v, 0.001, 0, 16) << 16
    return voltages | _raw(max_c, 1, -50, 8) << 32 | _raw(min_c, 1, -50, 8) << 40


def pack_limits(voltage_v_max: float, current_a_max: float) -> int:
    """Return the signals of PackLimits: what the pack allows a charger."""
    return _raw(voltage_v_max, 0.1, 0, 16) | _raw(current_a_max, 0.1, 0, 16) << 16


def vehicle_state(flags: Sequence[bool], echo: int, pack_current_a: float, odometer_km: float) -> int:
    """Return the signals of VehicleState; flags: park, brake, high voltage off, doors closed, ready to drive."""
    bits = sum(int(flag) << bit for bit, flag in enumerate(flags)) | (echo & 0x7) << 5
    return bits | _raw(pack_current_a, 0.1, -1000, 16) << 8 | _raw(odometer_km, 0.1, 0, 24) << 24


def mount_state(mount: int, mounts: int, soc_pct: float, *, present: bool, pack_ok: bool) -> int:
    """Return the signals of MountState, of mount number ``mount`` of the vehicle's ``mounts``."""
    bits = mount | int(present) << 8 | int(pack_ok) << 9 | (mounts & 0xF) << 12
    return bits | _raw(soc_pct, 0.01, 0, 16) << 16


def text_part(can_id: int, part: int, text: str, index: int) -> CanFrame:
    """Return part ``index`` of a text, 7 ASCII characters padded with NUL, under the multiplexer value ``part``."""
    chars = text.encode("ascii", "replace")[index * _PART_CHARS : (index + 1) * _PART_CHARS]
    return CanFrame(can_id, bytes([part]) + chars.ljust(_PART_CHARS, b"\0"))


def station_request(frame: CanFrame) -> tuple[int, int] | None:
    """Return (request, counter) of a StationRequest, or None when its length or checksum is wrong."""
    data = frame.data
    if len(data) != 8 or data[7] != checksum(frame.can_id, data):
        return None
    return data[0] & 0x7, data[6] & 0xF
