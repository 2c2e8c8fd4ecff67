"""The whole plant: a swap by hand, its times, where packs are, determinism, and the files it is built from."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hal.types import CanLinkSpec, ModbusLinkSpec
from sim_hw.injection import FAULTS, inject, targets
from sim_hw.plant import Plant
from sim_hw.plant.activity import Activity
from sim_hw.station_file import StationFileError, read_station
from sim_hw.world import WorldError, load_world, world_path
from tests.support.plant_rig import STATIONS, HandClock, Rig

ROOT = STATIONS.parents[1]


def _swap_trace(seed: int) -> str:
    rig = Rig(seed=seed)
    rig.swap()
    return hashlib.sha256(repr(rig.plant.trace).encode()).hexdigest()


def test_a_swap_by_hand_breaks_no_law_and_moves_two_packs() -> None:
    """Slot01's pack ends in the vehicle and leaves; the vehicle's ends in slot01; all others stay."""
    rig = Rig()
    before = rig.plant.places.where()
    vehicle = rig.swap()
    after = rig.plant.places.where()
    assert rig.laws_broken() == []
    assert after["FIELD-00001-1"] == "slot01"
    assert after["DEMO-0001"] == ""
    assert vehicle.status().mounts[0].pack_serial == "DEMO-0001"
    assert {s: p for s, p in before.items() if s != "DEMO-0001"}.items() <= after.items()


def test_presence_follows_the_packs() -> None:
    """Each place's input shows its pack within the sensor's bounce, on the fork too."""
    rig = Rig()
    rig.act(rig.plant.connectors["slot01.connector"].disengage)
    rig.pick("slot01")
    rig.clock.run_for(0.2)
    assert rig.plant.input("stacker.fork")
    assert not rig.plant.input("slot01")
    rig.put("dock1.table_1")
    rig.clock.run_for(0.2)
    assert rig.plant.input("dock1.table_1")
    assert not rig.plant.input("stacker.fork")


def test_pack_changes_hands_at_half_the_carry_offset() -> None:
    """An abort in mid-lift leaves the pack with its place below half the carry offset, with the fork above."""
    for stop_mm, holder in ((30.0, "slot01"), (50.0, "stacker.fork")):
        rig = Rig()
        rig.act(rig.plant.connectors["slot01.connector"].disengage)
        rig.stand_before("slot01", carry=False)
        rig.move(stacker_fork=1200.0)
        rig.move(stacker_z=stop_mm)
        assert rig.plant.packs["DEMO-0001"].place == holder


def test_transfers_take_the_budgets_time() -> None:
    """Pick and place take 7 s each, slot to exchange about 6."""
    rig = Rig()
    rig.act(rig.plant.connectors["slot04.connector"].disengage)
    rig.stand_before("slot04", carry=False)
    start = rig.clock.time()
    rig.pick("slot04")
    assert rig.clock.time() - start == pytest.approx(7.0, rel=0.04)
    start = rig.clock.time()
    rig.stand_before("dock1.table_2", carry=True)
    assert rig.clock.time() - start == pytest.approx(7.3, rel=0.04)
    start = rig.clock.time()
    rig.put("dock1.table_2")
    assert rig.clock.time() - start == pytest.approx(7.0, rel=0.04)


def test_loaded_lift_is_slower() -> None:
    """The shuttle lift takes 8 s up empty and 10 s up loaded, 10 down loaded and 6 down empty."""
    rig = Rig()
    rig.prepare()
    times = []

    def lift(target_mm: float) -> None:
        start = rig.clock.time()
        rig.move(dock1_shuttle_lift=target_mm)
        times.append(rig.clock.time() - start)

    rig.move(dock1_shuttle_travel=4000.0)
    lift(400.0)
    rig.turn("unlock")
    lift(0.0)
    lift(400.0)
    rig.turn("lock")
    lift(0.0)
    assert times == [pytest.approx(nominal, rel=0.03) for nominal in (8.0, 10.0, 10.0, 6.0)]


def test_dead_time_is_what_nobody_on_the_path_did() -> None:
    """The measure splits the stay into moved and dead time and finds a pause that was put in."""
    rig = Rig()
    vehicle = rig.prepare()
    rig.clock.run_for(20.0)
    measure = rig.plant.activity.critical_path(rig.plant.activity.windows[0], rig.clock.time())
    assert measure.swap_s == pytest.approx(measure.critical_path_s + measure.dead_time_s)
    assert any(end - start == pytest.approx(20.0, abs=0.5) for start, end in measure.gaps)
    assert vehicle.dock == "dock1"


def test_waiting_for_a_fetch_is_not_dead_time() -> None:
    """While the dock waits for the stacker to bring its pack, the stacker's motion covers the wait."""
    activity = Activity()
    activity.vehicle_in_place("dock1", "EV", 0.0)
    for device, kind, start, end in (
        ("dock1.clamp", "move", 0.0, 5.0),
        ("slot01.connector", "unplug", 4.0, 10.0),
        ("stacker.x", "move", 10.1, 13.0),
        ("stacker.z", "move", 13.1, 15.0),
        ("stacker.fork", "move", 15.1, 18.0),
        ("dock1.shuttle_travel", "move", 18.5, 25.0),
        ("stacker.x", "move", 25.5, 28.0),
    ):
        activity.begin(device, kind, start)
        activity.end(device, end)
    activity.pack_moves.append((14.0, "P", "stacker.fork", "dock1.table_1"))
    activity.vehicle_released("dock1", 30.0)
    measure = activity.critical_path(activity.windows[0], 40.0)
    assert measure.swap_s == 30.0
    assert measure.dead_time_s == pytest.approx(0.1 + 0.1 + 0.1 + 0.5 + 5.0)


