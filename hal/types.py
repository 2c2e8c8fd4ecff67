"""Values that cross the hardware-abstraction layer: readings, device states, declared devices and links.

Pure data, and like ``hal.profiles`` no driver's opinion: whoever plays a device in a test may use both.
Units stand last in every name: ``_mm``, ``_s``, ``_v``, ``_a``, ``_nm`` (newton metre), ``_deg``, ``_pct``, ``_c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Generic, TypeVar

from hal.errors import StaleReading

T = TypeVar("T")


class Quality(StrEnum):
    """Whether a value may be decided on."""

    GOOD = "good"
    NEVER = "never"  # nothing has been read yet
    LOST = "lost"  # the link or device stopped answering; the value is the last one known
    INVALID = "invalid"  # an answer came that failed its checks; the value is the last good one


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """A value with the loop time at which it was measured. Nothing re-stamps an old value."""

    source: str
    value: T | None
    measured_at: float
    quality: Quality

    def fresh(self, now: float, max_age_s: float) -> T:
        """Return the value, or raise StaleReading (NOT_SENT) if it is missing, bad or older than max_age_s."""
        if self.value is None or self.quality is not Quality.GOOD:
            raise StaleReading(self.source, "read", f"reading is {self.quality}")
        age_s = now - self.measured_at
        if age_s > max_age_s:
            raise StaleReading(self.source, "read", f"reading is {age_s:.2f} s old, limit {max_age_s:.2f} s")
        return self.value

    def is_fresh(self, now: float, max_age_s: float) -> bool:
        """Whether ``fresh`` would return."""
        good = self.value is not None and self.quality is Quality.GOOD
        return good and now - self.measured_at <= max_age_s


def never_read(source: str) -> Reading[T]:
    """Return the reading of a device that has not answered yet."""
    return Reading(source, None, float("-inf"), Quality.NEVER)


class Lifecycle(StrEnum):
    """UNCONFIGURED → CONNECTED (reads) → ENABLED (moves) → FAULTED → CONNECTED by ``clear_fault()``."""

    UNCONFIGURED = "unconfigured"
    CONNECTED = "connected"
    ENABLED = "enabled"
    FAULTED = "faulted"


# --- what devices report ------------------------------------------------------------------------------------


class AxisState(IntEnum):
    """State word of a positioning axis (profiles/motion/positioning_axis.toml)."""

    POWER_OFF = 0  # enable dropped by the safety circuit or the heartbeat: braked, no torque
    DISABLED = 1  # power present, brake closed
    STANDSTILL = 2  # enabled, in position control, not moving
    MOVING = 3
    HOMING = 4
    STOPPING = 5
    FAULT = 6


@dataclass(frozen=True, slots=True)
class AxisStatus:
    """One axis as its drive reports it."""

    state: AxisState
    position_mm: float
    torque_pct: float
    homed: bool
    accepted_id: int
    refused_id: int
    refusal: int
    done_id: int
    fault_code: int


class BoltState(IntEnum):
    """Where one bolt is, by its own sensors."""

    UNKNOWN = 0
    LOCKED = 1
    UNLOCKED = 2
    MOVING = 3


class BoltResult(IntEnum):
    """How the last turn of one bolt ended."""

    NONE = 0
    OK = 1
    TORQUE_LOW = 2  # turned through its window without reaching torque: thread stripped or head slipped
    TORQUE_EARLY = 3  # torque before the angle window: cross-threaded or cold head
    STUCK = 4  # would not start turning
    STOPPED = 5  # stopped by command


@dataclass(frozen=True, slots=True)
class BoltStatus:
    """One bolt: state, result of the last turn, final torque and angle turned."""

    state: BoltState
    result: BoltResult
    torque_nm: float
    angle_deg: float


class LockBankState(IntEnum):
    """State word of a lock bank."""

    POWER_OFF = 0
    READY = 1
    TURNING = 2
    FAULT = 3


@dataclass(frozen=True, slots=True)
class LockBankStatus:
    """All bolts of one mount. ``heads_engaged``: the nut runners sit on the bolt heads."""

    state: LockBankState
    heads_engaged: bool
    accepted_id: int
    refused_id: int
    refusal: int
    done_id: int
    fault_code: int
    bolts: tuple[BoltStatus, ...]

    @property
    def all_unlocked(self) -> bool:
        """Every bolt is open."""
        return all(bolt.state is BoltState.UNLOCKED for bolt in self.bolts)


class ConnectorState(IntEnum):
    """State word of a slot connector."""

    POWER_OFF = 0
    READY = 1
    MOVING = 2
    FAULT = 3


@dataclass(frozen=True, slots=True)
class ConnectorStatus:
    """A slot's plug. Engaged and disengaged are two inputs: both false is on the way, both true is a fault."""

    state: ConnectorState
    engaged: bool
    disengaged: bool
    accepted_id: int
    refused_id: int
    refusal: int
    done_id: int
    fault_code: int


class ChargerState(IntEnum):
    """State word of a charger, in our words; a profile's ``enum`` maps the maker's numbers to these."""

    OFF = 0
    STANDBY = 1
    STARTING = 2
    CHARGING = 3
    STOPPING = 4
    FAULT = 5


