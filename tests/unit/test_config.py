from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller import docgen
from controller.config import ConfigError, load_station
from controller.config_checks import RTU_LOAD_MAX, did_you_mean, key_path, rtu_load
from controller.config_tables import ModbusRtuTable
from controller.model.intent import StepKind
from hal.profiles import load_register_map
from hal.types import CanLinkSpec, ModbusLinkSpec
from tests.support.config_files import ALL, DEMO, STATIONS, changed, problems, without_row

SLOT03 = '"slot03.charger"       = { profile = "chargers/generic_dc", link = "chargers", address = 3 }'
IO_PLACES = '"dock1.table_1" = 4, "dock1.table_2" = 5 }'


def test_every_delivered_station_loads() -> None:
    """All station files under deploy/stations are without mistakes, and named by their ids."""
    assert [path.stem for path in ALL] == ["choco-swap", "demo", "evogo"]
    for path in ALL:
        assert load_station(path).station.id == path.stem


def test_stations_have_their_shapes() -> None:
    """Docks, mounts, tables and slots are those of the stations' kinds."""
    shapes = {}
    for path in ALL:
        layout = load_station(path).layout()
        docks = {(len(dock.mounts), len(dock.tables), dock.has_vehicle_lift) for dock in layout.docks.values()}
        shapes[path.stem] = (len(layout.docks), docks, len(layout.store.slots), len(layout.store.quarantine))
    assert shapes == {
        "demo": (1, {(1, 2, True)}, 8, 0),
        "choco-swap": (1, {(1, 2, True)}, 30, 1),
        "evogo": (3, {(3, 2, False)}, 48, 0),
    }


def test_stations_can_run_side_by_side_on_one_computer() -> None:
    """No two delivered stations share a port, a serial port, a bus, a socket or a data directory."""
    configs = [load_station(path) for path in ALL]
    wires = [
        [(link.host, link.port, link.serial_port) if isinstance(link, ModbusLinkSpec) else link.channel]
        for config in configs
        for link in config.hal_spec().links
    ]
    assert len({tuple(wire) for wire in wires}) == len(wires)
    assert len({config.local_api.socket for config in configs}) == len(configs)
    assert len({config.data.directory for config in configs}) == len(configs)


def test_serial_lines_of_the_stations_have_time_to_spare() -> None:
    """Polling fills at most 60 % of any serial line of a delivered station."""
    for path in ALL:
        config = load_station(path)
        for link_id, link in config.links.items():
            if isinstance(link, ModbusRtuTable):
                maps = [load_register_map(d.profile) for d in config.devices.values() if d.link == link_id]
                assert 0.2 < rtu_load(link, maps) < 0.6


def test_hal_spec_carries_links_and_devices() -> None:
    """Links and devices reach the HAL with their kinds, addresses and settings."""
    spec = load_station(STATIONS / "choco-swap.toml").hal_spec()
    links = {link.link_id: link for link in spec.links}
    devices = {device.device_id: device for device in spec.devices}
    assert links["plc"] == ModbusLinkSpec("plc", "modbus_tcp", 0.3, host="127.0.0.1", port=15121)
    serial = links["slots_a"]
    assert isinstance(serial, ModbusLinkSpec)
    assert (serial.kind, serial.baud_rate, serial.parity, serial.quiet_time_s) == ("modbus_rtu", 57600, "N", 0.1)
    assert links["can_dock1"] == CanLinkSpec("can_dock1", "swapbus", "@choco-swap.dock1", 500_000)
    assert devices["stacker.fork"].settings == {"range_mm": (-5.0, 1250.0)}
    assert devices["dock1.mount_a.locks"].settings == {"bolts": 10}
    assert devices["store.io"].kind == "io"
    inputs = devices["store.io"].settings["inputs"]
    assert isinstance(inputs, dict)
    assert inputs["quarantine1"] == 30
    assert (devices["slot07.connector"].address, devices["slot07.connector"].index) == (2, 1)


