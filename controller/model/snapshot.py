"""A frozen view of all readings at one loop time. Decisions are made on this, never on devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from hal.errors import StaleReading
from hal.types import (
    AxisStatus,
    ChargerStatus,
    ConnectorStatus,
    LockBankStatus,
    PackStatus,
    Reading,
    SafetyInputs,
    VehicleStatus,
    ZoneStatus,
)

T = TypeVar("T")

MOTION_AGE_S_MAX = 0.6  # two slow polls of an axis and a late one
IO_AGE_S_MAX = 0.5
SAFETY_AGE_S_MAX = 0.4
SLOT_AGE_S_MAX = 3.0  # connectors, chargers, packs, zones
VEHICLE_AGE_S_MAX = 1.0


@dataclass(frozen=True, slots=True)
class StationSnapshot:
    """All readings by device id; inputs by name. ``since`` says for how long an input has had its value.

    ``in_place_since``: input name → loop time of its last change, for inputs that must be stable.
    """

    taken_at: float
    axes: Mapping[str, Reading[AxisStatus]] = field(default_factory=dict)
    locks: Mapping[str, Reading[LockBankStatus]] = field(default_factory=dict)
    connectors: Mapping[str, Reading[ConnectorStatus]] = field(default_factory=dict)
    chargers: Mapping[str, Reading[ChargerStatus]] = field(default_factory=dict)
    packs: Mapping[str, Reading[PackStatus]] = field(default_factory=dict)
    vehicles: Mapping[str, Reading[VehicleStatus]] = field(default_factory=dict)
    safety: Mapping[str, Reading[SafetyInputs]] = field(default_factory=dict)
    zones: Mapping[str, Reading[ZoneStatus]] = field(default_factory=dict)
    inputs: Mapping[str, Reading[bool]] = field(default_factory=dict)
    input_changed_at: Mapping[str, float] = field(default_factory=dict)

    def axis(self, device: str) -> AxisStatus:
        """Return a fresh axis status; raises StaleReading."""
        return self._fresh(self.axes, device, MOTION_AGE_S_MAX)

    def lock_bank(self, device: str) -> LockBankStatus:
        """Return a fresh lock bank status; raises StaleReading."""
        return self._fresh(self.locks, device, MOTION_AGE_S_MAX + 0.5)

    def connector(self, device: str) -> ConnectorStatus:
        """Return a fresh connector status; raises StaleReading."""
        return self._fresh(self.connectors, device, SLOT_AGE_S_MAX)

    def charger(self, device: str) -> ChargerStatus:
        """Return a fresh charger status; raises StaleReading."""
        return self._fresh(self.chargers, device, SLOT_AGE_S_MAX)

    def pack(self, device: str) -> PackStatus:
        """Return a fresh pack status; raises StaleReading."""
        return self._fresh(self.packs, device, SLOT_AGE_S_MAX)

    def vehicle(self, device: str) -> VehicleStatus:
        """Return a fresh vehicle status; raises StaleReading."""
        return self._fresh(self.vehicles, device, VEHICLE_AGE_S_MAX)

    def safety_of(self, device: str) -> SafetyInputs:
        """Return fresh safety inputs; raises StaleReading."""
        return self._fresh(self.safety, device, SAFETY_AGE_S_MAX)

    def zone(self, device: str) -> ZoneStatus:
        """Return a fresh zone status; raises StaleReading."""
        return self._fresh(self.zones, device, SLOT_AGE_S_MAX)

    def input(self, name: str) -> bool:
        """Return a fresh input; raises StaleReading, also for a name that no device has."""
        return self._fresh(self.inputs, name, IO_AGE_S_MAX)

    def input_stable_s(self, name: str) -> float:
        """For how long the input has had its present value."""
        return self.taken_at - self.input_changed_at.get(name, self.taken_at)

    def _fresh(self, readings: Mapping[str, Reading[T]], key: str, max_age_s: float) -> T:
        reading = readings.get(key)
        if reading is None:
            raise StaleReading(key, "read", "no such reading")
        return reading.fresh(self.taken_at, max_age_s)