@dataclass(frozen=True, slots=True)
class ChargerStatus:
    """A charger: what it does and which set-points it says it follows."""

    state: ChargerState
    output_voltage_v: float
    output_current_a: float
    setpoint_voltage_v: float
    setpoint_current_a: float
    temperature_c: float
    watchdog_tripped: bool
    fault_code: int


@dataclass(frozen=True, slots=True)
class PackStatus:
    """What a pack's BMS says of itself. Current is positive while charging."""

    serial: str
    soc_pct: float
    soh_pct: float
    pack_voltage_v: float
    pack_current_a: float
    charge_voltage_v_max: float
    charge_current_a_max: float
    cell_voltage_v_max: float
    cell_voltage_v_min: float
    temperature_c_max: float
    temperature_c_min: float
    insulation_kohm: float
    contactors_closed: bool
    fault_code: int


class VehicleRequest(IntEnum):
    """What the station asks of the vehicle; a state to be in, sent cyclically, never an edge."""

    NONE = 0
    SECURE = 1  # park, brake, high voltage off, levelling inhibited
    CHECK = 2  # stay secured; check the packs locked in
    WAKE = 3  # high voltage on, self check
    LEAVE = 4  # released: may drive out


@dataclass(frozen=True, slots=True)
class MountStatus:
    """A mount of the vehicle as the vehicle sees it."""

    pack_serial: str | None  # None: no pack
    pack_soc_pct: float
    pack_ok: bool  # the vehicle has checked the pack that is locked in and accepts it


@dataclass(frozen=True, slots=True)
class VehicleStatus:
    """The vehicle in the dock, by its own word."""

    vehicle_id: str
    park_applied: bool
    brake_applied: bool
    high_voltage_off: bool
    doors_closed: bool
    pack_current_a: float
    ready_to_drive: bool
    odometer_km: float
    mounts: tuple[MountStatus, ...]
    acknowledged: VehicleRequest  # the request that the vehicle says it obeys (request_echo)


@dataclass(frozen=True, slots=True)
class SafetyInputs:
    """What the safety relay or safety PLC of one zone says. We observe; the hardware acts."""

    estop_ok: bool  # the chain is closed and re-armed
    guard_closed: bool
    curtain_clear: bool
    curtain_muted: bool  # the safety PLC mutes the curtain while a vehicle drives in or out
    fire: bool
    heartbeat_seen: bool  # the hardware sees our heartbeat
    drives_enabled: bool  # torque is allowed in this zone
    key_on_site: bool  # the on-site key switch: a person is here

    @property
    def ok(self) -> bool:
        """Motion is permitted by the safety hardware of this zone."""
        return self.estop_ok and self.guard_closed and not self.fire and self.drives_enabled


@dataclass(frozen=True, slots=True)
class ZoneStatus:
    """Smoke, gas and water of one zone. True is an alarm."""

    smoke: bool
    gas: bool
    water: bool


# --- links ---------------------------------------------------------------------------------------------------


class LinkState(StrEnum):
    """What the rest of the station sees of a bus or line."""

    CONNECTING = "connecting"
    UP = "up"
    ERROR_PASSIVE = "error_passive"  # CAN: still carries frames, badly
    BUS_OFF = "bus_off"  # CAN: carries nothing; a send that succeeds is no evidence
    DOWN = "down"


class Table(StrEnum):
    """The four Modbus tables."""

    HOLDING = "holding"
    INPUT = "input"
    COIL = "coil"
    DISCRETE = "discrete"


@dataclass(frozen=True, slots=True)
class CanFrame:
    """One classic CAN data frame. ``received_at`` is loop time; 0 for a frame to be sent."""

    can_id: int
    data: bytes
    extended: bool = True
    received_at: float = 0.0


# --- what a station file declares ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModbusLinkSpec:
    """One Modbus line. TCP: host and port. RTU: serial port, baud rate and parity ("N", "E", "O")."""

    link_id: str
    kind: str  # "modbus_tcp" | "modbus_rtu"
    timeout_s: float
    host: str = ""
    port: int = 0
    serial_port: str = ""
    baud_rate: int = 0
    parity: str = "N"
    quiet_time_s: float = 0.0  # RTU: silence kept after a time-out so that a late answer dies


@dataclass(frozen=True, slots=True)
class CanLinkSpec:
    """One CAN bus. ``interface`` and ``channel`` are python-can's; bitrate in bit/s."""

    link_id: str
    interface: str
    channel: str
    bitrate: int


LinkSpec = ModbusLinkSpec | CanLinkSpec


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device as the station file declares it.

    ``address`` is the Modbus unit or the CAN source address; ``index`` selects a block within the unit (the
    profile's ``stride`` apart). ``settings`` are the kind's own keys, checked by controller/config.py:
    axis: ``range_mm`` (lowest, highest); lock bank: ``bolts`` (count); remote I/O: ``inputs`` and ``outputs``
    (name → channel). Other kinds have none.
    """

    device_id: str
    kind: str
    profile: str
    link_id: str
    address: int
    index: int = 0
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HalSpec:
    """All links and devices of a station."""

    links: tuple[LinkSpec, ...]
    devices: tuple[DeviceSpec, ...]