def test_layout_carries_taught_positions() -> None:
    """Positions reach the layout under full place ids, and each mount has the window that proves its bolts."""
    layout = load_station(DEMO).layout()
    dock = layout.docks["dock1"]
    assert dock.align_mm == {("dock1.mount_a", "dock1.table_1"): 4000.0, ("dock1.mount_a", "dock1.table_2"): 5500.0}
    assert (dock.clamp_closed_mm, dock.vehicle_lift_up_mm, dock.shuttle_lift_up_mm) == (180.0, 120.0, 400.0)
    assert layout.stacker.places["dock1.table_2"].x_mm == 1000.0
    bank = dock.lock_banks["dock1.mount_a"]
    assert (bank.bolts, bank.torque_nm_min, bank.torque_nm_max) == (10, 100.0, 140.0)
    assert set(load_station(DEMO).steps) == set(StepKind)


def test_config_is_frozen() -> None:
    """A loaded station cannot be changed."""
    config = load_station(DEMO)
    with pytest.raises(ValidationError, match="frozen"):
        config.station.name = "other"  # type: ignore[misc] # that is the point


# --- files that cannot be read ---------------------------------------------------------------------------------


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is one error with its path."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: 1 mistake\n {2}no such file"):
        load_station(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"schema = 1\n[station\n", r"is not TOML: .*line 2, column 9"),
        (b"a = 1\na = 2\n", r"is not TOML: .*line 2"),
        (b"\xff\xfe", r"is not UTF-8 text \(byte 0\)"),
        (b"a = " + b"[" * 50_000, r"is not TOML"),
    ],
)
def test_unreadable_file_says_where(tmp_path: Path, content: bytes, text: str) -> None:
    """Text that is no TOML is one error that says at which line and column."""
    path = tmp_path / "station.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_station(path)
    assert len(caught.value.errors) == 1
    assert re.search(text, caught.value.errors[0].message)


def test_directory_is_refused(tmp_path: Path) -> None:
    """A directory in place of a file is a refusal, not a crash."""
    assert "cannot be read" in problems(tmp_path)[""]


def test_empty_file_names_every_section(tmp_path: Path) -> None:
    """Of an empty file, every section that must be there is named."""
    path = tmp_path / "station.toml"
    path.write_text("")
    sections = {"schema", "station", "links", "docks", "store", "stacker", "devices", "local_api", "data", "steps"}
    assert sections <= set(problems(path))
    assert "mqtt" not in problems(path)


# --- one mistake at a time -------------------------------------------------------------------------------------

MQTT = '[mqtt]\nhost = "b"\nport = 1883\nclient_id = "c"\n'

