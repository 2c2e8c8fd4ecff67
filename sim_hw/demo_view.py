"""What the demo shows: a live screen on a terminal, plain lines elsewhere, and the summary at the end."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO, cast

from controller.app import StationApp
from controller.events import Event, PackEvent, StepEvent, SwapEvent, UnitEvent
from sim_hw.clock import ScaledLoop
from sim_hw.plant import Plant

FRAME_S = 0.2  # of wall time, between two pictures
WIDTH = 80
BAR = 24
HAND_OVER_S = 0.5  # a step that begins later than this after another was not waiting for it
CLEAR, HOME = "\x1b[2J", "\x1b[H"
HIDE, SHOW = "\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h"  # the cursor; and no wrapping: what is too wide is cut
BOLD, DIM, GREEN, RESET = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[0m"
PHASES = ("admitted", "docking", "unlocking", "exchanging", "locking", "releasing", "handing_off")


class View(Protocol):
    """Something that shows a demo."""

    def take(self, event: Event) -> None:
        """Note an event of the controller."""
        ...

    async def follow(self, app: StationApp, plant: Plant) -> None:
        """Show, until cancelled."""
        ...


class PlainView:
    """One line per change, without control codes; nothing at all when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def take(self, event: Event) -> None:
        """Print what a person would want to hear."""
        text = _said(event)
        if text and not self._quiet:
            print(f"{event.at:8.1f} s  {text}", flush=True)  # noqa: T201 - a command's own output

    async def follow(self, app: StationApp, plant: Plant) -> None:
        """Have nothing to follow: the events say it all."""
        del app, plant
        await asyncio.Event().wait()


def _said(event: Event) -> str:  # noqa: PLR0911 - one line per kind of event
    match event:
        case SwapEvent() if event.result:
            return f"{event.swap_id} {event.result} {event.detail}".rstrip()
        case SwapEvent():
            return f"{event.swap_id} {event.phase}"
        case UnitEvent():
            return f"{event.unit} {event.state} ({event.cause})"
        case PackEvent():
            return f"{event.pack}: {event.origin or 'vehicle'} -> {event.destination or 'vehicle'}"
        case StepEvent() if event.state == "done":
            return f"  {event.kind} {event.place or event.dock} {event.elapsed_s:.1f} s"
        case StepEvent() if event.state == "failed":
            return f"  {event.kind} {event.place or event.dock} FAILED: {event.detail}"
    return ""


