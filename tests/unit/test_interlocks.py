from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from controller.model.intent import Step, StepKind
from controller.model.interlocks import RULES, STEP_RULES, requires_violations
from controller.model.layout import FORK, charger_of, connector_of, locks_of
from hal.types import AxisState, BoltResult, BoltState, ChargerState, MountStatus, SafetyInputs
from tests.support.scene import (
    CLOSED,
    DOCK,
    FRESH,
    MOUNT,
    OLD,
    OPEN,
    OTHER_TABLE,
    SLOT,
    TABLE,
    Scene,
    scene_for,
)

Spoil = Callable[[Scene], object]
VEHICLE, CLAMP, LIFT, TRAVEL = f"{DOCK}.vehicle", f"{DOCK}.clamp", f"{DOCK}.shuttle_lift", f"{DOCK}.shuttle_travel"

# The least that must be able to stop an unlock, and each way in which the demo dock can be short of it.
SPOILT: dict[str, list[Spoil]] = {
    "zone_safe": [
        lambda s: s.change(zone_of(s), estop_ok=False),
        lambda s: s.change(zone_of(s), guard_closed=False),
        lambda s: s.change(zone_of(s), fire=True),
        lambda s: s.change(zone_of(s), drives_enabled=False),
    ],
    "zone_quiet": [
        lambda s: s.change(zone_of(s).replace("safety", "zone"), smoke=True),
        lambda s: s.change(zone_of(s).replace("safety", "zone"), gas=True),
        lambda s: s.change(zone_of(s).replace("safety", "zone"), water=True),
    ],
    "curtain_not_broken": [lambda s: s.change(f"{DOCK}.safety", curtain_clear=False)],
    "curtain_armed": [
        lambda s: s.change(f"{DOCK}.safety", curtain_clear=False),
        lambda s: s.change(f"{DOCK}.safety", curtain_muted=True),
        lambda s: s.change(f"{DOCK}.safety", curtain_clear=False, curtain_muted=True),
    ],
    "in_place": [lambda s: s.input(f"{DOCK}.in_place", False)],
    "mount_there": [lambda s: s.change(VEHICLE, mounts=())],
    "in_place_stable": [lambda s: s.input(f"{DOCK}.in_place", False), lambda s: setattr(s, "in_place_for_s", 1.99)],
    "clamped": [lambda s: s.at(CLAMP, 177.9), lambda s: s.at(CLAMP, 182.1), lambda s: s.change(CLAMP, homed=False)],
    "unclamped": [lambda s: s.at(CLAMP, 2.1), lambda s: s.at(CLAMP, 180.0)],
    "raised": [
        lambda s: s.at(f"{DOCK}.vehicle_lift", 117.9),
        lambda s: s.change(f"{DOCK}.vehicle_lift", homed=False),
    ],
    "lowered": [lambda s: s.at(f"{DOCK}.vehicle_lift", 2.1)],
    "held_if_present": [lambda s: s.at(CLAMP, 0.0)],
    "park_and_brake": [
        lambda s: s.change(VEHICLE, park_applied=False),
        lambda s: s.change(VEHICLE, brake_applied=False),
    ],
    "park_applied": [lambda s: s.change(VEHICLE, park_applied=False)],
    "high_voltage_off": [lambda s: s.change(VEHICLE, high_voltage_off=False)],
    "no_pack_current": [
        lambda s: s.change(VEHICLE, pack_current_a=1.01),
        lambda s: s.change(VEHICLE, pack_current_a=-1.01),
    ],
    "doors_closed": [lambda s: s.change(VEHICLE, doors_closed=False)],
    "awake": [lambda s: s.change(VEHICLE, ready_to_drive=False)],
    "gate_closed": [lambda s: s.input(f"{DOCK}.gate_closed", False)],
    "mounts_checked": [lambda s: s.change(VEHICLE, mounts=(replace(mount_of(s), pack_ok=False),))],
    "lift_down": [lambda s: s.at(LIFT, 2.1), lambda s: s.at(LIFT, 400.0), lambda s: s.change(LIFT, homed=False)],
    "lift_up": [lambda s: s.at(LIFT, 397.9), lambda s: s.at(LIFT, 0.0)],
    "aligned": [
        lambda s: s.at(TRAVEL, 4002.1),
        lambda s: s.at(TRAVEL, 5500.0),
        lambda s: s.change(TRAVEL, state=AxisState.MOVING),
        lambda s: setattr(s, "step", replace(s.step, table=OTHER_TABLE, goes_to=OTHER_TABLE)),
        lambda s: setattr(s, "step", replace(s.step, table="dock1.table_9")),
    ],
    "shuttle_still": [
        lambda s: s.change(TRAVEL, state=AxisState.MOVING),
        lambda s: s.change(TRAVEL, state=AxisState.STOPPING),
        lambda s: s.change(TRAVEL, state=AxisState.HOMING),
        lambda s: s.change(TRAVEL, state=AxisState.FAULT),
        lambda s: s.change(TRAVEL, state=AxisState.POWER_OFF),
    ],
    "fork_out_of_dock": [
        lambda s: stacker_to(s, TABLE).at(FORK, 1200.0),
        lambda s: stacker_to(s, OTHER_TABLE).at(FORK, 2.1),
        lambda s: s.at("stacker.x", 1500.0).at(FORK, 600.0),
        lambda s: stacker_to(s, TABLE).change(FORK, homed=False),
    ],
    "heads_engaged": [lambda s: s.change(locks_of(MOUNT), heads_engaged=False)],
    "not_two_packs": [lambda s: s.put(FRESH, TABLE)],
    "table_as_known": [lambda s: s.input(TABLE, True)],
    "pack_in_mount": [lambda s: s.put(FRESH, MOUNT), lambda s: s.take(MOUNT), lambda s: s.put_unknown(MOUNT)],
    "table_empty_and_reserved": [
        lambda s: s.put(FRESH, TABLE),
        lambda s: s.put_unknown(TABLE),
        lambda s: s.packs.kept.pop(TABLE),
        lambda s: s.input(TABLE, True),
        lambda s: s.keep(TABLE, FRESH),
        lambda s: setattr(s, "step", replace(s.step, goes_to=OTHER_TABLE)),
        lambda s: setattr(s, "step", replace(s.step, goes_to="")),
    ],
    "exit_reserved": [lambda s: s.packs.kept.pop(SLOT), lambda s: s.keep(SLOT, FRESH)],
    "pack_on_lift": [
        lambda s: s.take(TABLE),
        lambda s: s.put(OLD, MOUNT),
        lambda s: s.packs.kept.pop(MOUNT),
        lambda s: s.put(OLD, TABLE),
        lambda s: s.put_unknown(TABLE),
    ],
    "bolts_of_one_mind": [
        lambda s: s.bolts(*(CLOSED,) * 9, OPEN),
        lambda s: s.bolts(*(OPEN,) * 9, replace(OPEN, state=BoltState.MOVING)),
        lambda s: s.bolts(replace(OPEN, state=BoltState.UNKNOWN)),
        lambda s: s.change(locks_of(MOUNT), bolts=()),
        lambda s: s.bolts(OPEN),
        lambda s: s.take(MOUNT).put(FRESH, TABLE),
    ],
    "bolts_proven": [
        lambda s: s.bolts(*(CLOSED,) * 9, OPEN),
        lambda s: s.bolts(*(CLOSED,) * 9),
        lambda s: s.bolts(*(CLOSED,) * 11),
        lambda s: s.bolts(*(CLOSED,) * 9, replace(CLOSED, torque_nm=99.9)),
        lambda s: s.bolts(*(CLOSED,) * 9, replace(CLOSED, torque_nm=140.1)),
        lambda s: s.bolts(*(CLOSED,) * 9, replace(CLOSED, angle_deg=1399.0)),
        lambda s: s.bolts(*(CLOSED,) * 9, replace(CLOSED, angle_deg=2201.0)),
        lambda s: s.bolts(*(CLOSED,) * 9, replace(CLOSED, result=BoltResult.TORQUE_EARLY)),
        lambda s: s.bolts(*(CLOSED,) * 9, replace(CLOSED, result=BoltResult.NONE)),
    ],
    "mount_proven": [
        lambda s: s.bolts(*(CLOSED,) * 9, replace(CLOSED, torque_nm=99.9)),
        lambda s: s.put(FRESH, MOUNT),
        lambda s: s.take(MOUNT),
    ],
    "fork_retracted": [
        lambda s: s.at(FORK, 2.1),
        lambda s: s.forget(FORK),
        lambda s: s.at(FORK, -2.1),
        lambda s: s.change(FORK, homed=False),
    ],
    "fork_in_place": [lambda s: s.at(FORK, 1197.9), lambda s: s.at(FORK, 0.0)],
    "fork_as_known": [
        lambda s: s.input(FORK, True),
        lambda s: s.values["inputs"].pop(FORK),
        lambda s: s.put_unknown(FORK),
    ],
    "stacker_in_place": [
        lambda s: s.at("stacker.x", 5002.1),
        lambda s: s.at("stacker.z", 80.0),
        lambda s: s.change("stacker.x", state=AxisState.MOVING),
        lambda s: s.change("stacker.z", state=AxisState.STOPPING),
        lambda s: s.change("stacker.z", homed=False),
    ],
    "stacker_over_place": [
        lambda s: s.at("stacker.x", 5002.1),
        lambda s: s.at("stacker.z", -2.1),
        lambda s: s.at("stacker.z", 82.1),
        lambda s: s.change("stacker.z", homed=False),
    ],
    "fork_may_retract": [
        lambda s: s.at("stacker.z", 40.0),
        lambda s: s.at("stacker.z", 80.0),
        lambda s: s.put(FRESH, FORK),
        lambda s: s.at("stacker.x", 4500.0),
        lambda s: s.change("stacker.x", state=AxisState.MOVING),
        lambda s: s.put_unknown(FORK),
    ],
    "target_fits": [
        lambda s: s.take(SLOT),
        lambda s: s.put(OLD, SLOT),
        lambda s: s.input(SLOT, False),
        lambda s: s.put_unknown(SLOT),
        lambda s: setattr(s, "step", replace(s.step, pack="")),
    ],
    "pack_to_lift": [
        lambda s: s.take(SLOT),
        lambda s: s.put(OLD, SLOT),
        lambda s: s.put(OLD, FORK),
        lambda s: s.packs.kept.clear(),
        lambda s: setattr(s, "step", replace(s.step, goes_to="")),
    ],
    "place_to_fill": [
        lambda s: s.take(FORK),
        lambda s: s.put(OLD, FORK),
        lambda s: s.put(OLD, SLOT),
        lambda s: s.packs.kept.clear(),
    ],
    "slot_unplugged": [
        lambda s: s.plug(SLOT, True, False),
        lambda s: s.plug(SLOT, False, False),
        lambda s: s.plug(SLOT, True, True),
    ],
    "fork_out_of_slot": [lambda s: s.at(FORK, 1200.0), lambda s: s.at(FORK, 2.1)],
    "current_safe": [
        lambda s: s.change(charger_of(SLOT), state=ChargerState.CHARGING),
        lambda s: s.change(charger_of(SLOT), state=ChargerState.STARTING),
        lambda s: s.change(charger_of(SLOT), state=ChargerState.STOPPING),
        lambda s: s.change(charger_of(SLOT), output_current_a=1.01),
        lambda s: s.pack(SLOT, FRESH, pack_current_a=1.01),
        lambda s: s.pack(SLOT, FRESH, pack_current_a=-1.01),
    ],
    "pack_in_slot": [lambda s: s.take(SLOT), lambda s: s.put(OLD, SLOT), lambda s: s.input(SLOT, False)],
    "connector_in": [
        lambda s: s.plug(SLOT, False, True),
        lambda s: s.plug(SLOT, False, False),
        lambda s: s.plug(SLOT, True, True),
    ],
    "pack_heard_and_known": [
        lambda s: s.pack(SLOT, OLD),
        lambda s: s.pack(SLOT, ""),
        lambda s: s.forget(f"{SLOT}.pack"),
        lambda s: s.age(f"{SLOT}.pack", 3.01),
    ],
    "pack_may_charge": [
        lambda s: s.pack(SLOT, FRESH, fault_code=7),
        lambda s: s.pack(SLOT, FRESH, charge_voltage_v_max=379.9),
        lambda s: s.pack(SLOT, FRESH, charge_voltage_v_max=0.0),
        lambda s: s.pack(SLOT, FRESH, pack_voltage_v=0.0),
    ],
    "within_bms_limits": [
        lambda s: s.change(charger_of(SLOT), output_current_a=105.1),
        lambda s: s.change(charger_of(SLOT), output_voltage_v=425.1),
    ],
}
# A rule that needs a scene of its own has its own test below.
OWN_TESTS = {"table_served"}


