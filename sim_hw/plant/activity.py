"""Who moved or worked when, and how much of a swap nobody on its path did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A device moved or processed from ``start`` to ``end`` (loop time)."""

    device: str
    kind: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class SwapWindow:
    """One vehicle's stay: stopped in place, started to drive off (None: still there)."""

    dock: str
    vehicle_id: str
    in_place_at: float
    released_at: float | None = None


@dataclass(frozen=True, slots=True)
class SwapMeasure:
    """What a swap took. ``dead_time_s``: no device on the swap's path moved; the rest is ``critical_path_s``."""

    swap_s: float
    critical_path_s: float
    dead_time_s: float
    gaps: tuple[tuple[float, float], ...]


class Activity:
    """Intervals of everything that moved or processed, pack moves, and vehicles' stays."""

    def __init__(self) -> None:
        self.intervals: list[Interval] = []
        self.pack_moves: list[tuple[float, str, str, str]] = []  # (at, serial, origin, destination)
        self.windows: list[SwapWindow] = []
        self._open: dict[str, tuple[str, float]] = {}

    def begin(self, device: str, kind: str, at: float) -> None:
        """A device starts; one that is busy already ends its earlier act here."""
        self.end(device, at)
        self._open[device] = (kind, at)

    def end(self, device: str, at: float) -> None:
        """A device stands still; harmless if it already does."""
        started = self._open.pop(device, None)
        if started is not None and at > started[1]:
            self.intervals.append(Interval(device, started[0], started[1], at))

    def vehicle_in_place(self, dock: str, vehicle_id: str, at: float) -> None:
        """Open a stay."""
        self.windows.append(SwapWindow(dock, vehicle_id, at))

    def vehicle_released(self, dock: str, at: float) -> None:
        """Close the dock's stay."""
        for index in range(len(self.windows) - 1, -1, -1):
            window = self.windows[index]
            if window.dock == dock and window.released_at is None:
                self.windows[index] = SwapWindow(dock, window.vehicle_id, window.in_place_at, at)
                return

    def everything(self, now: float) -> tuple[Interval, ...]:
        """Return all intervals, those still running cut off at ``now``, by start and then device."""
        running = [Interval(device, kind, start, now) for device, (kind, start) in self._open.items()]
        return tuple(sorted([*self.intervals, *running], key=lambda item: (item.start, item.device)))

    def critical_path(self, window: SwapWindow, now: float) -> SwapMeasure:
        """Measure a stay (up to ``now`` if the vehicle is still there).

        On the path are the dock's own devices and its vehicle, and the store's devices while they work on a
        transfer that this dock gets from or gives to the stacker: walking backward from the release, a moment is
        covered if one of those moved, and dead if none did.
        """
        start, end = window.in_place_at, window.released_at if window.released_at is not None else now
        intervals = self.everything(now)
        own = [(item.start, item.end) for item in intervals if item.device.startswith(f"{window.dock}.")]
        store = [item for item in intervals if _of_store(item.device)]
        spans = _merged([*own, *self._transfers(window, end, store)], start, end)
        edges = [start, *(edge for span in spans for edge in span), end]
        gaps = tuple((a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a)
        dead_s = sum(b - a for a, b in gaps)
        return SwapMeasure(end - start, end - start - dead_s, dead_s, gaps)

    def _transfers(self, window: SwapWindow, end: float, store: list[Interval]) -> Iterable[tuple[float, float]]:
        """Yield the store's intervals that belong to transfers at the dock's tables during the stay.

        A fetch (fork → table) owns what ran without a pause before it; a store (table → fork) what brought the
        fork there, and, until the fork is out of the table, what follows.
        """
        for at, _serial, origin, destination in self.pack_moves:
            fetched, stored = destination.startswith(f"{window.dock}."), origin.startswith(f"{window.dock}.")
            at_stacker = "stacker.fork" in (origin, destination)
            if not at_stacker or not (fetched or stored) or not window.in_place_at <= at <= end:
                continue
            yield from _chain_before(store, at)
            yield from _chain_after(store, at)


_PAUSE_S = 1.0  # a chain of motions of one transfer has no longer pause than this


def _of_store(device: str) -> bool:
    return device.startswith(("stacker.", "slot"))


def _chain_before(store: list[Interval], at: float) -> Iterable[tuple[float, float]]:
    """Walk back from ``at`` over intervals that follow one another without a pause."""
    edge = at
    for item in sorted(store, key=lambda item: -item.end):
        if item.start < at and item.end >= edge - _PAUSE_S:
            yield item.start, item.end
            edge = min(edge, item.start)


def _chain_after(store: list[Interval], at: float) -> Iterable[tuple[float, float]]:
    """Take what the stacker does from ``at`` until the fork is out of the table: set down, retract."""
    fork = [item for item in store if item.device == "stacker.fork" and item.start >= at - _PAUSE_S]
    if fork:
        yield fork[0].start, fork[0].end
    yield from (
        (item.start, item.end) for item in store if item.device == "stacker.z" and item.start <= at <= item.end
    )


def _merged(spans: Iterable[tuple[float, float]], start: float, end: float) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for a, b in sorted((max(a, start), min(b, end)) for a, b in spans):
        if b <= a:
            continue
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(b, merged[-1][1]))
        else:
            merged.append((a, b))
    return merged
