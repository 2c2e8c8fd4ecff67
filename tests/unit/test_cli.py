from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller.cli import render
from controller.cli.__main__ import EXIT_CODES, main
from controller.local.protocol import ErrorKind, ServiceRefused
from controller.local.roles import RoleTable
from controller.local.server import LocalServer
from controller.model.phases import SwapResult
from hal.errors import NoReply
from tests.support.api import TinyStation, until

SWAPCTL = [sys.executable, "-m", "controller.cli"]
SLOW_MODULES = {
    "pydantic",
    "pymodbus",
    "can",
    "cantools",
    "transitions",
    "aiomqtt",
    "asyncio",
    "sqlite3",
    "dataclasses",
}


@dataclass
class Ran:
    """How a run of swapctl ended."""

    code: int
    out: str
    err: str


class Bench:
    """A served station and a way to run swapctl against it in a process of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.station = TinyStation()
        self.server = LocalServer(path, self.station, RoleTable({}), self.audit)

    async def audit(self, record: Mapping[str, object]) -> None:
        """Audit nothing."""

    async def run(self, *arguments: str, **environment: str) -> Ran:
        """Run swapctl to its end."""
        process = await self.start(*arguments, **environment)
        out, err = await process.communicate()
        return Ran(process.returncode or 0, out.decode(), err.decode())

    async def start(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        """Start swapctl with this bench's socket in its environment."""
        return await asyncio.create_subprocess_exec(
            *SWAPCTL,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "SWAP_STATION_SOCKET": str(self.path), **environment},
        )


@pytest.fixture(name="bench")
async def _bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "s.sock")
    async with made.server.serving():
        yield made


@pytest.mark.parametrize("command", ["status", "slots", "devices", "io", "bus"])
async def test_reads_print_json_and_tables(bench: Bench, command: str) -> None:
    """Each read prints exactly the service's document with --json; in a pipe plain lines, no control codes."""
    as_json = await bench.run(command, "--json")
    assert as_json.code == 0
    assert json.loads(as_json.out) == getattr(bench.station, command)()
    plain = await bench.run(command)
    assert plain.code == 0
    assert plain.err == ""
    assert "\x1b" not in plain.out
    assert plain.out.isascii()
    assert len(plain.out.splitlines()) >= 2


async def test_tables_say_what_matters(bench: Bench) -> None:
    """State with number, step against expectation, state of charge, ages, counters: with units, in the tables."""
    bench.station.faults = [
        {
            "number": 101,
            "name": "estop",
            "device": "dock1.safety",
            "effect": "SAFE_STOP",
            "age_s": 3.0,
            "what_to_do": "re-arm",
        }
    ]
    status = (await bench.run("status")).out
    for words in ("EXECUTE (6)", "lock_pack", "14.0 s", "101 estop", "-> re-arm", "uplink online", "health ok"):
        assert words in status
    slots = (await bench.run("slots")).out
    for words in ("83.5 %", "80.0 A", "engaged", "UNKNOWN"):
        assert words in slots
    assert "position_mm=180.0" in (await bench.run("devices")).out
    assert "timeouts=2" in (await bench.run("bus")).out


async def test_commands_do_as_they_say(bench: Bench) -> None:
    """Each command reaches the service with its arguments and prints what it answered."""
    started = await bench.run("swap", "start", "--dock", "dock1", "--goal", "mount_a=fresh", "--json")
    assert json.loads(started.out)["swap_id"] == "swap-1"
    for name in ("start", "stop", "abort", "clear", "reset"):
        assert (await bench.run(name, "--unit", "dock1")).code == 0
    assert "dock1" in (await bench.run("stop")).out
    assert bench.station.asked == [
        ("swap_start", ("dock1", {"mount_a": "fresh"})),
        *[(name, "dock1") for name in ("start", "stop", "abort", "clear", "reset")],
        ("stop", None),
    ]


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (ServiceRefused(ErrorKind.INTERLOCK, "cannot move", ["gate open", "door open"]), 4, "gate open"),
        (ServiceRefused(ErrorKind.REFUSED, "dock1 is busy"), 4, "dock1 is busy"),
        (ServiceRefused(ErrorKind.PERMISSION, "needs technician"), 5, "technician"),
        (ServiceRefused(ErrorKind.TIMEOUT, "still stopping"), 6, "still stopping"),
        (NoReply("dock1.clamp", "stop", "silence"), 7, "may have happened"),
        (RuntimeError("bug"), 1, "journalctl"),
    ],
)
async def test_each_kind_of_failure_has_its_exit_code(
    bench: Bench, failure: Exception, code: int, words: str
) -> None:
    """A refused or failed command ends with its exit code, nothing on stdout, and what and what next on stderr."""
    bench.station.failure = failure
    ran = await bench.run("reset", "--json")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("swapctl: ")
    assert words in ran.err


async def test_an_unknown_dock_is_a_usage_error_that_lists_the_docks(bench: Bench) -> None:
    """A dock that there is not is refused with code 2 and the names that there are."""
    ran = await bench.run("swap", "start", "--dock", "dock9")
    assert ran.code == 2
    assert "dock1" in ran.err


