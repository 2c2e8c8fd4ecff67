"""The catalogue of faults: conditions that last, each with its effect, scope, latch, cause and what to do.

The station reads effects, never codes. Effects and latches are engineering proposals for the hazard review of a
site; safety functions stay in hardware, this catalogue explains and reacts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from hal.errors import DeviceFaulted, HalError, LinkDown, MotionFailed, NoReply, ProtocolError, StaleReading
from hal.types import LinkState, SafetyInputs, ZoneStatus


class Effect(IntEnum):
    """What a fault does to its scope; the worst active one counts."""

    INFO = 0  # told, nothing else
    DERATE = 1  # goes on with less power or speed
    ISOLATE_SLOT = 2  # the slot is neither used nor served
    BLOCK_START = 3  # what runs is finished, nothing new begins
    HOLD = 4  # comes to rest at the next step; a person goes on or ends it
    ABORT = 5  # stops now
    SAFE_STOP = 6  # stops now, latched until a person was there


class Scope(StrEnum):
    """What a fault is about. DOCK is the unit that the device belongs to: a dock, or the store."""

    SLOT = "slot"
    PACK = "pack"
    DOCK = "dock"
    STORE = "store"
    STATION = "station"
    HOST = "host"


class Latch(StrEnum):
    """What ends a fault once its condition is gone."""

    AUTO = "auto"  # nothing more
    ACK = "ack"  # a person has acknowledged it
    SERVICE = "service"  # a technician has reset it


class Priority(IntEnum):
    """How soon a person is wanted: within the shift, the hour, at once."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


