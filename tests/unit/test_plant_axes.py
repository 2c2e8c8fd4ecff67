"""Axes: trapezoids, stops, power, heartbeat, faults."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hal.types import AxisState
from sim_hw.injection import inject
from sim_hw.plant import AxisPlant, Plant
from sim_hw.plant.axes import braking, trapezoid
from tests.support.plant_rig import HandClock, Rig


def _state(axis: AxisPlant) -> AxisState:
    return axis.state


POSITIONS = st.floats(-500.0, 6000.0)


@given(POSITIONS, POSITIONS, st.floats(1.0, 3000.0), st.floats(1.0, 5000.0), st.floats(0.0, 1.0))
def test_trapezoid_is_monotone_and_ends_exactly(a: float, b: float, speed: float, ramp: float, share: float) -> None:
    """A motion goes from start to target without turning back, within its speed, and ``time_at`` inverts it."""
    if abs(a - b) < 1e-3:
        return
    motion = trapezoid(10.0, a, b, speed, ramp)
    when = 10.0 + share * (motion.ends_at - 10.0)
    assert min(a, b) - 1e-6 <= motion.position(when) <= max(a, b) + 1e-6
    assert abs(motion.velocity(when)) <= speed * (1 + 1e-9)
    assert motion.position(motion.ends_at) == b
    middle = 0.5 * (a + b)
    assert motion.position(motion.time_at(middle)) == pytest.approx(middle, abs=1e-3)


def test_braking_stops_in_its_time() -> None:
    """A stop from 100 mm/s within 0.2 s takes 10 mm."""
    motion = braking(0.0, 50.0, -100.0, 0.2)
    assert motion.position(1.0) == pytest.approx(40.0)
    assert motion.velocity(0.1) == pytest.approx(-50.0)
    assert motion.ends_at == 0.2


@pytest.mark.parametrize(
    ("axis", "target", "nominal_s"),
    [
        ("dock1.clamp", 180.0, 6.0),
        ("dock1.vehicle_lift", 120.0, 6.0),
        ("dock1.shuttle_lift", 400.0, 8.0),
        ("dock1.shuttle_travel", 5500.0, 8.1),
        ("stacker.fork", 1200.0, 2.5),
    ],
)
def test_strokes_take_their_nominal_time(axis: str, target: float, nominal_s: float) -> None:
    """Each stroke of the budget takes its nominal time within the declared noise."""
    rig = Rig()
    start = rig.clock.time()
    rig.act(rig.to(axis, target))
    assert rig.clock.time() - start == pytest.approx(nominal_s, rel=0.03)


def test_back_is_faster_than_out_where_the_world_says_so() -> None:
    """Clamp and vehicle lift open in half the time in which they close."""
    rig = Rig()
    rig.move(dock1_clamp=180.0)
    start = rig.clock.time()
    rig.move(dock1_clamp=0.0)
    assert rig.clock.time() - start == pytest.approx(3.0, rel=0.03)


def test_reading_advances_nothing() -> None:
    """A trace is the same however often the plant is read."""
    quiet, nosy = Rig(), Rig()
    for rig in (quiet, nosy):
        rig.plant.axes["dock1.clamp"].move(180.0)
    quiet.clock.run_for(8.0)
    for _ in range(400):
        nosy.clock.run_for(0.02)
        axis = nosy.plant.axes["dock1.clamp"]
        _ = (
            axis.state,
            axis.position_mm,
            axis.torque_pct,
            nosy.plant.io_inputs(),
            nosy.plant.packs["DEMO-0001"].status(),
        )
    assert quiet.plant.trace == nosy.plant.trace


def test_stop_ends_short_and_is_never_done() -> None:
    """A stopped move stands still within its ramp, stays enabled, and never reports done."""
    rig = Rig()
    done: list[bool] = []
    axis = rig.plant.axes["dock1.clamp"]
    axis.move(180.0, done=lambda: done.append(True))
    rig.clock.run_for(2.0)
    axis.stop()
    assert _state(axis) is AxisState.STOPPING
    rig.clock.run_for(0.3)
    assert _state(axis) is AxisState.STANDSTILL
    stopped_at = axis.position_mm
    rig.clock.run_for(20.0)
    assert axis.position_mm == stopped_at
    assert 0.0 < stopped_at < 100.0
    assert not axis.in_position
    assert not done


def test_refusals_are_named_as_in_the_profile() -> None:
    """Not enabled, not referenced, out of range, busy and faulted are told apart."""
    rig = Rig()
    axis = rig.plant.axes["dock1.clamp"]
    assert axis.move(300.0) == "out_of_range"
    axis.move(180.0)
    assert axis.move(10.0) == "busy"
    axis.fail("drive")
    assert axis.move(10.0) == "faulted"
    axis.clear()
    assert axis.move(10.0) == "not_enabled"
    axis.homed = False
    axis.enable()
    rig.clock.run_for(1.0)
    assert axis.move(10.0) == "not_homed"


def test_homing_references_at_zero() -> None:
    """An axis that lost its reference homes slowly to 0 mm; a referenced one does not move to home."""
    rig = Rig()
    rig.move(dock1_clamp=100.0)
    axis = rig.plant.axes["dock1.clamp"]
    rig.act(axis.home)
    assert axis.position_mm == 100.0
    inject(rig.plant, "axis_unreferenced", "dock1.clamp")
    axis.home()
    assert _state(axis) is AxisState.HOMING
    rig.wait(lambda: axis.homed)
    assert axis.position_mm == 0.0


def test_estop_brakes_and_rearm_moves_nothing() -> None:
    """A trip stops motion within the brake's time; re-arming gives power but neither torque nor motion back."""
    rig = Rig()
    axis = rig.plant.axes["dock1.clamp"]
    axis.move(180.0)
    rig.clock.run_for(2.0)
    rig.plant.press_estop("dock1")
    assert _state(axis) is AxisState.POWER_OFF
    rig.clock.run_for(0.16)
    stopped_at = axis.position_mm
    assert not axis.moving
    assert not rig.plant.rearm("dock1")
    rig.plant.release_estop("dock1")
    assert not rig.plant.safety["dock1"].inputs().estop_ok
    assert rig.plant.rearm("dock1")
    rig.clock.run_for(5.0)
    assert _state(axis) is AxisState.DISABLED
    assert axis.brake_closed
    assert axis.position_mm == stopped_at
    assert rig.plant.axes["stacker.x"].state is AxisState.STANDSTILL  # the other zone never noticed


