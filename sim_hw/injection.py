"""Named faults: what can be made to go wrong with the plant, by name, target and parameters.

``inject()`` applies one now and returns how to take it back; taking back ends the cause, and what the cause has done
stays (a tripped zone waits for its re-arm, a drive for its clear). Faults of the bytes on a wire are the wires' own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sim_hw.plant import Plant, VehiclePlant
from sim_hw.plant.core import nothing

Value = float | str
Undo = Callable[[], None]
Apply = Callable[[Plant, str, Mapping[str, Value]], Undo]


class InjectionError(ValueError):
    """No such fault, target or parameter, or nothing there that it could happen to."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One fault. ``target`` says what its target is; ``parameters`` are names with their defaults."""

    name: str
    target: str  # axis | lock_bank | connector | charger | pack | dock | zone | input | device
    text: str
    apply: Apply
    parameters: Mapping[str, Value] = field(default_factory=dict)


def inject(plant: Plant, name: str, target: str, **parameters: Value) -> Undo:
    """Make a fault happen now; returns how to end its cause.

    Args:
        plant: where.
        name: a key of ``FAULTS``.
        target: a device id, pack serial, dock, zone or input name, as the fault's ``target`` says.
        **parameters: what differs from the fault's defaults.

    Raises:
        InjectionError: see there.
    """
    kind = FAULTS.get(name)
    if kind is None:
        raise InjectionError(f"no fault {name!r}")
    if unknown := set(parameters) - set(kind.parameters):
        raise InjectionError(f"{name}: no parameter {min(unknown)!r}")
    if target not in targets(plant, kind.target):
        raise InjectionError(f"{name}: no {kind.target} {target!r}")
    plant.core.log(f"injected {name} {target}")
    return kind.apply(plant, target, {**kind.parameters, **parameters})


def targets(plant: Plant, kind: str) -> list[str]:
    """Return what a fault of this target kind can happen to now."""
    every: dict[str, Mapping[str, object] | list[str]] = {
        "axis": plant.axes,
        "lock_bank": plant.locks,
        "connector": plant.connectors,
        "charger": plant.chargers,
        "pack": plant.packs,
        "dock": plant.docks,
        "zone": plant.safety,
        "input": list(plant.io_inputs()),
        "device": plant.station.devices,
    }
    return list(every[kind])


# --- how each is made to happen -------------------------------------------------------------------------------


def _number(parameters: Mapping[str, Value], key: str) -> float:
    return float(parameters[key])


def _vehicle(plant: Plant, dock: str) -> VehiclePlant:
    vehicle = plant.vehicles[dock]
    if vehicle is None:
        raise InjectionError(f"{dock} has no vehicle")
    return vehicle


def _flag(find: Callable[[Plant, str], object], attribute: str, *, value: bool = True) -> Apply:
    """Set a flag of an object, and set it back."""

    def apply(plant: Plant, target: str, _parameters: Mapping[str, Value]) -> Undo:
        subject = find(plant, target)
        setattr(subject, attribute, value)
        return lambda: setattr(subject, attribute, not value)

    return apply


def _axis_fault(fault: str) -> Apply:
    def apply(plant: Plant, target: str, _parameters: Mapping[str, Value]) -> Undo:
        plant.axes[target].fail(fault)
        return nothing

    return apply


