from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.machine import (
    CommandRefused,
    TableMachine,
    Transition,
    TransitionRefused,
    UnitMachine,
    diagram,
)
from controller.model.phases import (
    MODE_CHANGE_STATES,
    MODE_COMMANDS,
    SC,
    SLOT_TRANSITIONS,
    STATES,
    TRANSITIONS,
    Command,
    Mode,
    SlotEvent,
    SlotState,
    State,
    Trigger,
)
from hal.errors import InvariantError

TRIGGERS: list[Trigger] = [SC, *Command]


@pytest.mark.parametrize(("state", "trigger"), list(itertools.product(STATES, TRIGGERS)))
def test_every_cell_of_the_table(state: State, trigger: Trigger) -> None:
    """Fired in any state, any trigger leads where the table says, or is refused and changes nothing."""
    unit = UnitMachine("dock1", initial=state)
    target = TRANSITIONS.get((state, trigger))
    if target is None:
        with pytest.raises(CommandRefused) as caught:
            unit.fire(trigger)
        assert (caught.value.command, caught.value.state) == (trigger, state)
        assert caught.value.why
        assert unit.state is state
    else:
        assert unit.fire(trigger) == Transition(state, trigger, target)
        assert unit.state is target
    if isinstance(trigger, Command):
        assert (trigger in UnitMachine("dock1", initial=state).allowed()) is (target is not None)


def test_boots_aborted_in_production() -> None:
    """A unit boots to Aborted: only Clear leaves it."""
    unit = UnitMachine("dock1")
    assert (unit.state, unit.mode, unit.allowed()) == (State.ABORTED, Mode.PRODUCTION, frozenset({Command.CLEAR}))


@pytest.mark.parametrize(("mode", "command"), list(itertools.product(Mode, Command)))
def test_mode_cuts_commands_off(mode: Mode, command: Command) -> None:
    """A command outside the mode's list is refused with the mode's name, whatever the state."""
    for state in STATES:
        unit = UnitMachine("dock1", initial=state)
        unit.mode = mode
        if command not in MODE_COMMANDS[mode]:
            assert command not in unit.allowed()
            with pytest.raises(CommandRefused, match=f"not in mode {mode.name}"):
                unit.fire(command)


@pytest.mark.parametrize("state", STATES)
def test_mode_changes_only_at_rest(state: State) -> None:
    """A mode changes in Stopped, Idle and Aborted; staying in a mode is always allowed."""
    unit = UnitMachine("dock1", initial=state)
    unit.set_mode(Mode.PRODUCTION)
    if state in MODE_CHANGE_STATES:
        unit.set_mode(Mode.MANUAL)
        assert unit.mode is Mode.MANUAL
    else:
        with pytest.raises(CommandRefused, match="a mode changes only in"):
            unit.set_mode(Mode.MANUAL)
        assert unit.mode is Mode.PRODUCTION


@given(st.lists(st.sampled_from(TRIGGERS), max_size=60))
def test_any_sequence_keeps_the_table(triggers: list[Trigger]) -> None:
    """Whatever is fired, the state follows the table, and listeners hear every change and nothing else."""
    unit, heard = UnitMachine("store"), list[Transition[State, Trigger]]()
    unit.on_change(heard.append)
    state, expected = State.ABORTED, list[Transition[State, Trigger]]()
    for trigger in triggers:
        target = TRANSITIONS.get((state, trigger))
        if target is None:
            with pytest.raises(CommandRefused):
                unit.fire(trigger)
        else:
            unit.fire(trigger)
            expected.append(Transition(state, trigger, target))
            state = target
        assert unit.state is state
    assert heard == expected


def test_refusal_says_what_would_be_taken() -> None:
    """A refused command names what the state does take."""
    unit = UnitMachine("dock1", initial=State.STOPPED)
    with pytest.raises(CommandRefused, match="START refused in STOPPED: the state takes RESET, ABORT"):
        unit.fire(Command.START)


def test_listener_that_fires_is_a_bug() -> None:
    """A listener records and reports; firing from it is our own error, not a second transition."""
    unit = UnitMachine("dock1")

    def fire(_change: object) -> None:
        unit.fire(Command.ABORT)

    unit.on_change(fire)
    with pytest.raises(ExceptionGroup) as caught:
        unit.fire(Command.CLEAR)
    assert isinstance(caught.value.exceptions[0], InvariantError)
    assert unit.state is State.CLEARING


def test_failing_listener_silences_nobody() -> None:
    """Every listener hears a change though one before it raises; the machine then works on."""
    unit, heard = UnitMachine("dock1"), list[State]()

    def fail(_change: object) -> None:
        raise ValueError("no")

    unit.on_change(fail)
    unit.on_change(lambda change: heard.append(change.target))
    with pytest.raises(ExceptionGroup, match="listeners of ABORTED"):
        unit.fire(Command.CLEAR)
    assert heard == [State.CLEARING]
    with pytest.raises(ExceptionGroup):
        unit.fire(SC)
    assert unit.state is State.STOPPED


def test_listener_can_be_taken_off() -> None:
    """After unsubscribing, once or twice, a listener hears nothing."""
    unit, heard = UnitMachine("dock1"), list[object]()
    stop = unit.on_change(heard.append)
    stop()
    stop()
    unit.fire(Command.CLEAR)
    assert heard == []


def test_table_machine_of_a_slot() -> None:
    """The same machine runs any table: a slot's life from set down to charging."""
    slot = TableMachine(SLOT_TRANSITIONS, SlotState.EMPTY)
    for event in (SlotEvent.PACK_SET_DOWN, SlotEvent.CONNECTOR_ENGAGED, SlotEvent.CHARGER_STARTED):
        slot.fire(event)
    assert slot.state is SlotState.CHARGING
    with pytest.raises(TransitionRefused, match="PACK_LIFTED is not allowed in CHARGING"):
        slot.fire(SlotEvent.PACK_LIFTED)
    assert slot.state is SlotState.CHARGING
    assert SlotEvent.PACK_LIFTED not in slot.allowed()


def test_no_state_can_be_entered_by_name() -> None:
    """There are no triggers but those of the table: transitions' automatic ones are off."""
    unit = UnitMachine("dock1")
    assert not [name for name in dir(unit._machine._holder) if name.startswith("to_")]


def test_diagram_has_every_transition() -> None:
    """The diagram has a line for each cell of the table, and leaves out what it is told to."""
    text = diagram(TRANSITIONS, State.ABORTED)
    assert text.count(" --> ") == len(TRANSITIONS) + 1
    assert "STOPPED --> RESETTING: RESET" in text
    assert "ABORT\n" not in diagram(TRANSITIONS, State.ABORTED, leave_out=[Command.ABORT]) + "\n"
