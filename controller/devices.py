"""Finds a device that can be commanded by its id, whichever kind it is."""

from __future__ import annotations

from collections.abc import Mapping

from hal.api import Axis, Charger, Connector, HalSet, LockBank, VehicleLink

CommandableDevice = Axis | LockBank | Connector | Charger | VehicleLink


def commandable(hal: HalSet) -> Mapping[str, CommandableDevice]:
    """Return every device that takes commands, by id."""
    return {**hal.axes, **hal.locks, **hal.connectors, **hal.chargers, **hal.vehicles}