async def test_no_controller_is_code_3_with_advice(tmp_path: Path, bench: Bench) -> None:
    """Without a controller, with a dead one's socket, or with something else at the socket: code 3 and what to do."""
    ran = await bench.run("status", "--socket", str(tmp_path / "none"))
    assert ran.code == 3
    assert "systemctl status swap-station" in ran.err

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"hello\n")
        writer.close()

    async with await asyncio.start_unix_server(babble, str(tmp_path / "other")):
        ran = await bench.run("status", "--socket", str(tmp_path / "other"))
    assert ran.code == 3
    assert "no station controller" in ran.err


async def test_a_controller_that_does_not_answer_is_code_6(bench: Bench) -> None:
    """With --timeout a command that takes longer ends with code 6 and says that it may still act."""
    bench.station.gate = asyncio.Event()
    ran = await bench.run("reset", "--timeout", "0.2")
    assert ran.code == 6
    assert "may still act" in ran.err
    bench.station.gate.set()


async def test_watch_ends_with_the_swap(bench: Bench) -> None:
    """Watch prints how things stand, then each event, and ends with its swap: 0 when done, 1 when not."""
    for result, code in ((SwapResult.DONE, 0), (SwapResult.HELD, 1)):
        process = await bench.start("swap", "watch", "--json", "--swap", "swap-1")
        await until(lambda: bool(bench.station.listeners))
        bench.station.tell({"type": "unit", "at": 1.0, "unit": "dock1", "state": "EXECUTE", "state_no": 6})
        bench.station.tell(
            {"type": "swap", "at": 2.0, "swap_id": "swap-2", "dock": "d", "phase": "x", "result": SwapResult.DONE}
        )
        bench.station.tell(
            {"type": "swap", "at": 3.0, "swap_id": "swap-1", "dock": "d", "phase": "x", "result": result}
        )
        out, _ = await process.communicate()
        first, *events = [json.loads(line) for line in out.splitlines()]
        assert process.returncode == code
        assert first == {"schema": "swap-station/watch/1", "status": bench.station.status()}
        assert [event["type"] for event in events] == ["unit", "swap", "swap"]
        assert {event["schema"] for event in events} == {"swap-station/event/1"}
        await until(lambda: not bench.station.listeners)


async def test_watch_tells_people_how_it_stands_and_when_things_happen(bench: Bench) -> None:
    """In a pipe: the units, the open swap, then events with the seconds since the first of them."""
    process = await bench.start("swap", "watch")
    await until(lambda: bool(bench.station.listeners))
    moved = {"type": "pack", "pack": "P1", "origin": "slot01", "destination": "stacker.fork"}
    bench.station.tell({"at": 5001.5, **moved})
    bench.station.tell({"at": 5003.0, **moved, "origin": "dock1.mount_a", "destination": ""})
    bench.station.tell({"type": "swap", "at": 5004.0, "swap_id": "swap-1", "dock": "dock1", "result": "done"})
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().splitlines() == [
        "dock1 EXECUTE (6)",
        "swap swap-1 at dock1 LOCKING",
        "     0.0 s  pack P1 slot01 -> stacker.fork",
        "     1.5 s  pack P1 left from dock1.mount_a",
        "     2.5 s  swap swap-1 at dock1 ended done",
    ]


async def test_a_watch_for_a_swap_that_is_not_open_does_not_wait(bench: Bench) -> None:
    """It ends at once with code 2 and names the swaps that are open, instead of waiting for ever."""
    ran = await bench.run("swap", "watch", "--swap", "swap-7")
    assert ran.code == 2
    assert "swap-7 is not open" in ran.err
    assert "open: swap-1" in ran.err


async def test_watch_ends_on_ctrl_c_with_130(bench: Bench) -> None:
    """An interrupt ends a watch with 130 and no trace."""
    process = await bench.start("swap", "watch")
    await until(lambda: bool(bench.station.listeners))
    process.send_signal(2)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert err == b""


async def test_watch_says_when_the_controller_stops(tmp_path: Path) -> None:
    """A watch whose controller goes away ends with code 3."""
    bench = Bench(tmp_path / "s.sock")
    async with bench.server.serving():
        process = await bench.start("swap", "watch")
        await until(lambda: bool(bench.station.listeners))
    _, err = await process.communicate()
    assert process.returncode == 3
    assert b"closed the connection" in err


