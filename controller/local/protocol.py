"""What the local API offers, and the words that go over its socket.

The socket carries JSON, one object per line, UTF-8. A request is ``{"id": 1, "method": "status", "params": {}}``; its
answer ``{"id": 1, "ok": true, "result": {...}}`` or ``{"id": 1, "ok": false, "error": {"kind": ..., "message": ...,
"details": [...]}}``. After ``watch`` was answered, every event follows as ``{"id": 1, "event": {...}}`` until the
client closes. Every result has a ``schema`` key; a reader must ignore keys that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol


class ErrorKind(StrEnum):
    """Why a request was not carried out. swapctl turns each into an exit code."""

    FAILED = "failed"  # tried, and it did not work
    REFUSED = "refused"  # the station's state does not allow it
    INTERLOCK = "interlock"  # a requirement of safe motion is not met; ``details`` lists each
    PERMISSION = "permission"  # the caller's role does not allow it
    NOT_FOUND = "not_found"  # no such dock, unit or mount; ``details`` lists those that there are
    TIMEOUT = "timeout"
    UNKNOWN_OUTCOME = "unknown_outcome"  # it may have happened: look before trying again
    USAGE = "usage"  # not a request that this API knows


class ServiceRefused(Exception):
    """The station does not carry out a request. ``message``: one sentence; ``details``: its particulars."""

    def __init__(self, kind: ErrorKind, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.details = tuple(details)


class StationService(Protocol):
    """What a running station offers to the people on site. The composition root implements it.

    Every dict is JSON. ``age_s`` is how old a reading is (null: never read), ``quality`` as hal.types.Quality,
    ``value`` null when nothing was ever read. The reads are immediate and touch no device.
    """

    def status(self) -> dict[str, object]:
        """Return ``swap-station/status/1``: the station on one screen.

        ``station`` (id), ``name``, ``version``, ``utc``, ``uptime_s``;
        ``units``: list of {unit, state, state_no, mode, cause, light};
        ``swaps``: list of {swap_id, dock, vehicle_id, phase, elapsed_s};
        ``steps``: list of running {kind, dock, place, pack, swap_id, devices, elapsed_s, expected_s};
        ``faults``: list of {number, name, device, effect, age_s, present (false: over, but latched), acked,
        detail, what_to_do}, first-out first;
        ``latched``: device → reason of the stop;
        ``uplink``: null, or {state, pending, dropped, last_error};
        ``health``: {ok, problems, loop_lag_s_max, disk_free_mib, cpu_c}.
        """
        ...

    def slots(self) -> dict[str, object]:
        """Return ``swap-station/slots/1``: every resting place.

        ``places``: list of {place, kind (slot | quarantine | table | mount), pack (serial, null: empty, "UNKNOWN"),
        present, reserved_for, soc_pct, temperature_c_max, charger (state), voltage_v, current_a, connector
        (engaged | disengaged | moving), age_s, quality}; a key that a place has no device for is null.
        """
        ...

    def devices(self) -> dict[str, object]:
        """Return ``swap-station/devices/1``: every device.

        ``devices``: list of {device, kind, link, lifecycle, quality, age_s, latched (reason or ""), value (object of
        the reading's fields)}.
        """
        ...

    def io(self) -> dict[str, object]:
        """Return ``swap-station/io/1``: every named input and output.

        ``inputs``: list of {name, device, value, age_s, quality, stable_s};
        ``outputs``: list of {name, device, value (0 off, 1 on, 2 flashing)}.
        """
        ...

    def bus(self) -> dict[str, object]:
        """Return ``swap-station/bus/1``: every link.

        ``links``: list of {link, kind, state, age_s (in this state), counters (name → number), last_error}.
        """
        ...

    async def swap_start(self, dock: str, goals: Mapping[str, str] | None) -> dict[str, object]:
        """Order a swap and return once it is accepted and on disk. Starts motion.

        Args:
            dock: id of the dock.
            goals: mount → goal (fresh, keep, empty, add); mounts as ``mount_a`` or ``dock1.mount_a``. None: every
                mount gets what the vehicle's arrival calls for.

        Returns:
            ``swap-station/swap-start/1``: {swap_id, dock, goals}.

        Raises:
            ServiceRefused: NOT_FOUND, REFUSED (busy, no charged pack, unit not ready), INTERLOCK.
        """
        ...

    async def stop(self, unit: str | None) -> dict[str, object]:
        """PackML Stop: end motion in order. None: every unit. Returns ``swap-station/command/1``: {units}.

        Raises:
            ServiceRefused: NOT_FOUND; REFUSED, with the state that does not allow it.
        """
        ...

    async def abort(self, unit: str | None) -> dict[str, object]:
        """PackML Abort: end motion at once. Errors and result as ``stop``."""
        ...

    async def clear(self, unit: str | None) -> dict[str, object]:
        """PackML Clear: Aborted to Stopped. Moves and energises nothing. Errors and result as ``stop``."""
        ...

    async def reset(self, unit: str | None) -> dict[str, object]:
        """PackML Reset: warn, energise and home, to Idle. Moves. Errors and result as ``stop``."""
        ...

    async def start(self, unit: str | None) -> dict[str, object]:
        """PackML Start: from Idle to Execute, to go on with what the station has open. Moves.

        A swap is ordered with ``swap_start``, which starts the units by itself; this is for a hand-off of the store
        that is left after an abort when no vehicle is there. Errors and result as ``stop``.
        """
        ...

    def subscribe(self, listener: Callable[[dict[str, object]], None]) -> Callable[[], None]:
        """Call ``listener`` with every event (``Event.to_json``) from now on; returns how to stop that."""
        ...