def zone_of(scene: Scene) -> str:
    """Return the safety status of the step's own zone."""
    return "store.safety" if scene.step.dock == "store" else f"{DOCK}.safety"


def mount_of(scene: Scene) -> MountStatus:
    """Return what the vehicle says of its mount."""
    mount = scene.group_of(VEHICLE)[VEHICLE].mounts[0]
    assert isinstance(mount, MountStatus)
    return mount


def stacker_to(scene: Scene, place: str) -> Scene:
    """Let the stacker stand at a place, under its pack."""
    at = scene.layout.stacker.places[place]
    return scene.at("stacker.x", at.x_mm).at("stacker.z", at.z_mm)


USES = [
    (kind, rule) for kind, rules in STEP_RULES.items() for rule in dict.fromkeys(rules.requires + rules.holds_while)
]


@pytest.mark.parametrize("kind", list(StepKind))
def test_step_may_begin_and_go_on_when_all_is_well(kind: StepKind) -> None:
    """With everything as it should be, nothing blocks a step of any kind."""
    scene = scene_for(kind)
    assert scene.requires() == ()
    assert scene.holds() == ()


@pytest.mark.parametrize(("kind", "rule"), [use for use in USES if use[1] not in OWN_TESTS])
def test_every_way_to_break_a_rule_is_named(kind: StepKind, rule: str) -> None:
    """In each step that has a rule, each way of breaking it is a violation of that rule, at start and meanwhile."""
    rules = STEP_RULES[kind]
    for number, spoil in enumerate(SPOILT[rule]):
        scene = scene_for(kind)
        spoil(scene)
        if rule in rules.requires:
            assert rule in {v.rule for v in scene.requires()}, f"{rule} not broken by way {number}"
        if rule in rules.holds_while:
            assert rule in {v.rule for v in scene.holds()}, f"{rule} not broken by way {number}"


