"""What spans tables of a station file: roles, links, addresses, places, taught positions, times.

Every check adds to one list; none stops at the first mistake. A part that could not be read is left out of the
checks that need it, so that one mistake is told once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from controller.config_tables import (
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
)
from controller.model.intent import StepKind
from controller.model.layout import FORK, STACKER_AXES, charger_of, connector_of, locks_of, pack_monitor_of
from controller.model.snapshot import SAFETY_AGE_S_MAX
from hal.profiles import ProfileError, RegisterMap, RegisterSpec, load_register_map, profile_kind
from hal.types import Table as ModbusTable

CAN_KINDS = {"pack", "vehicle"}
SETTINGS = {"axis": ("range_mm",), "lock_bank": ("bolts",), "io": ("inputs", "outputs")}
ALL_SETTINGS = ("range_mm", "bolts", "inputs", "outputs")
LOCK_WINDOW = ("torque_min_nm", "torque_max_nm", "angle_min_deg", "angle_max_deg")
OWN_NAMES = ("store", "stacker", "station", "host")  # scopes and units that no dock or slot may be called
IO_OUTPUTS_MAX = 16  # remote_io.toml

DOCK_ROLES = {
    "clamp": "axis",
    "shuttle_travel": "axis",
    "shuttle_lift": "axis",
    "io": "io",
    "safety": "safety",
    "zone": "zone",
    "vehicle": "vehicle",
}
STORE_ROLES = {"io": "io", "safety": "safety", "zone": "zone"}
DOCK_INPUTS = ("in_place", "gate_closed", "exit_clear")
UNIT_OUTPUTS = ("light_red", "light_amber", "light_green", "light_blue", "horn")

# Modbus over serial line, section 2.5.1: 3.5 characters of silence between frames. Request of a read: 8 bytes;
# answer: 5 bytes and the data. The turnround is what field devices take to answer, and the host to ask again.
RTU_SILENCE_CHARACTERS = 7.0
RTU_TURNROUND_S = 0.006
RTU_LOAD_MAX = 0.8
POLLS_IN_HASTE = 1  # devices of a line that are under command, and polled fast, at one time


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake: where, as the TOML key path (empty: the file itself), and what, for a person."""

    key_path: str
    message: str

    def __str__(self) -> str:
        return f"{self.key_path}: {self.message}" if self.key_path else self.message


@dataclass(slots=True)
class Draft:
    """What could be read. None, or a None among the values: it stands there but has mistakes of its own."""

    station: StationTable | None = None
    links: dict[str, LinkTable | None] = field(default_factory=dict)
    docks: dict[str, DockTable | None] = field(default_factory=dict)
    store: StoreTable | None = None
    stacker: StackerTable | None = None
    stacker_places: dict[str, StackerPlaceTable | None] = field(default_factory=dict)
    steps: dict[str, StepTiming | None] = field(default_factory=dict)
    devices: dict[str, DeviceTable | None] = field(default_factory=dict)
    mqtt: MqttTable | None = None
    local_api: LocalApiTable | None = None
    data: DataTable | None = None

    def good_docks(self) -> dict[str, DockTable]:
        """Return the docks that could be read."""
        return {dock_id: dock for dock_id, dock in self.docks.items() if dock is not None}

    def good_devices(self) -> dict[str, DeviceTable]:
        """Return the devices that could be read."""
        return {device_id: device for device_id, device in self.devices.items() if device is not None}

    def good_links(self) -> dict[str, LinkTable]:
        """Return the links that could be read."""
        return {link_id: link for link_id, link in self.links.items() if link is not None}


Problems = Iterator[ConfigProblem]


