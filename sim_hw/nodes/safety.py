"""What the safety relay or safety PLC shows of each zone, read only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial

from hal.profiles import RegisterMap
from hal.types import DeviceSpec, SafetyInputs
from sim_hw.codec import UnitImage, Values, device_block, refuse_write
from sim_hw.plant import Plant, ZoneSafety

_NAMES = tuple(field.name for field in fields(SafetyInputs))


def add_safety(image: UnitImage, profile: RegisterMap, specs: Sequence[DeviceSpec], plant: Plant) -> None:
    """Put the status of these zones on a unit; the profile's rows have the names of ``SafetyInputs``."""
    for spec in specs:
        zone = plant.safety[plant.station.zone_of(spec.device_id)]
        image.add_device(profile, device_block(profile, spec.index, partial(_values, zone), refuse_write))


def _values(zone: ZoneSafety) -> Values:
    inputs = zone.inputs()
    return {name: getattr(inputs, name) for name in _NAMES}