def test_every_rule_is_used_and_tested() -> None:
    """No rule is without a step, no step names a rule that is not there, and each has ways to break it."""
    assert {rule for _, rule in USES} == set(RULES)
    assert set(SPOILT) | OWN_TESTS == set(RULES)
    assert set(STEP_RULES) == set(StepKind)


def test_every_rule_says_what_it_wants() -> None:
    """Each rule has one sentence for people."""
    for rule in RULES.values():
        assert rule.text.endswith(".")
        assert len(rule.text) > 15


@pytest.mark.parametrize("kind", list(StepKind))
def test_what_is_not_known_blocks(kind: StepKind) -> None:
    """Whatever reading a step looks at: stale, it is a violation, never an exception and never passed over."""
    well = scene_for(kind)
    for device in set(well.devices()) - {FORK}:  # an axis and an input of one name; its rules have both
        looked_at = _looked_at(kind, device)
        assert bool(scene_for(kind).age(device, 10.0).requires()) is looked_at, f"{kind} and {device}"
        assert bool(scene_for(kind).forget(device).requires()) is looked_at, f"{kind} and {device}"


def _looked_at(kind: StepKind, device: str) -> bool:
    """Whether any rule of this step reads a device: found by giving it a reading that nobody may read."""
    scene = scene_for(kind)
    touched = False

    class Watched(dict[str, object]):
        def get(self, key: str, default: object = None) -> object:
            nonlocal touched
            touched = touched or key == device
            return super().get(key, default)

    snapshot = scene.snapshot()
    groups = {name: Watched(getattr(snapshot, name)) for name in scene.values}
    requires_violations(replace(snapshot, **groups), scene.step, scene.layout, scene.packs)  # type: ignore[arg-type] # by name
    optional = kind in {StepKind.DISENGAGE_CONNECTOR, StepKind.ENGAGE_CONNECTOR} and device.endswith(".pack")
    return touched and not optional