MISTAKES: list[tuple[str, str, str, str]] = [
    # what it was, what it becomes, key path, part of the message
    ("schema = 1", "schema = 2", "schema", "must be 1"),
    ("schema = 1", "schema = true", "schema", "must be 1"),
    ('name = "Demo station"', 'nam = "Demo station"', "station.nam", "unknown key; did you mean 'name'?"),
    ("[store]", "[colour]\nx = 1\n[store]", "colour", "unknown key"),
    ("[local_api]", "[local_apo]", "local_apo", "did you mean 'local_api'?"),
    ("port = 15021", "prot = 15021", "links.plc.prot", "did you mean 'port'?"),
    ("port = 15021", "port = 0", "links.plc.port", "greater than or equal to 1"),
    ("port = 15021", "port = 65536", "links.plc.port", "less than or equal to 65535"),
    ("port = 15021", 'port = "15021"', "links.plc.port", "valid integer"),
    ("port = 15021", "port = 15021.0", "links.plc.port", "valid integer"),
    ("timeout_s = 0.3", "timeout_s = nan", "links.plc.timeout_s", "finite number"),
    (
        "timeout_s = 0.25",
        "timeout_s = 0.4",
        "links.safety.timeout_s",
        "one late answer would make safety inputs stale",
    ),
    ("port = 15022", "port = 15021", "links.safety", "the same host and port as link 'plc'"),
    ('channel = "@demo.dock1"', 'channel = "@demo.packs"', "links.can_dock1", "the same interface and channel"),
    ('kind = "modbus_tcp"', 'kind = "modbus_tpc"', "links.plc.kind", "did you mean 'modbus_tcp'?"),
    ('kind = "modbus_tcp"', "kind = 3", "links.plc.kind", "must be one of"),
    ("bitrate = 500_000", "bitrate = 500_001", "links.can_packs.bitrate", "500000"),
    ('mounts = ["mount_a"]', "mounts = []", "docks.dock1.mounts", "at least 1"),
    ('mounts = ["mount_a"]', 'mounts = ["mount_a", "mount_a"]', "docks.dock1.mounts", "mount_a stands twice"),
    (
        'tables = ["table_1", "table_2"]',
        'tables = ["table_1"]',
        "docks.dock1.shuttle_align_mm.mount_a.table_2",
        "no such table",
    ),
    (
        "open = 0.0, closed = 180.0",
        "open = 180.0, closed = 180.0",
        "docks.dock1.clamp_mm",
        "both positions are the same",
    ),
    (
        "open = 0.0, closed = 180.0",
        "open = 0.0, closed = 250.1",
        "docks.dock1.clamp_mm",
        "250.1 mm is outside dock1.clamp",
    ),
    ("shuttle_exchange_mm = 0.0", "shuttle_exchange_mm = -10.5", "docks.dock1.shuttle_exchange_mm", "outside"),
    ("table_2 = 5500.0", "table_2 = 6000.5", "docks.dock1.shuttle_align_mm.mount_a.table_2", "outside"),
    ("mount_a = { table_1", "mount_b = { table_1", "docks.dock1.shuttle_align_mm.mount_b", "did you mean 'mount_a'?"),
    ("mount_a = { table_1 = 4000.0, ", "mount_a = { ", "docks.dock1.shuttle_align_mm.mount_a.table_1", "missing"),
    ("[docks.dock1]", "[docks.store]", "docks.store", "is no name for a dock"),
    ('"slot04"],', '"slot03"],', "store.neighbours[0]", "slot03 stands twice"),
    ('"slot04"], ["slot05"', '"slot04"], ["slot04"', "store.neighbours[1]", "'slot04' stands in two groups"),
    ('["slot05", "slot06", "slot07", "slot08"]]', '["slot05", "slot06", "slot07"]]', "store.neighbours", "'slot08'"),
    ("quarantine = []", 'quarantine = ["slot01"]', "store.quarantine", "names something else too"),
    ("pack_soc_pct_min = 80.0", "pack_soc_pct_min = 100.5", "store.pack_soc_pct_min", "less than or equal to 100"),
    ("fork_retracted_mm = 0.0", "fork_retracted_mm = -6.0", "stacker.fork_retracted_mm", "outside stacker.fork"),
    ("carry_offset_mm = 80.0", "carry_offset_mm = 0.0", "stacker.carry_offset_mm", "greater than or equal to 5"),
    (
        "slot08 = { x_mm = 6000.0",
        "slot08 = { x_mm = 7000.5",
        "stacker.places.slot08",
        "7000.5 mm is outside stacker.x",
    ),
    (
        "slot08 = { x_mm = 6000.0, z_mm = 1500.0",
        "slot08 = { x_mm = 6000.0, z_mm = 2450.0",
        "stacker.places.slot08",
        "2530.0 mm is outside stacker.z",
    ),
    (
        "slot08 = { x_mm = 6000.0",
        "slot08 = { x_mm = 5000.0",
        "stacker.places.slot08",
        "same position as that of 'slot07'",
    ),
    (
        "slot08 = { x_mm = 6000.0, z_mm = 1500.0, fork_mm = 1200.0",
        "slot08 = { x_mm = 6000.0, z_mm = 1500.0, fork_mm = 0.0",
        "stacker.places.slot08",
        "where it is retracted",
    ),
    ("slot08 = { x_mm", "slot80 = { x_mm", "stacker.places.slot80", "did you mean 'slot08'?"),
    ("slot08 = { x_mm", "slot80 = { x_mm", "stacker.places.slot08", "missing: taught position"),
    (
        "expected_s = 6.0,  limit_s = 15.0",
        "expected_s = 15.0,  limit_s = 15.0",
        "steps.clamp_vehicle",
        "must be less",
    ),
    (
        "expected_s = 6.0,  limit_s = 15.0",
        "expected_s = 0.0,  limit_s = 15.0",
        "steps.clamp_vehicle.expected_s",
        "than 0",
    ),
    ("clamp_vehicle  ", "clamp_vehicel  ", "steps.clamp_vehicel", "did you mean 'clamp_vehicle'?"),
    ("clamp_vehicle  ", "clamp_vehicel  ", "steps.clamp_vehicle", "missing"),
    (
        SLOT03,
        SLOT03.replace("address = 3", "address = 2"),
        'devices."slot03.charger".address',
        "with 'slot02.charger'",
    ),
    (SLOT03, SLOT03.replace("address = 3", "address = 0"), 'devices."slot03.charger".address', "no Modbus unit"),
    (SLOT03, SLOT03.replace("address = 3", "address = 254"), 'devices."slot03.charger".address', "equal to 253"),
    (
        SLOT03,
        SLOT03.replace("address = 3", "address = 3, index = 1"),
        'devices."slot03.charger".index',
        "one block a unit",
    ),
    (
        SLOT03,
        SLOT03.replace("address = 3", "address = 3, bolts = 1"),
        'devices."slot03.charger".bolts',
        "no such key",
    ),
    (SLOT03, SLOT03.replace('"chargers"', '"charger"'), 'devices."slot03.charger".link', "did you mean 'chargers'?"),
    (SLOT03, SLOT03.replace('"chargers"', '"can_packs"'), 'devices."slot03.charger".link', "is can"),
    (
        SLOT03,
        SLOT03.replace('"chargers"', '"safety"'),
        'devices."slot03.charger".link',
        "safety status has its own link",
    ),
    (SLOT03, SLOT03.replace("generic_dc", "generic_ac"), 'devices."slot03.charger".profile', "generic_ac"),
    (SLOT03, SLOT03.replace("chargers/generic_dc", "../x"), 'devices."slot03.charger".profile', "match pattern"),
    (
        SLOT03,
        SLOT03.replace("chargers/generic_dc", "zones/environment"),
        'devices."slot03.charger".profile',
        "is of kind 'zone', this role needs 'charger'",
    ),
    (SLOT03, SLOT03.replace("slot03.", "slot33."), 'devices."slot33.charger"', "did you mean 'slot03.charger'?"),
    (SLOT03, SLOT03.replace("slot03.", "slot33."), 'devices."slot03.charger"', "missing: a device of kind 'charger'"),
    (
        'link = "can_packs", address = 3 }',
        'link = "can_packs", address = 2 }',
        'devices."slot03.pack".address',
        "is that of 'slot02.pack' too",
    ),
    (
        "address = 1, index = 3, range_mm",
        "address = 1, index = 2, range_mm",
        'devices."dock1.shuttle_lift".address',
        "with 'dock1.shuttle_travel': duplicate address",
    ),
    (
        '"locks/lock_bank", link = "plc", address = 3',
        '"locks/lock_bank", link = "plc", address = 1',
        'devices."dock1.mount_a.locks".address',
        "shares",
    ),
    (
        "address = 3, index = 0, bolts = 10",
        "address = 3, index = 0",
        'devices."dock1.mount_a.locks".bolts',
        "missing",
    ),
    ("bolts = 10", "bolts = 13", 'devices."dock1.mount_a.locks".bolts', "less than or equal to 12"),
    (
        "range_mm = [-5.0, 250.0]",
        "range_mm = [250.0, -5.0]",
        'devices."dock1.clamp".range_mm',
        "lowest position comes first",
    ),
    ("range_mm = [-5.0, 250.0]", "range_mm = [-5.0]", 'devices."dock1.clamp".range_mm[1]', "missing"),
    ("index = 0, range_mm = [-5.0, 250.0]", "index = 0", 'devices."dock1.clamp".range_mm', "missing"),
    (IO_PLACES, '"dock1.table_1" = 4 }', "devices", "'dock1.table_2' is on no remote I/O device (inputs)"),
    (
        IO_PLACES,
        '"dock1.table_1" = 4, "dock1.table_2" = 4 }',
        'devices."dock1.io".inputs."dock1.table_2"',
        "channel 4",
    ),
    (
        IO_PLACES,
        '"dock1.table_1" = 4, "dock1.table_2" = 64 }',
        'devices."dock1.io".inputs."dock1.table_2"',
        "equal to 63",
    ),
    (
        IO_PLACES,
        '"dock1.table_1" = 4, "dock1.table_2" = 5, "slot01" = 6 }',
        'devices."store.io".inputs.slot01',
        "is on 'dock1.io' too",
    ),
    (
        IO_PLACES,
        '"dock1.table_1" = 4, "dock1.table_3" = 5 }',
        'devices."dock1.io".inputs."dock1.table_3"',
        "did you mean 'dock1.table_2'?",
    ),
    ('"store.horn" = 4', '"store.horn" = 16', 'devices."store.io".outputs."store.horn"', "beyond the last output"),
    ('socket = "build/demo/station.sock"', f'socket = "/{"x" * 107}"', "local_api.socket", "at most 107 bytes"),
    ("[data]", MQTT + 'topic_root = "a"\nusername = "u"\n[data]', "mqtt", "username and password_file go together"),
    ("[data]", MQTT + 'topic_root = "a/#"\n[data]', "mqtt.topic_root", "pattern"),
    ("[data]", MQTT + 'topic_root = "a"\ntls = { ca_file = "a", key_file = "b" }\n[data]', "mqtt.tls", "go together"),
]


