"""Vehicles, lane door, curtain, safety circuit and detectors."""

from __future__ import annotations

import pytest

from hal.types import AxisState, VehicleRequest
from sim_hw.injection import InjectionError, inject
from sim_hw.plant.packs import PackBirth
from tests.support.plant_rig import Rig


def test_vehicle_is_heard_before_it_is_in_place() -> None:
    """It talks from the start of its approach with its packs; its mounts' places are filled when it stands."""
    rig = Rig()
    vehicle = rig.plant.bring_vehicle("dock1", "CAR-1", [PackBirth("P-1", 25.0)], approach_s=20.0)
    assert vehicle.heard
    assert vehicle.status().mounts[0].pack_serial == "P-1"
    assert not rig.plant.input("dock1.in_place")
    assert rig.plant.packs["P-1"].place == ""
    rig.clock.run_for(21.0)
    assert rig.plant.input("dock1.in_place")
    assert rig.plant.input("dock1.mount_a")
    assert rig.plant.packs["P-1"].place == "dock1.mount_a"


def test_in_place_sensor_bounces_then_settles() -> None:
    """The in-place sensor chatters when the vehicle stops and is stable after the world's bounce time."""
    rig = Rig()
    rig.plant.bring_vehicle("dock1", approach_s=10.0)
    rig.clock.run_for(10.0)
    seen = []
    for _ in range(50):
        rig.clock.run_for(0.01)
        seen.append(rig.plant.input("dock1.in_place"))
    assert len(set(seen[:30])) == 2
    assert all(seen[31:])


def test_curtain_is_muted_only_while_the_vehicle_drives() -> None:
    """Driving through the muted curtain trips nothing; then it is armed."""
    rig = Rig()
    rig.plant.bring_vehicle("dock1", approach_s=10.0)
    rig.clock.run_for(7.0)
    inputs = rig.plant.safety["dock1"].inputs()
    assert (inputs.curtain_clear, inputs.curtain_muted, inputs.drives_enabled) == (False, True, True)
    rig.clock.run_for(6.0)
    inputs = rig.plant.safety["dock1"].inputs()
    assert (inputs.curtain_clear, inputs.curtain_muted) == (True, False)


def test_curtain_trips_while_something_moves_and_not_before() -> None:
    """An interruption with all standing trips nothing; the first motion under it does."""
    rig = Rig()
    rig.vehicle_in()
    inject(rig.plant, "curtain", "dock1")
    assert rig.plant.safety["dock1"].inputs().drives_enabled
    rig.plant.axes["dock1.clamp"].move(180.0)
    assert not rig.plant.safety["dock1"].inputs().drives_enabled
    assert rig.plant.axes["dock1.clamp"].state is AxisState.POWER_OFF


def test_secure_takes_its_time_and_cuts_all_current() -> None:
    """Asked to be secure: park and brake first, high voltage off after secure_s, and then exactly no current."""
    rig = Rig()
    vehicle = rig.vehicle_in()
    assert vehicle.pack_current_a != 0.0
    start = rig.clock.time()
    vehicle.request(VehicleRequest.SECURE)
    rig.wait(lambda: vehicle.park and vehicle.brake)
    assert not vehicle.high_voltage_off
    rig.wait(lambda: vehicle.high_voltage_off)
    assert rig.clock.time() - start == pytest.approx(8.0, rel=0.03)
    assert vehicle.pack_current_a == 0.0
    assert vehicle.status().acknowledged is VehicleRequest.SECURE


def test_a_lost_request_leaves_the_vehicle_as_it_is() -> None:
    """Securing that has begun is finished, nothing else happens when the station falls silent."""
    rig = Rig()
    vehicle = rig.vehicle_in()
    vehicle.request(VehicleRequest.SECURE)
    rig.clock.run_for(2.0)
    vehicle.request_lost()
    rig.clock.run_for(60.0)
    assert vehicle.high_voltage_off
    assert vehicle.request_echo is VehicleRequest.NONE


def test_vehicle_does_not_wake_with_an_unchecked_pack() -> None:
    """A pack that was changed must be checked and accepted before the vehicle wakes."""
    rig = Rig()
    vehicle = rig.prepare()
    rig.raise_table("table_1")
    rig.turn("unlock")
    rig.turn("lock")
    vehicle.request(VehicleRequest.WAKE)
    rig.clock.run_for(30.0)
    assert not vehicle.awake
    vehicle.request(VehicleRequest.CHECK)
    rig.clock.run_for(15.0)
    assert vehicle.status().mounts[0].pack_ok
    vehicle.request(VehicleRequest.WAKE)
    rig.clock.run_for(11.0)
    assert vehicle.status().ready_to_drive


