"""Slot connectors: a slot's plug on a linear actuator (profiles/connectors)."""

from __future__ import annotations

from collections.abc import Mapping

from hal.codec import flag, member
from hal.handshake import HandshakeDevice
from hal.types import ConnectorState, ConnectorStatus, Lifecycle


class ModbusConnector(HandshakeDevice[ConnectorStatus]):
    """One slot's plug. See ``hal.api.Connector``."""

    def parse(self, values: Mapping[str, float]) -> ConnectorStatus:
        """Return the status of a block."""
        switches = self.block["switches"]
        return ConnectorStatus(
            state=member(ConnectorState, self.block["state"], values["state"]),
            engaged=flag(switches, values["switches"], "engaged"),
            disengaged=flag(switches, values["switches"], "disengaged"),
            accepted_id=int(values["accepted_id"]),
            refused_id=int(values["refused_id"]),
            refusal=int(values["refusal"]),
            done_id=int(values["done_id"]),
            fault_code=int(values["fault_code"]),
        )

    def is_enabled(self, status: ConnectorStatus) -> bool:
        """The actuator has power."""
        return status.state in (ConnectorState.READY, ConnectorState.MOVING)

    def is_faulted(self, status: ConnectorStatus) -> bool:
        """The actuator reports a fault, or both end switches are on, which no plug can do."""
        return (
            status.state is ConnectorState.FAULT or status.fault_code != 0 or (status.engaged and status.disengaged)
        )

    def is_powerless(self, status: ConnectorStatus) -> bool:
        """The actuator has no power."""
        return status.state is ConnectorState.POWER_OFF

    def is_still(self, status: ConnectorStatus) -> bool:
        """The plug does not move."""
        return status.state is not ConnectorState.MOVING

    def describe(self, status: ConnectorStatus) -> str:
        """State, and where the plug is."""
        where = {
            (True, False): "engaged",
            (False, True): "disengaged",
            (False, False): "on the way",
            (True, True): "both end switches on",
        }
        return f"{status.state.name.lower()}, {where[status.engaged, status.disengaged]}"

    async def engage(self) -> None:
        """Plug in. Moves the plug only. See ``hal.api.Connector``."""
        self.require("engage", Lifecycle.ENABLED)
        await self.command("engage", "engage")

    async def disengage(self) -> None:
        """Unplug. Moves the plug only. See ``hal.api.Connector``."""
        self.require("disengage", Lifecycle.ENABLED)
        await self.command("disengage", "disengage")