class FaultCode(IntEnum):
    """Numbers never change their meaning.

    Families: 1 links, 2 motion, 3 packs, 4 chargers and plugs, 5 safety, 6 places, 7 host, 9 the program itself.
    """

    CAN_LINK_DOWN = 1101
    CAN_LINK_DEGRADED = 1102
    BMS_SILENT = 1103
    BMS_FRAMES_INVALID = 1104
    VEHICLE_SILENT = 1105
    CHARGER_SILENT = 1201
    CONNECTOR_SILENT = 1202
    MODBUS_LINK_DOWN = 1301
    AXIS_SILENT = 1302
    LOCKS_SILENT = 1303
    IO_SILENT = 1304
    SAFETY_STATUS_SILENT = 1305
    DETECTORS_SILENT = 1306
    UPLINK_DOWN = 1401
    AXIS_NOT_HOMED = 2101
    STEP_TIMED_OUT = 2102
    AXIS_FAULT = 2103
    TARGET_NOT_REACHED = 2104
    POSITION_MISMATCH = 2105
    BOLT_NOT_PROVEN = 2201
    LOCKS_FAULT = 2202
    VEHICLE_MOVED = 2302
    STEP_BLOCKED = 2401
    PACK_ID_MISMATCH = 3101
    PACK_TOO_HOT = 3103
    PACK_ISOLATION_LOW = 3105
    PACK_FAULT = 3107
    CHARGER_FAULT = 4101
    SETPOINT_NOT_FOLLOWED = 4103
    CONNECTOR_STUCK = 4201
    CONNECTOR_FAULT = 4202
    ESTOP_OPEN = 5101
    DRIVES_OFF = 5102
    GUARD_OPEN = 5103
    FIRE = 5105
    SMOKE = 5106
    GAS = 5107
    WATER = 5108
    PACK_LOCATION_UNKNOWN = 6101
    INVENTORY_CONFLICT = 6102
    NO_CHARGED_PACK = 6103
    DISK_LOW = 7101
    EVENT_LOOP_LAG = 7104
    UNEXPECTED_EXCEPTION = 9101
    JOURNAL_FAILED = 9103


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One kind of fault. ``raise_after_s`` and ``clear_after_s``: how long the condition must stand, or be gone."""

    code: FaultCode
    title: str
    effect: Effect
    scope: Scope
    latch: Latch
    priority: Priority
    raise_after_s: float
    clear_after_s: float
    cause: str
    what_to_do: str

    @property
    def number(self) -> int:
        """The number that people quote."""
        return int(self.code)

    @property
    def name(self) -> str:
        """The name in records and topics."""
        return self.code.name


_LOW, _MED, _HIGH = Priority.LOW, Priority.MEDIUM, Priority.HIGH
_I, _ISO, _B, _H = Effect.INFO, Effect.ISOLATE_SLOT, Effect.BLOCK_START, Effect.HOLD
_A, _S = Effect.ABORT, Effect.SAFE_STOP
_AUTO, _ACK, _SERVICE = Latch.AUTO, Latch.ACK, Latch.SERVICE
_C = FaultCode

# Debounce times of water and detectors are those seen in a real station host (3 s); silence comes here already timed
# out by its device, so it is short. A link is INFO: what hangs on it raises faults of its own.
_CATALOGUE = (
    FaultSpec(_C.CAN_LINK_DOWN, "CAN bus down", _I, Scope.STATION, _AUTO, _MED, 0.5, 2.0,
              "The interface is gone, the bus is off, or nobody answers on it.",
              "Look at `swapctl bus`. Check the interface, both terminations (60 ohm across the bus) and the cable."),
    FaultSpec(_C.CAN_LINK_DEGRADED, "CAN bus error passive", _I, Scope.STATION, _AUTO, _LOW, 5.0, 10.0,
              "Frames are often disturbed: termination, screen, bit rate, or a broken node.",
              "Compare error counters in `swapctl bus` while unplugging one node after the other."),
    FaultSpec(_C.BMS_SILENT, "Pack not heard", _ISO, Scope.SLOT, _AUTO, _LOW, 3.0, 3.0,
              "The pack's BMS sends nothing: connector not home, no wake-up supply, wrong bus address, BMS dead.",
              "Unplug and plug in again. If other slots of the bus are silent too, look at the bus first."),
    FaultSpec(_C.BMS_FRAMES_INVALID, "Pack's messages are wrong", _ISO, Scope.SLOT, _AUTO, _LOW, 3.0, 5.0,
              "Checksums or counters do not fit: another pack model, two packs with one address, disturbed bus.",
              "Check model and bus address of the pack. Take it out of use if it goes on."),
    FaultSpec(_C.VEHICLE_SILENT, "Vehicle not heard", _H, Scope.DOCK, _AUTO, _MED, 1.0, 2.0,
              "The vehicle in the dock stopped sending: asleep, radio or contact lost, bus down.",
              "Ask the driver to switch the vehicle on. Nothing is moved until it is heard again."),
    FaultSpec(_C.CHARGER_SILENT, "Charger does not answer", _ISO, Scope.SLOT, _AUTO, _LOW, 3.0, 3.0,
              "No answer on its link: no supply, wrong unit address, cable. It drops its current by itself.",
              "Check supply and address. If all chargers of a link are silent, look at the link."),
    FaultSpec(_C.CONNECTOR_SILENT, "Slot connector does not answer", _ISO, Scope.SLOT, _AUTO, _LOW, 3.0, 3.0,
              "No answer on its link: no supply, wrong unit address, cable.",
              "Check supply and address. The plug stays as it is."),
    FaultSpec(_C.MODBUS_LINK_DOWN, "Modbus link down", _I, Scope.STATION, _AUTO, _MED, 0.5, 2.0,
              "The server refuses or does not answer, or the serial port is gone.",
              "Look at `swapctl bus`. Check supply, network and cable of what stands at the other end."),
    FaultSpec(_C.AXIS_SILENT, "Drive does not answer", _A, Scope.DOCK, _ACK, _HIGH, 0.0, 1.0,
              "Motion controller off, or its link down. Without our heartbeat it stops and brakes by itself.",
              "Bring controller and link back; look where the axis stands; clear and reset."),
    FaultSpec(_C.LOCKS_SILENT, "Lock bank does not answer", _A, Scope.DOCK, _ACK, _HIGH, 0.0, 1.0,
              "The controller of the nut runners is off, or its link is down. The bolts hold where they are.",
              "Bring it back; clear and reset. The swap goes on from what the bolts then report."),
    FaultSpec(_C.IO_SILENT, "Remote I/O does not answer", _A, Scope.DOCK, _ACK, _HIGH, 0.0, 1.0,
              "The module is off, or its link is down: presence, gate and vehicle in place are not known.",
              "Bring module and link back; clear and reset."),
    FaultSpec(_C.SAFETY_STATUS_SILENT, "Safety status not known", _A, Scope.DOCK, _ACK, _HIGH, 0.0, 1.0,
              "The safety relay or PLC is not heard. The hardware still acts; we do not see what it does.",
              "Bring its link back; clear and reset."),
    FaultSpec(_C.DETECTORS_SILENT, "Detectors do not answer", _B, Scope.DOCK, _AUTO, _MED, 3.0, 3.0,
              "Smoke, gas and water detectors of the zone are not heard.",
              "Bring their link back. Nothing new begins in the zone until then."),
    FaultSpec(_C.UPLINK_DOWN, "No uplink", _I, Scope.HOST, _AUTO, _LOW, 60.0, 10.0,
              "The broker is not reachable. Swaps go on; records wait on disk, in order.",
              "Check the network. Nothing is lost."),
    FaultSpec(_C.AXIS_NOT_HOMED, "Axis not referenced", _B, Scope.DOCK, _AUTO, _MED, 1.0, 0.0,
              "The drive has no reference, as after an encoder fault or a change of drive.",
              "Reset the unit: it homes its axes. Look first that nothing stands in the way."),
    FaultSpec(_C.STEP_TIMED_OUT, "Step took too long", _H, Scope.DOCK, _ACK, _HIGH, 0.0, 0.0,
              "A step was not done, or not confirmed, within its limit. It counts as not done.",
              "Look at the device that the step names, and at the sensor that confirms it. Acknowledge, then go on."),
    FaultSpec(_C.AXIS_FAULT, "Drive reports a fault", _A, Scope.DOCK, _ACK, _HIGH, 0.0, 0.0,
              "Following error, stall, limit, encoder or the drive itself; the detail has its number.",
              "Look for what blocks the axis. Clear the drive's fault; clear and reset."),
    FaultSpec(_C.TARGET_NOT_REACHED, "Axis stopped short of its target", _H, Scope.DOCK, _ACK, _HIGH, 0.0, 0.0,
              "A stop, a limit or resistance ended the move. The position is known.",
              "Look at the axis. Acknowledge; the station plans from where it stands."),
    FaultSpec(_C.POSITION_MISMATCH, "Two signals disagree on a position", _S, Scope.DOCK, _SERVICE, _HIGH, 0.0, 0.0,
              "The drive says it is there, another sensor says not: slipped coupling, moved sensor, lost teaching.",
              "Do not move. Measure where the axis really stands, mend what lies, teach again."),
    FaultSpec(_C.BOLT_NOT_PROVEN, "A bolt did not end well", _H, Scope.DOCK, _ACK, _HIGH, 0.0, 0.0,
              "Torque before or beyond the angle window, stuck, or stopped; the detail names the bolts.",
              "Look at the bolt and at the runner's head. The vehicle is not released until every bolt is proven."),
    FaultSpec(_C.LOCKS_FAULT, "Lock bank reports a fault", _A, Scope.DOCK, _ACK, _HIGH, 0.0, 0.0,
              "The controller of the nut runners reports a fault of its own; the detail has its number.",
              "Clear the fault at the controller; clear and reset."),
    FaultSpec(_C.VEHICLE_MOVED, "Vehicle moved while held", _S, Scope.DOCK, _ACK, _HIGH, 0.0, 0.0,
              "The vehicle left its place, or its park, brake or door opened, while work was done under it.",
              "Make the vehicle safe first. See that nobody is under it. Then clear and reset."),
    FaultSpec(_C.STEP_BLOCKED, "Step not permitted", _H, Scope.DOCK, _ACK, _MED, 0.0, 0.0,
              "Something that a step requires is not so; the detail says what.",
              "Mend what the detail names. Acknowledge, then go on."),
    FaultSpec(_C.PACK_ID_MISMATCH, "Not the pack that was expected", _ISO, Scope.SLOT, _ACK, _MED, 0.0, 0.0,
              "The serial that the pack sends is not the one that the inventory has for this place.",
              "Read the label. Correct the inventory, or take the pack out."),
    FaultSpec(_C.PACK_TOO_HOT, "Pack too hot or cold", _ISO, Scope.SLOT, _AUTO, _MED, 2.0, 30.0,
              "A cell is outside the temperatures at which it may be charged.",
              "Let it rest. If it goes on heating unplugged, treat it as a fire."),
    FaultSpec(_C.PACK_ISOLATION_LOW, "Pack insulation low", _ISO, Scope.SLOT, _SERVICE, _HIGH, 2.0, 0.0,
              "The pack's insulation resistance is below its limit: damage or water.",
              "Do not touch the pack or its plug. Quarantine it; a technician decides."),
    FaultSpec(_C.PACK_FAULT, "Pack reports a fault", _ISO, Scope.SLOT, _ACK, _MED, 1.0, 1.0,
              "The BMS reports a fault of its own; the detail has its number.",
              "Look it up in the pack's papers. The pack is not handed out."),
    FaultSpec(_C.CHARGER_FAULT, "Charger reports a fault", _ISO, Scope.SLOT, _ACK, _LOW, 0.0, 0.0,
              "Temperature, voltage, current, mains or the module itself; the detail has its number.",
              "Clear the fault. If it comes back, change the module; the slot is left out until then."),
    FaultSpec(_C.SETPOINT_NOT_FOLLOWED, "Charger does not follow", _ISO, Scope.SLOT, _ACK, _MED, 5.0, 5.0,
              "What the charger delivers is not what it was told, or more than the BMS allows.",
              "Stop the charger, unplug, measure. Change the module."),
    FaultSpec(_C.CONNECTOR_STUCK, "Slot connector did not arrive", _ISO, Scope.SLOT, _ACK, _MED, 0.0, 0.0,
              "The plug stopped between its two end switches, or both say yes.",
              "Look for bent pins and for a pack that is not home. Never pull it by hand while the charger is on."),
    FaultSpec(_C.CONNECTOR_FAULT, "Slot connector reports a fault", _ISO, Scope.SLOT, _ACK, _MED, 0.0, 0.0,
              "Jammed, or its end switches contradict each other; the detail has its number.",
              "As for a connector that did not arrive."),
    FaultSpec(_C.ESTOP_OPEN, "E-stop", _S, Scope.DOCK, _ACK, _HIGH, 0.0, 0.0,
              "A button was pressed, or the chain was opened and has not been re-armed.",
              "Find out why. Release the button, re-arm at the panel; then clear and reset, on site."),
    FaultSpec(_C.DRIVES_OFF, "Drives not enabled", _A, Scope.DOCK, _ACK, _HIGH, 0.5, 0.0,
              "The safety hardware withholds torque: not re-armed, curtain interrupted, heartbeat missed.",
              "See what the safety panel shows. Re-arm it on site; then clear and reset."),
    FaultSpec(_C.GUARD_OPEN, "Guard open", _S, Scope.DOCK, _ACK, _HIGH, 0.0, 0.0,
              "A guard of the zone is open or not locked.",
              "See that nobody is inside, close it, re-arm at the panel. On site: acknowledge, clear, reset."),
    FaultSpec(_C.FIRE, "Fire", _S, Scope.STATION, _SERVICE, _HIGH, 0.0, 0.0,
              "The fire panel reports fire.",
              "Get people out. Call the fire brigade. A vehicle that is free may leave."),
    FaultSpec(_C.SMOKE, "Smoke", _S, Scope.STATION, _SERVICE, _HIGH, 0.0, 0.0,
              "A smoke detector is in alarm.",
              "Treat it as fire until somebody has looked."),
    FaultSpec(_C.GAS, "Gas", _S, Scope.STATION, _SERVICE, _HIGH, 1.0, 0.0,
              "Hydrogen or carbon monoxide: a cell is venting.",
              "Get people out; ventilate. Treat it as fire until somebody has looked."),
    FaultSpec(_C.WATER, "Water", _A, Scope.DOCK, _ACK, _HIGH, 3.0, 10.0,
              "Water stands in the zone.",
              "Switch off what is wet. Acknowledge when it is dry."),
    FaultSpec(_C.PACK_LOCATION_UNKNOWN, "Nobody knows what is in a place", _B, Scope.DOCK, _AUTO, _MED, 0.0, 0.0,
              "A move was cut short, and the sensors do not say where the pack is.",
              "Go and look. Answer the question that `swapctl status` asks."),
    FaultSpec(_C.INVENTORY_CONFLICT, "Inventory and sensors disagree", _H, Scope.DOCK, _ACK, _MED, 2.0, 1.0,
              "A sensor sees a pack where the inventory has none, or none where it has one.",
              "Go and look. Mend the sensor, or correct the inventory."),
    FaultSpec(_C.NO_CHARGED_PACK, "No charged pack", _I, Scope.STATION, _AUTO, _LOW, 0.0, 0.0,
              "No pack is at or above the least state of charge at which it may be handed out.",
              "Wait for charging; vehicles are refused with this reason."),
    FaultSpec(_C.DISK_LOW, "Disk nearly full", _I, Scope.HOST, _AUTO, _MED, 10.0, 60.0,
              "Less space is left than records of some days need.",
              "Look what grew. The journal comes first: telemetry is dropped before it."),
    FaultSpec(_C.EVENT_LOOP_LAG, "Controller too slow", _B, Scope.HOST, _AUTO, _MED, 2.0, 10.0,
              "The host is overloaded, hot, or its disk hangs: timers come late.",
              "See what else runs on it; look at temperature and disk."),
    FaultSpec(_C.UNEXPECTED_EXCEPTION, "Program error", _S, Scope.STATION, _ACK, _HIGH, 0.0, 0.0,
              "Something happened that nobody thought of; the detail has its name.",
              "Send the log. Look at the station before you clear and reset."),
    FaultSpec(_C.JOURNAL_FAILED, "Journal cannot be written", _S, Scope.STATION, _SERVICE, _HIGH, 0.0, 0.0,
              "Disk full, read-only or broken. Without a journal nothing moves.",
              "Mend or change the disk. Do not delete the journal: it knows where the packs are."),
)  # fmt: skip

FAULTS: Mapping[FaultCode, FaultSpec] = {spec.code: spec for spec in _CATALOGUE}

# --- from readings and errors to faults ---------------------------------------------------------------------------

_AXES = ("clamp", "vehicle_lift", "shuttle_travel", "shuttle_lift", "x", "z", "fork")
_SILENT: Mapping[str, FaultCode] = {
    **dict.fromkeys(_AXES, _C.AXIS_SILENT),
    "locks": _C.LOCKS_SILENT,
    "io": _C.IO_SILENT,
    "safety": _C.SAFETY_STATUS_SILENT,
    "zone": _C.DETECTORS_SILENT,
    "vehicle": _C.VEHICLE_SILENT,
    "charger": _C.CHARGER_SILENT,
    "connector": _C.CONNECTOR_SILENT,
    "pack": _C.BMS_SILENT,
}
_OWN_FAULT: Mapping[str, FaultCode] = {
    **dict.fromkeys(_AXES, _C.AXIS_FAULT),
    "locks": _C.LOCKS_FAULT,
    "charger": _C.CHARGER_FAULT,
    "connector": _C.CONNECTOR_FAULT,
    "pack": _C.PACK_FAULT,
}
_FELL_SHORT: Mapping[str, FaultCode] = {
    **dict.fromkeys(_AXES, _C.TARGET_NOT_REACHED),
    "locks": _C.BOLT_NOT_PROVEN,
    "connector": _C.CONNECTOR_STUCK,
    "charger": _C.SETPOINT_NOT_FOLLOWED,
}


def fault_of_error(error: HalError) -> FaultCode | None:
    """Return the fault that an error of a device call is a sign of; None where the call alone was at fault.

    A refusal, a missing claim and a latched stop are answers, not conditions. A device of no known role gives
    UNEXPECTED_EXCEPTION: nothing is passed over.
    """
    role = error.device.rsplit(".", 1)[-1]
    match error:
        case ProtocolError() if role == "pack":
            return _C.BMS_FRAMES_INVALID
        case LinkDown() | NoReply() | ProtocolError() | StaleReading():
            return _SILENT.get(role, _C.UNEXPECTED_EXCEPTION)
        case DeviceFaulted():
            return _OWN_FAULT.get(role, _C.UNEXPECTED_EXCEPTION)
        case MotionFailed():
            return _FELL_SHORT.get(role, _C.UNEXPECTED_EXCEPTION)
        case _:
            return None


def fault_of_silence(device_id: str) -> FaultCode:
    """Return the fault of a device that is not heard."""
    return _SILENT.get(device_id.rsplit(".", 1)[-1], _C.UNEXPECTED_EXCEPTION)


def fault_of_link(state: LinkState, *, is_can: bool) -> FaultCode | None:
    """Return the fault of a link in a state; None for one that is up or on its way up."""
    match state:
        case LinkState.DOWN | LinkState.BUS_OFF:
            return _C.CAN_LINK_DOWN if is_can else _C.MODBUS_LINK_DOWN
        case LinkState.ERROR_PASSIVE:
            return _C.CAN_LINK_DEGRADED
        case LinkState.UP | LinkState.CONNECTING:
            return None


def faults_of_safety(inputs: SafetyInputs) -> Iterator[tuple[FaultCode, bool]]:
    """Return each fault that a zone's safety inputs can show, and whether they do."""
    yield _C.ESTOP_OPEN, not inputs.estop_ok
    yield _C.GUARD_OPEN, not inputs.guard_closed
    yield _C.FIRE, inputs.fire
    yield _C.DRIVES_OFF, not inputs.drives_enabled


def faults_of_zone(status: ZoneStatus) -> Iterator[tuple[FaultCode, bool]]:
    """Return each fault that a zone's detectors can show, and whether they do."""
    yield _C.SMOKE, status.smoke
    yield _C.GAS, status.gas
    yield _C.WATER, status.water


def scope_id(code: FaultCode, source: str) -> str:
    """Return whom a fault from a device or place touches: ``slot07``, ``dock1``, ``store``, ``station``, ``host``."""
    scope = FAULTS[code].scope
    if scope in {Scope.STATION, Scope.HOST, Scope.STORE}:
        return scope.value
    head = source.split(".", 1)[0]
    return "store" if head == "stacker" else head
