"""Puts answers into tables for people: 80 columns on a terminal, nothing cut and no colour in a pipe.

What comes from devices is shown without control characters, and a key that an older or newer controller does not
send is shown as a dash.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

COLUMNS = 80
GAP = "  "
DONE = "done"  # a swap's good result, as events have it
_COLOURS = {"bad": "31", "warn": "33", "good": "32", "head": "1"}

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], object]]


class Screen:
    """Where text goes and how: colour and width by what standard output is."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        terminal = sys.stdout.isatty()
        self.width = _terminal_columns() if terminal else None
        self.colour = terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"

    def paint(self, text: str, tone: str) -> str:
        """Return ``text`` in a tone (bad, warn, good, head), where colours are shown at all."""
        return f"\x1b[{_COLOURS[tone]}m{text}\x1b[0m" if self.colour and tone in _COLOURS else text

    def table(
        self, columns: Sequence[Column], rows: Iterable[Row], tone: Callable[[Row], str] = lambda _: ""
    ) -> list[str]:
        """Return the lines of a table. On a terminal the last column is cut where the line would wrap."""
        cells = [[clean(value(row)) for _, value in columns] for row in rows]
        heads = [name for name, _ in columns]
        widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(columns))]
        tones = ["head", *(tone(row) for row in rows)]
        lines = [
            GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [heads, *cells]
        ]
        return [self.paint(self.cut(line.rstrip()), each) for line, each in zip(lines, tones, strict=True)]

    def cut(self, line: str) -> str:
        """Cut a line to the terminal's width, so that a table stays one."""
        if self.width is None or len(line) <= self.width:
            return line
        return line[: self.width - 1] + "~"


def _terminal_columns() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


