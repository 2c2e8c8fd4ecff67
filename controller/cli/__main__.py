"""swapctl: arguments in, one answer out, an exit code that a script can act on.

Nothing here or in what it imports at the start is slow to load; ``config check`` alone brings in the controller's
own modules, when it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from controller.cli import render
from controller.cli.client import Client, NotReachable, RequestFailed, TimedOut

OK, FAILED, USAGE, NOT_REACHABLE, INTERLOCK, PERMISSION, TIMED_OUT, UNKNOWN, BAD_CONFIG = 0, 1, 2, 3, 4, 5, 6, 7, 78
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

EXIT_CODES = {
    "failed": FAILED,
    "usage": USAGE,
    "not_found": USAGE,
    "refused": INTERLOCK,
    "interlock": INTERLOCK,
    "permission": PERMISSION,
    "timeout": TIMED_OUT,
    "unknown_outcome": UNKNOWN,
}

NEXT = {
    "refused": "see the units' states: swapctl status",
    "interlock": "see the inputs: swapctl io; and the devices: swapctl devices",
    "permission": "ask somebody in the technicians' or operators' group of the station file",
    "timeout": "see what it does: swapctl status",
    "unknown_outcome": "it may have happened: look at the station before you try again",
    "failed": "see the log: journalctl -u swap-station",
}

DEFAULT_SOCKET = "/run/swap-station/station.sock"
READ_LIMIT_S = 5.0
COMMAND_LIMIT_S = 90.0  # above the longest of the service itself: a stop waits for the step that runs

EPILOG = """exit codes: 0 ok, 1 failed, 2 usage, 3 not reachable, 4 refused by interlock or
state, 5 refused by permission, 6 timed out, 7 outcome unknown, 78 bad
configuration, 130 interrupted.
Stop and abort are allowed to everybody who can open the socket.
The emergency stop is the red button, not this tool."""


class Request(NamedTuple):
    """A subcommand that is one request: what it asks, how its answer is shown, how long it may take."""

    method: str
    show: Callable[[render.Screen, render.Row], list[str]]
    limit_s: float


READS = {
    "status": Request("status", render.status, READ_LIMIT_S),
    "slots": Request("slots", render.slots, READ_LIMIT_S),
    "devices": Request("devices", render.devices, READ_LIMIT_S),
    "io": Request("io", render.io, READ_LIMIT_S),
    "bus": Request("bus", render.bus, READ_LIMIT_S),
}
COMMANDS = {
    "start": Request("start", render.commanded, COMMAND_LIMIT_S),
    "stop": Request("stop", render.commanded, COMMAND_LIMIT_S),
    "abort": Request("abort", render.commanded, COMMAND_LIMIT_S),
    "clear": Request("clear", render.commanded, COMMAND_LIMIT_S),
    "reset": Request("reset", render.commanded, COMMAND_LIMIT_S),
}
SWAP_START = Request("swap_start", render.started, COMMAND_LIMIT_S)

HELP = {
    "status": "units, swaps, running steps, faults, uplink, health",
    "slots": "every place: pack, charge, charger, connector",
    "devices": "every device: state, age and quality of its reading",
    "io": "every input and output",
    "bus": "every bus and line: state, error counters",
    "start": "go on with what is open, from Idle (PackML Start): THIS MOVES THE MACHINE",
    "stop": "end motion in order (PackML Stop)",
    "abort": "end motion at once (PackML Abort)",
    "clear": "after an abort: Aborted to Stopped; moves and energises nothing",
    "reset": "warn, look at every place, energise the drives, be ready",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of all arguments."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--json", action="store_true", help="one JSON document (watch: one per line) with a schema key"
    )
    shared.add_argument("--socket", metavar="PATH", help=f"default: $SWAP_STATION_SOCKET, else {DEFAULT_SOCKET}")
    shared.add_argument("--timeout", type=_positive, metavar="S", help="seconds to wait for an answer")
    top = argparse.ArgumentParser(
        prog="swapctl",
        description="Look at and command a battery-swap station, on site.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in READS:
        sub.add_parser(name, help=HELP[name], parents=[shared])
    for name in COMMANDS:
        sub.add_parser(name, help=HELP[name], parents=[shared]).add_argument("--unit", help="default: every unit")
    swap = sub.add_parser("swap", help="start a swap, or watch").add_subparsers(
        dest="swap_command", required=True, metavar="COMMAND"
    )
    start = swap.add_parser("start", help="order a swap: THIS MOVES THE MACHINE", parents=[shared])
    start.add_argument("--dock", required=True)
    start.add_argument(
        "--goal", action="append", type=_goal, default=[], metavar="MOUNT=GOAL", help="fresh, keep, empty or add"
    )
    watch = swap.add_parser("watch", help="events as they happen, until a swap ends or Ctrl-C", parents=[shared])
    watch.add_argument("--swap", metavar="ID", help="end with this swap only")
    config = sub.add_parser("config", help="check a station file").add_subparsers(
        dest="config_command", required=True, metavar="COMMAND"
    )
    check = config.add_parser("check", help="every mistake at once, and whether a swap can be completed")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--json", action="store_true", help="one JSON document")
    return top


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise argparse.ArgumentTypeError("must be above 0 and below 86400 seconds")
    return value


def _goal(text: str) -> tuple[str, str]:
    mount, _, goal = text.partition("=")
    if not mount or not goal:
        raise argparse.ArgumentTypeError("must be MOUNT=GOAL, for example mount_a=fresh")
    return mount, goal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter must not end the tool
    options = parser().parse_args(arguments)
    try:
        code = _run(options, os.environ)
    except NotReachable as error:
        return _complain(NOT_REACHABLE, str(error))
    except TimedOut as error:
        acted = options.command not in READS
        return _complain(TIMED_OUT, str(error), hint="it may still act: swapctl status" if acted else "")
    except RequestFailed as error:
        return _complain(EXIT_CODES.get(error.kind, FAILED), error.message, error.details, NEXT.get(error.kind, ""))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has had enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _complain(code: int, message: str, details: Sequence[str] = (), hint: str = "") -> int:
    more = [f"  {detail}" for detail in details if detail not in message]  # nothing is said twice
    lines = [f"swapctl: {message}", *more, *([f"  next: {hint}"] if hint else [])]
    sys.stderr.write("".join(f"{render.clean(line)}\n" for line in lines))
    return code


def _run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    if options.command == "config":
        return _check(options.file, as_json=options.json)
    path = options.socket or environment.get("SWAP_STATION_SOCKET") or DEFAULT_SOCKET
    screen = render.Screen(environment)
    if options.command == "swap" and options.swap_command == "watch":
        return _watch(options, path, screen)
    if options.command == "swap":
        request, params = SWAP_START, {"dock": options.dock, "goals": dict(options.goal) or None}
    elif options.command in READS:
        request, params = READS[options.command], {}
    else:
        request, params = COMMANDS[options.command], {"unit": options.unit}
    with Client(path, options.timeout or request.limit_s) as client:
        answer = client.ask(request.method, params)
    _print([json.dumps(answer)] if options.json else request.show(screen, answer))
    return OK


def _print(lines: Sequence[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _watch(options: argparse.Namespace, path: str, screen: render.Screen) -> int:
    """First how things stand, then every event; ends with the swap, or at once if the one to wait for is not open."""
    with Client(path, options.timeout or READ_LIMIT_S) as client:
        answer = client.ask("watch", {})
        swaps = render.open_swaps(answer)
        if options.swap and options.swap not in swaps:
            raise RequestFailed(
                "not_found", f"swap {options.swap} is not open", [f"open: {', '.join(swaps) or 'none'}"]
            )
        _print([json.dumps(answer)] if options.json else render.watching(screen, answer))
        began_at: object = None
        for event in client.events():
            began_at = event.get("at") if began_at is None else began_at
            shown = {"schema": "swap-station/event/1", **event}
            _print([json.dumps(shown) if options.json else render.event(screen, event, began_at)])
            ended = event.get("type") == "swap" and bool(event.get("result"))
            if ended and options.swap in {None, event.get("swap_id")}:
                return OK if event.get("result") == render.DONE else FAILED
    return NOT_REACHABLE


def _check(file: str, *, as_json: bool) -> int:
    """Load and prove a station file. Slow to import, hence here."""
    from pathlib import Path  # noqa: PLC0415 - see the module's docstring

    from controller.config import ConfigError, load_station  # noqa: PLC0415 - the same
    from controller.model.reachability import check_station  # noqa: PLC0415 - the same

    problems: list[dict[str, str]] = []
    unreachable: list[str] = []
    try:
        unreachable = check_station(load_station(Path(file)).layout())
    except ConfigError as error:
        problems = [{"key_path": problem.key_path, "message": problem.message} for problem in error.errors]
    good = not problems and not unreachable
    if as_json:
        body = {"schema": "swap-station/config-check/1", "file": file, "ok": good}
        _print([json.dumps({**body, "problems": problems, "unreachable": unreachable})])
    elif good:
        _print([f"{file}: good; the station can finish a swap from every state it can get into"])
    else:
        texts = [
            f"{each['key_path']}: {each['message']}" if each["key_path"] else each["message"] for each in problems
        ]
        count = len(texts) + len(unreachable)
        _complain(BAD_CONFIG, f"{file}: {count} mistake{'' if count == 1 else 's'}", [*texts, *unreachable])
    return OK if good else BAD_CONFIG


if __name__ == "__main__":
    sys.exit(main())
