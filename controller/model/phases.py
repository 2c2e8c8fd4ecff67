"""Where things are in their lives, as tables: PackML unit states and modes, the phases of a swap, the life of a slot.

PackML is ISA-TR88.00.02-2022 with its default configuration, numbers included. Nothing here acts or remembers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum


class State(IntEnum):
    """PackML unit states by their TR88 numbers."""

    UNDEFINED = 0
    CLEARING = 1
    STOPPED = 2
    STARTING = 3
    IDLE = 4
    SUSPENDED = 5
    EXECUTE = 6
    STOPPING = 7
    ABORTING = 8
    ABORTED = 9
    HOLDING = 10
    HELD = 11
    UNHOLDING = 12
    SUSPENDING = 13
    UNSUSPENDING = 14
    RESETTING = 15
    COMPLETING = 16
    COMPLETED = 17


class Command(IntEnum):
    """PackML unit commands by their TR88 numbers."""

    RESET = 1
    START = 2
    STOP = 3
    HOLD = 4
    UNHOLD = 5
    SUSPEND = 6
    UNSUSPEND = 7
    ABORT = 8
    CLEAR = 9
    COMPLETE = 10


class Internal(Enum):
    """What is no command, and never comes from outside."""

    STATE_COMPLETE = "state_complete"


SC = Internal.STATE_COMPLETE  # an acting state has done its work
Trigger = Command | Internal


class Mode(IntEnum):
    """PackML unit modes by their TR88 numbers."""

    PRODUCTION = 1
    MAINTENANCE = 2
    MANUAL = 3


STATES = tuple(state for state in State if state is not State.UNDEFINED)

ACTING: Mapping[State, State] = {  # acting state → where its state-complete leads. Execute has none by itself.
    State.CLEARING: State.STOPPED,
    State.RESETTING: State.IDLE,
    State.STARTING: State.EXECUTE,
    State.HOLDING: State.HELD,
    State.UNHOLDING: State.EXECUTE,
    State.SUSPENDING: State.SUSPENDED,
    State.UNSUSPENDING: State.EXECUTE,
    State.COMPLETING: State.COMPLETED,
    State.STOPPING: State.STOPPED,
    State.ABORTING: State.ABORTED,
}

# Stop wins over everything but a stop or abort that is under way or done.
_NOT_STOPPABLE = {State.STOPPED, State.STOPPING, State.ABORTING, State.ABORTED, State.CLEARING}
_NOT_ABORTABLE = {State.ABORTING, State.ABORTED}

TRANSITIONS: Mapping[tuple[State, Trigger], State] = {
    **{(state, SC): target for state, target in ACTING.items()},
    (State.STOPPED, Command.RESET): State.RESETTING,
    (State.COMPLETED, Command.RESET): State.RESETTING,
    (State.IDLE, Command.START): State.STARTING,
    (State.EXECUTE, Command.HOLD): State.HOLDING,
    (State.SUSPENDED, Command.HOLD): State.HOLDING,
    (State.HELD, Command.UNHOLD): State.UNHOLDING,
    (State.EXECUTE, Command.SUSPEND): State.SUSPENDING,
    (State.SUSPENDED, Command.UNSUSPEND): State.UNSUSPENDING,
    (State.EXECUTE, Command.COMPLETE): State.COMPLETING,
    (State.HELD, Command.COMPLETE): State.COMPLETING,
    (State.SUSPENDED, Command.COMPLETE): State.COMPLETING,
    (State.ABORTED, Command.CLEAR): State.CLEARING,
    **{(state, Command.STOP): State.STOPPING for state in STATES if state not in _NOT_STOPPABLE},
    **{(state, Command.ABORT): State.ABORTING for state in STATES if state not in _NOT_ABORTABLE},
}

# Production has the whole model. Maintenance is cut off from its neighbours: nobody to wait for, nothing to complete.
# Manual has the states that may never be left out, and what leads between them.
MODE_COMMANDS: Mapping[Mode, frozenset[Command]] = {
    Mode.PRODUCTION: frozenset(Command),
    Mode.MAINTENANCE: frozenset(Command) - {Command.SUSPEND, Command.UNSUSPEND, Command.COMPLETE},
    Mode.MANUAL: frozenset({Command.RESET, Command.START, Command.STOP, Command.ABORT, Command.CLEAR}),
}

MODE_CHANGE_STATES = frozenset({State.STOPPED, State.IDLE, State.ABORTED})  # the 2022 default, in old and new mode


class Lamp(IntEnum):
    """What one lamp or the horn shows; the numbers are those of the remote I/O's outputs."""

    OFF = 0
    ON = 1
    FLASHING = 2


@dataclass(frozen=True, slots=True)
class StackLight:
    """Lamps and horn of a unit."""

    red: Lamp = Lamp.OFF
    amber: Lamp = Lamp.OFF
    green: Lamp = Lamp.OFF
    blue: Lamp = Lamp.OFF
    horn: Lamp = Lamp.OFF


_RED = StackLight(red=Lamp.ON)
_RED_FLASHING = StackLight(red=Lamp.FLASHING)
_BLUE = StackLight(blue=Lamp.ON)
_GREEN = StackLight(green=Lamp.ON)
_GREEN_HORN = StackLight(green=Lamp.ON, horn=Lamp.ON)

