"""What positioning axes, lock banks and connectors have in common: the command handshake by id, and the heartbeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from hal.profiles import RegisterMap
from sim_hw.codec import ExcCode, Values
from sim_hw.plant import Clock

Done = Callable[[], None]
Act = Callable[[str, Values, Done], str | None]

_CYCLE_S = 0.02  # of the controllers whose cycle heartbeat_out counts


class CommandDesk:
    """Takes commands by id: accepted or refused with a reason at once, done when the plant says so.

    ``act(command, holding values, done)`` does it and returns the name of a refusal or None. ``at_rest`` tells when
    a stop is done.
    """

    def __init__(self, profile: RegisterMap, act: Act, at_rest: Callable[[], bool]) -> None:
        self._commands = {code: name for name, code in profile.registers["command"].values.items()}
        self._refusals: Mapping[str, int] = profile.registers["refusal"].values
        self._act = act
        self._at_rest = at_rest
        self.held: dict[str, float] = {}  # what was last written to the holding rows
        self._last_id = 0
        self._stop_id = 0
        self._accepted_id = 0
        self._refused_id = 0
        self._refusal = 0
        self._done_id = 0

    def take(self, written: Values) -> None:
        """Take written holding rows. A command counts when its id changed; a stop counts always."""
        self.held.update(written)
        self._settle_stop()
        command_id = int(self.held.get("command_id", 0))
        name = self._commands.get(int(self.held.get("command", 0)))
        if command_id in {0, self._last_id}:
            if name == "stop" and "command" in written:
                self._act(name, self.held, _nobody_waits)
            return
        self._last_id = command_id
        refusal = self._run(name, command_id)
        if refusal is None:
            self._accepted_id = command_id
        else:
            self._refused_id, self._refusal = command_id, self._refusals[refusal]

    def _run(self, name: str | None, command_id: int) -> str | None:
        if name is None:
            return "unknown_command"
        if name == "none":
            self._done(command_id)
            return None
        if name == "stop":
            self._stop_id = command_id
            return self._act(name, self.held, _nobody_waits)
        return self._act(name, self.held, partial(self._done, command_id))

    def _done(self, command_id: int) -> None:
        self._done_id = command_id

    def _settle_stop(self) -> None:
        if self._stop_id and self._at_rest():
            self._done_id, self._stop_id = self._stop_id, 0

    def values(self) -> Values:
        """Return the rows of the handshake."""
        self._settle_stop()
        return {
            "accepted_id": self._accepted_id,
            "refused_id": self._refused_id,
            "refusal": self._refusal,
            "done_id": self._done_id,
        }


def _nobody_waits() -> None:
    """Be the ``done`` of a stop, which is done when the device is at rest."""


class Heartbeat:
    """The station's counter, which feeds the unit's devices when it changes, and the controller's own counter."""

    def __init__(self, clock: Clock, feeds: Sequence[Callable[[], None]]) -> None:
        self._clock = clock
        self._feeds = feeds
        self._last = 0.0

    def write(self, written: Values) -> ExcCode | None:
        """Take the station's counter."""
        counter = written["heartbeat"]
        if counter != self._last:
            self._last = counter
            for feed in self._feeds:
                feed()
        return None

    def counter(self) -> int:
        """Return the controller's own counter, which advances with time."""
        return int(self._clock.time() / _CYCLE_S) & 0xFFFF


def bits(profile: RegisterMap, row: str, **flags: bool) -> int:
    """Return a word of flags; the profile's ``values`` of the row are bit numbers."""
    numbers = profile.registers[row].values
    return sum(1 << numbers[name] for name, is_set in flags.items() if is_set)
