"""Rules of the store, and of every zone: safety hardware, detectors, stacker, slots."""

from __future__ import annotations

from controller.model.layout import FORK, charger_of, connector_of, pack_monitor_of
from controller.model.situation import (
    REACHING_STEPS,
    STILL,
    STORE_STEPS,
    Rule,
    Situation,
    empty_and_reserved,
    fork_retracted,
    holds_pack,
    registrar,
    sensor_agrees,
)
from controller.model.transfers import POSITION_TOLERANCE_MM, SAFE_CURRENT_A, near, stacker_at
from hal.errors import StaleReading
from hal.types import ChargerState

# A charger follows a falling limit of the BMS with its ramp (profiles/chargers/generic_dc.toml: 20 A/s), a poll late.
OVER_LIMIT_A_MAX = 5.0
OVER_LIMIT_V_MAX = 5.0

RULES: dict[str, Rule] = {}
rule = registrar(RULES)
rule(fork_retracted)


# --- safety hardware and detectors ---------------------------------------------------------------------------


def _zones(now: Situation) -> tuple[str, ...]:
    """Zones in which the step acts: its dock's, or the store's and that of the table it reaches into."""
    if now.step.kind in STORE_STEPS:
        dock = now.served_dock if now.step.kind in REACHING_STEPS else None
        return ("store", dock.dock_id) if dock else ("store",)
    return (now.dock.dock_id,)


@rule
def zone_safe(now: Situation) -> str | None:
    """The zone's E-stop chain and guards are closed, there is no fire, and its drives are enabled."""
    for zone in _zones(now):
        safety = now.snapshot.safety_of(f"{zone}.safety")
        wrong = [
            text
            for text, bad in (
                ("E-stop chain open", not safety.estop_ok),
                ("guard open", not safety.guard_closed),
                ("fire", safety.fire),
                ("drives not enabled", not safety.drives_enabled),
            )
            if bad
        ]
        if wrong:
            return f"{zone}: {', '.join(wrong)}"
    return None


@rule
def zone_quiet(now: Situation) -> str | None:
    """No smoke, gas or water alarm where a pack would be carried or charged."""
    for zone in _zones(now):
        alarms = now.snapshot.zone(f"{zone}.zone")
        found = [name for name in ("smoke", "gas", "water") if getattr(alarms, name)]
        if found:
            return f"{zone}: {', '.join(found)} alarm"
    return None


# --- stacker --------------------------------------------------------------------------------


@rule
def fork_in_place(now: Situation) -> str | None:
    """The fork is fully in the place."""
    return now.axis_off(FORK, now.at_place.fork_mm, "fully in the place")


@rule
def fork_as_known(now: Situation) -> str | None:
    """The fork's load sensor agrees with the inventory."""
    return sensor_agrees(now, FORK)


@rule
def stacker_in_place(now: Situation) -> str | None:
    """The stacker stands still at the place: under the pack when empty, at carrying height when loaded."""
    taught, stacker = now.at_place, now.layout.stacker
    z_mm = taught.z_mm + (stacker.carry_offset_mm if now.pack_at(FORK) is not None else 0.0)
    off = now.axis_off("stacker.x", taught.x_mm, "the place") or now.axis_off("stacker.z", z_mm, "the height")
    return off or _stacker_moving(now)


@rule
def stacker_over_place(now: Situation) -> str | None:
    """The stacker's travel stands at the place, its height between under the pack and carrying it."""
    taught, stacker = now.at_place, now.layout.stacker
    off = now.axis_off("stacker.x", taught.x_mm, "the place")
    z = now.snapshot.axis("stacker.z")
    low_mm, high_mm = (
        taught.z_mm - POSITION_TOLERANCE_MM,
        taught.z_mm + stacker.carry_offset_mm + POSITION_TOLERANCE_MM,
    )
    if off is None and not (z.homed and low_mm <= z.position_mm <= high_mm):
        return f"stacker.z stands at {z.position_mm:.1f} mm, the place is from {low_mm:.1f} to {high_mm:.1f} mm"
    return off


@rule
def fork_may_retract(now: Situation) -> str | None:
    """Where the fork is out, the stacker stands still at a taught place, and not with a pack half borne."""
    if fork_retracted(now) is None:
        return None
    offset_mm = now.layout.stacker.carry_offset_mm if now.pack_at(FORK) is not None else 0.0
    x, z = now.snapshot.axis("stacker.x"), now.snapshot.axis("stacker.z")
    for taught in now.layout.stacker.places.values():
        if near(x.position_mm, taught.x_mm) and near(z.position_mm, taught.z_mm + offset_mm):
            return _stacker_moving(now)
    height = "carrying" if offset_mm else "pick-up"
    return f"stacker stands at x {x.position_mm:.1f} z {z.position_mm:.1f} mm: no taught place at {height} height"


@rule
def target_fits(now: Situation) -> str | None:
    """Loaded, the place is empty and reserved for the pack; empty, the pack is there; the sensor says so too."""
    loaded = now.pack_at(FORK)
    if loaded is not None and loaded != now.step.pack:
        return f"the fork carries {loaded}, not {now.step.pack}"
    wrong = holds_pack(now, now.step.place) if loaded is None else empty_and_reserved(now, now.step.place)
    return wrong or sensor_agrees(now, now.step.place)


@rule
def pack_to_lift(now: Situation) -> str | None:
    """The pack is in the place or half lifted out of it, the fork has no other, and where it goes is reserved."""
    if now.step.pack and now.pack_at(FORK) == now.step.pack:
        return None
    if now.pack_at(FORK) is not None:
        return f"the fork carries {now.pack_at(FORK)}"
    wrong = holds_pack(now, now.step.place)
    kept = now.packs.reserved.get(now.step.goes_to) == now.step.pack
    return wrong or (None if kept else f"{now.step.goes_to or 'no place'} is not reserved for {now.step.pack}")


