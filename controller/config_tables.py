"""The tables of a station file as typed models: keys, types, ranges and units. What spans tables is config_checks'.

Every number has a range; nothing station-specific has a default; unknown keys are refused. docs/CONFIG.md is
generated from these models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

# Modbus over serial line, section 2.2: 1 to 247 are device addresses. CAN source addresses end at 253 (SAE J1939-81).
ADDRESS_MAX = 253
# linux/un.h: sun_path holds 108 bytes with its closing NUL.
SOCKET_PATH_BYTES_MAX = 107
# generic_vehicle.dbc carries identities of three mounts.
MOUNTS_MAX = 3


class Table(BaseModel):
    """A table of the station file: no unknown keys, no conversions, no changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _short_enough(path: Path) -> Path:
    if len(bytes(path)) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"a socket path has at most {SOCKET_PATH_BYTES_MAX} bytes")
    return path


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} stands twice")
    return names


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=32)]
Names = Annotated[tuple[Name, ...], Strict(strict=False), AfterValidator(_distinct)]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Port = Annotated[int, Field(ge=1, le=65535)]
Millimetres = Annotated[float, Field(ge=-50_000.0, le=50_000.0)]
FilePath = Annotated[Path, Strict(strict=False)]
Channels = Annotated[int, Field(ge=0, le=63)]


class StationTable(Table):
    """Who this station is."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40, description="id in topics and records")]
    name: Annotated[Text, Field(description="name for people")]


class ModbusTcpTable(Table):
    """A Modbus TCP server: a PLC, a gateway, a module."""

    kind: Literal["modbus_tcp"]
    host: Annotated[Text, Field(description="host name or address")]
    port: Annotated[Port, Field(description="TCP port")]
    timeout_s: Annotated[float, Field(ge=0.02, le=10.0, description="s; for connecting and for each answer")]


class ModbusRtuTable(Table):
    """A serial line with Modbus RTU devices."""

    kind: Literal["modbus_rtu"]
    serial_port: Annotated[Text, Field(description="device file of the line")]
    baud_rate: Annotated[Literal[9600, 19200, 38400, 57600, 115200], Field(description="bit/s")]
    parity: Annotated[Literal["N", "E", "O"], Field(description="none, even or odd")]
    timeout_s: Annotated[float, Field(ge=0.02, le=10.0, description="s; for each answer")]
    quiet_time_s: Annotated[
        float, Field(ge=0.0, le=5.0, description="s; silence kept after a time-out, so that a late answer dies")
    ]


class CanTable(Table):
    """A CAN bus, by python-can's interface and channel."""

    kind: Literal["can"]
    interface: Annotated[
        Literal["socketcan", "slcan", "socketcand", "udp_multicast", "swapbus"],
        Field(description="python-can interface"),
    ]
    channel: Annotated[Text, Field(description="python-can channel: can0, a device file, @name")]
    bitrate: Annotated[Literal[125_000, 250_000, 500_000, 1_000_000], Field(description="bit/s")]


LinkTable = ModbusTcpTable | ModbusRtuTable | CanTable
LINK_TABLES: Mapping[str, type[LinkTable]] = {
    "modbus_tcp": ModbusTcpTable,
    "modbus_rtu": ModbusRtuTable,
    "can": CanTable,
}


class ClampTable(Table):
    """Taught positions of the clamp axis."""

    open: Annotated[Millimetres, Field(description="mm; the vehicle is free")]
    closed: Annotated[Millimetres, Field(description="mm; the vehicle is held")]


class LiftTable(Table):
    """Taught positions of a lift axis."""

    down: Annotated[Millimetres, Field(description="mm")]
    up: Annotated[Millimetres, Field(description="mm")]


class DockTable(Table):
    """A dock: the vehicle's mounts above, the shuttle's tables below. The order of mounts is the vehicle's own."""

    mounts: Annotated[Names, Field(min_length=1, max_length=MOUNTS_MAX, description="pack positions on a vehicle")]
    tables: Annotated[Names, Field(min_length=1, max_length=4, description="pack positions on the shuttle")]
    clamp_mm: Annotated[ClampTable, Field(description="taught positions of the clamp")]
    vehicle_lift_mm: Annotated[
        LiftTable | None, Field(description="taught positions; leave out where vehicles are not raised")
    ] = None
    shuttle_lift_mm: Annotated[LiftTable, Field(description="taught positions")]
    shuttle_exchange_mm: Annotated[Millimetres, Field(description="mm; shuttle travel where the stacker serves it")]
    shuttle_align_mm: Annotated[
        dict[str, dict[str, Millimetres]],
        Field(description="mm; mount → table → shuttle travel that brings the table under the mount"),
    ]