@pytest.mark.parametrize(("old", "new", "where", "text"), MISTAKES)
def test_each_mistake_is_named_at_its_key(tmp_path: Path, old: str, new: str, where: str, text: str) -> None:
    """A mistake in the demo station is reported at its own key path, in words that lead to it."""
    found = problems(changed(tmp_path, (old, new)))
    assert text in found.get(where, ""), found


@pytest.mark.parametrize(
    "start",
    [
        '"dock1.clamp"',
        '"dock1.vehicle_lift"',
        '"dock1.shuttle_travel"',
        '"dock1.shuttle_lift"',
        '"dock1.mount_a.locks"',
        '"dock1.io"',
        '"dock1.safety"',
        '"dock1.zone"',
        '"dock1.vehicle"',
        '"stacker.x"',
        '"stacker.z"',
        '"stacker.fork"',
        '"store.io"',
        '"store.safety"',
        '"store.zone"',
        '"slot05.charger"',
        '"slot05.connector"',
        '"slot05.pack"',
    ],
)
def test_each_role_must_be_filled(tmp_path: Path, start: str) -> None:
    """A station file without the device of one role names that role."""
    assert "missing: a device of kind" in problems(without_row(tmp_path, start))[f"devices.{start}"]


@pytest.mark.parametrize("kind", list(StepKind))
def test_each_step_must_be_timed(tmp_path: Path, kind: StepKind) -> None:
    """A station file that forgets one step names it."""
    assert problems(without_row(tmp_path, f"{kind} "))[f"steps.{kind}"].startswith("missing")


