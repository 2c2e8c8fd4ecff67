"""Packs, connectors and chargers: ramps, limits, watchdog, taper, faults."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hal.types import ChargerState, ConnectorState
from sim_hw.injection import inject
from sim_hw.plant import ChargerPlant
from sim_hw.plant.packs import FAULT_CELL_VOLTAGE, FAULT_OVER_CURRENT, along
from tests.support.plant_rig import Rig


def _charging(rig: Rig, slot: str = "slot01", current_a: float = 30.0, voltage_v: float = 460.8) -> ChargerPlant:
    """Charge, with the set-point rewritten as a station does."""
    charger = rig.plant.chargers[f"{slot}.charger"]
    charger.write(on=True, voltage_v=voltage_v, current_a=current_a)
    rig.wait(lambda: charger.state is ChargerState.CHARGING)
    return charger


def _keep_writing(rig: Rig, charger: ChargerPlant) -> None:
    def write() -> None:
        charger.write(on=True, voltage_v=charger.setpoint_voltage_v, current_a=charger.setpoint_current_a)
        rig.clock.call_at(rig.clock.time() + 2.5, write)

    write()


def test_current_ramps_and_never_jumps() -> None:
    """After pre-charge the current rises at the profile's ramp to the set-point and stays there."""
    rig = Rig()
    charger = _charging(rig)
    seen = []
    for _ in range(30):
        rig.clock.run_for(0.1)
        seen.append(charger.current_a)
    assert max(b - a for a, b in pairwise(seen)) <= charger.limits.ramp_a_per_s * 0.1 + 1e-9
    assert seen[-1] == pytest.approx(30.0)
    assert rig.plant.packs["DEMO-0001"].contactors_closed


def test_stop_ramps_down_before_contactors_open() -> None:
    """Switched off, the current is gone before the pack's contactors open, within the budget's 7 s."""
    rig = Rig()
    charger = _charging(rig)
    rig.clock.run_for(3.0)
    charger.write(on=False, voltage_v=0.0, current_a=0.0)
    pack = rig.plant.packs["DEMO-0001"]
    start = rig.clock.time()
    rig.wait(lambda: charger.current_a <= 1.0)
    assert pack.contactors_closed
    rig.wait(lambda: charger.state is ChargerState.STANDBY)
    assert not pack.contactors_closed
    assert pack.status().pack_current_a == 0.0
    assert rig.clock.time() - start < 7.0


def test_watchdog_brings_current_to_zero_and_the_next_write_ends_it() -> None:
    """A module whose set-point is not rewritten falls back to zero current by itself."""
    rig = Rig()
    charger = _charging(rig)
    rig.clock.run_for(15.0)
    assert charger.watchdog_tripped
    assert charger.current_a == 0.0
    charger.write(on=True, voltage_v=460.8, current_a=30.0)
    assert not charger.watchdog_tripped
    rig.clock.run_for(3.0)
    assert charger.current_a == pytest.approx(30.0)


def test_charging_goes_over_to_constant_voltage() -> None:
    """Near the voltage limit the current falls and the voltage stays within the limit."""
    rig = Rig()
    pack = rig.plant.packs["DEMO-0001"]
    limit_v = pack.open_circuit_v + 1.0
    charger = _charging(rig, voltage_v=limit_v)
    _keep_writing(rig, charger)
    rig.clock.run_for(60.0)
    assert charger.current_a < 15.0
    assert charger.output_voltage_v <= limit_v + 1.0


def test_charge_heats_and_fills_the_pack() -> None:
    """Half an hour at 30 A adds the ampere hours that went in, and some heat."""
    rig = Rig()
    pack = rig.plant.packs["DEMO-0001"]
    pack.soc_pct = 40.0
    pack.heat_to(rig.plant.world.ambient_c)
    before = pack.soc_pct
    charger = _charging(rig)
    _keep_writing(rig, charger)
    rig.clock.run_for(1800.0)
    assert pack.soc_pct - before == pytest.approx(100.0 * 15.0 / pack.model.capacity_ah, rel=0.02)
    assert pack.temperature_c > rig.plant.world.ambient_c + 0.3


def test_limits_fall_with_charge_and_cold() -> None:
    """The BMS allows less when nearly full, nothing when full, and little when cold."""
    rig = Rig()
    pack = rig.plant.packs["DEMO-0001"]
    allowed = []
    for soc_pct in (50.0, 90.0, 97.0, 100.0):
        pack.soc_pct = soc_pct
        allowed.append(pack.charge_current_a_max)
    assert allowed == sorted(allowed, reverse=True)
    assert allowed[-1] == 0.0
    pack.soc_pct = 50.0
    pack.heat_to(2.0)
    assert pack.charge_current_a_max < 0.2 * pack.model.charge_current_a_max