@pytest.mark.parametrize("kind", [StepKind.UNLOCK_PACK, StepKind.RAISE_TABLE])
def test_unlock_under_every_combination(kind: StepKind) -> None:
    """Of all combinations of what can be so or not, unlock and raise are allowed in exactly one."""
    allowed = []
    for combination in itertools.product((True, False), repeat=11):
        estop, guard, drives, clear, park, brake, hv_off, doors, gate, in_place, quiet = combination
        scene = scene_for(kind)
        scene.values["safety"][f"{DOCK}.safety"] = SafetyInputs(
            estop, guard, clear, False, False, True, drives, False
        )
        scene.change(VEHICLE, park_applied=park, brake_applied=brake, high_voltage_off=hv_off, doors_closed=doors)
        scene.input(f"{DOCK}.gate_closed", gate).input(f"{DOCK}.in_place", in_place)
        scene.change(f"{DOCK}.zone", smoke=not quiet)
        if not scene.requires():
            allowed.append(combination)
    assert allowed == [(True,) * 11]


@pytest.mark.parametrize(
    ("kind", "spoil", "fits"),
    [
        (StepKind.UNLOCK_PACK, lambda s: s.change(VEHICLE, pack_current_a=1.0), True),
        (StepKind.UNLOCK_PACK, lambda s: s.change(VEHICLE, pack_current_a=-1.0), True),
        (StepKind.UNLOCK_PACK, lambda s: setattr(s, "in_place_for_s", 2.0), True),
        (StepKind.UNLOCK_PACK, lambda s: s.at(CLAMP, 178.0), True),
        (StepKind.UNLOCK_PACK, lambda s: s.at(CLAMP, 182.0), True),
        (StepKind.UNLOCK_PACK, lambda s: s.at(LIFT, 398.0), True),
        (StepKind.UNLOCK_PACK, lambda s: s.age(CLAMP, 0.59), True),
        (StepKind.UNLOCK_PACK, lambda s: s.age(CLAMP, 0.61), False),
        (StepKind.UNLOCK_PACK, lambda s: s.age(f"{DOCK}.safety", 0.39), True),
        (StepKind.UNLOCK_PACK, lambda s: s.age(f"{DOCK}.safety", 0.41), False),
        (StepKind.UNLOCK_PACK, lambda s: s.age(VEHICLE, 1.01), False),
        (StepKind.UNLOCK_PACK, lambda s: s.age(f"{DOCK}.in_place", 0.51), False),
        (StepKind.CHECK_PACK, lambda s: s.bolts(replace(CLOSED, torque_nm=100.0, angle_deg=1400.0)), True),
        (StepKind.CHECK_PACK, lambda s: s.bolts(replace(CLOSED, torque_nm=140.0, angle_deg=2200.0)), True),
        (StepKind.ENGAGE_CONNECTOR, lambda s: s.change(charger_of(SLOT), output_current_a=1.0), True),
        (StepKind.ENGAGE_CONNECTOR, lambda s: s.change(charger_of(SLOT), state=ChargerState.FAULT), True),
        (StepKind.START_CHARGER, lambda s: s.pack(SLOT, FRESH, charge_voltage_v_max=380.0), True),
        (StepKind.START_CHARGER, lambda s: s.pack(SLOT, FRESH, charge_current_a_max=0.0), True),
        (StepKind.LIFT_PACK, lambda s: s.at("stacker.z", 82.0), True),
        (StepKind.SET_DOWN_PACK, lambda s: s.at("stacker.z", -2.0), True),
    ],
)
def test_limits_are_where_they_say(kind: StepKind, spoil: Spoil, fits: bool) -> None:
    """At a limit a step is allowed, just beyond it is not."""
    scene = scene_for(kind)
    spoil(scene)
    assert (scene.requires() == ()) is fits


