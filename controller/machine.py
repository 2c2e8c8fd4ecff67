"""Typed synchronous state machines over tables. The only importer of transitions.

A machine decides and remembers a state; it acts on nothing, never awaits and therefore cannot be cut short. Whoever
acts fires a trigger only after what it stands for is confirmed. Transitions' asyncio machines are not used: they
swallow cancellation and run a second trigger beside the first (docs/adr/0002).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from transitions import Machine

from controller.model.phases import (
    ACTING,
    MODE_CHANGE_STATES,
    MODE_COMMANDS,
    STATES,
    TRANSITIONS,
    Command,
    Internal,
    Mode,
    State,
    Trigger,
)
from hal.errors import invariant

S = TypeVar("S", bound=Enum)
T = TypeVar("T", bound=Enum)


@dataclass(frozen=True, slots=True)
class Transition(Generic[S, T]):
    """A change that has happened."""

    source: S
    trigger: T
    target: S


class TransitionRefused(Exception):
    """The state does not know the trigger. Nothing has changed."""

    def __init__(self, trigger: Enum, state: Enum) -> None:
        super().__init__(f"{trigger.name} is not allowed in {state.name}")
        self.trigger = trigger
        self.state = state


class CommandRefused(Exception):
    """A unit does not take a command, or a mode, now. Nothing has changed; ``why`` is for a person."""

    def __init__(self, command: Trigger | Mode, state: State, why: str) -> None:
        super().__init__(f"{command.name} refused in {state.name}: {why}")
        self.command = command
        self.state = state
        self.why = why


class _Holder:
    """What transitions calls the model: it carries the state, and nothing else."""

    state: Enum


class TableMachine(Generic[S, T]):
    """A machine over a table (state, trigger) → state. Listeners record and report; they may not fire."""

    def __init__(self, table: Mapping[tuple[S, T], S], initial: S) -> None:
        self._table = table
        self._holder = _Holder()
        states = dict.fromkeys([initial, *(s for s, _ in table), *table.values()])
        self._machine = Machine(
            model=self._holder,
            states=list(states),
            transitions=[
                {"trigger": _event(trigger), "source": source, "dest": target}
                for (source, trigger), target in table.items()
            ],
            initial=initial,
            auto_transitions=False,  # else every state could be entered from every other by name
        )
        self._initial_type = type(initial)
        self._listeners: list[Callable[[Transition[S, T]], None]] = []
        self._telling = False

    @property
    def state(self) -> S:
        """The state now."""
        state = self._holder.state
        invariant(isinstance(state, self._initial_type), f"{state!r} is none of this machine's states")
        return state  # type: ignore[return-value] # checked above; transitions knows states as Enum only

    def allowed(self) -> frozenset[T]:
        """Return the triggers that the state knows."""
        return frozenset(trigger for source, trigger in self._table if source is self.state)

    def fire(self, trigger: T) -> Transition[S, T]:
        """Change the state, then tell every listener, whatever one of them raises.

        Raises:
            TransitionRefused: the state does not know the trigger.
            ExceptionGroup: the state has changed, and listeners failed.
        """
        invariant(not self._telling, f"a listener fired {trigger.name}: listeners only record and report")
        source = self.state
        if (source, trigger) not in self._table:
            raise TransitionRefused(trigger, source)
        self._holder.trigger(_event(trigger))  # type: ignore[attr-defined] # put there by transitions
        change = Transition(source, trigger, self.state)
        self._tell(change)
        return change

    def on_change(self, listener: Callable[[Transition[S, T]], None]) -> Callable[[], None]:
        """Call ``listener`` after every change; returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def _tell(self, change: Transition[S, T]) -> None:
        errors = []
        self._telling = True
        try:
            for listener in tuple(self._listeners):
                try:
                    listener(change)
                except Exception as error:  # noqa: BLE001 - collected: one listener may not silence the next
                    errors.append(error)
        finally:
            self._telling = False
        if errors:
            raise ExceptionGroup(f"listeners of {change.source.name} → {change.target.name}", errors)


class UnitMachine:
    """PackML state and mode of one unit. Boots to ABORTED in Production: nothing moves before Clear and Reset."""

    def __init__(self, unit_id: str, initial: State = State.ABORTED) -> None:
        self.unit_id = unit_id
        self.mode = Mode.PRODUCTION
        self._machine: TableMachine[State, Trigger] = TableMachine(TRANSITIONS, initial)

    @property
    def state(self) -> State:
        """The state now."""
        return self._machine.state

    @property
    def is_acting(self) -> bool:
        """Whether the state ends by itself, with state complete."""
        return self.state in ACTING

    def allowed(self) -> frozenset[Command]:
        """Return the commands that state and mode take now."""
        known = {trigger for trigger in self._machine.allowed() if isinstance(trigger, Command)}
        return MODE_COMMANDS[self.mode] & known

    def fire(self, trigger: Trigger) -> Transition[State, Trigger]:
        """Take a command, or note state complete.

        Raises:
            CommandRefused: state or mode does not take it; says which commands would be taken.
        """
        if isinstance(trigger, Command) and trigger not in MODE_COMMANDS[self.mode]:
            raise CommandRefused(trigger, self.state, f"not in mode {self.mode.name}")
        try:
            return self._machine.fire(trigger)
        except TransitionRefused as error:
            raise CommandRefused(trigger, self.state, self._why(trigger)) from error

    def set_mode(self, mode: Mode) -> None:
        """Change the mode; to the present one changes nothing.

        Raises:
            CommandRefused: a mode changes only in Stopped, Idle or Aborted.
        """
        if mode is not self.mode and self.state not in MODE_CHANGE_STATES:
            names = ", ".join(state.name for state in sorted(MODE_CHANGE_STATES))
            raise CommandRefused(mode, self.state, f"a mode changes only in {names}")
        self.mode = mode

    def on_change(self, listener: Callable[[Transition[State, Trigger]], None]) -> Callable[[], None]:
        """Call ``listener`` after every change of state; returns how to stop that. Listeners may not fire."""
        return self._machine.on_change(listener)

    def _why(self, trigger: Trigger) -> str:
        if isinstance(trigger, Internal):
            return "the state does not end by itself"
        names = ", ".join(command.name for command in sorted(self.allowed()))
        return f"the state takes {names}" if names else "the state takes no command"


def _event(trigger: Enum) -> str:
    """Name a trigger for transitions; the prefix keeps it from hiding a method of the holder."""
    return f"on_{trigger.name.lower()}"


def diagram(table: Mapping[tuple[S, T], S], initial: S, leave_out: Iterable[T] = ()) -> str:
    """Return a mermaid state diagram of a table, without the triggers in ``leave_out``."""
    hidden = set(leave_out)
    lines = ["stateDiagram-v2", f"    [*] --> {initial.name}"]
    lines += [
        f"    {source.name} --> {target.name}: {trigger.name}"
        for (source, trigger), target in table.items()
        if trigger not in hidden
    ]
    return "\n".join(lines)


def transition_rows() -> list[tuple[State, dict[Trigger, State]]]:
    """Return the PackML table by state, for pages and tests."""
    return [(state, {t: target for (s, t), target in TRANSITIONS.items() if s is state}) for state in STATES]
