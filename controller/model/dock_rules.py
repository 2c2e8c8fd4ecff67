"""Rules of a dock: safety zone, vehicle, shuttle, bolts."""

from __future__ import annotations

from collections.abc import Iterable

from controller.model.bolts import all_proven, proves_closed
from controller.model.layout import locks_of
from controller.model.situation import (
    STILL,
    Rule,
    Situation,
    empty_and_reserved,
    fork_retracted,
    holds_pack,
    registrar,
    sensor_agrees,
)
from controller.model.transfers import SAFE_CURRENT_A, is_awake, near, stacker_at
from hal.types import BoltResult, BoltState

# An edge of the in-place sensor is no vehicle at rest: station hosts in the field went from edges to 2 s of level.
IN_PLACE_STABLE_S_MIN = 2.0

RULES: dict[str, Rule] = {}
rule = registrar(RULES)


@rule
def curtain_not_broken(now: Situation) -> str | None:
    """The light curtain is clear, or muted by the safety PLC for a vehicle that drives in or out."""
    safety = now.snapshot.safety_of(now.dock.device("safety"))
    return None if safety.curtain_clear or safety.curtain_muted else "light curtain interrupted"


@rule
def curtain_armed(now: Situation) -> str | None:
    """The light curtain is clear and not muted."""
    safety = now.snapshot.safety_of(now.dock.device("safety"))
    if safety.curtain_muted:
        return "light curtain is muted"
    return None if safety.curtain_clear else "light curtain interrupted"


# --- the vehicle --------------------------------------------------------------------------------


@rule
def in_place(now: Situation) -> str | None:
    """A vehicle stands in place."""
    return None if now.snapshot.input(now.dock.device("in_place")) else f"no vehicle in place in {now.dock.dock_id}"


@rule
def mount_there(now: Situation) -> str | None:
    """The vehicle says that it has this mount."""
    vehicle = now.snapshot.vehicle(now.dock.device("vehicle"))
    there = now.step.place in now.dock.mounts[: len(vehicle.mounts)]
    return None if there else f"{vehicle.vehicle_id} has no mount where {now.step.place} is"


@rule
def in_place_stable(now: Situation) -> str | None:
    """The vehicle has been in place for 2 s without a break."""
    missing = in_place(now)
    stable_s = now.snapshot.input_stable_s(now.dock.device("in_place"))
    if missing is None and stable_s < IN_PLACE_STABLE_S_MIN:
        return f"vehicle in place for {stable_s:.1f} s only, {IN_PLACE_STABLE_S_MIN:.0f} s wanted"
    return missing


@rule
def clamped(now: Situation) -> str | None:
    """The clamp is closed on the vehicle."""
    return now.axis_off(now.dock.device("clamp"), now.dock.clamp_closed_mm, "closed")


@rule
def unclamped(now: Situation) -> str | None:
    """The clamp is open."""
    return now.axis_off(now.dock.device("clamp"), now.dock.clamp_open_mm, "open")


@rule
def raised(now: Situation) -> str | None:
    """The vehicle is raised, where the dock has a vehicle lift."""
    up_mm = now.dock.vehicle_lift_up_mm
    return None if up_mm is None else now.axis_off(now.dock.device("vehicle_lift"), up_mm, "up")


@rule
def lowered(now: Situation) -> str | None:
    """The vehicle stands on its wheels, where the dock has a vehicle lift."""
    down_mm = now.dock.vehicle_lift_down_mm
    return None if down_mm is None else now.axis_off(now.dock.device("vehicle_lift"), down_mm, "down")


@rule
def held_if_present(now: Situation) -> str | None:
    """If a vehicle stands in place, it is clamped."""
    return clamped(now) if now.snapshot.input(now.dock.device("in_place")) else None


@rule
def park_and_brake(now: Situation) -> str | None:
    """The vehicle says that park and brake are applied."""
    vehicle = now.snapshot.vehicle(now.dock.device("vehicle"))
    if not vehicle.park_applied:
        return "the vehicle is not in park"
    return None if vehicle.brake_applied else "the vehicle's brake is not applied"


@rule
def park_applied(now: Situation) -> str | None:
    """The vehicle says that park is applied."""
    return None if now.snapshot.vehicle(now.dock.device("vehicle")).park_applied else "the vehicle is not in park"