def test_vehicle_rejects_until_the_cause_is_gone() -> None:
    """A vehicle that does not accept its pack stays so, and checks again when the cause is taken back."""
    rig = Rig()
    vehicle = rig.prepare()
    rig.raise_table("table_1")
    rig.turn("unlock")
    undo = inject(rig.plant, "vehicle_rejects", "dock1")
    rig.turn("lock")
    vehicle.request(VehicleRequest.CHECK)
    rig.clock.run_for(40.0)
    assert not vehicle.status().mounts[0].pack_ok
    undo()
    rig.clock.run_for(15.0)
    assert vehicle.status().mounts[0].pack_ok


def test_release_opens_the_door_then_the_lane_clears() -> None:
    """Released, the vehicle waits for the door, drives off through a lane that is not clear until it is gone."""
    rig = Rig()
    vehicle = rig.vehicle_in()
    vehicle.request(VehicleRequest.LEAVE)
    rig.wait(lambda: vehicle.driving)
    assert not rig.plant.input("dock1.gate_closed")
    assert not rig.plant.input("dock1.exit_clear")
    assert rig.plant.packs["FIELD-00001-1"].place == ""
    rig.wait(lambda: rig.plant.vehicles["dock1"] is None)
    assert rig.plant.input("dock1.exit_clear")
    assert not vehicle.heard
    assert rig.laws_broken() == []


def test_misparked_vehicle_is_not_in_place_until_it_corrects() -> None:
    """A vehicle off the mark is not sensed; one that rolls away is lost."""
    rig = Rig()
    rig.plant.bring_vehicle("dock1", approach_s=10.0)
    correct = inject(rig.plant, "vehicle_moved", "dock1", offset_mm=80.0)
    rig.clock.run_for(15.0)
    assert not rig.plant.input("dock1.in_place")
    correct()
    rig.clock.run_for(1.0)
    assert rig.plant.input("dock1.in_place")


def test_next_vehicle_waits_until_the_dock_is_free_for_it() -> None:
    """A vehicle does not drive into a closed clamp: it waits at the entrance."""
    rig = Rig()
    rig.move(dock1_clamp=180.0)
    rig.plant.bring_vehicle("dock1", approach_s=8.0)
    rig.clock.run_for(30.0)
    assert not rig.plant.input("dock1.in_place")
    rig.move(dock1_clamp=0.0)
    rig.clock.run_for(10.0)
    assert rig.plant.input("dock1.in_place")
    with pytest.raises(ValueError, match="dock1"):
        rig.plant.bring_vehicle("dock1")


def test_two_trips_need_every_cause_gone() -> None:
    """Re-arm is refused while any cause is there, and accepted when none is."""
    rig = Rig()
    guard = inject(rig.plant, "guard", "store")
    fire = inject(rig.plant, "fire", "store")
    assert not rig.plant.rearm("store")
    guard()
    assert not rig.plant.rearm("store")
    fire()
    assert not rig.plant.safety["store"].inputs().drives_enabled
    assert rig.plant.rearm("store")
    assert rig.plant.safety["store"].inputs().ok


@pytest.mark.parametrize("alarm", ["smoke", "gas", "water"])
def test_detectors_alarm_alone_and_end(alarm: str) -> None:
    """Each detector shows its own alarm, in its own zone, for as long as the cause is there."""
    rig = Rig()
    undo = inject(rig.plant, alarm, "dock1")
    status = rig.plant.zones["dock1"].status()
    assert [status.smoke, status.gas, status.water] == [alarm == "smoke", alarm == "gas", alarm == "water"]
    undo()
    assert not getattr(rig.plant.zones["dock1"].status(), alarm)


def test_injection_names_what_is_wrong() -> None:
    """An unknown fault, target or parameter is refused with its name."""
    rig = Rig()
    for name, target, extra in (
        ("no_such", "dock1", {}),
        ("estop", "dock9", {}),
        ("axis_slow", "dock1.clamp", {"speed": 1.0}),
        ("vehicle_deaf", "dock1", {}),
        ("bolt_stuck", "dock1.mount_a.locks", {}),
    ):
        with pytest.raises(InjectionError):
            inject(rig.plant, name, target, **extra)
