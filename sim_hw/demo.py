"""``python -m sim_hw demo``: the simulated station and its controller, one vehicle per dock, a summary at the end.

The controller is the one that runs in a station, on the same drivers. At a numeric speed the two talk over real
loopback sockets under a clock that runs that many times faster; at ``max`` over in-process wires under a virtual one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.app import StationApp, Wires
from controller.config import ConfigError, StationConfig, load_station
from controller.events import Event, PackEvent, StepEvent, SwapEvent, UnitEvent
from controller.local.protocol import ServiceRefused
from sim_hw.clock import ScaledLoop, run_virtual
from sim_hw.demo_view import LiveView, PlainView, View, summary
from sim_hw.hardware import SimulatedHardware
from sim_hw.plant import PhysicsViolation
from sim_hw.station_file import StationFile, StationFileError, read_station
from sim_hw.world import World, WorldError, load_world, world_path

DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / "deploy" / "stations" / "demo.toml"
SPEED = 16.0  # about 15 s of wall time for the demo station
HEARD_LIMIT_S = 30.0
SWAP_LIMIT_S = 900.0  # of station time; a swap takes about 240 with handing off
EXIT_FAILED, EXIT_USAGE, EXIT_CONFIG = 1, 2, 78


@dataclass(slots=True)
class Story:
    """What happened, collected from the controller's events."""

    began_at: float
    steps: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)  # swap → result
    details: dict[str, str] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)  # pack → place where it was first seen
    last: dict[str, str] = field(default_factory=dict)
    stuck: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    expected: int = 0
    armed: bool = False

    def take(self, event: Event) -> None:
        """Note one event."""
        match event:
            case StepEvent() if event.state in {"done", "failed"}:
                self.steps.append(
                    {
                        "name": event.kind,
                        "device": ", ".join(event.devices) or event.place,
                        "place": event.place or event.dock,
                        "pack": event.pack,
                        "start": round(event.at - event.elapsed_s - self.began_at, 3),
                        "end": round(event.at - self.began_at, 3),
                        "expected_s": event.expected_s,
                        "state": event.state,
                        "detail": event.detail,
                    }
                )
            case PackEvent():
                self.first.setdefault(event.pack, event.origin or "vehicle")
                self.last[event.pack] = event.destination or "vehicle"
            case SwapEvent() if event.result:
                self.results[event.swap_id] = event.result
                self.details[event.swap_id] = event.detail
                if len(self.results) >= self.expected:
                    self.ended.set()
            case UnitEvent() if self.armed and event.state in {"HELD", "ABORTED", "STOPPED"}:
                self.stuck = f"{event.unit} is {event.state}: {event.cause}"
                self.ended.set()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo has to show for itself."""

    document: dict[str, Any]
    ok: bool


def main(argv: list[str]) -> int:
    """Run the demo; returns the exit code."""
    args = _arguments().parse_args(argv)
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    try:
        config, station = load_station(args.config), read_station(args.config)
        world = load_world(args.world or world_path(station.station_id), args.seed)
    except (ConfigError, StationFileError, WorldError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's own output
        return EXIT_CONFIG
    view: View = PlainView(quiet=args.json)
    if sys.stdout.isatty() and not args.json:
        view = LiveView(sys.stdout)
    with tempfile.TemporaryDirectory(prefix="swap-demo-") as scratch:
        config = _in_scratch(config, Path(scratch))
        try:
            outcome = _run(args.speed, lambda: _demo(config, station, world, view, sockets=args.speed is not None))
        except OSError as error:
            print(f"demo: {error}; is another simulated station running?", file=sys.stderr)  # noqa: T201 - the same
            return EXIT_FAILED
        except KeyboardInterrupt:
            return 130
    if args.json:
        print(json.dumps(outcome.document))  # noqa: T201 - the same
    else:
        print(summary(outcome.document))  # noqa: T201 - the same
    return 0 if outcome.ok else EXIT_FAILED


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim_hw demo", description="a whole swap on a simulated station")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="station file")
    parser.add_argument("--world", type=Path, metavar="FILE", help="world file; else the packaged one")
    parser.add_argument("--seed", type=int, metavar="N", help="of all noise; else the world file's")
    parser.add_argument("--speed", type=_speed, default=SPEED, metavar="N|max", help=f"times real time ({SPEED:.0f})")
    parser.add_argument("--json", action="store_true", help="one JSON document, nothing else")
    return parser


def _speed(text: str) -> float | None:
    """Return the factor; None for ``max``."""
    if text == "max":
        return None
    value = float(text)
    if not 0.1 <= value <= 100.0:
        raise argparse.ArgumentTypeError("a speed is 0.1 to 100, or max")
    return value


def _in_scratch(config: StationConfig, scratch: Path) -> StationConfig:
    """Journal and socket in a folder of the demo's own: each demo starts with a station nobody has used.

    The groups of a station's people need not exist on the computer that shows it.
    """
    own_api = {"socket": scratch / "station.sock", "operators_group": None, "technicians_group": None}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"directory": scratch / "data"}),
            "local_api": config.local_api.model_copy(update=own_api),
            "mqtt": None,
        }
    )


def _run(speed: float | None, demo: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    if speed is None:
        return run_virtual(demo())
    with asyncio.Runner(loop_factory=lambda: ScaledLoop(speed)) as runner:
        return runner.run(demo())


async def _demo(config: StationConfig, station: StationFile, world: World, view: View, *, sockets: bool) -> Outcome:
    loop = asyncio.get_running_loop()
    hardware = SimulatedHardware(station, world)
    wires = Wires() if sockets else Wires({"open_bus": hardware.open_bus, "open_client": hardware.open_client})
    app = StationApp(config, wires)
    story = Story(began_at=loop.time(), expected=len(config.docks))
    app.events.subscribe(story.take)
    app.events.subscribe(view.take)
    async with hardware.on_sockets() if sockets else hardware.in_process():
        running = loop.create_task(app.run(), name="controller")
        watching = loop.create_task(view.follow(app, hardware.plant), name="view")
        running.add_done_callback(lambda _task: story.ended.set())
        try:
            await _swap_everywhere(app, hardware, story)
        except (ServiceRefused, PhysicsViolation, TimeoutError) as error:
            story.stuck = str(error) or type(error).__name__
        finally:
            for task in (watching, running):
                task.cancel()
            await asyncio.wait({watching, running})
    if not running.cancelled() and running.exception() is not None:
        story.stuck = story.stuck or str(running.exception())
    return _outcome(hardware, story, loop.time())


async def _swap_everywhere(app: StationApp, hardware: SimulatedHardware, story: Story) -> None:
    """Start the station as a person would, let a vehicle come to each dock, and wait for all swaps to end."""
    ready = asyncio.get_running_loop().create_task(app.ready.wait())
    ended = asyncio.get_running_loop().create_task(story.ended.wait())
    await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    ready.cancel()
    if story.ended.is_set():
        return
    await app.service.reset(None)
    story.armed = True
    for place in app.service.slots()["places"]:  # type: ignore[attr-defined] # a list, by the schema
        if place["pack"]:
            story.first[place["pack"]] = story.last[place["pack"]] = place["place"]
    for dock in app.config.docks:
        hardware.plant.bring_vehicle(dock)
        async with asyncio.timeout(HEARD_LIMIT_S):
            await app.station.parts.observer.refresh([f"{dock}.vehicle"])
            while not app.station.vehicle_heard(dock):
                await app.station.parts.observer.refresh([f"{dock}.vehicle"])
        await app.service.swap_start(dock, None)
    async with asyncio.timeout(SWAP_LIMIT_S):
        await story.ended.wait()


def _outcome(hardware: SimulatedHardware, story: Story, now: float) -> Outcome:
    plant = hardware.plant
    measures = {w.dock: plant.activity.critical_path(w, now) for w in plant.activity.windows}
    worst = max(measures.values(), key=lambda m: m.swap_s, default=None)
    done = len(story.results) == story.expected and all(r == "done" for r in story.results.values())
    violations = [str(v) for v in plant.violations]
    result = (
        "done" if done and not violations else (story.stuck or ", ".join(story.results.values()) or "not finished")
    )
    document = {
        "schema": "swap-station/demo/1",
        "result": result,
        "swap_s": round(worst.swap_s, 3) if worst else None,
        "critical_path_s": round(worst.critical_path_s, 3) if worst else None,
        "dead_time_s": round(worst.dead_time_s, 3) if worst else None,
        "swaps": [
            {"dock": dock, "swap_s": round(m.swap_s, 3), "dead_time_s": round(m.dead_time_s, 3)}
            for dock, m in measures.items()
        ],
        "steps": story.steps,
        "packs": [{"id": pack, "from": story.first[pack], "to": story.last[pack]} for pack in sorted(story.first)],
        "violations": violations,
    }
    return Outcome(document, done and not violations)
