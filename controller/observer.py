"""Keeps the newest reading of every device and hands out frozen snapshots of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controller.model.snapshot import StationSnapshot
from hal.api import HalSet, Monitor
from hal.errors import HalError
from hal.types import Quality, Reading

KINDS = ("axes", "locks", "connectors", "chargers", "packs", "vehicles", "safety", "zones", "io")
REFRESH_LIMIT_S = 2.0  # a device that has not answered by then is judged by the age of its last reading


class StationObserver:
    """Follows every reading of a HAL.

    A snapshot is a copy: what is decided on it does not change under the decision.
    """

    def __init__(self, hal: HalSet) -> None:
        self._hal = hal
        self._kinds: dict[str, dict[str, Reading[Any]]] = {name: {} for name in KINDS}
        self._monitors: dict[str, tuple[dict[str, Reading[Any]], Monitor[Any]]] = {}
        for kind, readings in self._kinds.items():
            for device_id, monitor in getattr(hal, kind).items():
                self._monitors[device_id] = (readings, monitor)
                readings[device_id] = monitor.reading
        self._modules = self._kinds.pop("io")  # in snapshots their inputs stand by name
        self._inputs: dict[str, Reading[bool]] = {}
        self._input_changed_at: dict[str, float] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._change_listeners: list[Callable[[str], None]] = []
        self._unsubscribe = hal.on_reading(self._on_reading)

    def close(self) -> None:
        """Stop following."""
        self._unsubscribe()

    def snapshot(self) -> StationSnapshot:
        """Return all readings as they stand, stamped with the present loop time."""
        return StationSnapshot(
            taken_at=asyncio.get_running_loop().time(),
            inputs=dict(self._inputs),
            input_changed_at=dict(self._input_changed_at),
            **{kind: dict(readings) for kind, readings in self._kinds.items()},
        )

    def on_reading(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call ``listener(device_id)`` after every new reading is in; returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_change(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """As ``on_reading``, but only where a value or quality differs from the one before; returns how to stop.

        What is judged by values and ages alone cannot get worse by a reading that is newer and otherwise the same.
        """
        self._change_listeners.append(listener)
        return lambda: self._change_listeners.remove(listener)

    async def refresh(self, devices: Iterable[str]) -> None:
        """Read these devices now, side by side.

        A device that cannot be read keeps its old reading, whose age or quality then tells; so this raises nothing
        but CancelledError.
        """
        devices = tuple(devices)
        monitors = [self._monitors[d][1] for d in devices if d in self._monitors and d not in self._hal.io]
        monitors += [self._hal.io[d] for d in devices if d in self._hal.io]
        if not monitors:
            return
        async with asyncio.TaskGroup() as group:
            for monitor in monitors:
                group.create_task(self._refresh_one(monitor))

    async def _refresh_one(self, monitor: Monitor[Any]) -> None:
        try:
            async with asyncio.timeout(REFRESH_LIMIT_S):
                await monitor.refresh()
        except (HalError, TimeoutError):
            return  # the reading itself now says LOST, or grows old

    def _on_reading(self, device_id: str) -> None:
        readings, monitor = self._monitors[device_id]
        old, new = readings[device_id], monitor.reading
        readings[device_id] = new
        if readings is self._modules:
            self._take_inputs(new)
        for listener in tuple(self._listeners):
            listener(device_id)
        if new.quality is not old.quality or (new.value is not old.value and new.value != old.value):
            for listener in tuple(self._change_listeners):
                listener(device_id)

    def _take_inputs(self, reading: Reading[Mapping[str, bool]]) -> None:
        if reading.value is None:
            return
        for name, value in reading.value.items():
            old = self._inputs.get(name)
            regained = reading.quality is Quality.GOOD and (old is None or old.quality is not Quality.GOOD)
            if old is None or old.value != value or regained:
                # An input that was out of sight may have changed meanwhile: its stability starts anew.
                self._input_changed_at[name] = reading.measured_at
            self._inputs[name] = Reading(name, value, reading.measured_at, reading.quality)
