"""Keeps every running charger within what the pack's BMS allows now, and stops those whose pack is not heard.

The planner's steps start and stop chargers; between the two this holds the limits. It moves nothing.
"""

from __future__ import annotations

import asyncio
import logging

from controller.model.layout import Layout, charger_of, pack_monitor_of
from controller.model.snapshot import SLOT_AGE_S_MAX
from hal.api import Charger, HalSet
from hal.errors import HalError, NotClaimed
from hal.types import ChargerState, PackStatus

_log = logging.getLogger(__name__)

PERIOD_S = 1.0
CHANGE_V = 0.2  # two register steps of the generic charger: smaller changes are not worth a write
CHANGE_A = 0.2


class ChargeFollower:
    """One round a second over all slots. A slot whose charger somebody holds is left to its holder."""

    def __init__(self, hal: HalSet, layout: Layout) -> None:
        self._hal = hal
        self._slots = layout.store.slots
        self._silent: set[str] = set()

    async def run(self) -> None:
        """Follow until cancelled. A dead charger or pack never ends it."""
        while True:
            for slot in self._slots:
                try:
                    await self._follow(slot)
                except NotClaimed:
                    continue
                except HalError as error:
                    self._say_once(slot, str(error))
            await asyncio.sleep(PERIOD_S)

    async def _follow(self, slot: str) -> None:
        charger = self._hal.chargers[charger_of(slot)]
        status = charger.reading.value
        if status is None or status.state is not ChargerState.CHARGING:
            self._silent.discard(slot)
            return
        now = asyncio.get_running_loop().time()
        heard = self._hal.packs[pack_monitor_of(slot)].reading
        if not heard.is_fresh(now, SLOT_AGE_S_MAX) or heard.value is None or heard.value.fault_code:
            self._say_once(slot, f"{slot}: pack silent or faulty, charger stopped")
            async with charger.claim("charging"):
                await charger.stop()
            return
        self._silent.discard(slot)
        await self._hold_limits(charger, heard.value)

    async def _hold_limits(self, charger: Charger, pack: PackStatus) -> None:
        status = charger.reading.value
        if status is None:
            return
        same_voltage = abs(pack.charge_voltage_v_max - status.setpoint_voltage_v) < CHANGE_V
        if same_voltage and abs(pack.charge_current_a_max - status.setpoint_current_a) < CHANGE_A:
            return
        async with charger.claim("charging"):
            await charger.set_limits(pack.charge_voltage_v_max, pack.charge_current_a_max)

    def _say_once(self, slot: str, text: str) -> None:
        if slot not in self._silent:
            self._silent.add(slot)
            _log.warning("%s", text)