def key_path(*keys: str | int) -> str:
    """Return a TOML key path: ``devices."slot03.charger".address``, ``store.slots[2]``."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
            continue
        bare = key != "" and all(c.isalnum() or c in "_-" for c in key) and key.isascii()
        text += ("." if text else "") + (key if bare else f'"{key}"')
    return text


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return ``; did you mean 'port'?`` for a name that is close to a known one, else nothing."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def cross_checks(draft: Draft) -> list[ConfigProblem]:
    """Return every mistake that shows only when tables are seen together."""
    return [problem for check in CHECKS for problem in check(draft)]


def expected_devices(draft: Draft) -> dict[str, str]:
    """Return device id → kind for every role that the docks, the store and the stacker have."""
    expected = dict.fromkeys(STACKER_AXES, "axis")
    expected |= {f"store.{role}": kind for role, kind in STORE_ROLES.items()}
    for dock_id, dock in draft.good_docks().items():
        expected |= {f"{dock_id}.{role}": kind for role, kind in DOCK_ROLES.items()}
        expected |= {locks_of(f"{dock_id}.{mount}"): "lock_bank" for mount in dock.mounts}
        if dock.vehicle_lift_mm is not None:
            expected[f"{dock_id}.vehicle_lift"] = "axis"
    for slot in draft.store.slots if draft.store else ():
        expected |= {charger_of(slot): "charger", connector_of(slot): "connector", pack_monitor_of(slot): "pack"}
    return expected


def _kind_of(device: DeviceTable) -> str | None:
    try:
        return profile_kind(device.profile)
    except ProfileError:
        return None


def _map_of(device: DeviceTable) -> RegisterMap | None:
    try:
        return load_register_map(device.profile)
    except ProfileError:
        return None


# --- names ---------------------------------------------------------------------------------------------------------


def _check_names(draft: Draft) -> Problems:
    if not draft.docks:
        yield ConfigProblem("docks", "a station has at least one dock")
    for dock_id, dock in draft.docks.items():
        if dock_id in OWN_NAMES or re.fullmatch(r"[a-z][a-z0-9_]*", dock_id) is None:
            yield ConfigProblem(
                key_path("docks", dock_id), "is no name for a dock: lower case, digits, not one of ours"
            )
        for place in sorted(set(dock.mounts) & set(dock.tables)) if dock else ():
            yield ConfigProblem(key_path("docks", dock_id, "tables"), f"{place!r} is a mount too")
    taken = {*draft.docks, *OWN_NAMES}
    for which in ("slots", "quarantine"):
        for place in getattr(draft.store, which, ()):
            if place in taken:
                yield ConfigProblem(key_path("store", which), f"{place!r} names something else too")
            taken.add(place)


def _check_neighbours(draft: Draft) -> Problems:
    if draft.store is None:
        return
    grouped: set[str] = set()
    for number, group in enumerate(draft.store.neighbours):
        for slot in group:
            at = key_path("store", "neighbours", number)
            if slot not in draft.store.slots:
                yield ConfigProblem(at, f"{slot!r} is no slot{did_you_mean(slot, draft.store.slots)}")
            elif slot in grouped:
                yield ConfigProblem(at, f"{slot!r} stands in two groups")
            grouped.add(slot)
    for slot in draft.store.slots:
        if slot not in grouped:
            yield ConfigProblem("store.neighbours", f"slot {slot!r} stands in no group")


# --- links ---------------------------------------------------------------------------------------------------------


def _wire(link: LinkTable) -> tuple[str, ...]:
    match link:
        case ModbusTcpTable():
            return ("host and port", link.host, str(link.port))
        case ModbusRtuTable():
            return ("serial port", link.serial_port)
        case CanTable():
            return ("interface and channel", link.interface, link.channel)


def _check_links(draft: Draft) -> Problems:
    owner: dict[tuple[str, ...], str] = {}
    for link_id, link in draft.good_links().items():
        wire = _wire(link)
        first = owner.setdefault(wire, link_id)
        if first != link_id:
            yield ConfigProblem(key_path("links", link_id), f"has the same {wire[0]} as link {first!r}")
    used = {device.link for device in draft.good_devices().values()}
    if None not in draft.devices.values():
        for link_id in draft.links:
            if link_id not in used:
                yield ConfigProblem(key_path("links", link_id), "no device is on this link")


def _check_safety_links(draft: Draft) -> Problems:
    """Safety inputs share no link with a device that can time out, and a late answer is not yet a stale one."""
    devices = draft.good_devices()
    safety = {d.link: i for i, d in devices.items() if _kind_of(d) == "safety"}
    for device_id, device in devices.items():
        if device.link in safety and _kind_of(device) not in {"safety", None}:
            message = f"shares link {device.link!r} with {safety[device.link]!r}; safety status has its own link"
            yield ConfigProblem(key_path("devices", device_id, "link"), message)
    for link_id, device_id in safety.items():
        link, registers = draft.links.get(link_id), _map_of(devices[device_id])
        if link is None or registers is None or isinstance(link, CanTable):
            continue
        limit_s = SAFETY_AGE_S_MAX - registers.constants.get("poll_s", 0.0)
        if link.timeout_s > limit_s:
            message = f"{link.timeout_s} s: one late answer would make safety inputs stale; at most {limit_s:.2f} s"
            yield ConfigProblem(key_path("links", link_id, "timeout_s"), message)


def rtu_load(link: ModbusRtuTable, maps: Sequence[RegisterMap]) -> float:
    """Return the share of a serial line's time that polling these devices takes, one of them in haste."""
    character_s = (10.0 if link.parity == "N" else 11.0) / link.baud_rate
    load, haste = 0.0, [0.0]
    for registers in maps:
        tables = {row.table for row in registers.registers.values() if row.table is not ModbusTable.HOLDING}
        poll_s = 0.0
        for table in tables:
            rows = [row for row in registers.registers.values() if row.table is table]
            span = max(row.address + row.words for row in rows) - min(row.address for row in rows)
            data_bytes = 2 * span if table is ModbusTable.INPUT else -(-span // 8)
            poll_s += (8 + 5 + data_bytes + RTU_SILENCE_CHARACTERS) * character_s + RTU_TURNROUND_S
        slow_s = registers.constants.get("poll_slow_s", registers.constants.get("poll_s", 1.0))
        load += poll_s / slow_s
        haste.append(poll_s / registers.constants.get("poll_fast_s", slow_s) - poll_s / slow_s)
    return load + sum(sorted(haste, reverse=True)[:POLLS_IN_HASTE])


def _check_rtu_load(draft: Draft) -> Problems:
    for link_id, link in draft.good_links().items():
        if isinstance(link, ModbusRtuTable):
            on_line = [_map_of(d) for d in draft.good_devices().values() if d.link == link_id]
            load = rtu_load(link, [registers for registers in on_line if registers is not None])
            if load > RTU_LOAD_MAX:
                message = f"polling {len(on_line)} devices takes {load:.0%} of this line; at most {RTU_LOAD_MAX:.0%}"
                yield ConfigProblem(key_path("links", link_id, "baud_rate"), message)


# --- devices -------------------------------------------------------------------------------------------------------


def _check_roles(draft: Draft) -> Problems:
    expected = expected_devices(draft)
    readable = draft.store is not None and None not in draft.docks.values()
    missing = [device_id for device_id in expected if device_id not in draft.devices]
    for device_id in missing:
        yield ConfigProblem(key_path("devices", device_id), f"missing: a device of kind {expected[device_id]!r}")
    for device_id, device in draft.devices.items():
        if device_id not in expected:
            if readable:
                message = f"has no role in this station{did_you_mean(device_id, missing)}"
                yield ConfigProblem(key_path("devices", device_id), message)
        elif device is not None:
            kind = _kind_of(device)
            if kind is not None and kind != expected[device_id]:
                message = f"profile {device.profile!r} is of kind {kind!r}, this role needs {expected[device_id]!r}"
                yield ConfigProblem(key_path("devices", device_id, "profile"), message)


def _check_profiles(draft: Draft) -> Problems:
    for device_id, device in draft.good_devices().items():
        try:
            kind = profile_kind(device.profile)
        except ProfileError as error:
            yield ConfigProblem(key_path("devices", device_id, "profile"), str(error))
            continue
        if device.link not in draft.links:
            hint = did_you_mean(device.link, list(draft.links))
            yield ConfigProblem(key_path("devices", device_id, "link"), f"no link {device.link!r}{hint}")
        link = draft.links.get(device.link)
        if link is not None and isinstance(link, CanTable) is not (kind in CAN_KINDS):
            message = f"link {device.link!r} is {link.kind}; a device of kind {kind!r} is not reached that way"
            yield ConfigProblem(key_path("devices", device_id, "link"), message)
        if kind not in CAN_KINDS and not 1 <= device.address <= 247:
            yield ConfigProblem(
                key_path("devices", device_id, "address"), f"{device.address} is no Modbus unit (1 to 247)"
            )
        for key in ALL_SETTINGS:
            given, needed = getattr(device, key) is not None, key in SETTINGS.get(kind, ())
            if needed and not given and key != "outputs":
                yield ConfigProblem(
                    key_path("devices", device_id, key), f"missing; a device of kind {kind!r} needs it"
                )
            if given and not needed:
                yield ConfigProblem(key_path("devices", device_id, key), f"a device of kind {kind!r} has no such key")
        if kind == "lock_bank" and (lacking := set(LOCK_WINDOW) - set(load_register_map(device.profile).constants)):
            message = (
                f"profile {device.profile!r} does not say what proves a closed bolt: {', '.join(sorted(lacking))}"
            )
            yield ConfigProblem(key_path("devices", device_id, "profile"), message)


def _blocks(device: DeviceTable, registers: RegisterMap) -> Iterator[tuple[str, ModbusTable, int]]:
    """Every register that a device takes, and to whom: its own rows to itself, the unit's to the profile."""

    def spread(rows: Mapping[str, RegisterSpec], owner: str, shift: bool) -> Iterator[tuple[str, ModbusTable, int]]:
        for row in rows.values():
            start = row.address + (device.index * registers.stride.get(row.table, 0) if shift else 0)
            for word in range(row.words):
                yield owner, row.table, start + word

    yield from spread(registers.registers, "", True)
    yield from spread(registers.unit_registers, registers.name, False)


def _check_addresses(draft: Draft) -> Problems:
    """Two devices may not answer to one address, nor own one register."""
    can: dict[tuple[str, int], str] = {}
    taken: dict[tuple[str, int, ModbusTable, int], tuple[str, str]] = {}
    for device_id, device in draft.good_devices().items():
        kind = _kind_of(device)
        if kind in CAN_KINDS:
            first = can.setdefault((device.link, device.address), device_id)
            if first != device_id:
                message = f"CAN address {device.address} on {device.link!r} is that of {first!r} too"
                yield ConfigProblem(key_path("devices", device_id, "address"), message)
            continue
        registers = _map_of(device)
        if registers is None:
            continue
        if device.index and not registers.stride:
            message = f"profile {device.profile!r} has one block a unit"
            yield ConfigProblem(key_path("devices", device_id, "index"), message)
            continue
        clashes: dict[str, str] = {}
        for owner, table, register in _blocks(device, registers):
            if register > 0xFFFF:
                clashes[""] = f"block {device.index} lies beyond register 65535"
                continue
            mine = (owner or device_id, device_id)
            holder = taken.setdefault((device.link, device.address, table, register), mine)
            if holder[0] != mine[0]:
                where = f"unit {device.address} on {device.link!r}"
                clashes.setdefault(
                    holder[1], f"shares {table} register {register} of {where} with {holder[1]!r}: duplicate address"
                )
        for message in clashes.values():
            yield ConfigProblem(key_path("devices", device_id, "address"), message)


def _needed_channels(draft: Draft) -> dict[str, set[str]]:
    """Return what remote I/O must offer: a presence input for every place, lights and horn for every unit."""
    inputs = {f"{dock_id}.{name}" for dock_id in draft.docks for name in DOCK_INPUTS} | {FORK}
    for dock_id, dock in draft.good_docks().items():
        inputs |= {f"{dock_id}.{place}" for place in (*dock.mounts, *dock.tables)}
    if draft.store is not None:
        inputs |= {*draft.store.slots, *draft.store.quarantine}
    return {
        "inputs": inputs,
        "outputs": {f"{unit}.{name}" for unit in (*draft.docks, "store") for name in UNIT_OUTPUTS},
    }


def _check_channels(draft: Draft) -> Problems:
    """Every place has one presence input, every unit its lights; no channel and no name stands twice."""
    known = draft.store is not None and None not in draft.docks.values()
    for key, needed in _needed_channels(draft).items():
        owners: dict[str, str] = {}
        for device_id, device in draft.good_devices().items():
            channels: dict[str, int] = getattr(device, key) or {}
            by_channel: dict[int, str] = {}
            for name, channel in channels.items():
                at = key_path("devices", device_id, key, name)
                if by_channel.setdefault(channel, name) != name:
                    yield ConfigProblem(at, f"channel {channel} is that of {by_channel[channel]!r} too")
                if key == "outputs" and channel >= IO_OUTPUTS_MAX:
                    yield ConfigProblem(at, f"channel {channel} is beyond the last output, {IO_OUTPUTS_MAX - 1}")
                if owners.setdefault(name, device_id) != device_id:
                    yield ConfigProblem(at, f"{name!r} is on {owners[name]!r} too")
                if known and name not in needed:
                    hint = did_you_mean(name, sorted(needed - set(channels)))
                    yield ConfigProblem(at, f"{name!r} is nothing in this station{hint}")
        for name in sorted(needed - set(owners)) if None not in draft.devices.values() else ():
            yield ConfigProblem("devices", f"{name!r} is on no remote I/O device ({key})")


# --- taught positions ---------------------------------------------------------------------------------------------


def _within(draft: Draft, axis: str, at: str, *positions_mm: float) -> Problems:
    device = draft.devices.get(axis)
    if device is None or device.range_mm is None:
        return
    lowest_mm, highest_mm = device.range_mm
    for position_mm in positions_mm:
        if not lowest_mm <= position_mm <= highest_mm:
            message = f"{position_mm} mm is outside {axis}'s range, {lowest_mm} to {highest_mm} mm"
            yield ConfigProblem(at, message)


def _check_docks(draft: Draft) -> Problems:
    for device_id, device in draft.good_devices().items():
        if device.range_mm is not None and device.range_mm[0] >= device.range_mm[1]:
            yield ConfigProblem(key_path("devices", device_id, "range_mm"), "the lowest position comes first")
    for dock_id, dock in draft.good_docks().items():
        here = ("docks", dock_id)
        pairs = {"clamp_mm": ("clamp", dock.clamp_mm.open, dock.clamp_mm.closed)}
        pairs["shuttle_lift_mm"] = ("shuttle_lift", dock.shuttle_lift_mm.down, dock.shuttle_lift_mm.up)
        if dock.vehicle_lift_mm is not None:
            pairs["vehicle_lift_mm"] = ("vehicle_lift", dock.vehicle_lift_mm.down, dock.vehicle_lift_mm.up)
        for key, (role, one_mm, other_mm) in pairs.items():
            yield from _within(draft, f"{dock_id}.{role}", key_path(*here, key), one_mm, other_mm)
            if one_mm == other_mm:
                yield ConfigProblem(key_path(*here, key), "both positions are the same")
        travel = f"{dock_id}.shuttle_travel"
        yield from _within(draft, travel, key_path(*here, "shuttle_exchange_mm"), dock.shuttle_exchange_mm)
        yield from _check_aligns(draft, dock_id, dock)


def _check_aligns(draft: Draft, dock_id: str, dock: DockTable) -> Problems:
    here = ("docks", dock_id, "shuttle_align_mm")
    for mount in dock.mounts:
        by_table = dock.shuttle_align_mm.get(mount, {})
        for table in dock.tables:
            if table not in by_table:
                yield ConfigProblem(key_path(*here, mount, table), "missing: taught position of this table here")
    for mount, by_table in dock.shuttle_align_mm.items():
        if mount not in dock.mounts:
            yield ConfigProblem(key_path(*here, mount), f"no such mount{did_you_mean(mount, dock.mounts)}")
        for table, position_mm in by_table.items():
            at = key_path(*here, mount, table)
            if table not in dock.tables:
                yield ConfigProblem(at, f"no such table{did_you_mean(table, dock.tables)}")
            yield from _within(draft, f"{dock_id}.shuttle_travel", at, position_mm)


def _check_stacker(draft: Draft) -> Problems:
    stacker = draft.stacker
    if stacker is not None:
        yield from _within(draft, FORK, "stacker.fork_retracted_mm", stacker.fork_retracted_mm)
    served: set[str] = set()
    if draft.store is not None:
        served |= {*draft.store.slots, *draft.store.quarantine}
    served |= {f"{dock_id}.{table}" for dock_id, dock in draft.good_docks().items() for table in dock.tables}
    missing = sorted(served - set(draft.stacker_places))
    for place in missing if stacker is not None or draft.stacker_places else ():
        yield ConfigProblem(key_path("stacker", "places", place), "missing: taught position of this place")
    known = draft.store is not None and None not in draft.docks.values()
    spots: dict[tuple[float, float, bool], str] = {}
    for place, at in draft.stacker_places.items():
        here = key_path("stacker", "places", place)
        if known and place not in served:
            hint = did_you_mean(place, missing or sorted(served))
            yield ConfigProblem(here, f"the stacker serves no such place{hint}")
        if at is None or stacker is None:
            continue
        yield from _within(draft, "stacker.x", here, at.x_mm)
        yield from _within(draft, "stacker.z", here, at.z_mm, at.z_mm + stacker.carry_offset_mm)
        yield from _within(draft, FORK, here, at.fork_mm)
        if at.fork_mm == stacker.fork_retracted_mm:
            yield ConfigProblem(here, "the fork in the place stands where it is retracted")
        spot = (at.x_mm, at.z_mm, at.fork_mm > stacker.fork_retracted_mm)
        first = spots.setdefault(spot, place)
        if first != place:
            yield ConfigProblem(here, f"is the same position as that of {first!r}")


# --- times ---------------------------------------------------------------------------------------------------------


def _check_steps(draft: Draft) -> Problems:
    kinds = [str(kind) for kind in StepKind]
    for kind in kinds:
        if kind not in draft.steps:
            yield ConfigProblem(key_path("steps", kind), "missing: every step has its times")
    for kind, timing in draft.steps.items():
        if kind not in kinds:
            yield ConfigProblem(key_path("steps", kind), f"there is no such step{did_you_mean(kind, kinds)}")
        if timing is not None and timing.expected_s >= timing.limit_s:
            message = f"expected_s ({timing.expected_s}) must be less than limit_s ({timing.limit_s})"
            yield ConfigProblem(key_path("steps", kind), message)


def _check_mqtt(draft: Draft) -> Problems:
    if draft.mqtt is None:
        return
    if (draft.mqtt.username is None) != (draft.mqtt.password_file is None):
        yield ConfigProblem("mqtt", "username and password_file go together")
    tls = draft.mqtt.tls
    if tls is not None and (tls.certificate_file is None) != (tls.key_file is None):
        yield ConfigProblem("mqtt.tls", "certificate_file and key_file go together")


CHECKS = (
    _check_names,
    _check_neighbours,
    _check_links,
    _check_safety_links,
    _check_rtu_load,
    _check_roles,
    _check_profiles,
    _check_addresses,
    _check_channels,
    _check_docks,
    _check_stacker,
    _check_steps,
    _check_mqtt,
)
