"""Positioning controllers: up to eight axes on one Modbus unit, with a heartbeat in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hal.profiles import RegisterMap
from hal.types import DeviceSpec
from sim_hw.codec import Block, ExcCode, UnitImage, Values, device_block
from sim_hw.nodes.handshake import CommandDesk, Done, Heartbeat, bits
from sim_hw.plant import AxisPlant, Plant

_SPEED_PCT_MIN, _SPEED_PCT_MAX = 0.1, 100.0  # profile motion/positioning_axis, row speed_limit


class AxisNode:
    """One axis block."""

    def __init__(self, profile: RegisterMap, axis: AxisPlant) -> None:
        self._profile = profile
        self._axis = axis
        self._commands: Mapping[str, Callable[[Values, Done], str | None]] = {
            "move": lambda held, done: axis.move(held["target"], held["speed_limit"], done),
            "stop": self._stop,
            "home": lambda _held, done: axis.home(done),
            "enable": lambda _held, done: axis.enable(done),
            "disable": lambda _held, done: axis.disable(done),
            "clear": lambda _held, done: axis.clear(done),
        }
        self._desk = CommandDesk(profile, self._act, lambda: not axis.moving)

    def _stop(self, _held: Values, _done: Done) -> str | None:
        self._axis.stop()
        return None

    def _act(self, command: str, held: Values, done: Done) -> str | None:
        return self._commands[command]({"target": 0.0, "speed_limit": 0.0, **held}, done)

    def write(self, written: Values) -> ExcCode | None:
        """Take a command; a move with an impossible speed is an illegal value."""
        now = {"command": 0.0, "speed_limit": 0.0, **self._desk.held, **written}
        is_move = now["command"] == self._profile.registers["command"].values["move"]
        if is_move and not _SPEED_PCT_MIN <= now["speed_limit"] <= _SPEED_PCT_MAX:
            return ExcCode.ILLEGAL_VALUE
        self._desk.take(written)
        return None

    def values(self) -> Values:
        """Return the axis as it is now."""
        axis = self._axis
        flags = bits(
            self._profile,
            "flags",
            homed=axis.homed,
            in_position=axis.in_position,
            brake_closed=axis.brake_closed,
        )
        return {
            **self._desk.values(),
            "state": axis.state,
            "flags": flags,
            "position": axis.position_mm,
            "torque": axis.torque_pct,
            "fault_code": self._profile.registers["fault_code"].values[axis.fault],
        }


def add_axes(image: UnitImage, profile: RegisterMap, specs: Sequence[DeviceSpec], plant: Plant) -> None:
    """Put a controller with these axes on a unit."""
    axes = [plant.axes[spec.device_id] for spec in specs]
    heartbeat = Heartbeat(plant.clock, [axis.feed for axis in axes])

    def unit_values() -> Values:
        return {
            "heartbeat_out": heartbeat.counter(),
            "watchdog_tripped": any(axis.watchdog_tripped for axis in axes),
        }

    image.add_unit(profile, Block(profile.unit_registers, {}, unit_values, heartbeat.write))
    for spec, axis in zip(specs, axes, strict=True):
        node = AxisNode(profile, axis)
        image.add_device(profile, device_block(profile, spec.index, node.values, node.write))