def test_heartbeat_loss_brakes_and_stays_until_cleared() -> None:
    """A heartbeat that stands still drops enable with fault watchdog; clear needs it back."""
    rig = Rig()
    axis = rig.plant.axes["dock1.clamp"]
    axis.move(180.0)
    rig.clock.run_for(1.0)
    rig.beating = False
    rig.clock.run_for(1.3)
    assert _state(axis) is AxisState.POWER_OFF
    assert axis.watchdog_tripped
    assert not rig.plant.safety["dock1"].inputs().heartbeat_seen
    assert axis.clear() == "no_enable"
    axis.feed()
    assert axis.enable() == "no_enable"
    assert axis.clear() is None
    assert _state(axis) is AxisState.DISABLED
    assert rig.plant.safety["dock1"].inputs().drives_enabled


def test_before_the_first_heartbeat_there_is_no_power_and_no_fault() -> None:
    """A controller that never heard the station withholds enable without a fault."""
    clock = HandClock()
    rig = Rig()
    axis = Plant(rig.plant.station, rig.plant.world, clock).axes["dock1.clamp"]
    clock.run_for(5.0)
    assert _state(axis) is AxisState.POWER_OFF
    assert axis.fault == "none"
    axis.feed()
    assert _state(axis) is AxisState.DISABLED


def test_stall_faults_at_the_obstacle_each_time_until_it_is_gone() -> None:
    """An obstacle stops the axis with fault stall; with it gone and the fault cleared the move succeeds."""
    rig = Rig()
    axis = rig.plant.axes["dock1.clamp"]
    undo = inject(rig.plant, "axis_stall", "dock1.clamp", at_mm=60.0)
    axis.move(180.0)
    rig.clock.run_for(10.0)
    assert _state(axis) is AxisState.FAULT
    assert axis.fault == "stall"
    assert axis.position_mm == pytest.approx(60.0, abs=4.0)
    undo()
    axis.clear()
    axis.enable()
    rig.move(dock1_clamp=180.0)
    assert axis.position_mm == 180.0


def test_disable_in_motion_brakes() -> None:
    """Disable closes the brake whatever moves."""
    rig = Rig()
    axis = rig.plant.axes["dock1.clamp"]
    axis.move(180.0)
    rig.clock.run_for(2.0)
    axis.disable()
    rig.clock.run_for(0.2)
    assert not axis.moving
    assert axis.torque_pct == 0.0
