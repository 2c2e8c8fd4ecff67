"""``python -m sim_hw demo`` as a newcomer, a script and a pipe see it."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.processes import QUICK_WORLD, ROOT, TwoProcesses, ran

KEYS = {"schema", "result", "swap_s", "critical_path_s", "dead_time_s", "steps", "packs", "violations"}
HIDE, SHOW, HOME = "\x1b[?25l", "\x1b[?25h", "\x1b[H"
LIMIT_S = 50.0


async def test_json_is_one_document_with_the_whole_story() -> None:
    """At ``--speed max --json`` one document says that the swap is done, by which steps, and where the packs went."""
    result = await ran("sim_hw", "demo", "--speed", "max", "--json")
    assert (result.code, result.err) == (0, "")
    document = result.document
    assert set(document) >= KEYS
    assert (document["schema"], document["result"], document["violations"]) == ("swap-station/demo/1", "done", [])
    assert 0.0 <= document["dead_time_s"] < document["critical_path_s"] <= document["swap_s"] < 150.0
    assert {"unlock_pack", "lock_pack", "release_vehicle", "start_charger"} <= {s["name"] for s in document["steps"]}
    for step in document["steps"]:
        assert step["device"]
        assert 0.0 <= step["start"] <= step["end"]
    ways = {pack["id"]: (pack["from"], pack["to"]) for pack in document["packs"]}
    (fresh,) = [pack for pack, (origin, end) in ways.items() if end == "vehicle" and origin.startswith("slot")]
    (old,) = [pack for pack, (origin, end) in ways.items() if origin == "vehicle" and end.startswith("slot")]
    stayed = {origin == end for pack, (origin, end) in ways.items() if pack not in {fresh, old}}
    assert stayed == {True}


async def test_what_is_no_terminal_gets_plain_lines() -> None:
    """In a pipe every line is printable text: phases and steps as they happen, then the summary."""
    result = await ran("sim_hw", "demo", "--speed", "max", "--world", str(QUICK_WORLD))
    assert (result.code, result.err) == (0, "")
    assert all(line.isprintable() for line in result.out.splitlines())
    for words in ("swap-1 unlocking", "unlock_pack dock1.mount_a", "swap-1 done", "result: done", "stayed: "):
        assert words in result.out


class Terminal:
    """A demo on a terminal of its own."""

    def __init__(self, process: asyncio.subprocess.Process, handle: int) -> None:
        self.process = process
        self._handle = handle
        self._heard = asyncio.Event()
        self.shown = ""
        asyncio.get_running_loop().add_reader(handle, self._read)

    @classmethod
    async def start(cls, *arguments: str) -> Terminal:
        """Start the demo with these arguments."""
        handle, its_end = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sim_hw", "demo", *arguments),
            cwd=ROOT,
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(its_end)
        return cls(process, handle)

    def _read(self) -> None:
        try:
            self.shown += os.read(self._handle, 65_536).decode()
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(self._handle)
        self._heard.set()

    async def until(self, fits: Callable[[str], bool]) -> None:
        """Wait until what was shown fits."""
        async with asyncio.timeout(LIMIT_S):
            while not fits(self.shown):
                self._heard.clear()
                await self._heard.wait()

    async def end(self) -> int:
        """Wait for the end; returns the exit code."""
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self.process.wait()
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            asyncio.get_running_loop().remove_reader(self._handle)
            with suppress(OSError):
                while rest := os.read(self._handle, 65_536):
                    self.shown += rest.decode()
            os.close(self._handle)


async def test_on_a_terminal_the_swap_is_drawn_live_over_real_sockets(tmp_path: Path) -> None:
    """At ``--speed 40`` pictures follow one another, the cursor comes back, and the swap ends done."""
    terminal = await Terminal.start("--speed", "40", "--config", str(TwoProcesses(tmp_path).file))
    assert await terminal.end() == 0, terminal.shown[-2000:]
    assert terminal.shown.count(HOME) > 10
    assert terminal.shown.index(HIDE) < terminal.shown.rindex(SHOW) < terminal.shown.index("result: done")
    for words in ("dock1.shuttle_lift", "unlock_pack dock1.mount_a", "handing_off", "slot01"):
        assert words in terminal.shown


async def test_ctrl_c_leaves_a_terminal_as_it_was(tmp_path: Path) -> None:
    """An interrupt in mid-picture shows the cursor again and ends with 130 and no trace."""
    terminal = await Terminal.start("--speed", "10", "--config", str(TwoProcesses(tmp_path).file))
    await terminal.until(lambda shown: shown.count(HOME) > 2)
    terminal.process.send_signal(signal.SIGINT)
    assert await terminal.end() == 130
    assert terminal.shown.rindex(SHOW) > terminal.shown.rindex(HIDE)
    assert "Traceback" not in terminal.shown


async def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    """With one of its ports taken the demo ends with 1 and says which and why, in one line."""
    station = TwoProcesses(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", station.plc_port))
        taken.listen()
        result = await ran("sim_hw", "demo", "--config", str(station.file))
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert line.startswith("demo: ")
    assert "in use" in line
    assert str(station.plc_port) in line
