"""Each law of the plant, shown to be raised by what it forbids."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hal.types import VehicleRequest
from sim_hw.injection import inject
from sim_hw.plant import LAWS, PhysicsViolation
from sim_hw.plant.packs import PackBirth
from tests.support.plant_rig import ALL_BOLTS, Rig


def _unplugged(rig: Rig, slot: str) -> None:
    rig.act(rig.plant.connectors[f"{slot}.connector"].disengage)


def _carrying(rig: Rig) -> None:
    """A pack from slot01 on the fork."""
    _unplugged(rig, "slot01")
    rig.pick("slot01")


def _charging(rig: Rig, slot: str) -> None:
    charger = rig.plant.chargers[f"{slot}.charger"]
    charger.write(on=True, voltage_v=460.0, current_a=30.0)
    rig.wait(lambda: charger.current_a > 10.0)


def _fork_into_occupied(rig: Rig) -> None:
    _carrying(rig)
    rig.stand_before("slot02", carry=True)
    rig.move(stacker_fork=1200.0)


def _fork_height(rig: Rig) -> None:
    rig.stand_before("slot02", carry=True)
    rig.move(stacker_fork=1200.0)


def _fork_nowhere(rig: Rig) -> None:
    rig.move(stacker_x=3500.0)
    rig.move(stacker_fork=1200.0)


def _fork_out_travel(rig: Rig) -> None:
    rig.stand_before("slot08", carry=False)
    rig.move(stacker_fork=100.0)
    rig.move(stacker_x=5000.0)


def _fork_half_borne(rig: Rig) -> None:
    _unplugged(rig, "slot01")
    rig.stand_before("slot01", carry=False)
    rig.move(stacker_fork=1200.0)
    rig.move(stacker_z=30.0)
    rig.move(stacker_fork=0.0)


def _fork_into_shuttle(rig: Rig) -> None:
    rig.move(dock1_shuttle_travel=4000.0)
    rig.stand_before("dock1.table_1", carry=False)
    rig.move(stacker_fork=1200.0)


def _travel_lift_up(rig: Rig) -> None:
    rig.move(dock1_shuttle_travel=4000.0)
    rig.move(dock1_shuttle_lift=50.0)
    rig.move(dock1_shuttle_travel=0.0)


def _lift_collision(rig: Rig) -> None:
    rig.prepare()
    rig.move(dock1_shuttle_travel=4500.0)
    rig.move(dock1_shuttle_lift=400.0)


def _half_unlocked(rig: Rig) -> None:
    rig.prepare()
    rig.raise_table("table_1")
    bank = rig.plant.locks["dock1.mount_a.locks"]
    rig.act(lambda done: bank.unlock(0b111, done))
    rig.move(dock1_shuttle_lift=0.0)


def _pack_falls(rig: Rig) -> None:
    rig.prepare()
    inject(rig.plant, "bolts_slip_open", "dock1.mount_a.locks")
    rig.clock.run_for(1.0)


def _two_packs(rig: Rig) -> None:
    _carrying(rig)
    rig.put("dock1.table_1")
    rig.prepare()
    rig.raise_table("table_1")


def _plug_under_current(rig: Rig) -> None:
    _charging(rig, "slot01")
    inject(rig.plant, "connector_bridged", "slot01.connector")
    _unplugged(rig, "slot01")


def _charger_unengaged(rig: Rig) -> None:
    _charging(rig, "slot01")
    inject(rig.plant, "connector_loose", "slot01.connector")
    rig.clock.run_for(1.0)


def _plug_torn(rig: Rig) -> None:
    rig.pick("slot01")


def _unlock_under_voltage(rig: Rig) -> None:
    rig.vehicle_in()
    rig.move(dock1_clamp=180.0)
    rig.raise_table("table_1")
    rig.turn("unlock")


def _released_clamped(rig: Rig) -> None:
    vehicle = rig.vehicle_in()
    rig.move(dock1_clamp=180.0)
    vehicle.request(VehicleRequest.LEAVE)
    rig.clock.run_for(20.0)


def _released_lift_up(rig: Rig) -> None:
    vehicle = rig.vehicle_in()
    rig.raise_table("table_1")
    vehicle.request(VehicleRequest.LEAVE)
    rig.clock.run_for(20.0)


def _released_unproven(rig: Rig) -> None:
    vehicle = rig.prepare()
    inject(rig.plant, "bolt_stripped", "dock1.mount_a.locks", bolt=4)
    rig.raise_table("table_1")
    rig.turn("unlock")
    rig.turn("lock")
    vehicle.request(VehicleRequest.CHECK)
    rig.move(dock1_shuttle_lift=0.0)
    rig.wait(lambda: vehicle.status().mounts[0].pack_ok)
    vehicle.request(VehicleRequest.WAKE)
    rig.wait(lambda: vehicle.awake)
    rig.move(dock1_vehicle_lift=0.0)
    rig.move(dock1_clamp=0.0)
    vehicle.request(VehicleRequest.LEAVE)
    rig.clock.run_for(20.0)


def _clamp_driving(rig: Rig) -> None:
    rig.plant.bring_vehicle("dock1", approach_s=8.0)
    rig.clock.run_for(4.0)
    rig.move(dock1_clamp=180.0)


def _beyond_range(rig: Rig) -> None:
    inject(rig.plant, "axis_slip", "dock1.clamp", by_mm=50.0)
    rig.move(dock1_clamp=240.0)


def _moved_unpowered(rig: Rig) -> None:
    inject(rig.plant, "axis_ignores_power", "dock1.clamp")
    rig.plant.axes["dock1.clamp"].move(180.0)
    rig.clock.run_for(1.0)
    rig.plant.press_estop("dock1")
    rig.clock.run_for(1.0)


FORBIDDEN: dict[str, Callable[[Rig], None]] = {
    "fork_into_occupied": _fork_into_occupied,
    "fork_height": _fork_height,
    "fork_nowhere": _fork_nowhere,
    "fork_out_travel": _fork_out_travel,
    "fork_half_borne": _fork_half_borne,
    "fork_into_shuttle": _fork_into_shuttle,
    "travel_lift_up": _travel_lift_up,
    "lift_collision": _lift_collision,
    "lift_half_unlocked": _half_unlocked,
    "pack_falls": _pack_falls,
    "two_packs": _two_packs,
    "plug_under_current": _plug_under_current,
    "charger_unengaged": _charger_unengaged,
    "plug_torn": _plug_torn,
    "unlock_under_voltage": _unlock_under_voltage,
    "released_clamped": _released_clamped,
    "released_lift_up": _released_lift_up,
    "released_unproven": _released_unproven,
    "clamp_driving": _clamp_driving,
    "beyond_range": _beyond_range,
    "moved_unpowered": _moved_unpowered,
}


def test_every_law_has_its_test() -> None:
    """No law stands in the table without being shown here."""
    assert set(FORBIDDEN) == set(LAWS)


@pytest.mark.parametrize("law", FORBIDDEN)
def test_law_is_raised_from_the_loop_and_recorded(law: str) -> None:
    """What a law forbids raises exactly that law first, out of the loop, and stays in the plant's list."""
    rig = Rig()
    with pytest.raises(PhysicsViolation) as raised:
        FORBIDDEN[law](rig)
    assert raised.value.law == LAWS[law]
    assert rig.laws_broken()[0] == law