async def test_a_closed_pipe_ends_quietly(bench: Bench) -> None:
    """Output into a pipe that nobody reads any more ends without a trace."""
    command = f"{sys.executable} -m controller.cli swap watch --json | head -n 1"
    process = await asyncio.create_subprocess_shell(
        command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "SWAP_STATION_SOCKET": str(bench.path)},
    )
    await until(lambda: bool(bench.station.listeners))
    task = asyncio.create_task(process.communicate())
    while not task.done():
        bench.station.tell({"type": "unit", "at": 1.0})
        await asyncio.wait({task}, timeout=0.02)
    out, err = task.result()
    assert out.count(b"\n") == 1
    assert err == b""
    await until(lambda: not bench.station.listeners)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["explode"],
        ["swap"],
        ["swap", "start"],
        ["swap", "start", "--dock", "d", "--goal", "mount_a"],
        ["status", "--timeout", "0"],
        ["status", "--timeout", "soon"],
        ["config", "check"],
    ],
)
def test_bad_arguments_are_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is no command ends with code 2 and says how it is used, before anything is asked of a station."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: swapctl" in capsys.readouterr().err


def test_every_error_of_the_api_has_an_exit_code() -> None:
    """No kind of error that the API can answer with is without an exit code of its own meaning."""
    assert set(EXIT_CODES) == {kind.value for kind in ErrorKind}


@pytest.mark.parametrize(
    ("colour", "environment"), [(True, {}), (False, {"NO_COLOR": "1"}), (False, {"TERM": "dumb"})]
)
async def test_on_a_terminal_lines_fit_and_no_color_is_honoured(
    bench: Bench, colour: bool, environment: dict[str, str]
) -> None:
    """On a terminal of 80 columns no line is longer; colour is there unless NO_COLOR or a dumb terminal says no."""
    text = await _on_terminal(
        [*SWAPCTL, "devices"], {"SWAP_STATION_SOCKET": str(bench.path), "TERM": "xterm", **environment}
    )
    assert ("\x1b[" in text) is colour
    for code in ("\x1b[1m", "\x1b[0m", "\x1b[31m", "\x1b[32m", "\x1b[33m"):
        text = text.replace(code, "")
    assert text.startswith("DEVICE")
    assert max(len(line) for line in text.splitlines()) <= 80


def test_what_devices_say_cannot_drive_the_terminal() -> None:
    """Control characters out of a serial or an error text are shown as question marks, on one line."""
    assert render.clean("PK\x1b[2J\n1\x07") == "PK?[2J?1?"
    assert [render.clean(value) for value in (None, "", True, False, 1.25, 3)] == ["-", "-", "on", "off", "1.2", "3"]


def test_answers_of_other_versions_are_shown_as_far_as_they_go() -> None:
    """Every view copes with an empty answer and with rows that lack every key."""
    screen = render.Screen({})
    views: list[Any] = [
        render.status,
        render.slots,
        render.devices,
        render.io,
        render.bus,
        render.commanded,
        render.started,
    ]
    keys = ("units", "swaps", "steps", "faults", "places", "devices", "inputs", "outputs", "links")
    for view in views:
        assert view(screen, {})
        assert view(screen, {key: [{}, 5] for key in keys} | {"latched": {"a": "why"}, "uplink": {}, "health": {}})
    for kind in ("swap", "step", "unit", "fault", "pack", "other", None):
        assert render.event(screen, {"type": kind})


def test_swapctl_loads_nothing_slow() -> None:
    """Importing the tool brings in none of the controller's heavy libraries."""
    script = "import sys; import controller.cli.__main__; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert SLOW_MODULES & {name.split(".")[0] for name in out.split()} == set()


def test_a_good_station_file_is_told_and_a_bad_one_lists_every_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``config check`` ends with 0 for the demo station; with two mistakes with 78 and both, as text and as JSON."""
    demo = Path(__file__).parents[2] / "deploy" / "stations" / "demo.toml"
    assert main(["config", "check", str(demo)]) == 0
    assert "good" in capsys.readouterr().out
    assert main(["config", "check", str(demo), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    bad = tmp_path / "bad.toml"
    text = demo.read_text().replace("port = 15021", 'port = "x"').replace("timeout_s = 0.25", "timeout = 0.25")
    bad.write_text(text)
    assert main(["config", "check", str(bad)]) == 78
    err = capsys.readouterr().err
    assert "links.plc.port" in err
    assert "links.safety" in err
    assert main(["config", "check", str(bad), "--json"]) == 78
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "swap-station/config-check/1"
    assert {"links.plc.port"} <= {problem["key_path"] for problem in found["problems"]}
    assert main(["config", "check", str(tmp_path / "none.toml")]) == 78
    assert "no such file" in capsys.readouterr().err


async def _on_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Run a command with a terminal of 80 columns as its standard output; returns what it wrote there."""
    controlling, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(*command, stdout=terminal, env={**os.environ, **environment})
    os.close(terminal)
    pieces: list[bytes] = []
    done = asyncio.Event()

    def read() -> None:
        piece = b""
        with contextlib.suppress(OSError):  # EIO: the last writer has closed the terminal
            piece = os.read(controlling, 65_536)
        pieces.append(piece)
        if not piece:
            asyncio.get_running_loop().remove_reader(controlling)
            done.set()

    asyncio.get_running_loop().add_reader(controlling, read)
    async with asyncio.timeout(20):
        await done.wait()
        await process.wait()
    os.close(controlling)
    return b"".join(pieces).decode().replace("\r\n", "\n")