class LiveView:
    """A picture that is drawn anew a few times a second: phases, places, what moves, elapsed against expected."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._phases: dict[str, str] = {}
        self._steps: dict[tuple[str, str], StepEvent] = {}
        self._last = ""

    def take(self, event: Event) -> None:
        """Note an event for the next picture."""
        match event:
            case SwapEvent() if event.result:
                self._phases[event.dock] = event.result
            case SwapEvent():
                self._phases[event.dock] = event.phase
            case StepEvent() if event.state == "started":
                self._steps[event.kind, event.place] = event
            case StepEvent() if event.state in {"done", "failed"}:
                self._steps.pop((event.kind, event.place), None)
                if event.state == "failed":
                    self._last = f"{event.kind} failed: {event.detail}"
            case PackEvent():
                self._last = _said(event)

    async def follow(self, app: StationApp, plant: Plant) -> None:
        """Draw until cancelled; then leave the cursor below the last picture, visible."""
        await app.ready.wait()
        loop = asyncio.get_running_loop()
        speed = loop.speed if isinstance(loop, ScaledLoop) else 1.0
        self._out.write(HIDE + CLEAR)
        try:
            while True:
                rows = shutil.get_terminal_size().lines - 1  # one more and the picture would scroll
                lines = self.picture(app, plant, loop.time())[:rows]
                self._out.write(HOME + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
                self._out.flush()
                await asyncio.sleep(FRAME_S * speed)
        finally:
            self._out.write(SHOW)
            self._out.flush()

    def picture(self, app: StationApp, plant: Plant, now: float) -> list[str]:
        """Return the lines of one picture."""
        units = ", ".join(f"{u.unit_id} {u.state.name}" for u in app.station.units.values())
        lines = [f"{BOLD}{app.config.station.name}{RESET}   {now:6.1f} s   {units}", ""]
        for dock in app.config.docks:
            lines += [self._phase_line(dock), *_dock_lines(dock, app, plant), ""]
        lines += [*_slot_lines(app), ""]
        lines += [_axis_line(d, plant) for d in plant.axes] + [""]
        for step in self._steps.values():
            elapsed_s = now - step.at
            share = min(1.0, elapsed_s / step.expected_s) if step.expected_s else 1.0
            done = round(share * BAR)
            where = f"{step.kind} {step.place or step.dock}"
            bar = "#" * done + "." * (BAR - done)
            lines.append(f"  {where:<38} [{bar}] {elapsed_s:4.1f} of {step.expected_s:.0f} s")
        return [*lines, "", f"  {self._last}"]

    def _phase_line(self, dock: str) -> str:
        now = self._phases.get(dock, "")
        shown = [f"{BOLD}{GREEN}{p}{RESET}" if p == now else f"{DIM}{p}{RESET}" for p in PHASES]
        return f"{dock}: " + " > ".join(shown) + (f"  {BOLD}{now.upper()}{RESET}" if now not in PHASES else "")


def _dock_lines(dock: str, app: StationApp, plant: Plant) -> list[str]:
    layout = app.layout.docks[dock]
    vehicle = plant.vehicles[dock]
    who = vehicle.vehicle_id if vehicle is not None else "no vehicle"
    inventory = app.station.parts.ledger.inventory
    cells = [
        f"{place.rsplit('.', 1)[-1]} [{inventory.at(place) or '-':^12}]" for place in (*layout.mounts, *layout.tables)
    ]
    return [f"  {who:<12} " + "  ".join(cells)]


def _slot_lines(app: StationApp) -> list[str]:
    places: Sequence[Mapping[str, Any]] = app.service.slots()["places"]  # type: ignore[assignment]  # by the schema
    cells = []
    for row in places:
        if row["kind"] == "slot":
            soc = "" if row["soc_pct"] is None else f"{row['soc_pct']:.0f}%"
            cells.append(f"{row['place']} {row['pack'] or '-':<9} {soc:>4} {_charge(row):<8}")
    return [f"  {a}| {b}" for a, b in zip(cells[::2], [*cells[1::2], ""][: len(cells[::2])], strict=True)][:14]


def _charge(row: Mapping[str, Any]) -> str:
    if row["charger"] == "charging":
        return f"{row['current_a']:.0f} A"
    return "" if row["pack"] is None else str(row["connector"] or "")


def _axis_line(device: str, plant: Plant) -> str:
    axis, spec = plant.axes[device], plant.station.devices[device]
    low, high = cast("tuple[float, float]", spec.settings["range_mm"])  # checked by the station file's reader
    at = round((axis.position_mm - low) / (high - low) * (BAR - 1))
    track = "".join("O" if i == at else "-" for i in range(BAR))
    moving = f"{BOLD}moving{RESET}" if axis.moving else axis.state.name.lower()
    return f"  {device:<22} |{track}| {axis.position_mm:7.1f} mm {moving}"


# --- summary ----------------------------------------------------------------------------------------


def summary(document: Mapping[str, Any]) -> str:
    """Return the closing page: result, timeline of all steps, packs before and after, dead time."""
    lines = ["", f"result: {document['result']}"]
    if document["swap_s"] is not None:
        lines.append(
            f"swap {document['swap_s']:.1f} s from vehicle in place to released; "
            f"critical path {document['critical_path_s']:.1f} s, dead time {document['dead_time_s']:.2f} s"
        )
    lines += ["", *timeline(document["steps"]), "", f"{'pack':<16}{'from':<20}to"]
    moved = [p for p in document["packs"] if p["from"] != p["to"]]
    lines += [f"{p['id']:<16}{p['from']:<20}{p['to']}" for p in moved]
    stayed = [p["id"] for p in document["packs"] if p["from"] == p["to"]]
    lines += [f"stayed: {', '.join(stayed)}"] if stayed else []
    lines += [f"PHYSICS VIOLATED: {violation}" for violation in document["violations"]]
    return "\n".join(lines)


def timeline(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a row per step: when it ran, and after which step it began (whom it waited for)."""
    if not steps:
        return ["no step was run"]
    rows = sorted(steps, key=lambda s: (s["start"], s["end"]))
    begin, end = rows[0]["start"], max(s["end"] for s in rows)
    scale = (WIDTH - 44) / max(end - begin, 1e-9)
    lines = [f"{'step':<20} {'at':<16}{'s':>5}  timeline, {end - begin:.0f} s"]
    for row in rows:
        left, length = round((row["start"] - begin) * scale), max(1, round((row["end"] - row["start"]) * scale))
        mark = "#" if row["state"] == "done" else "x"
        lines.append(
            f"{row['name']:<20} {row['place']:<16}{row['end'] - row['start']:5.1f}  {' ' * left}{mark * length}"
        )
    waits = [text for text in (_began_after(row, rows) for row in rows) if text]
    return [*lines, "", "who waited for whom (steps of one carrier in a row are left out):", *waits]


def _began_after(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Name what let this step begin, where that is not the step before it of the same carrier."""
    before = [r for r in rows if r["end"] <= row["start"] + HAND_OVER_S / 10]
    if not before:
        return ""
    last = max(before, key=lambda r: r["end"])
    gap_s = max(0.0, row["start"] - last["end"])
    who = f"  {row['name']} {row['place']}"
    if gap_s > HAND_OVER_S:
        return f"{who:<36} for the vehicle or a reading, {gap_s:.1f} s after {last['name']} {last['place']}"
    same_carrier = _carrier(row) == _carrier(last)
    return "" if same_carrier else f"{who:<36} for {last['name']} {last['place']}, then {gap_s:.2f} s"


def _carrier(row: Mapping[str, Any]) -> str:
    """Whose step it is: a device's unit and kind, such as ``dock1.shuttle``, ``stacker`` or ``slot04``."""
    device = str(row["device"]).split(",", maxsplit=1)[0]
    head, _, role = device.partition(".")
    return head if head == "stacker" else f"{head}.{role.split('_')[0]}" if head.startswith("dock") else head