@pytest.mark.parametrize("slot", [f"slot{n:02d}" for n in range(1, 9)])
def test_each_place_must_be_taught(tmp_path: Path, slot: str) -> None:
    """A slot that the stacker was not taught is named."""
    assert "missing" in problems(without_row(tmp_path, f"{slot} = "))[f"stacker.places.{slot}"]


def test_a_slow_serial_line_is_refused(tmp_path: Path) -> None:
    """A serial line on which polling cannot keep up is refused with its load."""
    path = changed(tmp_path, ("baud_rate = 57600", "baud_rate = 9600"), station=STATIONS / "choco-swap.toml")
    assert "takes 1" in problems(path)["links.slots_a.baud_rate"]


def test_load_of_a_serial_line_by_hand() -> None:
    """One connector at 19200 8N1: 34 characters and 6 ms, ten times a second in haste."""
    line = ModbusRtuTable(
        kind="modbus_rtu", serial_port="x", baud_rate=19200, parity="N", timeout_s=0.1, quiet_time_s=0.1
    )
    connector = load_register_map("connectors/slot_connector")
    assert rtu_load(line, [connector]) == pytest.approx((34 * 10 / 19200 + 0.006) * 10)
    assert rtu_load(line, []) == 0.0
    assert RTU_LOAD_MAX < 1.0


