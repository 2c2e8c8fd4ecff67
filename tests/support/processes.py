"""A station as people run it: simulated hardware and controller as processes of their own, swapctl as a third."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "deploy" / "stations" / "demo.toml"
QUICK_WORLD = Path(__file__).with_name("quick_world.toml")
STATION_PORTS = (15021, 15022, 15023, 15024)
START_LIMIT_S = 30.0
END_LIMIT_S = 15.0
WATCH_LIMIT_S = 60.0
LOOK_AGAIN_S = 0.2


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, below those that the kernel gives to clients."""
    found: list[int] = []
    port = 20_000 + os.getpid() % 5_000
    while len(found) < count:
        port += 1
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that it printed."""
        return json.loads(self.out)


async def ran(*command: str, **environment: str) -> Ran:
    """Run a module of this project to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *command,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        async with asyncio.timeout(WATCH_LIMIT_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ran(process.returncode or 0, out.decode(), err.decode())


class Part:
    """One of the two long-lived processes. ``log`` is its standard error."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code (negative: the signal that killed it)."""
        self.process.send_signal(number)
        async with asyncio.timeout(END_LIMIT_S):
            return await self.process.wait()

    async def kill(self) -> None:
        """End it with no chance to tidy up."""
        if self.process.returncode is None:
            await self.end(signal.SIGKILL)

    def said(self) -> str:
        """What it has written to its log."""
        return self.log.read_text(encoding="utf-8")


class TwoProcesses:
    """The demo station on addresses of its own in ``folder``; ``more`` is added to its file."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        self.socket = folder / "station.sock"
        text = DEMO.read_text(encoding="utf-8")
        ports = free_ports(len(STATION_PORTS))
        self.plc_port = ports[0]
        for old, new in zip(STATION_PORTS, ports, strict=True):
            text = text.replace(f"port = {old}", f"port = {new}")
        text = text.replace("@demo.", f"@two{os.getpid()}.").replace("build/demo", str(folder))
        self.file = folder / "station.toml"
        self.file.write_text(text + more, encoding="utf-8")
        self._starts = 0

    @asynccontextmanager
    async def simulator(self, *arguments: str) -> AsyncIterator[Part]:
        """Start the simulated hardware; when the context begins it serves."""
        command = ("sim_hw", "run", "--config", str(self.file), "--world", str(QUICK_WORLD), *arguments)
        async with self._part("simulator", command, stdout=asyncio.subprocess.PIPE) as part:
            assert part.process.stdout is not None
            async with asyncio.timeout(START_LIMIT_S):
                line = await part.process.stdout.readline()
            assert line == b"sim_hw: demo ready\n", part.said()
            yield part

    @asynccontextmanager
    async def controller(self) -> AsyncIterator[Part]:
        """Start the controller; when the context begins it has told its service manager that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            address = self.folder / f"notify{self._starts}"
            manager.bind(str(address))
            manager.setblocking(False)
            command = ("controller", "--config", str(self.file))
            async with self._part("controller", command, NOTIFY_SOCKET=str(address)) as part:
                await self._told_ready(manager, part)
                yield part

    async def _told_ready(self, manager: socket.socket, part: Part) -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_task(part.process.wait())
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while True:
                    told = loop.create_task(loop.sock_recv(manager, 4096))
                    await asyncio.wait({told, ended}, return_when=asyncio.FIRST_COMPLETED)
                    if not told.done():
                        told.cancel()
                        await asyncio.wait({told})
                        raise AssertionError(f"the controller ended: {part.said()}")
                    if b"READY=1" in told.result():
                        return
        finally:
            ended.cancel()
            await asyncio.wait({ended})

    @asynccontextmanager
    async def _part(
        self, name: str, command: tuple[str, ...], *, stdout: int | None = None, **environment: str
    ) -> AsyncIterator[Part]:
        self._starts += 1
        log = self.folder / f"{name}{self._starts}.log"
        with log.open("wb") as writing:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *command,
                cwd=ROOT,
                stdout=stdout,
                stderr=writing,
                env={**os.environ, **environment},
            )
        part = Part(process, log)
        try:
            yield part
        finally:
            await part.kill()

    # --- the technician ----------------------------------------------------------------------------------------

    async def swapctl(self, *arguments: str) -> Ran:
        """Run swapctl on this station."""
        return await ran("controller.cli", *arguments, SWAP_STATION_SOCKET=str(self.socket))

    async def do(self, *arguments: str) -> Any:
        """Run swapctl with --json; it must end well. Returns its document."""
        result = await self.swapctl(*arguments, "--json")
        assert result.code == 0, (arguments, result)
        return result.document

    async def states(self) -> dict[str, str]:
        """Return unit → state."""
        return {unit["unit"]: unit["state"] for unit in (await self.do("status"))["units"]}

    async def packs(self) -> dict[str, str]:
        """Return pack → place."""
        return {row["pack"]: row["place"] for row in (await self.do("slots"))["places"] if row["pack"]}

    async def axes(self) -> dict[str, Mapping[str, Any]]:
        """Return axis → its reading's fields, once every axis is heard."""
        rows = _axes(
            await self.until("devices", lambda answer: all(row["quality"] == "good" for row in _axes(answer)))
        )
        return {row["device"]: row["value"] for row in rows}

    async def cleared_and_reset(self) -> None:
        """Bring the station from Aborted to Idle: clear, wait until nothing is wrong any more, reset."""
        await self.until("status", lambda answer: {unit["state"] for unit in answer["units"]} == {"ABORTED"})
        await self.axes()
        await self.do("clear")
        await self.until("status", lambda answer: not any(fault["present"] for fault in answer["faults"]))
        await self.do("reset")

    async def drives_without_power(self) -> None:
        """Wait until both motion controllers miss their heartbeat; asked over a raw socket."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.plc_port)
        async with asyncio.timeout(START_LIMIT_S):
            for unit in (1, 2):  # read input register 1, watchdog_tripped
                request = bytes((0, 1, 0, 0, 0, 6, unit, 4, 0, 1, 0, 1))
                answer = b""
                while answer[-1:] != b"\x01":
                    writer.write(request)
                    answer = await reader.readexactly(11)
                    await asyncio.sleep(LOOK_AGAIN_S / 10)
        writer.close()
        await writer.wait_closed()

    async def vehicle_heard(self) -> None:
        """Wait until the vehicle of dock1 is heard."""
        await self.until("devices", lambda answer: _quality(answer, "dock1.vehicle") == "good")

    async def until(self, read: str, fits: Callable[[Any], bool]) -> Any:
        """Ask a read command again and again until its document fits; returns that."""
        answer: Any = None
        try:
            async with asyncio.timeout(WATCH_LIMIT_S / 2):
                while not fits(answer := await self.do(read)):  # noqa: ASYNC110 - another process's state, no event
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            raise AssertionError(f"{read} never fitted, it is {answer}") from None
        return answer

    @asynccontextmanager
    async def watch(self, *arguments: str) -> AsyncIterator[Watch]:
        """Follow the station with ``swapctl swap watch --json``; when the context begins nothing escapes it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "controller.cli", "swap", "watch", "--json", *arguments),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "SWAP_STATION_SOCKET": str(self.socket)},
            cwd=ROOT,
        )
        watch = Watch(process)
        try:
            await watch.next()  # how things stand when the watch begins
            yield watch
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


class Watch:
    """What ``swapctl swap watch --json`` prints, line by line. ``seen``: everything so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.seen: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        """Return the next document."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, f"the watch ended; last seen: {self.seen[-5:]}"
        document: dict[str, Any] = json.loads(line)
        self.seen.append(document)
        return document

    async def until(self, **wanted: object) -> dict[str, Any]:
        """Return the first event from now on with these values."""
        try:
            async with asyncio.timeout(WATCH_LIMIT_S):
                while True:
                    event = await self.next()
                    if all(event.get(key) == value for key, value in wanted.items()):
                        return event
        except TimeoutError:
            raise AssertionError(f"{wanted} never came; last seen: {self.seen[-10:]}") from None

    async def end(self) -> int:
        """Read on to the end; returns the exit code."""
        async with asyncio.timeout(WATCH_LIMIT_S):
            assert self._process.stdout is not None
            async for line in self._process.stdout:
                self.seen.append(json.loads(line))
            return await self._process.wait()


def _axes(answer: Any) -> list[Mapping[str, Any]]:
    return [row for row in answer["devices"] if row["kind"] == "axis"]


def _quality(answer: Any, device: str) -> str:
    return str(next(row["quality"] for row in answer["devices"] if row["device"] == device))
