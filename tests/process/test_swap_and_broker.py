"""A swap on a station that names a broker, while the broker comes and goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.process.test_mqtt import listening
from tests.support.mosquitto import broker
from tests.support.processes import TwoProcesses

pytestmark = pytest.mark.timeout(150)


async def test_a_swap_does_not_notice_the_broker_and_the_cloud_hears_all_of_it(tmp_path: Path) -> None:
    """With the broker gone from unlocking to the end the swap is DONE; once back, every phase arrives, in order."""
    (tmp_path / "broker").mkdir()
    with broker(tmp_path / "broker") as made:
        mqtt = f"""
[mqtt]
host = "127.0.0.1"
port = {made.port}
client_id = "demo"
topic_root = "swap"
"""
        pair = TwoProcesses(tmp_path, mqtt)
        async with (
            listening(made.port) as cloud,
            pair.simulator("--vehicle-every", "1"),
            pair.controller(),
        ):
            await pair.do("reset")
            await pair.vehicle_heard()
            async with pair.watch() as watch:
                swap_id = (await pair.do("swap", "start", "--dock", "dock1"))["swap_id"]
                await watch.until(type="swap", phase="unlocking")
                made.stop()
                assert await watch.end() == 0
            made.start()
            async with asyncio.timeout(60):
                while "done" not in told(cloud.heard, swap_id, "result"):  # noqa: ASYNC110 - another process's state
                    await asyncio.sleep(0.1)
        phases = [phase for phase in told(cloud.heard, swap_id, "phase") if phase]
        once = list(dict.fromkeys(phases))
        assert once == ["admitted", "docking", "unlocking", "exchanging", "locking", "releasing", "handing_off"]
        states = told([h for h in cloud.heard if h[0].endswith("/unit/store")], "store", "state", key="unit")
        assert "EXECUTE" in states


def told(heard: list[tuple[str, object, bool]], who: str, what: str, key: str = "swap_id") -> list[str]:
    """Return one field of every message about somebody, in the order in which they came."""
    bodies = [value for _, value, _ in heard if isinstance(value, dict)]
    return [str(body[what]) for body in bodies if body.get(key) == who and what in body]
