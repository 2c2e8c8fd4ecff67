"""``python -m sim_hw``: ``run`` the simulated hardware of a station, or start the ``demo``."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sim_hw.clock import ScaledLoop
from sim_hw.hardware import SimulatedHardware
from sim_hw.plant import PhysicsViolation
from sim_hw.station_file import StationFile, StationFileError, read_station
from sim_hw.world import World, WorldError, load_world, world_path

EXIT_OK, EXIT_FAILED, EXIT_BAD_CONFIGURATION = 0, 1, 78
_LOOK_FOR_SPACE_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code. ``demo`` parses its own arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] == "demo":
        # Imported only here: it alone of this package knows the controller.
        module = importlib.import_module("sim_hw.demo")
        code: int = module.main(arguments[1:])
        return code
    return _run(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim_hw", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="serve a station's simulated hardware on its file's loopback addresses")
    run.add_argument("--config", type=Path, required=True, metavar="FILE", help="station file")
    run.add_argument("--world", type=Path, metavar="FILE", help="world file; default: that of the station's id")
    run.add_argument("--seed", type=int, help="replaces the world file's seed")
    run.add_argument("--speed", type=_positive, default=1.0, metavar="X", help="times real time; default 1")
    run.add_argument(
        "--vehicle-every",
        type=_positive,
        metavar="S",
        help="bring a vehicle to each free dock, S simulated seconds after the last one left; default: bring none",
    )
    run.add_argument(
        "--on-site",
        action="store_true",
        help="turn the on-site key switch: after a safety trip Clear and Reset want somebody to stand there",
    )
    commands.add_parser("demo", help="a whole swap, live; see demo --help")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _run(options: argparse.Namespace) -> int:
    try:
        station = read_station(options.config)
        world = load_world(options.world or world_path(station.station_id), options.seed)
    except (StationFileError, WorldError) as error:
        print(f"sim_hw: {error}", file=sys.stderr)  # noqa: T201  # a command's own output
        return EXIT_BAD_CONFIGURATION
    factory = asyncio.SelectorEventLoop if options.speed == 1.0 else lambda: ScaledLoop(options.speed)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_serve(station, world, options.vehicle_every, on_site=options.on_site))


async def _serve(station: StationFile, world: World, vehicle_every_s: float | None, *, on_site: bool) -> int:
    """Serve until SIGINT or SIGTERM (0), or until the plant reports a broken law or cannot listen (1)."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    def report(context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, PhysicsViolation):
            print(f"sim_hw: {error}", file=sys.stderr)  # noqa: T201  # a command's own output
            end(EXIT_FAILED)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(lambda _loop, context: report(context))
    with ExitStack() as signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end, EXIT_OK)
            signals.callback(loop.remove_signal_handler, number)
        hardware = SimulatedHardware(station, world)
        for zone in hardware.plant.safety.values():
            zone.key_on_site = on_site
        try:
            async with hardware.on_sockets(), asyncio.TaskGroup() as group:
                visitors = group.create_task(_bring_vehicles(hardware, vehicle_every_s))
                print(f"sim_hw: {station.station_id} ready", flush=True)  # noqa: T201  # what starters wait for
                code = await ended
                visitors.cancel()
                return code
        except (OSError, ValueError) as error:
            print(f"sim_hw: {error}", file=sys.stderr)  # noqa: T201  # a command's own output
            return EXIT_FAILED


async def _bring_vehicles(hardware: SimulatedHardware, every_s: float | None) -> None:
    """Keep the docks visited: ``every_s`` after a dock became free the next vehicle sets out."""
    if every_s is None:
        return
    plant = hardware.plant
    number = 0
    free_since: dict[str, float] = {}
    while True:
        now = asyncio.get_running_loop().time()
        for dock in plant.station.docks:
            if plant.vehicles[dock] is not None:
                free_since.pop(dock, None)
            elif now - free_since.setdefault(dock, now) >= every_s:
                number += 1
                vehicle = plant.bring_vehicle(dock, f"SIM-{number:05d}")
                way_s = plant.world.vehicles.approach_s
                text = f"sim_hw: {vehicle.vehicle_id} comes to {dock}, heard now, in place in {way_s:.0f} s"
                print(text, flush=True)  # noqa: T201  # a command's own output
        await asyncio.sleep(_LOOK_FOR_SPACE_S)


if __name__ == "__main__":
    sys.exit(main())
