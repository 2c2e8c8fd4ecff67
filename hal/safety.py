"""Safety status (profiles/safety): read only."""

from __future__ import annotations

from collections.abc import Mapping

from hal.types import SafetyInputs
from hal.unit import ModbusDevice


class ModbusSafety(ModbusDevice[SafetyInputs]):
    """What the safety hardware says of one zone. See ``hal.api.SafetyMonitor``."""

    def parse(self, values: Mapping[str, float]) -> SafetyInputs:
        """Return the inputs; the profile's rows have the fields' names."""
        return SafetyInputs(
            estop_ok=bool(values["estop_ok"]),
            guard_closed=bool(values["guard_closed"]),
            curtain_clear=bool(values["curtain_clear"]),
            curtain_muted=bool(values["curtain_muted"]),
            fire=bool(values["fire"]),
            heartbeat_seen=bool(values["heartbeat_seen"]),
            drives_enabled=bool(values["drives_enabled"]),
            key_on_site=bool(values["key_on_site"]),
        )