def test_fork_starts_under_moving_shuttle() -> None:
    """The shuttle may not start while the fork is in one of its tables."""
    rig = Rig()
    rig.stand_before("dock1.table_1", carry=False)
    rig.move(stacker_fork=1200.0)
    with pytest.raises(PhysicsViolation, match="fork_into_shuttle"):
        rig.move(dock1_shuttle_travel=4000.0)


def test_lift_rises_under_a_driving_vehicle() -> None:
    """Even aligned, the lift may not rise while the vehicle drives in."""
    rig = Rig()
    rig.move(dock1_shuttle_travel=4000.0)
    rig.plant.bring_vehicle("dock1", approach_s=8.0)
    rig.clock.run_for(4.0)
    with pytest.raises(PhysicsViolation, match="lift_collision"):
        rig.move(dock1_shuttle_lift=400.0)


def test_pack_set_down_on_another_keeps_a_definite_holder() -> None:
    """A broken law leaves each pack in exactly one place."""
    rig = Rig()
    _carrying(rig)
    carried = rig.plant.places.at("stacker.fork")
    with pytest.raises(PhysicsViolation):
        rig.put("slot02")
    rig.clock.run_for(1.0)
    assert carried is not None
    assert carried.place == "stacker.fork"
    assert sorted(rig.plant.places.where().values()) == [f"slot{n:02d}" for n in range(2, 7)] + ["stacker.fork"]


def test_lift_lowered_while_bolts_turn() -> None:
    """The lift may not leave while the runners turn, even before the first bolt has come off its end."""
    rig = Rig()
    rig.prepare()
    rig.raise_table("table_1")
    rig.plant.locks["dock1.mount_a.locks"].unlock(ALL_BOLTS)
    with pytest.raises(PhysicsViolation, match="lift_half_unlocked"):
        rig.move(dock1_shuttle_lift=0.0)


def test_a_pack_is_not_born_twice() -> None:
    """A vehicle cannot bring a serial that is in the station already."""
    rig = Rig()
    with pytest.raises(ValueError, match="DEMO-0001"):
        rig.plant.bring_vehicle("dock1", packs=[PackBirth("DEMO-0001", 20.0)])


def test_bolts_are_refused_without_engaged_heads() -> None:
    """The runners refuse to turn while the lift is down: no law needs to be broken to find out."""
    rig = Rig()
    rig.prepare()
    assert rig.plant.locks["dock1.mount_a.locks"].unlock(ALL_BOLTS) == "heads_not_engaged"
