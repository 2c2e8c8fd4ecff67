"""``python -m controller --config FILE``: the controller, as systemd runs it. Arguments, logging, exit codes."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from controller.app import VERSION, StationApp
from controller.config import ConfigError, load_station
from controller.local.roles import UnknownGroup
from controller.local.server import SocketTaken
from controller.logs import JournalFormatter
from controller.records.database import StoreError

EXIT_OK, EXIT_FAILED, EXIT_CONFIG = 0, 1, 78


def main(argv: list[str] | None = None) -> int:
    """Run the controller until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m controller", description="battery-swap station controller")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="station file")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--version", action="version", version=f"swap-station {VERSION}")
    args = parser.parse_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalFormatter())
    logging.basicConfig(level=args.log_level.upper(), handlers=[handler])
    logging.getLogger("transitions").setLevel(logging.WARNING)  # the units tell their states themselves
    try:
        config = load_station(args.config)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the person who started it
        return EXIT_CONFIG
    try:
        asyncio.run(_serve(StationApp(config)))
    except (StoreError, SocketTaken, UnknownGroup) as error:
        logging.getLogger(__name__).error("not started: %s", error)  # noqa: TRY400 - the sentence says it all
        return EXIT_FAILED
    return EXIT_OK


async def _serve(app: StationApp) -> None:
    """Run until a signal asks for the end; then let everything wind up, axes stopped."""
    loop = asyncio.get_running_loop()
    serving = loop.create_task(app.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return  # as asked, by a signal: nobody else cancels this task


if __name__ == "__main__":
    sys.exit(main())