def test_limits_of_a_running_charge() -> None:
    """A running charge may exceed a falling BMS limit by what the charger's ramp takes, and no more."""
    scene = scene_for(StepKind.START_CHARGER).change(charger_of(SLOT), output_current_a=105.0, output_voltage_v=425.0)
    assert scene.holds() == ()


# --- places of the stacker -----------------------------------------------------------------------------------------


def _at_table(kind: StepKind, *, loaded: bool) -> Scene:
    step = Step(kind, "store", TABLE, goes_to=TABLE if loaded else SLOT, pack=FRESH)
    scene = Scene(step)
    at, offset_mm = scene.layout.stacker.places[TABLE], scene.layout.stacker.carry_offset_mm
    scene.at(TRAVEL, 0.0).at("stacker.x", at.x_mm).at("stacker.z", at.z_mm + (offset_mm if loaded else 0.0))
    if loaded:
        return scene.put(FRESH, FORK).keep(TABLE, FRESH)
    return scene.put(FRESH, TABLE).keep(SLOT, FRESH)


@pytest.mark.parametrize("loaded", [True, False])
def test_fork_into_table(loaded: bool) -> None:
    """The fork goes into a table only with its shuttle standing still at the exchange, lift down, its dock safe."""
    assert _at_table(StepKind.EXTEND_FORK, loaded=loaded).requires() == ()
    spoils: list[Spoil] = [
        lambda s: s.at(TRAVEL, 2.1),
        lambda s: s.at(TRAVEL, 4000.0),
        lambda s: s.change(TRAVEL, state=AxisState.MOVING),
        lambda s: s.change(LIFT, state=AxisState.MOVING),
        lambda s: s.at(LIFT, 2.1),
        lambda s: s.age(TRAVEL, 0.61),
    ]
    for spoil in spoils:
        scene = _at_table(StepKind.EXTEND_FORK, loaded=loaded)
        spoil(scene)
        assert {"table_served"} <= scene.names()
        assert "table_served" in {v.rule for v in scene.holds()}
    assert _at_table(StepKind.EXTEND_FORK, loaded=loaded).change(f"{DOCK}.safety", estop_ok=False).names() == {
        "zone_safe"
    }


