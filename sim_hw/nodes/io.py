"""Remote I/O: named channels of the station file on one Modbus unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from hal.profiles import RegisterMap
from hal.types import DeviceSpec
from sim_hw.codec import ExcCode, UnitImage, Values, device_block
from sim_hw.plant import Plant


class RemoteIoNode:
    """One module. Channel n of the station file is row ``inputs_n+1`` or ``outputs_n+1`` of the profile."""

    def __init__(self, profile: RegisterMap, spec: DeviceSpec, plant: Plant) -> None:
        inputs = cast("Mapping[str, int]", spec.settings.get("inputs", {}))
        outputs = cast("Mapping[str, int]", spec.settings.get("outputs", {}))
        self._inputs = {f"inputs_{channel + 1}": name for name, channel in inputs.items()}
        self._outputs = {f"outputs_{channel + 1}": name for name, channel in outputs.items()}
        self._known = set(profile.registers["outputs_1"].values.values())
        self._plant = plant

    def write(self, written: Values) -> ExcCode | None:
        """Set outputs. A channel that nothing is wired to takes its value too."""
        if any(int(value) not in self._known for value in written.values()):
            return ExcCode.ILLEGAL_VALUE
        for row, value in written.items():
            if row in self._outputs:
                self._plant.set_output(self._outputs[row], int(value))
        return None

    def values(self) -> Values:
        """Return the inputs as they are now; a channel that nothing is wired to is 0."""
        return {row: self._plant.input(name) for row, name in self._inputs.items()}


def add_io(image: UnitImage, profile: RegisterMap, specs: Sequence[DeviceSpec], plant: Plant) -> None:
    """Put a remote I/O module on a unit."""
    for spec in specs:
        node = RemoteIoNode(profile, spec, plant)
        image.add_device(profile, device_block(profile, spec.index, node.values, node.write))