def test_every_mistake_at_once(tmp_path: Path) -> None:
    """Mistakes in every section are all reported by one load, shape and fit alike."""
    mistakes = [
        ('name = "Demo station"', 'name = ""'),
        ("port = 15023", "port = 15024"),
        ("timeout_s = 0.25", "timeout_s = 0.4"),
        ("closed = 180.0", "closed = 1800.0"),
        ("pack_soc_pct_min = 80.0", "pack_soc_pct_min = 80.0\ncolour = 1"),
        ("slot08 = { x_mm = 6000.0", 'slot08 = { x_mm = "6000"'),
        ("slot07 = { x_mm = 5000.0", "slot07 = { x_mm = 8000.0"),
        ("expected_s = 6.0,  limit_s = 15.0", "expected_s = 16.0,  limit_s = 15.0"),
        (SLOT03, SLOT03.replace("address = 3", "address = 2")),
        ("bolts = 10", "bolts = 0"),
        ('directory = "build/demo/data"', "directory = 7"),
    ]
    found = problems(changed(tmp_path, *mistakes))
    assert set(found) == {
        "station.name",
        "links.chargers",
        "links.safety.timeout_s",
        "docks.dock1.clamp_mm",
        "store.colour",
        "stacker.places.slot08.x_mm",
        "stacker.places.slot07",
        "steps.clamp_vehicle",
        'devices."slot03.charger".address',
        'devices."dock1.mount_a.locks".bolts',
        "data.directory",
    }


def test_error_text_has_a_line_for_each_mistake(tmp_path: Path) -> None:
    """The error's text names the file, counts the mistakes and gives each a line with its key path."""
    path = changed(tmp_path, ("bolts = 10", "bolts = 0"), ("port = 15021", "port = 0"))
    with pytest.raises(ConfigError) as caught:
        load_station(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 2 mistakes"
    assert len(lines) == 3
    assert lines[1].startswith("  links.plc.port: ")


def test_optional_broker_is_read(tmp_path: Path) -> None:
    """A broker with user and TLS is read; without the section there is none."""
    broker = """[mqtt]
host = "broker.example"
port = 8883
client_id = "demo"
topic_root = "swap/eu"
username = "demo"
password_file = "/etc/swap-station/mqtt.password"
tls = { ca_file = "/etc/ssl/ca.pem" }

[data]"""
    mqtt = load_station(changed(tmp_path, ("[data]", broker))).mqtt
    assert mqtt is not None
    assert mqtt.tls is not None
    assert (mqtt.port, mqtt.topic_root, mqtt.tls.ca_file) == (8883, "swap/eu", Path("/etc/ssl/ca.pem"))
    assert load_station(DEMO).mqtt is None


TOML_VALUES = st.sampled_from(
    ["1", "-1", "1e99", '""', '"x"', "[]", "{}", "true", "1979-05-27", "[[1]]", "{ a = 1 }"]
)
VALUE = re.compile(r"= (\{.*\}|\[.*\]|\"[^\"]*\"|[\d._-]+)")
ASSIGNMENTS = [m.span(1) for m in VALUE.finditer(DEMO.read_text(encoding="utf-8"))]


@given(which=st.integers(0, len(ASSIGNMENTS) - 1), value=TOML_VALUES)
def test_no_value_crashes_the_loader(tmp_path_factory: pytest.TempPathFactory, which: int, value: str) -> None:
    """Whatever stands in place of a value, the loader returns or raises ConfigError, nothing else."""
    text = DEMO.read_text(encoding="utf-8")
    start, end = ASSIGNMENTS[which]
    path = tmp_path_factory.mktemp("any") / "station.toml"
    path.write_text(text[:start] + value + text[end:], encoding="utf-8")
    problems(path)


def test_key_paths_are_toml() -> None:
    """Key paths quote what TOML would have quoted."""
    assert key_path("devices", "slot03.charger", "address") == 'devices."slot03.charger".address'
    assert key_path("store", "neighbours", 1, 0) == "store.neighbours[1][0]"
    assert key_path("docks", "") == 'docks.""'


def test_hints_only_for_near_names() -> None:
    """A hint is given for a slip, not for something else."""
    assert did_you_mean("adress", ["address", "link"]) == "; did you mean 'address'?"
    assert did_you_mean("colour", ["address", "link"]) == ""


def test_generated_pages_are_in_step(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/CONFIG.md, FAULTS.md and PACKML.md are what their tables say."""
    assert docgen.main(["--check", str(STATIONS.parents[1] / "docs")]) == 0, capsys.readouterr().err


def test_stale_page_is_noticed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page that is missing or changed fails the check, and writing mends it."""
    assert docgen.main(["--check", str(tmp_path)]) == 1
    assert "CONFIG.md, FAULTS.md, PACKML.md" in capsys.readouterr().err
    assert docgen.main([str(tmp_path)]) == 0
    (tmp_path / "FAULTS.md").write_text("old")
    assert docgen.main(["--check", str(tmp_path)]) == 1
