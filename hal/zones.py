"""Smoke, gas and water detectors (profiles/zones): read only."""

from __future__ import annotations

from collections.abc import Mapping

from hal.types import ZoneStatus
from hal.unit import ModbusDevice


class ModbusZone(ModbusDevice[ZoneStatus]):
    """The detectors of one zone. See ``hal.api.ZoneMonitor``."""

    def parse(self, values: Mapping[str, float]) -> ZoneStatus:
        """Return the alarms; the profile's rows have the fields' names."""
        return ZoneStatus(smoke=bool(values["smoke"]), gas=bool(values["gas"]), water=bool(values["water"]))
