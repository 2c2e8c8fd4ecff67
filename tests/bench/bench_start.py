"""What the controller costs as a process: until it serves, at rest, and until a technician's command is answered."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.row import Row
from tests.support.processes import ROOT, TwoProcesses

STARTS = 3
IDLE_S = 20.0
COMMANDS = 15
START_S_MAX = 3.0
COLD_MS_MAX = 300.0  # what a person takes for at once; a small computer is a few times slower than a big one
SWAPCTL = Path(sys.executable).with_name("swapctl")


def _cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, all its threads (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    """Return the memory that a process holds (proc(5), VmRSS of status)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


def _timed_ms(*command: str | Path, **environment: str) -> float:
    """Run a command to its end and return how long that took."""
    began = time.perf_counter()
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, timeout=30.0, check=True
    )
    return 1e3 * (time.perf_counter() - began)


async def _cold_ms(station: TwoProcesses) -> tuple[float, float]:
    """Return the milliseconds of ``swapctl status`` and of a Python that does nothing, medians taken in turns."""
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(COMMANDS):
        socket = str(station.socket)
        ours.append(await asyncio.to_thread(_timed_ms, SWAPCTL, "status", SWAP_STATION_SOCKET=socket))
        bare.append(await asyncio.to_thread(_timed_ms, sys.executable, "-c", "pass"))
    return statistics.median(ours), statistics.median(bare)


async def _measure(folder: Path) -> list[Row]:
    station = TwoProcesses(folder)
    starts: list[float] = []
    async with station.simulator():
        for number in range(STARTS):
            began = time.perf_counter()
            async with station.controller() as controller:
                starts.append(time.perf_counter() - began)
                if number < STARTS - 1:
                    continue
                await station.do("reset")
                pid, began, used_s = controller.process.pid, time.perf_counter(), _cpu_s(controller.process.pid)
                await asyncio.sleep(IDLE_S)
                idle_pct = 100.0 * (_cpu_s(pid) - used_s) / (time.perf_counter() - began)
                rss_mib = _rss_mib(pid)
                cold_ms, bare_ms = await _cold_ms(station)
    devices = "the demo station at rest, every device polled"
    return [
        Row("controller.start_s", statistics.median(starts), "s", START_S_MAX, "lower", "process to READY=1"),
        Row("controller.rss_mib", rss_mib, "MiB", None, "lower", devices),
        Row("controller.idle_cpu_pct", idle_pct, "%", None, "lower", f"of one core; {devices}"),
        Row("cli.cold_ms", cold_ms, "ms", COLD_MS_MAX, "lower", "swapctl status, a process each time"),
        Row("cli.cold_over_python", cold_ms / bare_ms, "", None, "lower", f"python -c pass: {bare_ms:.0f} ms"),
    ]


def run() -> list[Row]:
    """Start the simulated hardware and the controller on real sockets, and measure the controller."""
    with tempfile.TemporaryDirectory(prefix="swap-start-") as folder:
        return asyncio.run(_measure(Path(folder)))