@pytest.mark.parametrize(("soc_pct", "current_a", "code"), [(98.0, 100.0, FAULT_OVER_CURRENT), (50.0, 100.0, 0)])
def test_bms_opens_its_contactors_on_its_own_limit(soc_pct: float, current_a: float, code: int) -> None:
    """A charger that stays above the BMS's limit finds the contactors open and faults; one that obeys does not."""
    rig = Rig()
    pack = rig.plant.packs["DEMO-0001"]
    pack.soc_pct = soc_pct
    charger = _charging(rig, current_a=current_a)
    rig.clock.run_for(9.0)
    assert pack.fault_code == code
    assert pack.contactors_closed == (not code)
    assert charger.fault == ("no_pack_voltage" if code else "none")


def test_cells_above_their_limit_open_the_contactors() -> None:
    """A voltage limit far above the pack's ends in the BMS's own cell-voltage fault."""
    rig = Rig()
    pack = rig.plant.packs["DEMO-0001"]
    pack.soc_pct = 79.0
    pack.heat_to(-5.0)  # high resistance
    _charging(rig, current_a=200.0, voltage_v=500.0)
    rig.clock.run_for(10.0)
    assert pack.fault_code in {FAULT_CELL_VOLTAGE, FAULT_OVER_CURRENT}
    assert not pack.contactors_closed


def test_charger_without_a_pack_faults_and_clears() -> None:
    """With nothing plugged in the module sees no voltage; a clear brings it back to standby, output off."""
    rig = Rig()
    charger = rig.plant.chargers["slot08.charger"]
    charger.write(on=True, voltage_v=400.0, current_a=10.0)
    rig.wait(lambda: charger.state is ChargerState.FAULT)
    assert charger.fault == "no_pack_voltage"
    charger.clear()
    assert charger.state is ChargerState.STANDBY


def test_set_points_out_of_range_are_refused_and_leave_the_old_ones() -> None:
    """A set-point above the module's maximum changes nothing."""
    rig = Rig()
    charger = _charging(rig)
    assert charger.write(on=True, voltage_v=400.0, current_a=1e4) == "out_of_range"
    assert charger.setpoint_current_a == 30.0


def test_hot_module_derates() -> None:
    """A hot module delivers less than its set-point."""
    rig = Rig()
    pack = rig.plant.packs["DEMO-0001"]
    pack.soc_pct = 50.0
    charger = _charging(rig, current_a=180.0)
    inject(rig.plant, "charger_hot", "slot01.charger", temperature_c=80.0)
    rig.clock.run_for(5.0)
    assert 20.0 < charger.current_a < 90.0


def test_connector_takes_its_time_and_has_two_switches() -> None:
    """On the way neither switch is made; the BMS is heard some time after the plug is in, and silent without it."""
    rig = Rig()
    connector = rig.plant.connectors["slot01.connector"]
    assert rig.plant.pack_on_bus("slot01") is not None
    connector.disengage()
    rig.clock.run_for(4.0)
    assert connector.state is ConnectorState.MOVING
    assert (connector.engaged, connector.disengaged) == (False, False)
    assert rig.plant.pack_on_bus("slot01") is None
    rig.wait(lambda: connector.disengaged)
    start = rig.clock.time()
    rig.act(connector.engage)
    assert rig.clock.time() - start == pytest.approx(10.0, rel=0.03)
    assert rig.plant.pack_on_bus("slot01") is None
    rig.clock.run_for(2.0)
    assert rig.plant.pack_on_bus("slot01") is not None


def test_connector_refuses_without_pack_and_under_current() -> None:
    """The drive refuses to plug into nothing and to move while current flows."""
    rig = Rig()
    assert rig.plant.connectors["slot08.connector"].engage() == "no_pack"
    _charging(rig)
    rig.clock.run_for(2.0)
    assert rig.plant.connectors["slot01.connector"].disengage() == "current_flows"


def test_jammed_connector_faults_half_way_and_goes_on_when_freed() -> None:
    """A jam ends in a fault with neither switch made; freed and cleared, it finishes."""
    rig = Rig()
    connector = rig.plant.connectors["slot01.connector"]
    undo = inject(rig.plant, "connector_jammed", "slot01.connector")
    connector.disengage()
    rig.wait(lambda: connector.state is ConnectorState.FAULT)
    assert (connector.engaged, connector.disengaged, connector.fault) == (False, False, "jammed")
    undo()
    connector.clear()
    rig.act(connector.disengage)
    assert connector.disengaged


def test_curves_are_flat_beyond_their_ends() -> None:
    """Interpolation hits its points and does not extrapolate."""
    curve = ((0.0, 1.0), (10.0, 2.0))
    assert [along(curve, x) for x in (-5.0, 0.0, 5.0, 10.0, 50.0)] == [1.0, 1.0, 1.5, 2.0, 2.0]