def test_fork_leaves_a_table_of_a_dock_that_is_stopped() -> None:
    """Getting out of a table needs the store's safety circuit only."""
    scene = _at_table(StepKind.RETRACT_FORK, loaded=False).at(FORK, 1200.0)
    scene.change(f"{DOCK}.safety", estop_ok=False).age(TRAVEL, 99.0)
    assert scene.requires() == ()


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda s: s.put(OLD, TABLE), "target_fits"),
        (lambda s: s.input(TABLE, True), "target_fits"),
        (lambda s: s.packs.kept.clear(), "target_fits"),
        (lambda s: s.put(OLD, FORK), "target_fits"),
        (lambda s: s.at("stacker.z", 500.0), "stacker_in_place"),
        (lambda s: s.input(FORK, False), "fork_as_known"),
    ],
)
def test_loaded_fork_into_table(spoil: Spoil, rule: str) -> None:
    """A loaded fork goes into an empty place that is reserved for its pack, at carrying height, and nowhere else."""
    scene = _at_table(StepKind.EXTEND_FORK, loaded=True)
    spoil(scene)
    assert rule in scene.names()


def test_fork_in_another_dock_or_slot_does_not_hold_the_shuttle() -> None:
    """A fork extended into a slot leaves every shuttle free to travel."""
    scene = scene_for(StepKind.ALIGN_SHUTTLE).at(FORK, 1200.0)
    assert scene.requires() == ()


def test_fork_in_another_slot_does_not_hold_a_connector() -> None:
    """A plug may move while the fork is in another slot, and not while it is in this one."""
    scene = scene_for(StepKind.ENGAGE_CONNECTOR).at(FORK, 1200.0)
    assert scene.names() == {"fork_out_of_slot"}
    assert scene.at("stacker.x", 4000.0).requires() == ()


# --- the ways back -----------------------------------------------------------------------------------------------


def test_unlock_may_be_taken_up_half_way() -> None:
    """Half the bolts open and the pack still counted in the mount: unlocking and locking may both go on."""
    for kind in (StepKind.UNLOCK_PACK, StepKind.LOCK_PACK):
        scene = scene_for(StepKind.UNLOCK_PACK).bolts(*(CLOSED,) * 5, *(OPEN,) * 5)
        scene.step = replace(scene.step, kind=kind)
        assert scene.requires() == ()


def test_unlock_may_be_confirmed_after_its_outcome_was_lost() -> None:
    """Every bolt open and the pack seen on the table, but not yet recorded there: unlocking may be asked again."""
    scene = scene_for(StepKind.UNLOCK_PACK).bolts(OPEN).input(TABLE, True)
    assert scene.requires() == ()