@rule
def high_voltage_off(now: Situation) -> str | None:
    """The vehicle says that its high voltage is off."""
    off = now.snapshot.vehicle(now.dock.device("vehicle")).high_voltage_off
    return None if off else "the vehicle's high voltage is on"


@rule
def no_pack_current(now: Situation) -> str | None:
    """The vehicle's packs carry at most 1 A."""
    current_a = now.snapshot.vehicle(now.dock.device("vehicle")).pack_current_a
    return None if abs(current_a) <= SAFE_CURRENT_A else f"the vehicle's packs carry {current_a:.1f} A"


@rule
def doors_closed(now: Situation) -> str | None:
    """The vehicle says that its doors are closed."""
    return None if now.snapshot.vehicle(now.dock.device("vehicle")).doors_closed else "a vehicle door is open"


@rule
def awake(now: Situation) -> str | None:
    """The vehicle says that it is ready to drive, as it was asked to be."""
    ready = is_awake(now.snapshot.vehicle(now.dock.device("vehicle")))
    return None if ready else "the vehicle is not ready to drive"


@rule
def gate_closed(now: Situation) -> str | None:
    """The dock's gate is closed."""
    return None if now.snapshot.input(now.dock.device("gate_closed")) else f"gate of {now.dock.dock_id} is open"


@rule
def mounts_checked(now: Situation) -> str | None:
    """The vehicle has checked and accepts the pack in every occupied mount."""
    for mount in _occupied(now):
        if not _vehicle_accepts(now, mount):
            return f"the vehicle has not accepted the pack in {mount}"
    return None


# --- shuttle and bolts --------------------------------------------------------------------------------


@rule
def lift_down(now: Situation) -> str | None:
    """The shuttle's lift is down."""
    return now.axis_off(now.dock.device("shuttle_lift"), now.dock.shuttle_lift_down_mm, "down")


@rule
def lift_up(now: Situation) -> str | None:
    """The shuttle's lift is up."""
    return now.axis_off(now.dock.device("shuttle_lift"), now.dock.shuttle_lift_up_mm, "up")


@rule
def aligned(now: Situation) -> str | None:
    """The shuttle stands still with the step's table under the step's mount."""
    return now.axis_off(now.dock.device("shuttle_travel"), now.align_mm, "aligned") or shuttle_still(now)


@rule
def shuttle_still(now: Situation) -> str | None:
    """The shuttle's travel stands still."""
    state = now.snapshot.axis(now.dock.device("shuttle_travel")).state
    return None if state in STILL else f"shuttle of {now.dock.dock_id} is {state.name.lower()}"


@rule
def fork_out_of_dock(now: Situation) -> str | None:
    """The stacker's fork is not extended into a table of this dock."""
    if fork_retracted(now) is None:
        return None
    stacker = now.layout.stacker
    for place, taught in stacker.places.items():
        if stacker_at(now.snapshot, taught, stacker.carry_offset_mm):
            return f"the fork is extended into {place}" if place in now.dock.tables else None
    return "the fork is extended, and the stacker stands at no taught place"


@rule
def heads_engaged(now: Situation) -> str | None:
    """The nut runners sit on the mount's bolt heads: the lift bears the pack."""
    engaged = now.snapshot.lock_bank(locks_of(now.step.place)).heads_engaged
    return None if engaged else f"the runners are not on the bolt heads of {now.step.place}"


@rule
def not_two_packs(now: Situation) -> str | None:
    """Of mount and table, one is empty."""
    two = now.pack_at(now.step.place) is not None and now.pack_at(now.step.table) is not None
    return f"{now.step.place} and {now.step.table} both hold a pack" if two else None


@rule
def table_as_known(now: Situation) -> str | None:
    """While the lift is down, the presence sensor of the table agrees with the inventory."""
    return sensor_agrees(now, now.step.table) if lift_down(now) is None else None


@rule
def pack_in_mount(now: Situation) -> str | None:
    """The pack is in the mount, by the inventory."""
    return holds_pack(now, now.step.place)


@rule
def table_empty_and_reserved(now: Situation) -> str | None:
    """The table under the mount is where the pack goes, empty also by its sensor, and reserved for the pack.

    With every bolt open already, as after an unlock whose outcome was not recorded, the sensor sees the pack itself.
    """
    if now.step.goes_to != now.step.table:
        return f"{now.step.pack} would go to {now.step.goes_to or 'no place'}, the table is {now.step.table}"
    bank = now.snapshot.lock_bank(locks_of(now.step.place))
    if now.snapshot.input(now.step.table) and not (bank.bolts and bank.all_unlocked):
        return f"the sensor of {now.step.table} sees a pack"
    return empty_and_reserved(now, now.step.table)


