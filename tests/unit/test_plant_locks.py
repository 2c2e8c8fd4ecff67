"""Bolts and nut runners: good turns, sick bolts, stops, and whose the pack is."""

from __future__ import annotations

import pytest

from hal.types import BoltResult, BoltState, LockBankState
from sim_hw.injection import inject
from sim_hw.plant import LockBankPlant
from tests.support.plant_rig import ALL_BOLTS, Rig

BANK = "dock1.mount_a.locks"


def _ready() -> tuple[Rig, LockBankPlant]:
    rig = Rig()
    rig.prepare()
    rig.raise_table("table_1")
    return rig, rig.plant.locks[BANK]


def test_arriving_bolts_are_proven_by_the_last_station() -> None:
    """A vehicle's bolts come closed, with torque and angle in their windows."""
    _rig, bank = _ready()
    assert {bolt.state for bolt in bank.bolts} == {BoltState.LOCKED}
    assert all(bank.window.torque_min_nm <= bolt.torque_nm <= bank.window.torque_max_nm for bolt in bank.bolts)


def test_unlock_gives_the_pack_to_the_table_and_lock_gives_it_back() -> None:
    """All bolts open: the pack is the table's. All closed: the mount's. The times are the budget's."""
    rig, bank = _ready()
    places = rig.plant.places
    start = rig.clock.time()
    rig.turn("unlock")
    assert rig.clock.time() - start == pytest.approx(10.0, rel=0.03)
    assert places.at("dock1.mount_a") is None
    assert places.at("dock1.table_1") is not None
    start = rig.clock.time()
    rig.turn("lock")
    assert rig.clock.time() - start == pytest.approx(14.0, rel=0.03)
    assert places.at("dock1.mount_a") is not None
    assert places.at("dock1.table_1") is None
    assert {bolt.result for bolt in bank.bolts} == {BoltResult.OK}


def test_nothing_is_turned_twice() -> None:
    """A bank whose bolts are where they should be is done at once and turns nothing."""
    rig, bank = _ready()
    rig.turn("unlock")
    done: list[bool] = []
    assert bank.unlock(ALL_BOLTS, lambda: done.append(True)) is None
    assert done
    assert bank.state is LockBankState.READY


@pytest.mark.parametrize(
    ("fault", "command", "result", "state"),
    [
        ("bolt_stuck", "unlock", BoltResult.STUCK, BoltState.LOCKED),
        ("bolt_cross_threaded", "lock", BoltResult.TORQUE_EARLY, BoltState.UNKNOWN),
        ("bolt_cold_head", "lock", BoltResult.TORQUE_EARLY, BoltState.UNKNOWN),
        ("bolt_stripped", "lock", BoltResult.TORQUE_LOW, BoltState.LOCKED),
    ],
)
def test_sick_bolt_shows_itself(fault: str, command: str, result: BoltResult, state: BoltState) -> None:
    """Each ailment ends in its own result, the other bolts end well, and the pack keeps its holder."""
    rig, bank = _ready()
    if command == "lock":
        rig.turn("unlock")
    inject(rig.plant, fault, BANK, bolt=3)
    holder = rig.plant.packs["FIELD-00001-1"].place
    rig.turn(command)
    assert (bank.bolts[2].result, bank.bolts[2].state) == (result, state)
    assert {bolt.result for i, bolt in enumerate(bank.bolts) if i != 2} == {BoltResult.OK}
    stays = result is not BoltResult.TORQUE_LOW  # a stripped bolt turns home all the same
    assert (rig.plant.packs["FIELD-00001-1"].place == holder) == stays


def test_cold_head_is_cured_by_another_try() -> None:
    """After early torque, opening and closing again proves a bolt whose head was only cold."""
    rig, bank = _ready()
    rig.turn("unlock")
    inject(rig.plant, "bolt_cold_head", BANK, bolt=1)
    rig.turn("lock")
    rig.act(lambda done: bank.unlock(0b1, done))
    rig.act(lambda done: bank.lock(0b1, done))
    assert bank.bolts[0].result is BoltResult.OK
    assert bank.bolts[0].angle_deg == pytest.approx(1800.0)


def test_stop_leaves_bolts_where_they_are_and_going_on_proves_them() -> None:
    """Stopped bolts are STOPPED in between; locking again counts the angle on from the open end."""
    rig, bank = _ready()
    rig.turn("unlock")
    bank.lock(ALL_BOLTS)
    rig.clock.run_for(5.0)
    bank.stop()
    assert {bolt.result for bolt in bank.bolts} == {BoltResult.STOPPED}
    assert {bolt.state for bolt in bank.bolts} == {BoltState.UNKNOWN}
    assert rig.plant.packs["FIELD-00001-1"].place == "dock1.table_1"
    rig.turn("lock")
    assert {bolt.result for bolt in bank.bolts} == {BoltResult.OK}
    assert min(bolt.angle_deg for bolt in bank.bolts) >= bank.window.angle_min_deg
    assert rig.plant.packs["FIELD-00001-1"].place == "dock1.mount_a"


def test_locking_nothing_reaches_no_torque() -> None:
    """Bolts closed with no pack there run home without torque."""
    rig, bank = _ready()
    rig.turn("unlock")
    rig.move(dock1_shuttle_lift=0.0)
    rig.raise_table("table_2")
    rig.turn("lock")
    assert {bolt.result for bolt in bank.bolts} == {BoltResult.TORQUE_LOW}


def test_torque_curve_breaks_loose_and_comes_up() -> None:
    """An opening bolt starts at its torque, runs freely; a closing one comes up at the end."""
    rig, bank = _ready()
    bank.unlock(ALL_BOLTS)
    rig.clock.run_for(0.05)
    assert bank.bolts[0].torque_nm > 50.0
    rig.clock.run_for(5.0)
    assert bank.bolts[0].torque_nm == pytest.approx(8.0)
    assert 800.0 < bank.bolts[0].angle_deg < 1000.0


def test_guard_opened_while_turning_stops_the_runners() -> None:
    """A trip of the zone stops the runners and shows power off; no holder changes."""
    rig, bank = _ready()
    bank.unlock(ALL_BOLTS)
    rig.clock.run_for(3.0)
    inject(rig.plant, "guard", "dock1")
    assert bank.state is LockBankState.POWER_OFF
    assert {bolt.result for bolt in bank.bolts} == {BoltResult.STOPPED}
    assert rig.plant.packs["FIELD-00001-1"].place == "dock1.mount_a"


def test_without_a_vehicle_the_bank_has_no_bolts() -> None:
    """The bank shows the bolts of the vehicle in place, and none without one."""
    assert Rig().plant.locks[BANK].bolts == ()