def test_same_seed_same_trace_other_seed_other_trace() -> None:
    """Everything random comes from the seed."""
    assert _swap_trace(7) == _swap_trace(7)
    assert _swap_trace(7) != _swap_trace(8)


def test_trace_does_not_depend_on_the_hash_seed() -> None:
    """A process with another string-hash seed has the same trace."""
    code = "from tests.unit.test_plant_station import _swap_trace; print(_swap_trace(7))"
    environment = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() == _swap_trace(7)


def test_start_stock_is_plugged_in_charged_and_heard() -> None:
    """Six charged packs are on their slots' buses, two slots are empty."""
    rig = Rig()
    for number in range(1, 7):
        pack = rig.plant.pack_on_bus(f"slot{number:02d}")
        assert pack is not None
        assert 85.0 <= pack.soc_pct <= 97.0
        assert rig.plant.input(f"slot{number:02d}")
    assert rig.plant.pack_on_bus("slot07") is None
    assert not rig.plant.input("slot08")


@pytest.mark.parametrize("station", ["demo", "choco-swap", "evogo"])
def test_every_shipped_station_builds(station: str) -> None:
    """Station file and world file of every shipped station fit together, and a vehicle comes to every dock."""
    rig = Rig(station)
    for dock in rig.plant.docks:
        rig.plant.bring_vehicle(dock, approach_s=8.0)
    rig.clock.run_for(15.0)
    for dock, vehicle in rig.plant.vehicles.items():
        assert vehicle is not None
        assert rig.plant.input(f"{dock}.in_place")
    assert rig.laws_broken() == []


def test_every_fault_of_the_registry_can_be_injected_and_ended() -> None:
    """Each named fault applies to some target of its kind with its defaults, and its end does not fail."""
    for name, kind in FAULTS.items():
        rig = Rig()
        rig.vehicle_in()
        places = {"axis": "dock1.clamp", "pack": "DEMO-0001", "zone": "dock1", "dock": "dock1"}
        target = places.get(kind.target) or targets(rig.plant, kind.target)[0]
        if name != "bolts_slip_open":  # that one lets a pack fall: a law, tested there
            inject(rig.plant, name, target)()


def test_stuck_sensor_lies_until_it_is_freed() -> None:
    """A stuck input shows its value whatever is true."""
    rig = Rig()
    undo = inject(rig.plant, "input_stuck", "slot01", value=0)
    assert not rig.plant.io_inputs()["slot01"]
    undo()
    assert rig.plant.io_inputs()["slot01"]


def test_silent_pack_leaves_the_bus() -> None:
    """A silent device or BMS is not on its bus and comes back."""
    rig = Rig()
    for fault, target in (("device_silent", "slot01.pack"), ("pack_silent", "DEMO-0001")):
        undo = inject(rig.plant, fault, target)
        assert rig.plant.pack_on_bus("slot01") is None
        undo()
        assert rig.plant.pack_on_bus("slot01") is not None


def test_station_file_is_read_into_specs() -> None:
    """Links become the shared specs, places full ids, zones the docks and the store."""
    station = read_station(STATIONS / "demo.toml")
    assert isinstance(station.links["plc"], ModbusLinkSpec)
    assert isinstance(station.links["can_packs"], CanLinkSpec)
    assert station.docks["dock1"].align_mm["dock1.mount_a", "dock1.table_2"] == 5500.0
    assert station.zones == ("dock1", "store")
    assert [station.zone_of(device) for device in ("dock1.clamp", "stacker.x", "slot03.charger")] == [
        "dock1",
        "store",
        "store",
    ]


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("carry_offset_mm = 80.0", 'carry_offset_mm = "80"', "stacker.carry_offset_mm"),
        ("port = 15021", "port = true", "links.plc.port"),
        ('tables = ["table_1", "table_2"]', "tables = 2", "docks.dock1.tables"),
        ('kind = "modbus_tcp"', 'kind = "profibus"', "links.plc.kind"),
        ("schema = 1", "schema = = 1", "line 3"),
    ],
)
def test_wrong_station_file_is_named_by_its_key(tmp_path: Path, old: str, new: str, path: str) -> None:
    """A value of the wrong shape is refused with its key path."""
    text = (STATIONS / "demo.toml").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "station.toml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(StationFileError, match=path):
        read_station(file)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("unlock_s = 10.0", "", "locks"),
        ("unlock_s = 10.0", "unlock_s = 10.0\nspin_s = 1.0", "locks"),
        ("duration_noise = 0.02", 'duration_noise = "small"', "duration_noise"),
        ("soc_pct = [85.0, 97.0]", "soc_pct = [85.0]", "stock.soc_pct"),
        ('model = "lfp-56"', 'model = "lfp-99"', "packs.models.lfp-99"),
        ("ramp_s = 1.0", "ramp_s = 9.0", "axes.shuttle_travel"),
        ("approach_s = 50.0", "", "vehicles"),
    ],
)
def test_wrong_world_file_is_named_by_its_key(tmp_path: Path, old: str, new: str, path: str) -> None:
    """A world file that lacks something or has something else is refused with its key path."""
    text = world_path("demo").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "world.toml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(WorldError, match=path):
        load_world(file)


def test_an_input_that_nothing_drives_is_refused(tmp_path: Path) -> None:
    """A station file that names an input unknown to the plant does not build."""
    text = (STATIONS / "demo.toml").read_text(encoding="utf-8").replace('"dock1.exit_clear" = 2', '"dock1.magic" = 2')
    file = tmp_path / "station.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(StationFileError, match=r"dock1\.magic"):
        Plant(read_station(file), load_world(world_path("demo")), HandClock())