@rule
def place_to_fill(now: Situation) -> str | None:
    """The fork carries the pack and the place is empty and reserved for it, or the pack is half set down there."""
    if now.step.pack and now.pack_at(now.step.place) == now.step.pack:
        return None if now.pack_at(FORK) is None else f"the fork carries {now.pack_at(FORK)}"
    return holds_pack(now, FORK) or empty_and_reserved(now, now.step.place)


@rule
def table_served(now: Situation) -> str | None:
    """If the place is a table, its shuttle stands still at the exchange with the lift down."""
    dock = now.served_dock
    if dock is None:
        return None
    travel = dock.device("shuttle_travel")
    off = now.axis_off(travel, dock.shuttle_exchange_mm, "the exchange")
    off = off or now.axis_off(dock.device("shuttle_lift"), dock.shuttle_lift_down_mm, "down")
    moving = next((d for d in (travel, dock.device("shuttle_lift")) if now.snapshot.axis(d).state not in STILL), None)
    return off or (f"{moving} does not stand still" if moving else None)


@rule
def slot_unplugged(now: Situation) -> str | None:
    """If the place is a slot, its connector is out, by both end switches."""
    place = now.step.place
    if not now.layout.is_slot(place):
        return None
    plug = now.snapshot.connector(connector_of(place))
    out = plug.disengaged and not plug.engaged
    return None if out else f"the connector of {place} is not out"


# --- slots --------------------------------------------------------------------------------


@rule
def fork_out_of_slot(now: Situation) -> str | None:
    """The fork is not in this slot."""
    if fork_retracted(now) is None:
        return None
    stacker = now.layout.stacker
    here = stacker_at(now.snapshot, now.at_place, stacker.carry_offset_mm)
    return f"the fork is in {now.step.place}" if here else None


@rule
def current_safe(now: Situation) -> str | None:
    """The charger is not on and delivers at most 1 A, and the pack, if heard, carries no more."""
    charger = now.snapshot.charger(charger_of(now.step.place))
    if charger.state in {ChargerState.STARTING, ChargerState.CHARGING, ChargerState.STOPPING}:
        return f"the charger of {now.step.place} is {charger.state.name.lower()}"
    if abs(charger.output_current_a) > SAFE_CURRENT_A:
        return f"the charger of {now.step.place} delivers {charger.output_current_a:.1f} A"
    reading = now.snapshot.packs.get(pack_monitor_of(now.step.place))
    try:
        pack = now.snapshot.pack(pack_monitor_of(now.step.place)) if reading is not None else None
    except StaleReading:
        pack = None  # not plugged in, or silent: the charger's own measurement is what there is
    if pack is not None and abs(pack.pack_current_a) > SAFE_CURRENT_A:
        return f"the pack in {now.step.place} carries {pack.pack_current_a:.1f} A"
    return None


@rule
def pack_in_slot(now: Situation) -> str | None:
    """The pack is in the slot, by the inventory and by the presence sensor."""
    return holds_pack(now, now.step.place) or sensor_agrees(now, now.step.place)


@rule
def connector_in(now: Situation) -> str | None:
    """The slot's connector is in, by both end switches."""
    plug = now.snapshot.connector(connector_of(now.step.place))
    proven = plug.engaged and not plug.disengaged
    return None if proven else f"the connector of {now.step.place} is not in"


@rule
def pack_heard_and_known(now: Situation) -> str | None:
    """The BMS is heard, and says the serial that the inventory has for this slot."""
    serial = now.snapshot.pack(pack_monitor_of(now.step.place)).serial
    if serial != now.step.pack:
        return f"the pack in {now.step.place} says it is {serial or 'nobody'}, expected {now.step.pack}"
    return holds_pack(now, now.step.place)


@rule
def pack_may_charge(now: Situation) -> str | None:
    """The BMS reports no fault and allows a charge voltage above what the pack has."""
    pack = now.snapshot.pack(pack_monitor_of(now.step.place))
    if pack.fault_code:
        return f"the pack in {now.step.place} reports fault {pack.fault_code}"
    fits = 0.0 < pack.pack_voltage_v <= pack.charge_voltage_v_max and pack.charge_current_a_max >= 0.0
    allowed = f"{pack.charge_voltage_v_max:.1f} V, {pack.charge_current_a_max:.1f} A"
    return None if fits else f"the pack in {now.step.place} has {pack.pack_voltage_v:.1f} V and allows {allowed}"


@rule
def within_bms_limits(now: Situation) -> str | None:
    """What the charger delivers is within the limits of the BMS."""
    charger = now.snapshot.charger(charger_of(now.step.place))
    pack = now.snapshot.pack(pack_monitor_of(now.step.place))
    if charger.output_current_a > pack.charge_current_a_max + OVER_LIMIT_A_MAX:
        return f"{charger.output_current_a:.1f} A flow, the BMS allows {pack.charge_current_a_max:.1f} A"
    if charger.output_voltage_v > pack.charge_voltage_v_max + OVER_LIMIT_V_MAX:
        return f"{charger.output_voltage_v:.1f} V are applied, the BMS allows {pack.charge_voltage_v_max:.1f} V"
    return None


def _stacker_moving(now: Situation) -> str | None:
    moving = [a for a in ("stacker.x", "stacker.z") if now.snapshot.axis(a).state not in STILL]
    return f"{moving[0]} does not stand still" if moving else None
