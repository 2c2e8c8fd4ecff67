"""Stack lights and horns, as the units' states want them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from controller.units import Unit
from hal.api import HalSet
from hal.errors import HalError

PERIOD_S = 0.2


class StackLights:
    """Writes what differs; what cannot be written is tried again. ``starved``: nobody wants anything of us."""

    def __init__(self, hal: HalSet, units: Mapping[str, Unit], starved: Callable[[], bool]) -> None:
        self._hal = hal
        self._units = units
        self._starved = starved
        self._shown: dict[str, int] = {}

    async def run(self) -> None:
        """Show until cancelled."""
        while True:
            for unit in self._units.values():
                await self._show(unit)
            await asyncio.sleep(PERIOD_S)

    async def _show(self, unit: Unit) -> None:
        io = self._hal.io[f"{unit.unit_id}.io"]
        for name, value in unit.lamps(starved=self._starved()).items():
            if self._shown.get(name) == value or name not in io.outputs:
                continue
            try:
                await io.set_output(name, value)
            except HalError:
                return  # the link says so itself
            self._shown[name] = value
