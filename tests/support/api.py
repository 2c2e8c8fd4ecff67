"""A small station behind the local API, and a raw client for its socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controller.local.protocol import ErrorKind, ServiceRefused


class TinyStation:
    """Implements StationService with fixed values; commands are noted in ``asked`` and may be told to fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, object]] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.listeners: list[Callable[[dict[str, object]], None]] = []
        self.faults: list[dict[str, object]] = []

    def status(self) -> dict[str, object]:
        unit = {
            "unit": "dock1",
            "state": "EXECUTE",
            "state_no": 6,
            "mode": "PRODUCTION",
            "cause": "",
            "light": "green",
        }
        swap = {"swap_id": "swap-1", "dock": "dock1", "vehicle_id": "V1", "phase": "LOCKING", "elapsed_s": 61.2}
        step = {
            "kind": "lock_pack",
            "dock": "dock1",
            "place": "dock1.mount_a",
            "pack": "PK0003",
            "swap_id": "swap-1",
            "devices": ["dock1.mount_a.locks"],
            "elapsed_s": 4.0,
            "expected_s": 14.0,
        }
        return {
            "schema": "swap-station/status/1",
            "station": "tiny",
            "name": "Tiny",
            "version": "0.1.0",
            "utc": "2026-03-01T08:15:30.123Z",
            "uptime_s": 3723.0,
            "units": [unit],
            "swaps": [swap],
            "steps": [step],
            "faults": self.faults,
            "latched": {},
            "uplink": {"state": "online", "pending": 0, "dropped": 0, "last_error": ""},
            "health": {"ok": True, "problems": [], "loop_lag_s_max": 0.002, "disk_free_mib": 9000, "cpu_c": 48.0},
        }

    def slots(self) -> dict[str, object]:
        full = {
            "place": "slot01",
            "kind": "slot",
            "pack": "PK0001",
            "present": True,
            "reserved_for": None,
            "soc_pct": 83.5,
            "temperature_c_max": 31.0,
            "charger": "charging",
            "voltage_v": 402.1,
            "current_a": 80.0,
            "connector": "engaged",
            "age_s": 0.2,
            "quality": "good",
        }
        blank = dict.fromkeys(full)
        doubtful = {**blank, "place": "dock1.table_1", "kind": "table", "pack": "UNKNOWN", "present": True}
        return {
            "schema": "swap-station/slots/1",
            "places": [full, {**blank, "place": "slot02", "kind": "slot"}, doubtful],
        }

    def devices(self) -> dict[str, object]:
        clamp = {
            "device": "dock1.clamp",
            "kind": "axis",
            "link": "plc",
            "lifecycle": "enabled",
            "quality": "good",
            "age_s": 0.05,
            "latched": "",
            "value": {"state": "standstill", "position_mm": 180.0, "homed": True},
        }
        return {"schema": "swap-station/devices/1", "devices": [clamp]}

    def io(self) -> dict[str, object]:
        row = {
            "name": "dock1.in_place",
            "device": "dock1.io",
            "value": True,
            "age_s": 0.1,
            "quality": "good",
            "stable_s": 9.0,
        }
        return {
            "schema": "swap-station/io/1",
            "inputs": [row],
            "outputs": [{"name": "dock1.horn", "device": "dock1.io", "value": 0}],
        }

    def bus(self) -> dict[str, object]:
        row = {
            "link": "plc",
            "kind": "modbus_tcp",
            "state": "up",
            "age_s": 60.0,
            "counters": {"timeouts": 2},
            "last_error": "",
        }
        return {"schema": "swap-station/bus/1", "links": [row]}

    async def swap_start(self, dock: str, goals: Mapping[str, str] | None) -> dict[str, object]:
        if dock != "dock1":
            raise ServiceRefused(ErrorKind.NOT_FOUND, f"no dock {dock!r}", ["dock1"])
        await self._command("swap_start", (dock, goals))
        return {"schema": "swap-station/swap-start/1", "swap_id": "swap-1", "dock": dock, "goals": goals or {}}

    async def start(self, unit: str | None) -> dict[str, object]:
        return await self._unit_command("start", unit)

    async def stop(self, unit: str | None) -> dict[str, object]:
        return await self._unit_command("stop", unit)

    async def abort(self, unit: str | None) -> dict[str, object]:
        return await self._unit_command("abort", unit)

    async def clear(self, unit: str | None) -> dict[str, object]:
        return await self._unit_command("clear", unit)

    async def reset(self, unit: str | None) -> dict[str, object]:
        return await self._unit_command("reset", unit)

    def subscribe(self, listener: Callable[[dict[str, object]], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def tell(self, event: dict[str, object]) -> None:
        """Send an event to every watcher."""
        for listener in tuple(self.listeners):
            listener(event)

    async def _unit_command(self, name: str, unit: str | None) -> dict[str, object]:
        await self._command(name, unit)
        return {"schema": "swap-station/command/1", "units": [{"unit": unit or "dock1", "state": "STOPPED"}]}

    async def _command(self, name: str, argument: object) -> None:
        self.asked.append((name, argument))
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure


class RawClient:
    """Speaks the socket's lines by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, path: Path) -> RawClient:
        """Connect to the socket at ``path``."""
        return cls(*await asyncio.open_unix_connection(str(path)))

    def send(self, line: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(line)

    async def receive(self) -> Any:
        """Return the next line's value, or None at the end of the stream."""
        async with asyncio.timeout(5):
            line = await self.reader.readline()
        return json.loads(line) if line else None

    async def ask(self, method: str, **params: object) -> Any:
        """Send a request and return its answer."""
        self.send(json.dumps({"id": 7, "method": method, "params": params}).encode() + b"\n")
        return await self.receive()

    async def close(self) -> None:
        """Close and wait until it is closed."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until ``condition`` holds; raises TimeoutError after 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is another process's or has no event
            await asyncio.sleep(0.002)