def clean(value: object) -> str:
    """Return a value as one line without control characters; ``-`` for nothing."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.1f}"
    text = value if isinstance(value, str) else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)


def _seconds(key: str) -> Callable[[Row], object]:
    def value(row: Row) -> object:
        seconds = row.get(key)
        if not isinstance(seconds, (int, float)):
            return None
        return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"

    return value


def _with_unit(key: str, unit: str) -> Callable[[Row], object]:
    def value(row: Row) -> object:
        number = row.get(key)
        return f"{number:.1f} {unit}" if isinstance(number, (int, float)) else None

    return value


def _plain(*keys: str) -> list[Column]:
    return [(key.upper(), lambda row, key=key: row.get(key)) for key in keys]  # type: ignore[misc] # a lambda's default has no type


def _by_quality(row: Row) -> str:
    return "" if row.get("quality") in {"good", None} else "warn"


def _rows(answer: Row, key: str) -> list[Row]:
    found = answer.get(key)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


# --- one function per answer ----------------------------------------------------------------------------------------


def status(screen: Screen, answer: Row) -> list[str]:
    """The station on one screen: units, swaps, running steps, faults, uplink and health."""
    uptime_h = float(answer.get("uptime_s") or 0) / 3600
    title = f"{clean(answer.get('station'))}: {clean(answer.get('name'))}"
    lines = [screen.paint(title, "head"), f"{clean(answer.get('version'))}, up {uptime_h:.1f} h", ""]
    unit_tones = {"ABORTED": "bad", "ABORTING": "bad", "HELD": "warn", "EXECUTE": "good", "IDLE": "good"}
    lines += screen.table(
        [*_plain("unit"), ("STATE", _unit_state), *_plain("mode", "light", "cause")],
        _rows(answer, "units"),
        lambda row: unit_tones.get(str(row.get("state")).upper(), ""),
    )
    if swaps := _rows(answer, "swaps"):
        columns = [("SWAP", lambda r: r.get("swap_id")), *_plain("dock"), ("VEHICLE", lambda r: r.get("vehicle_id"))]
        lines += ["", *screen.table([*columns, *_plain("phase"), ("SINCE", _seconds("elapsed_s"))], swaps)]
    if steps := _rows(answer, "steps"):
        columns = [("STEP", lambda r: r.get("kind")), *_plain("place", "pack"), ("TIME", _seconds("elapsed_s"))]
        lines += ["", *screen.table([*columns, ("EXPECTED", _seconds("expected_s"))], steps, _late)]
    if faults := _rows(answer, "faults"):
        columns = [
            ("FAULT", lambda r: f"{r.get('number')} {r.get('name')}"),
            *_plain("device", "effect"),
            ("NOW", _standing),
        ]
        lines += ["", *screen.table([*columns, ("AGE", _seconds("age_s"))], faults, lambda _: "bad")]
        advice = dict.fromkeys(clean(fault["what_to_do"]) for fault in faults if fault.get("what_to_do"))
        lines += [screen.cut(f"  -> {text}") for text in advice]  # each once, first-out first
    latched = answer.get("latched")
    if isinstance(latched, dict) and latched:
        lines += ["", screen.paint(screen.cut(f"stop latched on {len(latched)} devices: {_reasons(latched)}"), "bad")]
    return [*lines, "", *_host(screen, answer)]


def _unit_state(row: Row) -> str:
    number = row.get("state_no")
    return f"{clean(row.get('state'))} ({number})" if number is not None else clean(row.get("state"))


def _standing(row: Row) -> object:
    present = row.get("present")
    return None if present is None else "there" if present else "gone, latched"


def _late(row: Row) -> str:
    expected_s, elapsed_s = row.get("expected_s"), row.get("elapsed_s")
    if not isinstance(expected_s, (int, float)) or not isinstance(elapsed_s, (int, float)):
        return ""
    return "warn" if elapsed_s > expected_s else ""


def _reasons(latched: Mapping[str, object]) -> str:
    return ", ".join(sorted({clean(reason) for reason in latched.values()}))


def _host(screen: Screen, answer: Row) -> list[str]:
    uplink, health = answer.get("uplink"), answer.get("health")
    lines = []
    if isinstance(uplink, dict):
        counts = f"{uplink.get('pending', 0)} waiting, {uplink.get('dropped', 0)} dropped"
        text = f"uplink {clean(uplink.get('state'))}, {counts}"
        error = uplink.get("last_error")
        lines.append(screen.cut(text + (f": {clean(error)}" if error else "")))
    if isinstance(health, dict):
        problems = [clean(problem) for problem in health.get("problems") or []]
        lines += [screen.paint(screen.cut(f"health: {problem}"), "warn") for problem in problems] or ["health ok"]
    return lines


def slots(screen: Screen, answer: Row) -> list[str]:
    """Every place, with its pack, charger and connector."""
    return screen.table(
        [
            *_plain("place", "pack"),
            ("SEEN", lambda r: r.get("present")),
            ("SOC", _with_unit("soc_pct", "%")),
            ("TEMP", _with_unit("temperature_c_max", "C")),
            *_plain("charger"),
            ("CURRENT", _with_unit("current_a", "A")),
            *_plain("connector"),  # a terminal of 80 columns ends here
            ("RESERVED", lambda r: r.get("reserved_for")),
            ("VOLTAGE", _with_unit("voltage_v", "V")),
            ("AGE", _seconds("age_s")),
        ],
        _rows(answer, "places"),
        lambda r: "bad" if r.get("pack") == "UNKNOWN" else "",
    )


def devices(screen: Screen, answer: Row) -> list[str]:
    """Every device, with its reading."""

    def value(row: Row) -> str:
        fields = row.get("value")
        if not isinstance(fields, dict):
            return clean(fields)
        return " ".join(f"{name}={clean(field)}" for name, field in fields.items())

    columns = [*_plain("device", "lifecycle", "quality"), ("AGE", _seconds("age_s")), *_plain("latched")]
    return screen.table([*columns, ("VALUE", value)], _rows(answer, "devices"), _by_quality)


def io(screen: Screen, answer: Row) -> list[str]:
    """Every input and output."""
    levels = {0: "off", 1: "on", 2: "flashing"}
    inputs = [("INPUT", lambda r: r.get("name")), *_plain("value", "quality"), ("AGE", _seconds("age_s"))]
    outputs: list[Column] = [
        ("OUTPUT", lambda r: r.get("name")),
        ("VALUE", lambda r: levels.get(r.get("value", -1), r.get("value"))),
        *_plain("device"),
    ]
    return [
        *screen.table(
            [*inputs, ("STABLE", _seconds("stable_s")), *_plain("device")], _rows(answer, "inputs"), _by_quality
        ),
        "",
        *screen.table(outputs, _rows(answer, "outputs")),
    ]


def bus(screen: Screen, answer: Row) -> list[str]:
    """Every link, with its counters."""

    def counters(row: Row) -> str:
        found = row.get("counters")
        return " ".join(f"{name}={clean(count)}" for name, count in found.items()) if isinstance(found, dict) else ""

    columns = [*_plain("link", "kind", "state"), ("SINCE", _seconds("age_s")), ("COUNTERS", counters)]
    lines = screen.table(columns, _rows(answer, "links"), lambda r: "" if r.get("state") == "up" else "bad")
    errors = [row for row in _rows(answer, "links") if row.get("last_error")]
    return [*lines, *(screen.cut(f"{clean(r.get('link'))}: last error: {clean(r['last_error'])}") for r in errors)]


def started(screen: Screen, answer: Row) -> list[str]:
    """A swap that was accepted."""
    del screen
    return [
        f"swap {clean(answer.get('swap_id'))} accepted at {clean(answer.get('dock'))}; follow it: swapctl swap watch"
    ]


def commanded(screen: Screen, answer: Row) -> list[str]:
    """Where the units are after a command."""
    return screen.table([*_plain("unit"), ("STATE", _unit_state)], _rows(answer, "units"))


def open_swaps(answer: Row) -> list[str]:
    """Ids of the swaps that are open when a watch begins."""
    status = answer.get("status")
    return [clean(row.get("swap_id")) for row in _rows(status, "swaps")] if isinstance(status, dict) else []


def watching(screen: Screen, answer: Row) -> list[str]:
    """How things stand when a watch begins, and how it ends."""
    given = answer.get("status")
    status = given if isinstance(given, dict) else {}
    units = ", ".join(f"{clean(row.get('unit'))} {_unit_state(row)}" for row in _rows(status, "units"))
    swaps = [_swap(row) for row in _rows(status, "swaps")] or ["no swap is open; Ctrl-C ends the watch"]
    return [screen.cut(units or "-"), *(screen.cut(swap) for swap in swaps)]


def event(screen: Screen, body: Row, began_at: object = None) -> str:
    """One event as one line, with the seconds since ``began_at``, an instant of the same clock."""
    kind = str(body.get("type"))
    words = _EVENTS[kind](body) if kind in _EVENTS else clean(kind)
    detail = body.get("detail") or body.get("cause")
    since_s = float(body.get("at") or 0) - (began_at if isinstance(began_at, (int, float)) else 0.0)
    line = f"{since_s:8.1f} s  {words}" + (f": {clean(detail)}" if detail else "")
    return screen.paint(screen.cut(line), _event_tone(body))


def _event_tone(body: Row) -> str:
    if body.get("state") in {"failed", "raised"}:
        return "bad"
    result = body.get("result")
    if not result:
        return ""
    return "good" if result == DONE else "bad"


def _swap(row: Row) -> str:
    where = f"swap {clean(row.get('swap_id'))} at {clean(row.get('dock'))}"
    return f"{where} ended {clean(row['result'])}" if row.get("result") else f"{where} {clean(row.get('phase'))}"


def _step(row: Row) -> str:
    took = "" if row.get("state") == "started" else f" after {clean(row.get('elapsed_s'))} s"
    place = clean(row.get("place") or row.get("dock"))
    expected = f", expected {clean(row.get('expected_s'))} s"
    return f"step {clean(row.get('kind'))} {place} {clean(row.get('state'))}{took}{expected}"


def _fault(row: Row) -> str:
    name = f"{row.get('number')} {clean(row.get('name'))}"
    return f"fault {name} {clean(row.get('device'))} {clean(row.get('state'))}"


def _pack(row: Row) -> str:
    if not row.get("origin"):
        return f"pack {clean(row.get('pack'))} arrived in {clean(row.get('destination'))}"
    if not row.get("destination"):
        return f"pack {clean(row.get('pack'))} left from {clean(row.get('origin'))}"
    return f"pack {clean(row.get('pack'))} {clean(row.get('origin'))} -> {clean(row.get('destination'))}"


_EVENTS: Mapping[str, Callable[[Row], str]] = {
    "swap": _swap,
    "step": _step,
    "unit": lambda row: f"unit {clean(row.get('unit'))} {_unit_state(row)}",
    "fault": _fault,
    "pack": _pack,
}