class StoreTable(Table):
    """Where packs wait and charge."""

    slots: Annotated[Names, Field(min_length=1, max_length=200, description="places with charger, connector, BMS")]
    quarantine: Annotated[Names, Field(max_length=20, description="places with none of these")]
    neighbours: Annotated[
        tuple[Names, ...], Strict(strict=False), Field(description="groups of adjoining slots; each slot once")
    ]
    pack_soc_pct_min: Annotated[float, Field(ge=0.0, le=100.0, description="%; below it no pack is handed out")]


class StackerPlaceTable(Table):
    """Where the stacker stands to serve one place."""

    x_mm: Annotated[Millimetres, Field(description="mm")]
    z_mm: Annotated[Millimetres, Field(description="mm; fork just under the pack")]
    fork_mm: Annotated[Millimetres, Field(description="mm; fork fully in the place")]


class StackerTable(Table):
    """The crane that serves slots, quarantine places and tables."""

    fork_retracted_mm: Annotated[Millimetres, Field(description="mm; fork clear of every place")]
    carry_offset_mm: Annotated[
        float, Field(ge=5.0, le=500.0, description="mm; z rises by this to take a pack's weight")
    ]
    places: Annotated[
        dict[str, StackerPlaceTable], Field(description="taught positions, one for each slot, quarantine and table")
    ]


class StepTiming(Table):
    """How long a step takes. Expected: a warning, and what is measured against. Limit: a fault."""

    expected_s: Annotated[float, Field(gt=0.0, le=3600.0, description="s")]
    limit_s: Annotated[float, Field(gt=0.0, le=3600.0, description="s; more than expected_s")]


class DeviceTable(Table):
    """One device. Which of the optional keys it needs follows from the kind of its profile."""

    profile: Annotated[
        str, Field(pattern=r"^[a-z0-9_]+/[a-z0-9_]+$", description="a file under hal/profiles, without its ending")
    ]
    link: Annotated[Text, Field(description="id of a link above")]
    address: Annotated[int, Field(ge=0, le=ADDRESS_MAX, description="Modbus unit (1 to 247) or CAN source address")]
    index: Annotated[int, Field(ge=0, le=255, description="block within the unit")] = 0
    range_mm: Annotated[
        tuple[Millimetres, Millimetres] | None,
        Strict(strict=False),
        Field(description="axis: mm; lowest and highest position that may be commanded"),
    ] = None
    bolts: Annotated[int | None, Field(ge=1, le=12, description="lock bank: how many bolts")] = None
    inputs: Annotated[dict[str, Channels] | None, Field(description="remote I/O: name → channel")] = None
    outputs: Annotated[dict[str, Channels] | None, Field(description="remote I/O: name → channel")] = None


class TlsTable(Table):
    """TLS to the broker."""

    ca_file: Annotated[FilePath, Field(description="certificates that the broker's must descend from")]
    certificate_file: Annotated[FilePath | None, Field(description="the station's own certificate")] = None
    key_file: Annotated[FilePath | None, Field(description="the key to it")] = None


class MqttTable(Table):
    """The broker for swaps, states and faults. Without this table nothing is published."""

    host: Annotated[Text, Field(description="host name or address")]
    port: Annotated[Port, Field(description="TCP port")]
    client_id: Annotated[Text, Field(description="unique at the broker")]
    topic_root: Annotated[
        str, Field(pattern=r"^[^+#/\s][^+#\s]*[^+#/\s]$|^[^+#/\s]$", max_length=100, description="first topic levels")
    ]
    username: Annotated[Text | None, Field(description="user at the broker")] = None
    password_file: Annotated[FilePath | None, Field(description="file with the password in its first line")] = None
    tls: Annotated[TlsTable | None, Field(description="leave out for a plain connection")] = None


class LocalApiTable(Table):
    """The socket that swapctl talks to. Root and the controller's own user are technicians on site."""

    socket: Annotated[
        FilePath,
        AfterValidator(_short_enough),
        Field(description="unix socket; relative: to the working directory"),
    ]
    operators_group: Annotated[Text | None, Field(description="members may start and stop swaps")] = None
    technicians_group: Annotated[Text | None, Field(description="members may also maintain")] = None


class DataTable(Table):
    """Where the journal and the outbox live."""

    directory: Annotated[FilePath, Field(description="relative: to the working directory")]
