from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from controller.cli.__main__ import DEFAULT_SOCKET, parser

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

Unit = dict[str, dict[str, list[str]]]


def unit_file(path: Path) -> Unit:
    """Read a file of systemd's: section, key, every value in order. Raises ValueError on what is no such file."""
    sections: Unit = {}
    section: dict[str, list[str]] | None = None
    for line in path.read_text().splitlines():
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
            continue
        key, equals, value = line.partition("=")
        if not equals or section is None or key != key.strip():
            raise ValueError(f"{path.name}: {line!r}")
        section.setdefault(key, []).append(value)
    return sections


@pytest.fixture(name="service")
def _service() -> dict[str, list[str]]:
    return unit_file(DEPLOY / "systemd" / "swap-station.service")["Service"]


def test_the_service_is_watched_and_restarts_but_not_on_a_bad_file(service: dict[str, list[str]]) -> None:
    """The service tells READY, is watched, restarts after failures for ever, and never after exit code 78."""
    assert service["Type"] == ["notify"]
    assert 5 <= int(service["WatchdogSec"][0]) <= 30
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["78"]
    assert unit_file(DEPLOY / "systemd" / "swap-station.service")["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert "-m controller --config /etc/swap-station/station.toml" in service["ExecStart"][0]


def test_the_service_may_do_no_more_than_it_needs(service: dict[str, list[str]]) -> None:
    """The service has no rights over the system, only the address families and devices of its wires."""
    strict = {
        "User": "swap-station",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "DevicePolicy": "closed",
        "MemoryDenyWriteExecute": "yes",
        "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6 AF_CAN",
        "RestrictNamespaces": "yes",
        "ProtectKernelTunables": "yes",
        "StateDirectory": "swap-station",
        "RuntimeDirectory": "swap-station",
    }
    assert {key: service[key] for key in strict} == {key: [value] for key, value in strict.items()}
    assert service["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert {value.split()[0] for value in service["DeviceAllow"]} == {
        "char-ttyS", "char-ttyAMA", "char-ttyUSB", "char-ttyACM",
    }  # fmt: skip


def test_the_service_can_see_who_asks(service: dict[str, list[str]]) -> None:
    """Nothing that would hide the user ids behind the local API's socket is switched on."""
    assert "PrivateUsers" not in service
    assert "DynamicUser" not in service


def test_paths_fit_between_the_parts(service: dict[str, list[str]]) -> None:
    """Service, swapctl's default and the installer name the same places."""
    directory = f"/run/{service['RuntimeDirectory'][0]}/"
    assert DEFAULT_SOCKET.startswith(directory)
    script = (DEPLOY / "install.sh").read_text()
    assert "prefix=/opt/swap-station\n" in script
    assert service["ExecStart"][0].startswith("/opt/swap-station/current/bin/python ")
    assert "$etc/station.toml" in script


def test_systemd_finds_nothing_to_complain_about() -> None:
    """Where systemd's own checker is installed it has no remark on the service, and its exposure is below 2.5."""
    analyze = shutil.which("systemd-analyze")
    path = DEPLOY / "systemd" / "swap-station.service"
    if analyze is None:
        assert unit_file(path)["Install"]["WantedBy"] == ["multi-user.target"]
        return
    command = [analyze, "security", "--offline=true", "--threshold=25", "--no-pager", str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    remarks = subprocess.run([analyze, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False)
    own = [line for line in remarks.stderr.splitlines() if path.name in line and "is not executable" not in line]
    assert own == []


def test_can_interfaces_come_up_and_recover() -> None:
    """CAN interfaces get the stations' bit rate, restart after bus-off, hold up no boot, queue more than 10."""
    network = unit_file(DEPLOY / "networkd" / "80-swap-can.network")
    assert network["Match"]["Name"] == ["can*"]
    assert network["CAN"]["BitRate"] == ["500K"]
    assert network["CAN"]["RestartSec"] == ["200ms"]
    assert network["Link"]["RequiredForOnline"] == ["no"]
    link = unit_file(DEPLOY / "networkd" / "80-swap-can.link")
    assert int(link["Link"]["TransmitQueueLength"][0]) > 10
    stations = [tomllib.loads(path.read_text()) for path in (DEPLOY / "stations").glob("*.toml")]
    rates = {link["bitrate"] for station in stations for link in station["links"].values() if link["kind"] == "can"}
    assert rates == {500_000}


def test_users_and_groups_exist_for_every_role() -> None:
    """The groups that station files name, and the service's user, are made at installation."""
    lines = (DEPLOY / "sysusers" / "swap-station.conf").read_text().splitlines()
    made = {line.split()[1] for line in lines if line and line[0] in "ug"}
    named = set()
    for path in (DEPLOY / "stations").glob("*.toml"):
        api = tomllib.loads(path.read_text())["local_api"]
        named |= {value for key, value in api.items() if key.endswith("_group")}
    assert "swap-station" in made
    assert named <= made


def test_the_installer_is_sound() -> None:
    """The installer parses, stops at the first error, and shellcheck, where there is one, has no remark."""
    script = DEPLOY / "install.sh"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shellcheck := shutil.which("shellcheck"):
        checked = subprocess.run([shellcheck, str(script)], capture_output=True, text=True, check=False)
        assert checked.stdout == ""


def test_the_installer_says_what_it_would_do(tmp_path: Path) -> None:
    """A dry run changes nothing; packages come by hash, and the switch-over comes after the station file's check."""
    station = tmp_path / "station.toml"
    station.write_text("")
    command = [str(DEPLOY / "install.sh"), "--dry-run", "--station", str(station), "--can", "--start"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    order = ["systemd-sysusers", "-m venv", "--require-hashes", "config check", "mv -T", "daemon-reload", "restart"]
    positions = [next(i for i, step in enumerate(steps) if word in step) for word in order]
    assert positions == sorted(positions)
    installs = [step for step in steps if "/pip install" in step]
    assert all("--require-hashes" in step or "--no-deps" in step for step in installs)
    for name in re.findall(rf"{re.escape(str(DEPLOY))}/\S+", done.stdout):
        assert Path(name).is_file(), name
    assert not Path("/opt/swap-station/current.new").exists()


def test_the_installer_restarts_only_when_told() -> None:
    """Without --start nothing that runs is touched; a wrong argument is refused with the usage."""
    quiet = subprocess.run([str(DEPLOY / "install.sh"), "--dry-run"], capture_output=True, text=True, check=True)
    assert "restart swap-station.service" not in quiet.stdout
    wrong = subprocess.run([str(DEPLOY / "install.sh"), "--now"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "usage:" in wrong.stderr


def test_what_the_page_says_to_type_exists() -> None:
    """Each make target, file, swapctl command and module on the page from bare Debian to a swap is there."""
    page = (DEPLOY / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    commands = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert len(commands) > 12
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands:
        words = command.removeprefix("sudo ").removeprefix("-E ").split()
        if words[0] == "make":
            assert words[1] in targets
        elif words[0] == "swapctl":
            parser().parse_args(words[1:])
        elif words[0] == "deploy/install.sh":
            assert all(option in (ROOT / words[0]).read_text() for option in words if option.startswith("--"))
        elif "-m" in words:
            assert (ROOT / words[words.index("-m") + 1] / "__main__.py").is_file()
        for word in words:
            if word.startswith("deploy/"):
                assert (ROOT / word).exists(), word
