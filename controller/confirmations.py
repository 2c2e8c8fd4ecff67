"""What proves that a step is done: another signal than the command's own answer, wherever the station has one.

Each returns None, or what is missing, for a person.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.model.bolts import proves_closed
from controller.model.intent import Step
from controller.model.layout import (
    FORK,
    DockLayout,
    Layout,
    charger_of,
    connector_of,
    locks_of,
    pack_monitor_of,
)
from controller.model.snapshot import StationSnapshot
from controller.model.transfers import SAFE_CURRENT_A, charger_is_off, is_awake, near
from hal.types import BoltState, ChargerState, VehicleRequest

SETPOINT_TOLERANCE_V = 0.2  # two steps of the generic charger's registers
SETPOINT_TOLERANCE_A = 0.2
FLOWING_A_MIN = 0.5  # above the noise of a pack's current sensor

Confirm = Callable[[Layout, Step, StationSnapshot], str | None]


def fork_loaded(snapshot: StationSnapshot) -> bool:
    """Whether the load sensor of the fork sees a pack."""
    return snapshot.input(FORK)


def axis_at(axis: str, target: Callable[[DockLayout, Step], float]) -> Confirm:
    """An axis of the dock stands at its target."""

    def confirm(layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
        device = f"{step.dock}.{axis}"
        target_mm, actual_mm = target(layout.docks[step.dock], step), snapshot.axis(device).position_mm
        return (
            None if near(actual_mm, target_mm) else f"{device} stands at {actual_mm:.1f} mm, not {target_mm:.1f} mm"
        )

    return confirm


def input_is(name: Callable[[Step], str], wanted: bool) -> Confirm:
    """An input has a value."""

    def confirm(_layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
        seen = snapshot.input(name(step))
        return None if seen is wanted else f"input {name(step)} is {str(seen).lower()}"

    return confirm


def heads(engaged: bool) -> Confirm:
    """The runners sit on the bolt heads of the mount, or on none of the dock."""

    def confirm(layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
        mounts = (step.place,) if engaged else layout.docks[step.dock].mounts
        wrong = [m for m in mounts if snapshot.lock_bank(locks_of(m)).heads_engaged is not engaged]
        return f"runners of {wrong[0]} are {'not ' if engaged else 'still '}on the bolt heads" if wrong else None

    return confirm


def bolts(wanted: BoltState) -> Confirm:
    """Every bolt is where it should be; locked ones are so by torque and angle."""

    def confirm(layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
        bank = snapshot.lock_bank(locks_of(step.place))
        if wanted is BoltState.UNLOCKED:
            wrong = [n for n, bolt in enumerate(bank.bolts, start=1) if bolt.state is not wanted]
            return f"bolts {wrong} of {step.place} are not open" if wrong else None
        window = layout.docks[step.dock].lock_banks.get(step.place)
        if window is None:
            return f"nothing says what proves a bolt of {step.place}"
        wrong = [n for n, bolt in enumerate(bank.bolts, start=1) if not proves_closed(bolt, window)]
        return f"bolts {wrong} of {step.place} are not proven closed" if wrong else None

    return confirm


def vehicle_secured(_layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
    """The vehicle says park, brake and high voltage off, and echoes the request."""
    vehicle = snapshot.vehicle(f"{step.dock}.vehicle")
    missing = [
        text
        for text, done in (
            ("park", vehicle.park_applied),
            ("brake", vehicle.brake_applied),
            ("high voltage off", vehicle.high_voltage_off),
            ("acknowledged", vehicle.acknowledged is VehicleRequest.SECURE),
        )
        if not done
    ]
    return f"vehicle: {', '.join(missing)} missing" if missing else None


def pack_checked(layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
    """The vehicle names the serial and accepts the pack."""
    mounts = snapshot.vehicle(f"{step.dock}.vehicle").mounts
    index = layout.docks[step.dock].mounts.index(step.place)
    if index >= len(mounts):
        return f"the vehicle knows no {step.place}"
    mount = mounts[index]
    if mount.pack_serial != step.pack:
        return f"the vehicle sees {mount.pack_serial or 'no pack'} in {step.place}, not {step.pack}"
    return None if mount.pack_ok else f"the vehicle has not accepted {step.pack}"


def vehicle_awake(_layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
    """The vehicle is ready to drive."""
    awake = is_awake(snapshot.vehicle(f"{step.dock}.vehicle"))
    return None if awake else "the vehicle is not ready to drive"


def stacker_there(layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
    """Both axes stand at the place, above it when carrying."""
    at, offset_mm = layout.stacker.places[step.place], layout.stacker.carry_offset_mm
    x_mm, z_mm = snapshot.axis("stacker.x").position_mm, snapshot.axis("stacker.z").position_mm
    z_target_mm = at.z_mm + (offset_mm if fork_loaded(snapshot) else 0.0)
    there = near(x_mm, at.x_mm) and near(z_mm, z_target_mm)
    return (
        None if there else f"stacker stands at x {x_mm:.1f} z {z_mm:.1f} mm, not x {at.x_mm:.1f} z {z_target_mm:.1f}"
    )


def fork_at(*, extended: bool) -> Confirm:
    """The fork stands extended into the place, or retracted."""

    def confirm(layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
        stacker = layout.stacker
        target_mm = stacker.places[step.place].fork_mm if extended else stacker.fork_retracted_mm
        actual_mm = snapshot.axis(FORK).position_mm
        return None if near(actual_mm, target_mm) else f"fork stands at {actual_mm:.1f} mm, not {target_mm:.1f} mm"

    return confirm


def charger_off(_layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
    """The charger delivers nothing, and the pack, where it is heard, takes nothing."""
    if not charger_is_off(snapshot, step.place):
        return f"charger of {step.place} still delivers"
    pack = snapshot.packs.get(pack_monitor_of(step.place))
    heard = pack is not None and pack.is_fresh(snapshot.taken_at, 1.0)
    if heard and pack is not None and pack.value is not None and abs(pack.value.pack_current_a) > SAFE_CURRENT_A:
        return f"the pack itself still measures {pack.value.pack_current_a:.1f} A"
    return None


def plug(*, engaged: bool) -> Confirm:
    """Both end switches agree that the plug is in, or out."""

    def confirm(_layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
        plug = snapshot.connector(connector_of(step.place))
        proven = plug.engaged is engaged and plug.disengaged is not engaged
        return None if proven else f"end switches of {step.place} say engaged {plug.engaged}, out {plug.disengaged}"

    return confirm


def pack_identified(_layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
    """The pack names the serial of the pack that was put here."""
    serial = snapshot.pack(pack_monitor_of(step.place)).serial
    return None if serial == step.pack else f"the pack in {step.place} says it is {serial}, expected {step.pack}"


def charging(_layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
    """Read-back within the pack's own limits; and if current is asked for, the pack measures it."""
    charger = snapshot.charger(charger_of(step.place))
    pack = snapshot.pack(pack_monitor_of(step.place))
    if charger.state is not ChargerState.CHARGING:
        return f"charger of {step.place} is {charger.state.name.lower()}"
    if charger.setpoint_voltage_v > pack.charge_voltage_v_max + SETPOINT_TOLERANCE_V:
        return (
            f"charger follows {charger.setpoint_voltage_v:.1f} V, the pack allows {pack.charge_voltage_v_max:.1f} V"
        )
    if charger.setpoint_current_a > pack.charge_current_a_max + SETPOINT_TOLERANCE_A:
        return (
            f"charger follows {charger.setpoint_current_a:.1f} A, the pack allows {pack.charge_current_a_max:.1f} A"
        )
    if charger.setpoint_current_a > FLOWING_A_MIN and pack.pack_current_a < FLOWING_A_MIN:
        return f"no current into {step.pack}, {charger.setpoint_current_a:.1f} A asked for"
    return None


def all_of(*confirms: Confirm) -> Confirm:
    """The first of these that misses something says what."""

    def confirm(layout: Layout, step: Step, snapshot: StationSnapshot) -> str | None:
        return next((why for why in (c(layout, step, snapshot) for c in confirms) if why), None)

    return confirm
