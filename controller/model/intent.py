"""What the station may intend: moves that the planner chooses, and the steps that a move is made of.

A *move* is a planner's decision ("bring this pack from slot03 to dock1.table_1"); a *step* is one journalled act of
a device with requirements, confirmation and a limit. Interlocks judge steps; carriers turn moves into steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MoveKind(StrEnum):
    """What the planner may start. Each is finished by its own steps and can be taken up again half-way."""

    CLAMP = "clamp"  # clamp, and raise where the dock has a vehicle lift
    SECURE = "secure"  # vehicle: park, brake, high voltage off
    TRANSFER = "transfer"  # pack from origin to destination, by the carrier that serves both
    ALIGN = "align"  # shuttle to (mount, table), lift down: get ready
    RETURN = "return"  # shuttle to the exchange
    CHECK = "check"  # the vehicle checks the pack locked into a mount
    WAKE = "wake"  # vehicle: high voltage on, self check
    UNCLAMP = "unclamp"  # lower and unclamp
    RELEASE = "release"  # let the vehicle drive out and see the lane clear
    FREE_SLOT = "free_slot"  # charger to zero, connector out: the pack may be carried
    HAND_OFF = "hand_off"  # connector in, pack identified, charger on


@dataclass(frozen=True, slots=True)
class Move:
    """One decision of the planner. Fields that a kind does not use are empty.

    ``origin`` and ``destination`` are place ids (ALIGN: the mount and the table; FREE_SLOT, HAND_OFF: origin is
    the slot; CHECK: origin is the mount). ``pack`` is the serial.
    """

    kind: MoveKind
    dock: str = ""
    pack: str = ""
    origin: str = ""
    destination: str = ""
    swap_id: str = ""


class StepKind(StrEnum):
    """Every step there is; controller/steps.py says what each requires, does, confirms and leaves behind."""

    CLAMP_VEHICLE = "clamp_vehicle"
    RAISE_VEHICLE = "raise_vehicle"
    SECURE_VEHICLE = "secure_vehicle"
    ALIGN_SHUTTLE = "align_shuttle"
    RETURN_SHUTTLE = "return_shuttle"
    RAISE_TABLE = "raise_table"
    LOWER_TABLE = "lower_table"
    UNLOCK_PACK = "unlock_pack"
    LOCK_PACK = "lock_pack"
    CHECK_PACK = "check_pack"
    WAKE_VEHICLE = "wake_vehicle"
    LOWER_VEHICLE = "lower_vehicle"
    UNCLAMP_VEHICLE = "unclamp_vehicle"
    RELEASE_VEHICLE = "release_vehicle"
    MOVE_STACKER = "move_stacker"
    EXTEND_FORK = "extend_fork"
    LIFT_PACK = "lift_pack"
    SET_DOWN_PACK = "set_down_pack"
    RETRACT_FORK = "retract_fork"
    STOP_CHARGER = "stop_charger"
    DISENGAGE_CONNECTOR = "disengage_connector"
    ENGAGE_CONNECTOR = "engage_connector"
    IDENTIFY_PACK = "identify_pack"
    START_CHARGER = "start_charger"


@dataclass(frozen=True, slots=True)
class Step:
    """One intended act.

    ``place``: the place that the step is about: the mount (unlock, lock, check, align, raise, lower), the slot or
    table that the stacker serves, the slot of a charger or connector step. ``table``: the table under the mount.
    ``goes_to``: the place reserved for the pack that the step sets free (unlock: the table; lift_pack: where it
    will be put). ``pack``: its serial.
    """

    kind: StepKind
    dock: str = ""
    place: str = ""
    table: str = ""
    goes_to: str = ""
    pack: str = ""
    swap_id: str = ""


class Goal(StrEnum):
    """What a mount is to get."""

    FRESH = "fresh"
    KEEP = "keep"
    EMPTY = "empty"
    ADD = "add"


@dataclass(frozen=True, slots=True)
class SwapOrder:
    """One swap: a vehicle in (or on its way to) a dock, and what each mount is to get. ``ordered_at``: loop time."""

    swap_id: str
    dock: str
    vehicle_id: str
    goals: tuple[tuple[str, Goal], ...]  # (mount, goal)
    ordered_at: float
    homeward: bool = False  # no fresh pack to be had: the old one goes back, the vehicle is released
