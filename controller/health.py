"""Whether this process can do its work, and telling systemd so: the watchdog is fed only while it can.

Two kinds of problems are kept apart. A *vital* one (a task that no longer runs, a loop that lags) starves the
watchdog: systemd then ends and restarts the process, which helps. A *notice* (disk nearly full, CPU hot) is reported;
a restart would not help. A device that does not answer is neither: that is a fault, and no reason to stop serving
the others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

_log = logging.getLogger(__name__)

PERIOD_S = 1.0
LAG_LIMIT_S = 1.0  # a loop this late misses the heartbeat by which the hardware keeps drives enabled
LAG_MEMORY = 60  # measurements, hence a minute
HOST_PERIOD_S = 30.0  # disk and temperature change slowly
DISK_FREE_MIB_MIN = 200.0  # a week of journal
CPU_C_MAX = (
    80.0  # where a Raspberry Pi begins to throttle (raspberrypi.com, "Frequency management and thermal control")
)
CPU_SENSOR = Path("/sys/class/thermal/thermal_zone0/temp")

Check = Callable[[], str | None]


class Notifier:
    """systemd's notification socket (sd_notify(3)). Never blocks, never raises: a swap outranks a notice."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take the socket and the watchdog's interval from ``environment``; without them nothing is sent."""
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self.watchdog_s = _watchdog_s(environment)
        self.lost = 0

    def send(self, **values: object) -> None:
        """Send assignments: ``send(READY=1, STATUS="serving")``."""
        if not self._address:
            return
        text = "\n".join(f"{key}={value}" for key, value in values.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
                out.connect(self._address)
                out.send(text.encode())
        except OSError as error:
            self.lost += 1
            if self.lost == 1:
                _log.warning("systemd cannot be notified: %s", error)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the interval within which systemd wants to hear from this process; None: it does not."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # meant for another process
    try:
        interval_us = int(environment.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return interval_us / 1e6 if interval_us > 0 else None


class Health:
    """Gathers what is wrong with the process and its host; ``run()`` measures and feeds the watchdog."""

    def __init__(self, directory: Path, notifier: Notifier | None = None) -> None:
        """``directory``: whose disk is watched. ``notifier``: by default what systemd's environment says."""
        self._directory = directory
        self._notifier = notifier or Notifier(os.environ)
        self._checks: dict[str, Check] = {}
        self._lags_s: deque[float] = deque(maxlen=LAG_MEMORY)
        self._disk_free_mib: float | None = None
        self._cpu_c: float | None = None
        self._told: list[str] = []

    # --- what is watched -------------------------------------------------------------------------------------------

    def watch(self, name: str, check: Check) -> None:
        """Ask ``check`` every second: a sentence if something vital is wrong, else None. It must not block."""
        self._checks[name] = check

    def heartbeat(self, name: str, limit_s: float) -> Callable[[], None]:
        """Return a function that task ``name`` must call at least every ``limit_s`` seconds from now on."""
        loop = asyncio.get_running_loop()
        last = loop.time()

        def beat() -> None:
            nonlocal last
            last = loop.time()

        def check() -> str | None:
            age_s = loop.time() - last
            return f"no sign of life for {age_s:.1f} s, limit {limit_s:.1f} s" if age_s > limit_s else None

        self.watch(name, check)
        return beat

    # --- what is found ---------------------------------------------------------------------------------------------

    def vital_problems(self) -> list[str]:
        """Return what a restart may mend; empty while the watchdog may be fed."""
        found = []
        for name, check in self._checks.items():
            try:
                problem = check()
            except Exception as error:  # noqa: BLE001 - a check that fails is itself a problem, whatever it raised
                problem = f"its check failed: {type(error).__name__}: {error}"
            if problem:
                found.append(f"{name}: {problem}")
        lag = self.lagging()
        return [*found, f"loop: {lag}"] if lag else found

    def lagging(self) -> str | None:
        """Return by how much the loop is late, if it is too late for the heartbeat."""
        late = bool(self._lags_s) and self._lags_s[-1] > LAG_LIMIT_S
        return f"{self._lags_s[-1]:.1f} s late, limit {LAG_LIMIT_S:.1f} s" if late else None

    def disk_low(self) -> str | None:
        """Return how little space is left, if it is too little."""
        if self._disk_free_mib is None or self._disk_free_mib >= DISK_FREE_MIB_MIN:
            return None
        return f"{self._disk_free_mib:.0f} MiB free at {self._directory}, want {DISK_FREE_MIB_MIN:.0f}"

    def notices(self) -> list[str]:
        """Return what a person should see to."""
        found = []
        low = self.disk_low()
        if low:
            found.append(f"disk: {low}")
        if self._cpu_c is not None and self._cpu_c > CPU_C_MAX:
            found.append(f"cpu: {self._cpu_c:.0f} degC, limit {CPU_C_MAX:.0f}")
        return found

    def report(self) -> dict[str, object]:
        """Return what ``swapctl status`` shows; ``ok`` is false with any problem."""
        problems = [*self.vital_problems(), *self.notices()]
        return {
            "ok": not problems,
            "problems": problems,
            "loop_lag_s_max": round(max(self._lags_s, default=0.0), 4),
            "disk_free_mib": None if self._disk_free_mib is None else round(self._disk_free_mib),
            "cpu_c": self._cpu_c,
        }

    # --- running ---------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """Tell systemd that the station serves."""
        self._notifier.send(READY=1, STATUS="serving")

    async def run(self) -> None:
        """Measure and feed the watchdog until cancelled; then tell systemd that the process is stopping."""
        loop = asyncio.get_running_loop()
        watchdog_s = self._notifier.watchdog_s
        period_s = PERIOD_S if watchdog_s is None else min(PERIOD_S, watchdog_s / 3)
        look_at_host_at = loop.time()
        try:
            while True:
                if loop.time() >= look_at_host_at:
                    look_at_host_at = loop.time() + HOST_PERIOD_S
                    await self._look_at_host()
                self._tell()
                due = loop.time() + period_s
                await asyncio.sleep(period_s)
                self._lags_s.append(max(0.0, loop.time() - due))
        finally:
            self._notifier.send(STOPPING=1, STATUS="stopping")

    def _tell(self) -> None:
        """Feed the watchdog if nothing vital is wrong; log and tell a change of problems, once."""
        vital = self.vital_problems()
        if not vital:
            self._notifier.send(WATCHDOG=1)
        names = sorted(problem.split(":", 1)[0] for problem in [*vital, *self.notices()])
        if names == self._told:
            return
        self._told = names
        text = "; ".join([*vital, *self.notices()]) or "serving"
        _log.warning("health: %s", text)
        self._notifier.send(STATUS=text)

    async def _look_at_host(self) -> None:
        """A failing disk may block for long, hence on a thread; bounded, so that it cannot starve the watchdog."""
        looking = asyncio.get_running_loop().run_in_executor(None, _host, self._directory)
        done, _ = await asyncio.wait({looking}, timeout=PERIOD_S)
        if done:
            self._disk_free_mib, self._cpu_c = looking.result()


def _host(directory: Path) -> tuple[float | None, float | None]:
    """Return free disk space (MiB) and CPU temperature (degC); None for what cannot be read here."""
    try:
        disk = os.statvfs(directory)
        free_mib: float | None = disk.f_bavail * disk.f_frsize / 2**20
    except OSError:
        free_mib = None
    try:
        cpu_c: float | None = int(CPU_SENSOR.read_text(encoding="ascii")) / 1000
    except (OSError, ValueError):
        cpu_c = None
    return free_mib, cpu_c
