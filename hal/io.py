"""Remote I/O (profiles/io): named inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hal.codec import encode
from hal.device import addressed
from hal.errors import DeviceRefused, HalError, invariant
from hal.profiles import RegisterSpec
from hal.types import DeviceSpec
from hal.unit import ModbusDevice, ModbusUnit

NO_SUCH_OUTPUT = 2  # as Modbus exception 2, illegal data address
NO_SUCH_VALUE = 3  # as Modbus exception 3, illegal data value


class ModbusRemoteIo(ModbusDevice[Mapping[str, bool]]):
    """One I/O module. See ``hal.api.RemoteIo``."""

    def __init__(self, spec: DeviceSpec, unit: ModbusUnit) -> None:
        self._inputs = _channels(spec, "inputs")
        self._output_channels = _channels(spec, "outputs")
        self._outputs: dict[str, int] = {}
        super().__init__(spec, unit)

    def polled_rows(self) -> Mapping[str, RegisterSpec]:
        """Read the inputs that have a name. A repeated row's names count from 1, channels from 0."""
        return {name: self.block[f"inputs_{channel + 1}"] for name, channel in self._inputs.items()}

    def parse(self, values: Mapping[str, float]) -> Mapping[str, bool]:
        """Return the inputs by name."""
        return MappingProxyType({name: bool(value) for name, value in values.items()})

    @property
    def outputs(self) -> Mapping[str, int]:
        """What was last written, by name."""
        return MappingProxyType(self._outputs)

    async def set_output(self, name: str, value: int) -> None:
        """Write one output. See ``hal.api.RemoteIo``."""
        operation = f"set_output {name}"
        channel = self._output_channels.get(name)
        if channel is None:
            raise DeviceRefused(self.device_id, operation, "no such output", NO_SUCH_OUTPUT)
        row = self.block[f"outputs_{channel + 1}"]
        if value not in row.values.values():
            raise DeviceRefused(self.device_id, operation, f"no such value: {value}", NO_SUCH_VALUE)
        try:
            await self.unit.link.write(self.unit.address, row.address, encode(row, value), device=self.device_id)
        except HalError as error:
            raise addressed(error, self.device_id, operation) from error
        self._outputs[name] = value


def _channels(spec: DeviceSpec, key: str) -> dict[str, int]:
    declared = spec.settings.get(key, {})
    channels: dict[str, int] = {}
    if isinstance(declared, Mapping):
        channels = {str(name): channel for name, channel in declared.items() if isinstance(channel, int)}
    invariant(
        isinstance(declared, Mapping) and len(channels) == len(declared),
        f"{spec.device_id}: {key}: names with channel numbers",
    )
    return channels