def test_lift_goes_down_with_an_open_mount_and_the_pack_on_the_table() -> None:
    """After a confirmed unlock the pack comes down with the table."""
    scene = scene_for(StepKind.LOWER_TABLE).at(LIFT, 400.0).change(locks_of(MOUNT), heads_engaged=True)
    assert scene.take(MOUNT).put(OLD, TABLE).bolts(OPEN).requires() == ()


def test_lift_goes_down_when_no_vehicle_is_there() -> None:
    """Without a vehicle there are no bolts to ask and nothing to hold."""
    scene = scene_for(StepKind.LOWER_TABLE).input(f"{DOCK}.in_place", False).at(CLAMP, 0.0)
    assert scene.forget(locks_of(MOUNT)).requires() == ()


def test_lift_goes_down_without_the_vehicle_being_heard() -> None:
    """A vehicle that fell silent does not keep the lift up under it."""
    assert scene_for(StepKind.LOWER_TABLE).forget(VEHICLE).requires() == ()


def test_bolts_of_other_mounts_do_not_hold_the_lift() -> None:
    """Only the mount that the shuttle stands under is asked."""
    scene = scene_for(StepKind.LOWER_TABLE).at(TRAVEL, 0.0).bolts(*(CLOSED,) * 9, OPEN)
    assert scene.requires() == ()


def test_empty_mount_needs_no_proof() -> None:
    """A vehicle that leaves a mount empty is released without proof of its bolts."""
    scene = scene_for(StepKind.RELEASE_VEHICLE).take(MOUNT).bolts(OPEN)
    assert scene.requires() == ()


def test_mount_without_a_window_is_never_proven() -> None:
    """Where nothing says what proves a bolt, no pack counts as locked."""
    scene = scene_for(StepKind.RELEASE_VEHICLE)
    dock = replace(scene.layout.docks[DOCK], lock_banks={})
    scene.layout = replace(scene.layout, docks={DOCK: dock})
    assert scene.names() == {"bolts_proven"}


def test_vehicle_may_leave_while_the_zone_is_stopped() -> None:
    """Fire and E-stop do not keep a vehicle in that is free and safe to drive."""
    scene = scene_for(StepKind.RELEASE_VEHICLE).change(
        f"{DOCK}.safety", fire=True, estop_ok=False, drives_enabled=False
    )
    assert scene.requires() == ()


def test_charger_may_always_be_stopped() -> None:
    """Stopping a charger requires nothing."""
    assert STEP_RULES[StepKind.STOP_CHARGER].requires == ()


def test_dock_without_lift_needs_none_up_or_down() -> None:
    """Where vehicles are not raised, neither raised nor lowered blocks."""
    for kind in (StepKind.UNLOCK_PACK, StepKind.RELEASE_VEHICLE):
        scene = scene_for(kind)
        dock = replace(scene.layout.docks[DOCK], vehicle_lift_up_mm=None, vehicle_lift_down_mm=None)
        scene.layout = replace(scene.layout, docks={DOCK: dock})
        assert scene.forget(f"{DOCK}.vehicle_lift").requires() == ()


def test_step_at_an_unknown_place_is_a_violation() -> None:
    """A step that names no dock or place of this station is blocked with a sentence, not a crash."""
    for kind in StepKind:
        scene = scene_for(kind)
        scene.step = Step(kind, "dock9", "nowhere", "nowhere", "nowhere", "")
        if kind not in {StepKind.STOP_CHARGER, StepKind.RETRACT_FORK, StepKind.MOVE_STACKER}:
            assert scene.requires(), kind


def test_plug_of_a_silent_pack_is_judged_by_the_charger() -> None:
    """A pack that is not heard does not keep the connector from moving; what the charger measures counts."""
    scene = scene_for(StepKind.DISENGAGE_CONNECTOR).forget(f"{SLOT}.pack")
    assert scene.requires() == ()
    assert scene.forget(charger_of(SLOT)).names() == {"current_safe"}


def test_connector_reading_counts_for_slots_only() -> None:
    """A quarantine place or table has no connector to be out."""
    assert _at_table(StepKind.EXTEND_FORK, loaded=False).forget(connector_of(SLOT)).requires() == ()
