"""Slot connectors: several small actuators on one Modbus unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hal.profiles import RegisterMap
from hal.types import DeviceSpec
from sim_hw.codec import ExcCode, UnitImage, Values, device_block
from sim_hw.nodes.handshake import CommandDesk, Done, bits
from sim_hw.plant import ConnectorPlant, Plant

_UNASKED_S = 10.0  # profile connectors/slot_connector, safe_output: the plug stops when no request came for this long


class ConnectorNode:
    """One connector's block. Every read or write of it counts as a request to the module."""

    def __init__(self, profile: RegisterMap, connector: ConnectorPlant, plant: Plant) -> None:
        self._profile = profile
        self._connector = connector
        self._clock = plant.clock
        self._asked_at = 0.0
        self._watching = False
        self._commands: Mapping[str, Callable[[Done], str | None]] = {
            "engage": connector.engage,
            "disengage": connector.disengage,
            "stop": self._stop,
            "clear": connector.clear,
        }
        self._desk = CommandDesk(profile, self._act, lambda: not connector.moving)

    def _stop(self, _done: Done) -> str | None:
        self._connector.stop()
        return None

    def _act(self, command: str, _held: Values, done: Done) -> str | None:
        refusal = self._commands[command](done)
        if self._connector.moving and not self._watching:
            self._watching = True
            self._clock.call_at(self._asked_at + _UNASKED_S, self._stop_if_unasked)
        return refusal

    def _stop_if_unasked(self) -> None:
        self._watching = False
        if not self._connector.moving:
            return
        if self._clock.time() >= self._asked_at + _UNASKED_S:
            self._connector.stop()
        else:
            self._watching = True
            self._clock.call_at(self._asked_at + _UNASKED_S, self._stop_if_unasked)

    def write(self, written: Values) -> ExcCode | None:
        """Take a command."""
        self._asked_at = self._clock.time()
        self._desk.take(written)
        return None

    def values(self) -> Values:
        """Return the connector as it is now."""
        self._asked_at = self._clock.time()
        connector = self._connector
        return {
            **self._desk.values(),
            "state": connector.state,
            "switches": bits(self._profile, "switches", engaged=connector.engaged, disengaged=connector.disengaged),
            "fault_code": self._profile.registers["fault_code"].values[connector.fault],
        }


def add_connectors(image: UnitImage, profile: RegisterMap, specs: Sequence[DeviceSpec], plant: Plant) -> None:
    """Put these connectors on a unit."""
    for spec in specs:
        node = ConnectorNode(profile, plant.connectors[spec.device_id], plant)
        image.add_device(profile, device_block(profile, spec.index, node.values, node.write))