def _axis_stall(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    axis = plant.axes[target]
    axis.stalls_at_mm = _number(parameters, "at_mm")

    def undo() -> None:
        axis.stalls_at_mm = None

    return undo


def _axis_slow(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    axis = plant.axes[target]
    axis.pace = _number(parameters, "share")

    def undo() -> None:
        axis.pace = 1.0

    return undo


def _axis_slip(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    by_mm = _number(parameters, "by_mm")
    plant.axes[target].slip(by_mm)
    return lambda: plant.axes[target].slip(-by_mm)


def _bolt(ailment: str) -> Apply:
    def apply(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
        bank, index = plant.locks[target], int(_number(parameters, "bolt")) - 1
        if not 0 <= index < len(bank.bolts):
            raise InjectionError(f"{target} has no bolt {index + 1} now")
        bank.ail(index, ailment)
        return lambda: bank.ail(index, "")

    return apply


def _slip_open(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    plant.locks[target].slip_open(int(_number(parameters, "count")))
    return nothing


def _lock_drive(plant: Plant, target: str, _parameters: Mapping[str, Value]) -> Undo:
    plant.locks[target].fail("drive")
    return nothing


def _connector_loose(plant: Plant, target: str, _parameters: Mapping[str, Value]) -> Undo:
    plant.connectors[target].creep_out()
    return nothing


def _charger_fault(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    plant.chargers[target].fail(str(parameters["fault"]))
    return nothing


def _charger_hot(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    plant.chargers[target].heat_to(_number(parameters, "temperature_c"))
    return nothing


def _pack_fault(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    plant.packs[target].fail(int(_number(parameters, "code")))
    return nothing


def _pack_hot(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    plant.packs[target].heat_to(_number(parameters, "temperature_c"))
    return nothing


def _pack_insulation(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    plant.packs[target].insulation_kohm = _number(parameters, "kohm")
    return nothing


def _moved(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    """A vehicle that is still coming parks off the mark; one that stands rolls."""
    vehicle, offset_mm = _vehicle(plant, target), _number(parameters, "offset_mm")
    vehicle.shift(offset_mm)
    return lambda: vehicle.shift(0.0)


def _rejects(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    vehicle, index = _vehicle(plant, target), int(_number(parameters, "mount")) - 1
    if not 0 <= index < len(vehicle.mounts):
        raise InjectionError(f"{target}: its vehicle has no mount {index + 1}")
    mount = vehicle.mounts[index]
    mount.rejects = True

    def undo() -> None:
        mount.rejects = False
        vehicle.reconsider()

    return undo


def _estop(plant: Plant, target: str, _parameters: Mapping[str, Value]) -> Undo:
    plant.press_estop(target)
    return lambda: plant.release_estop(target)


def _guard(plant: Plant, target: str, _parameters: Mapping[str, Value]) -> Undo:
    plant.safety[target].set_guard(False)
    return lambda: plant.safety[target].set_guard(True)


def _curtain(plant: Plant, target: str, _parameters: Mapping[str, Value]) -> Undo:
    plant.safety[target].set_curtain(False)
    return lambda: plant.safety[target].set_curtain(True)


def _fire(plant: Plant, target: str, _parameters: Mapping[str, Value]) -> Undo:
    plant.safety[target].set_fire(True)
    return lambda: plant.safety[target].set_fire(False)


def _input_stuck(plant: Plant, target: str, parameters: Mapping[str, Value]) -> Undo:
    plant.stuck_inputs[target] = bool(_number(parameters, "value"))

    def undo() -> None:
        plant.stuck_inputs.pop(target, None)

    return undo


def _silent(plant: Plant, target: str, _parameters: Mapping[str, Value]) -> Undo:
    plant.silent_devices.add(target)
    return lambda: plant.silent_devices.discard(target)


_TABLE = (
    FaultKind("axis_drive", "axis", "the drive fails and brakes", _axis_fault("drive")),
    FaultKind("axis_following_error", "axis", "the axis lags too far behind", _axis_fault("following_error")),
    FaultKind("axis_encoder", "axis", "the encoder fails", _axis_fault("encoder")),
    FaultKind("axis_stall", "axis", "an obstacle stops every motion that passes it", _axis_stall, {"at_mm": 60.0}),
    FaultKind("axis_slow", "axis", "moves at a share of its speed", _axis_slow, {"share": 0.3}),
    FaultKind("axis_slip", "axis", "truth and encoder part", _axis_slip, {"by_mm": 25.0}),
    FaultKind(
        "axis_unreferenced", "axis", "has lost its reference", _flag(lambda p, t: p.axes[t], "homed", value=False)
    ),
    FaultKind(
        "axis_ignores_power", "axis", "does not obey safe torque off", _flag(lambda p, t: p.axes[t], "ignores_power")
    ),
    FaultKind("bolt_stuck", "lock_bank", "a bolt does not turn", _bolt("stuck"), {"bolt": 1}),
    FaultKind("bolt_cross_threaded", "lock_bank", "torque long before the end", _bolt("cross_threaded"), {"bolt": 1}),
    FaultKind("bolt_stripped", "lock_bank", "turns home without torque", _bolt("stripped"), {"bolt": 1}),
    FaultKind("bolt_cold_head", "lock_bank", "early torque, once", _bolt("cold_head"), {"bolt": 1}),
    FaultKind("bolts_slip_open", "lock_bank", "bolts open by themselves", _slip_open, {"count": 12}),
    FaultKind("lock_drive", "lock_bank", "the runners' controller fails", _lock_drive),
    FaultKind("connector_jammed", "connector", "stops half-way", _flag(lambda p, t: p.connectors[t], "jammed")),
    FaultKind("connector_loose", "connector", "the plug comes loose by itself", _connector_loose),
    FaultKind(
        "connector_bridged",
        "connector",
        "the drive no longer sees that current flows",
        _flag(lambda p, t: p.connectors[t], "interlock_bridged"),
    ),
    FaultKind("charger_fault", "charger", "the module fails", _charger_fault, {"fault": "internal"}),
    FaultKind("charger_hot", "charger", "the module is hot: it derates", _charger_hot, {"temperature_c": 75.0}),
    FaultKind("pack_fault", "pack", "the BMS finds a fault and opens its contactors", _pack_fault, {"code": 9}),
    FaultKind("pack_hot", "pack", "the cells have this temperature", _pack_hot, {"temperature_c": 50.0}),
    FaultKind("pack_insulation", "pack", "insulation falls", _pack_insulation, {"kohm": 40.0}),
    FaultKind("pack_silent", "pack", "the BMS does not talk", _flag(lambda p, t: p.packs[t], "silent")),
    FaultKind("vehicle_silent", "dock", "nothing is heard of the vehicle", _flag(_vehicle, "silent")),
    FaultKind("vehicle_deaf", "dock", "the vehicle obeys no request", _flag(_vehicle, "deaf")),
    FaultKind("vehicle_door", "dock", "a door is opened", _flag(_vehicle, "doors_closed", value=False)),
    FaultKind("vehicle_unparked", "dock", "park is released", _flag(_vehicle, "park", value=False)),
    FaultKind("vehicle_moved", "dock", "parks off the mark, or rolls", _moved, {"offset_mm": 60.0}),
    FaultKind("vehicle_rejects", "dock", "does not accept the pack put in", _rejects, {"mount": 1}),
    FaultKind("gate_blocked", "dock", "the lane door does not close", _flag(lambda p, t: p.docks[t].gate, "blocked")),
    FaultKind("exit_blocked", "dock", "the exit is not free", _flag(lambda p, t: p.docks[t], "exit_blocked")),
    FaultKind("estop", "zone", "an emergency-stop button is pressed", _estop),
    FaultKind("guard", "zone", "a guard is open", _guard),
    FaultKind("curtain", "zone", "the light curtain is interrupted", _curtain),
    FaultKind("fire", "zone", "the fire panel reports fire", _fire),
    FaultKind("smoke", "zone", "smoke", _flag(lambda p, t: p.zones[t], "smoke")),
    FaultKind("gas", "zone", "gas", _flag(lambda p, t: p.zones[t], "gas")),
    FaultKind("water", "zone", "water", _flag(lambda p, t: p.zones[t], "water")),
    FaultKind("key_on_site", "zone", "a person turns the key", _flag(lambda p, t: p.safety[t], "key_on_site")),
    FaultKind("input_stuck", "input", "a sensor shows this whatever is true", _input_stuck, {"value": 0}),
    FaultKind("device_silent", "device", "its node neither answers nor sends", _silent),
)

FAULTS: Mapping[str, FaultKind] = {kind.name: kind for kind in _TABLE}
