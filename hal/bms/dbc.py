"""A pack whose cyclic messages a DBC file describes (profiles/packs)."""

from __future__ import annotations

from hal.streams import CanMonitor, FramePort
from hal.types import DeviceSpec, PackStatus

IDENTITY = "PackIdentity"
SERIAL_PARTS = range(3)

# Message → the signal that says which part of it a frame is.
_MESSAGES = {
    "PackState": None,
    "PackElectric": None,
    "PackCells": None,
    "PackLimits": None,
    IDENTITY: f"{IDENTITY}_part",
}

# Field of PackStatus → message and signal.
_FIELDS = {
    "soc_pct": ("PackState", "soc"),
    "soh_pct": ("PackState", "soh"),
    "contactors_closed": ("PackState", "contactors"),
    "fault_code": ("PackState", "fault"),
    "pack_voltage_v": ("PackElectric", "voltage"),
    "pack_current_a": ("PackElectric", "current"),
    "insulation_kohm": ("PackElectric", "insulation"),
    "cell_voltage_v_max": ("PackCells", "voltage_max"),
    "cell_voltage_v_min": ("PackCells", "voltage_min"),
    "temperature_c_max": ("PackCells", "temperature_max"),
    "temperature_c_min": ("PackCells", "temperature_min"),
    "charge_voltage_v_max": ("PackLimits", "voltage_max"),
    "charge_current_a_max": ("PackLimits", "current_max"),
}


class DbcPack(CanMonitor[PackStatus]):
    """The pack in one slot. See ``hal.api.PackMonitor``.

    The serial comes in three parts. A part that differs from the one heard before is another pack's: everything
    heard so far is dropped, so that no reading mixes two packs.
    """

    def __init__(self, spec: DeviceSpec, port: FramePort) -> None:
        super().__init__(spec, port, _MESSAGES, frozenset({IDENTITY}))

    def on_new_text(self, name: str, key: int) -> None:  # noqa: ARG002 - a pack has one identity
        """Another pack: forget this one."""
        self.parts.clear()

    def assemble(self) -> PackStatus | None:
        """Return the status once every message and the whole serial were heard."""
        serial = self.text(IDENTITY, SERIAL_PARTS)
        if serial is None or any((name, 0) not in self.parts for name in _MESSAGES):
            return None
        got = {
            status: self.parts[message, 0].values[f"{message}_{signal}"]
            for status, (message, signal) in _FIELDS.items()
        }
        return PackStatus(
            serial=serial,
            soc_pct=got["soc_pct"],
            soh_pct=got["soh_pct"],
            pack_voltage_v=got["pack_voltage_v"],
            pack_current_a=got["pack_current_a"],
            charge_voltage_v_max=got["charge_voltage_v_max"],
            charge_current_a_max=got["charge_current_a_max"],
            cell_voltage_v_max=got["cell_voltage_v_max"],
            cell_voltage_v_min=got["cell_voltage_v_min"],
            temperature_c_max=got["temperature_c_max"],
            temperature_c_min=got["temperature_c_min"],
            insulation_kohm=got["insulation_kohm"],
            contactors_closed=bool(got["contactors_closed"]),
            fault_code=int(got["fault_code"]),
        )