STACK_LIGHTS: Mapping[State, StackLight] = {
    State.UNDEFINED: StackLight(),
    State.ABORTING: _RED_FLASHING,
    State.ABORTED: _RED_FLASHING,
    State.CLEARING: _RED_FLASHING,
    State.STOPPING: _RED,
    State.STOPPED: _RED,
    State.COMPLETED: _RED,
    State.RESETTING: StackLight(red=Lamp.ON, horn=Lamp.ON),  # the horn is ours: resetting homes axes, that is moves
    State.IDLE: StackLight(green=Lamp.FLASHING),
    State.STARTING: _GREEN_HORN,
    State.EXECUTE: _GREEN,
    State.COMPLETING: _GREEN,
    State.UNHOLDING: _GREEN_HORN,
    State.UNSUSPENDING: _GREEN_HORN,
    State.HOLDING: _BLUE,
    State.HELD: _BLUE,
    State.SUSPENDING: StackLight(amber=Lamp.ON),
    State.SUSPENDED: StackLight(amber=Lamp.ON),
}


def stack_light(state: State, *, starved: bool = False) -> StackLight:
    """Return the lamps for a state. ``starved``: suspended for want of a vehicle or a pack, not because blocked."""
    if starved and state in {State.SUSPENDING, State.SUSPENDED}:
        return StackLight(amber=Lamp.FLASHING)
    return STACK_LIGHTS[state]


# --- swaps ------------------------------------------------------------------------------------------


class SwapPhase(StrEnum):
    """Where a swap is, in order. That of its least advanced mount; after RELEASING the dock is free."""

    ADMITTED = "admitted"
    DOCKING = "docking"
    UNLOCKING = "unlocking"
    EXCHANGING = "exchanging"
    LOCKING = "locking"
    RELEASING = "releasing"
    HANDING_OFF = "handing_off"

    @property
    def order(self) -> int:
        """Return 0 for the first phase."""
        return list(SwapPhase).index(self)


def least_advanced(phases: Iterable[SwapPhase]) -> SwapPhase:
    """Return the earliest of the mounts' phases; ADMITTED for none."""
    return min(phases, key=lambda phase: phase.order, default=SwapPhase.ADMITTED)


class SwapResult(StrEnum):
    """How a swap ended."""

    DONE = "done"
    RETURNED = "returned"  # the vehicle left with its own packs
    HELD = "held"  # a person is needed, and asked by name
    CANCELLED = "cancelled"


# --- slots ------------------------------------------------------------------------------------------


class SlotState(StrEnum):
    """The life of a slot."""

    EMPTY = "empty"
    OCCUPIED = "occupied"  # a pack rests in it, unplugged
    PLUGGED = "plugged"  # connector in, the pack not yet known to be the right one, or charger off
    CHARGING = "charging"  # the charger follows the BMS, at whatever current, 0 included
    ISOLATED = "isolated"  # a fault of slot or pack: neither used nor served
    UNKNOWN = "unknown"  # what is in it is not certain


class SlotEvent(StrEnum):
    """What changes a slot's state; each has happened and been confirmed."""

    PACK_SET_DOWN = "pack_set_down"
    PACK_LIFTED = "pack_lifted"
    CONNECTOR_ENGAGED = "connector_engaged"
    CONNECTOR_DISENGAGED = "connector_disengaged"
    CHARGER_STARTED = "charger_started"
    CHARGER_STOPPED = "charger_stopped"
    ISOLATED = "isolated"
    DOUBTED = "doubted"
    FOUND_EMPTY = "found_empty"
    FOUND_OCCUPIED = "found_occupied"


SLOT_TRANSITIONS: Mapping[tuple[SlotState, SlotEvent], SlotState] = {
    (SlotState.EMPTY, SlotEvent.PACK_SET_DOWN): SlotState.OCCUPIED,
    (SlotState.OCCUPIED, SlotEvent.PACK_LIFTED): SlotState.EMPTY,
    (SlotState.OCCUPIED, SlotEvent.CONNECTOR_ENGAGED): SlotState.PLUGGED,
    (SlotState.PLUGGED, SlotEvent.CONNECTOR_DISENGAGED): SlotState.OCCUPIED,
    (SlotState.PLUGGED, SlotEvent.CHARGER_STARTED): SlotState.CHARGING,
    (SlotState.CHARGING, SlotEvent.CHARGER_STOPPED): SlotState.PLUGGED,
    **{(state, SlotEvent.ISOLATED): SlotState.ISOLATED for state in SlotState if state is not SlotState.ISOLATED},
    **{(state, SlotEvent.DOUBTED): SlotState.UNKNOWN for state in SlotState if state is not SlotState.UNKNOWN},
    **{(state, SlotEvent.FOUND_EMPTY): SlotState.EMPTY for state in (SlotState.ISOLATED, SlotState.UNKNOWN)},
    **{(state, SlotEvent.FOUND_OCCUPIED): SlotState.OCCUPIED for state in (SlotState.ISOLATED, SlotState.UNKNOWN)},
}
