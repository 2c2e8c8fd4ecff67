"""DC charger modules: one Modbus unit each."""

from __future__ import annotations

from collections.abc import Sequence

from hal.profiles import RegisterMap
from hal.types import DeviceSpec
from sim_hw.codec import ExcCode, UnitImage, Values, device_block
from sim_hw.plant import ChargerPlant, Plant


class ChargerNode:
    """One module. Set-points that are written alone join those written before."""

    def __init__(self, profile: RegisterMap, charger: ChargerPlant) -> None:
        self._profile = profile
        self._charger = charger
        self._wanted = profile.registers["enable"].values
        self._held: dict[str, float] = {"enable": 0.0, "voltage_setpoint": 0.0, "current_setpoint": 0.0}

    def write(self, written: Values) -> ExcCode | None:
        """Take the wanted state and set-points; anything that the module cannot do is an illegal value."""
        held = {**self._held, **written}
        if held["enable"] not in self._wanted.values():
            return ExcCode.ILLEGAL_VALUE
        if written.get("enable") == self._wanted["clear"]:
            self._charger.clear()
            held["enable"] = self._wanted["off"]
        is_on = held["enable"] == self._wanted["on"]
        if self._charger.write(is_on, held["voltage_setpoint"], held["current_setpoint"]) is not None:
            return ExcCode.ILLEGAL_VALUE
        self._held = held
        return None

    def values(self) -> Values:
        """Return the module as it is now."""
        charger = self._charger
        return {
            "state": charger.state,
            "output_voltage": charger.output_voltage_v,
            "output_current": charger.output_current_a,
            "voltage_readback": charger.setpoint_voltage_v,
            "current_readback": charger.setpoint_current_a,
            "temperature": charger.temperature_c,
            "watchdog_tripped": charger.watchdog_tripped,
            "fault_code": self._profile.registers["fault_code"].values[charger.fault],
        }


def add_chargers(image: UnitImage, profile: RegisterMap, specs: Sequence[DeviceSpec], plant: Plant) -> None:
    """Put a charger on a unit."""
    for spec in specs:
        node = ChargerNode(profile, plant.chargers[spec.device_id])
        image.add_device(profile, device_block(profile, spec.index, node.values, node.write))