@rule
def exit_reserved(now: Situation) -> str | None:
    """A place beyond the table is reserved for the pack: a slot or a quarantine place."""
    store = now.layout.store
    kept = [p for p in (*store.slots, *store.quarantine) if now.packs.reserved.get(p) == now.step.pack]
    return None if kept else f"no slot is reserved for {now.step.pack}"


@rule
def pack_on_lift(now: Situation) -> str | None:
    """The pack rests on the lift: on the table with the mount empty and reserved, or in the mount, half turned."""
    if now.pack_at(now.step.place) == now.step.pack != "":
        return None
    return holds_pack(now, now.step.table) or empty_and_reserved(now, now.step.place)


@rule
def bolts_of_one_mind(now: Situation) -> str | None:
    """Above the shuttle, the bolts of a mount are all open, or all locked and proven, as the inventory has it."""
    if not now.snapshot.input(now.dock.device("in_place")):
        return None
    for mount in _mounts_above(now):
        bank = now.snapshot.lock_bank(locks_of(mount))
        states = {bolt.state for bolt in bank.bolts}
        if states not in ({BoltState.LOCKED}, {BoltState.UNLOCKED}):
            return f"bolts of {mount} are {', '.join(sorted(s.name.lower() for s in states)) or 'not known'}"
        held = now.pack_at(mount) is not None
        untouched = all(bolt.result is BoltResult.NONE for bolt in bank.bolts)  # as the vehicle brought them
        if states == {BoltState.UNLOCKED} and held:
            return f"every bolt of {mount} is open, but its pack counts as in the mount"
        if (
            states == {BoltState.LOCKED}
            and held
            and not (untouched or all_proven(bank, now.dock.lock_banks.get(mount)))
        ):
            return f"the bolts of {mount} are locked, and their last turn does not prove it"
        if states == {BoltState.LOCKED} and not held and any(now.pack_at(table) for table in now.dock.tables):
            return f"every bolt of {mount} is locked, but no pack counts as in the mount"
    return None


@rule
def bolts_proven(now: Situation) -> str | None:
    """Every bolt of every occupied mount is proven closed by torque and angle."""
    return next((why for why in (_unproven(now, mount) for mount in _occupied(now)) if why), None)


@rule
def mount_proven(now: Situation) -> str | None:
    """The pack is in the mount, and every bolt of it is proven closed by torque and angle."""
    return holds_pack(now, now.step.place) or _unproven(now, now.step.place)


# --- what these rules share ----------------------------------------------------------------------------------------


def _occupied(now: Situation) -> Iterable[str]:
    return [mount for mount in now.dock.mounts if now.pack_at(mount) is not None]


def _mounts_above(now: Situation) -> Iterable[str]:
    """Mounts that the shuttle stands under, with either table, or whose bolt heads carry the runners."""
    travel_mm = now.snapshot.axis(now.dock.device("shuttle_travel")).position_mm
    under = {mount for (mount, _), position_mm in now.dock.align_mm.items() if near(travel_mm, position_mm)}
    return [m for m in now.dock.mounts if m in under or now.snapshot.lock_bank(locks_of(m)).heads_engaged]


def _vehicle_accepts(now: Situation, mount: str) -> bool:
    by_vehicle = now.snapshot.vehicle(now.dock.device("vehicle")).mounts
    index = now.dock.mounts.index(mount)
    return index < len(by_vehicle) and by_vehicle[index].pack_ok


def _unproven(now: Situation, mount: str) -> str | None:
    window = now.dock.lock_banks.get(mount)
    if window is None:
        return f"nothing says what proves a bolt of {mount}"
    bank = now.snapshot.lock_bank(locks_of(mount))
    if len(bank.bolts) != window.bolts:
        return f"{mount} reports {len(bank.bolts)} bolts, it has {window.bolts}"
    open_bolts = [n for n, bolt in enumerate(bank.bolts, start=1) if not proves_closed(bolt, window)]
    return f"bolts {open_bolts} of {mount} are not proven closed" if open_bolts else None
