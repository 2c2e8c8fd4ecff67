from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller import health as health_module
from controller.health import Health, Notifier


class Systemd:
    """The other end of the notification socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(address)

    def heard(self) -> list[str]:
        """Return every line received since the last call."""
        lines = []
        while True:
            try:
                lines += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines


@pytest.fixture(name="systemd")
def _systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def notifier(tmp_path: Path, watchdog_s: float = 3.0) -> Notifier:
    """Return a notifier as systemd would set it up."""
    return Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(int(watchdog_s * 1e6))})


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_the_watchdog_is_fed_only_while_healthy(systemd: Systemd, tmp_path: Path) -> None:
    """While every vital check passes the watchdog is fed three times per interval; while one fails, not once."""
    health = Health(tmp_path, notifier(tmp_path))
    problem: list[str] = []
    health.watch("poller", lambda: problem[0] if problem else None)
    task = asyncio.create_task(health.run())
    await asyncio.sleep(9.5)
    assert systemd.heard().count("WATCHDOG=1") == 10
    problem.append("stuck")
    await asyncio.sleep(10)
    assert systemd.heard() == ["STATUS=poller: stuck"]
    assert health.report()["problems"] == ["poller: stuck"]
    problem.clear()
    await asyncio.sleep(1)
    assert systemd.heard() == ["WATCHDOG=1", "STATUS=serving"]
    assert health.report()["ok"] is True
    await _end(task)


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_readiness_and_stopping_are_told(systemd: Systemd, tmp_path: Path) -> None:
    """READY goes out when told to, STOPPING when the health task is cancelled."""
    health = Health(tmp_path, notifier(tmp_path))
    health.ready()
    assert systemd.heard() == ["READY=1", "STATUS=serving"]
    task = asyncio.create_task(health.run())
    await asyncio.sleep(0.1)
    systemd.heard()
    await _end(task)
    assert systemd.heard() == ["STOPPING=1", "STATUS=stopping"]


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_a_task_that_stops_beating_is_named(tmp_path: Path) -> None:
    """A heartbeat just within its limit is fine, just over it is a problem by name, and the next beat mends it."""
    health = Health(tmp_path, Notifier({}))
    beat = health.heartbeat("runner", 5.0)
    await asyncio.sleep(5.0)
    assert health.vital_problems() == []
    await asyncio.sleep(0.1)
    assert health.vital_problems() == ["runner: no sign of life for 5.1 s, limit 5.0 s"]
    beat()
    assert health.vital_problems() == []


def test_a_check_that_fails_is_a_problem(tmp_path: Path) -> None:
    """A check that raises is reported as a problem of its own and hides no other."""
    health = Health(tmp_path, Notifier({}))

    def broken() -> str | None:
        raise RuntimeError("bug")

    health.watch("a", broken)
    health.watch("b", lambda: "late")
    assert health.vital_problems() == ["a: its check failed: RuntimeError: bug", "b: late"]


def test_a_lagging_loop_starves_the_watchdog_and_recovers(tmp_path: Path) -> None:
    """The last measured lag over the limit is vital; once it is within it, only the maximum remembers."""
    health = Health(tmp_path, Notifier({}))
    health._lags_s.extend([0.01, health_module.LAG_LIMIT_S])
    assert health.vital_problems() == []
    health._lags_s.append(health_module.LAG_LIMIT_S + 0.01)
    assert "loop" in health.vital_problems()[0]
    health._lags_s.append(0.0)
    assert health.vital_problems() == []
    assert health.report()["loop_lag_s_max"] == 1.01


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_disk_and_temperature_are_notices_and_starve_nothing(
    systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk and a hot CPU are reported and told, and the watchdog is fed all the same."""
    monkeypatch.setattr(health_module, "DISK_FREE_MIB_MIN", 1e12)
    monkeypatch.setattr(health_module, "CPU_SENSOR", tmp_path / "temp")
    (tmp_path / "temp").write_text("81234\n")
    health = Health(tmp_path, notifier(tmp_path))
    task = asyncio.create_task(health.run())
    await asyncio.sleep(0.1)
    heard = systemd.heard()
    assert "WATCHDOG=1" in heard
    assert any(line.startswith("STATUS=disk: ") and "cpu: 81 degC" in line for line in heard)
    report = health.report()
    assert report["ok"] is False
    assert report["cpu_c"] == 81.234
    await _end(task)


@pytest.mark.asyncio(loop_factories=["virtual"])
async def test_what_cannot_be_read_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing sensor or directory yields null and no problem."""
    monkeypatch.setattr(health_module, "CPU_SENSOR", tmp_path / "no")
    health = Health(tmp_path / "gone", Notifier({}))
    await health._look_at_host()
    assert health.report()["disk_free_mib"] is None
    assert health.report()["cpu_c"] is None
    assert health.report()["ok"] is True


def test_the_environment_decides_whether_systemd_listens() -> None:
    """Without a socket nothing is sent; the watchdog counts only if it is meant for this process and is a number."""
    Notifier({}).send(READY=1)
    cases = [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ]
    assert [Notifier(environment).watchdog_s for environment, _ in cases] == [expected for _, expected in cases]


def test_a_socket_that_is_gone_harms_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Notices to a dead socket are counted and logged once."""
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    for _ in range(3):
        gone.send(WATCHDOG=1)
    assert gone.lost == 3
    assert len(caplog.records) == 1


def test_abstract_sockets_are_understood() -> None:
    """A NOTIFY_SOCKET with a leading @ is a name in the abstract space."""
    name = f"swap-station-test-{os.getpid()}"
    listener = Systemd("\0" + name)
    Notifier({"NOTIFY_SOCKET": "@" + name}).send(READY=1)
    assert listener.heard() == ["READY=1"]
    listener.socket.close()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
