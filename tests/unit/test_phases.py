from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.model.phases import (
    ACTING,
    MODE_COMMANDS,
    SC,
    SLOT_TRANSITIONS,
    STACK_LIGHTS,
    STATES,
    TRANSITIONS,
    Command,
    Lamp,
    Mode,
    SlotEvent,
    SlotState,
    State,
    SwapPhase,
    least_advanced,
    stack_light,
)

# The 2022 table, row by row: SC, Reset, Start, Hold, Unhold, Suspend, Unsuspend, Complete, Clear, Stop, Abort.
COLUMNS = ("SC", "RESET", "START", "HOLD", "UNHOLD", "SUSPEND", "UNSUSPEND", "COMPLETE", "CLEAR", "STOP", "ABORT")
PUBLISHED = """
STOPPED      - RESETTING - - - - - - - - ABORTING
RESETTING    IDLE - - - - - - - - STOPPING ABORTING
IDLE         - - STARTING - - - - - - STOPPING ABORTING
STARTING     EXECUTE - - - - - - - - STOPPING ABORTING
EXECUTE      - - - HOLDING - SUSPENDING - COMPLETING - STOPPING ABORTING
HOLDING      HELD - - - - - - - - STOPPING ABORTING
HELD         - - - - UNHOLDING - - COMPLETING - STOPPING ABORTING
UNHOLDING    EXECUTE - - - - - - - - STOPPING ABORTING
SUSPENDING   SUSPENDED - - - - - - - - STOPPING ABORTING
SUSPENDED    - - - HOLDING - - UNSUSPENDING COMPLETING - STOPPING ABORTING
UNSUSPENDING EXECUTE - - - - - - - - STOPPING ABORTING
COMPLETING   COMPLETED - - - - - - - - STOPPING ABORTING
COMPLETED    - RESETTING - - - - - - - STOPPING ABORTING
STOPPING     STOPPED - - - - - - - - - ABORTING
ABORTING     ABORTED - - - - - - - - - -
ABORTED      - - - - - - - - CLEARING - -
CLEARING     STOPPED - - - - - - - - - ABORTING
"""


def test_transitions_are_the_published_table() -> None:
    """Every cell of the 2022 table, filled or empty, is as published."""
    rows = [line.split() for line in PUBLISHED.strip().splitlines()]
    assert len(rows) == len(STATES) == 17
    expected = {
        (State[source], SC if column == "SC" else Command[column]): State[target]
        for source, *targets in rows
        for column, target in zip(COLUMNS, targets, strict=True)
        if target != "-"
    }
    assert expected == TRANSITIONS


def test_numbers_are_those_of_the_standard() -> None:
    """States and commands have their TR88 numbers."""
    assert [State(n).name for n in (0, 2, 4, 5, 6, 9, 11, 15, 17)] == [
        "UNDEFINED", "STOPPED", "IDLE", "SUSPENDED", "EXECUTE", "ABORTED", "HELD", "RESETTING", "COMPLETED",
    ]  # fmt: skip
    assert [command.name for command in sorted(Command)] == [
        "RESET", "START", "STOP", "HOLD", "UNHOLD", "SUSPEND", "UNSUSPEND", "ABORT", "CLEAR", "COMPLETE",
    ]  # fmt: skip


def test_only_acting_states_end_by_themselves() -> None:
    """State complete leads out of exactly the acting states, and Execute is not one of them."""
    assert {state for state, trigger in TRANSITIONS if trigger is SC} == set(ACTING)
    assert State.EXECUTE not in ACTING


def test_every_state_has_a_way_to_idle_and_to_aborted() -> None:
    """From every state a unit can be brought to Aborted, and from there to Idle."""
    for goal in (State.ABORTED, State.IDLE):
        reached = {goal}
        while more := {source for (source, _), target in TRANSITIONS.items() if target in reached} - reached:
            reached |= more
        assert reached == set(STATES)


def test_modes_keep_what_may_never_go() -> None:
    """Every mode can stop, abort and clear; only Production waits for others."""
    for commands in MODE_COMMANDS.values():
        assert {Command.STOP, Command.ABORT, Command.CLEAR, Command.RESET, Command.START} <= commands
    assert MODE_COMMANDS[Mode.PRODUCTION] == set(Command)
    assert Command.SUSPEND not in MODE_COMMANDS[Mode.MAINTENANCE]


def test_stack_light_of_every_state() -> None:
    """Each state shows one colour, as published; starved is amber flashing."""
    assert set(STACK_LIGHTS) == set(State)
    for state in STATES:
        light = stack_light(state)
        assert sum(lamp is not Lamp.OFF for lamp in (light.red, light.amber, light.green, light.blue)) == 1
    flashing = {s for s in STATES if Lamp.FLASHING in (stack_light(s).red, stack_light(s).green)}
    assert flashing == {State.ABORTING, State.ABORTED, State.CLEARING, State.IDLE}
    assert stack_light(State.SUSPENDED, starved=True).amber is Lamp.FLASHING
    assert stack_light(State.SUSPENDED).amber is Lamp.ON
    assert stack_light(State.EXECUTE, starved=True) == stack_light(State.EXECUTE)


def test_horn_sounds_before_things_move() -> None:
    """The horn sounds in every state out of which motion begins: Resetting, Starting, Unholding, Unsuspending."""
    loud = {state for state in State if stack_light(state).horn is not Lamp.OFF}
    assert loud == {State.RESETTING, State.STARTING, State.UNHOLDING, State.UNSUSPENDING}


@given(st.lists(st.sampled_from(list(SwapPhase)), min_size=1))
def test_least_advanced_phase(phases: list[SwapPhase]) -> None:
    """A swap is in the earliest of its mounts' phases."""
    least = least_advanced(phases)
    assert least in phases
    assert all(least.order <= phase.order for phase in phases)


def test_phases_stand_in_order() -> None:
    """The phases are those that people and the cloud know, in order; no mounts is admitted."""
    assert [phase.value for phase in sorted(SwapPhase, key=lambda p: p.order)] == [
        "admitted", "docking", "unlocking", "exchanging", "locking", "releasing", "handing_off",
    ]  # fmt: skip
    assert least_advanced([]) is SwapPhase.ADMITTED


def test_slot_life() -> None:
    """A pack is plugged only when in the slot, charged only when plugged, lifted only when unplugged."""
    assert {s for s, e in SLOT_TRANSITIONS if e is SlotEvent.CHARGER_STARTED} == {SlotState.PLUGGED}
    assert {s for s, e in SLOT_TRANSITIONS if e is SlotEvent.CONNECTOR_ENGAGED} == {SlotState.OCCUPIED}
    assert {s for s, e in SLOT_TRANSITIONS if e is SlotEvent.PACK_LIFTED} == {SlotState.OCCUPIED}
    for state in SlotState:
        if state is not SlotState.UNKNOWN:
            assert SLOT_TRANSITIONS[state, SlotEvent.DOUBTED] is SlotState.UNKNOWN
