"""Simulated hardware and controller as two processes on real sockets, driven by swapctl as a technician would."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import TwoProcesses, Watch, ran

pytestmark = pytest.mark.timeout(150)

STOCK = {f"DEMO-{number:04d}" for number in range(1, 7)}
PHASES = ("admitted", "docking", "unlocking", "exchanging", "locking", "releasing", "handing_off")
READS = ("status", "slots", "devices", "io", "bus")
STANDSTILL_MM = 1.0


@pytest.fixture(name="pair")
def _pair(tmp_path: Path) -> TwoProcesses:
    return TwoProcesses(tmp_path)


async def test_a_whole_swap_with_two_processes(pair: TwoProcesses) -> None:
    """A vehicle gets a fresh pack, the old one ends on charge; every read answers; SIGTERM ends both with 0."""
    async with pair.simulator("--vehicle-every", "1") as simulator, pair.controller() as controller:
        assert await pair.states() == {"dock1": "STOPPED", "store": "STOPPED"}
        await pair.do("reset")
        assert await pair.states() == {"dock1": "IDLE", "store": "IDLE"}
        assert set(await pair.packs()) == STOCK
        await pair.vehicle_heard()
        async with pair.watch() as watch:
            wrong = await pair.swapctl("swap", "start", "--dock", "dock1", "--goal", "mount_z=fresh")
            assert wrong.code == 2
            assert "no mount dock1.mount_z" in wrong.err
            swap_id = (await pair.do("swap", "start", "--dock", "dock1", "--goal", "mount_a=fresh"))["swap_id"]
            busy = await pair.swapctl("swap", "start", "--dock", "dock1")
            assert busy.code == 4
            assert f"busy with swap {swap_id}" in busy.err
            old = (await watch.until(type="pack", origin="", destination="dock1.mount_a"))["pack"]
            for name in READS:
                assert (await pair.do(name))["schema"] == f"swap-station/{name}/1"
                text = await pair.swapctl(name)
                assert (text.code, text.err) == (0, "")
                assert text.out.isascii()
                assert "\x1b" not in text.out
            assert await watch.end() == 0
        swap = [event for event in watch.seen if event.get("type") == "swap"]
        assert [event["phase"] for event in swap] == [*PHASES, ""]
        assert (swap[-1]["swap_id"], swap[-1]["result"]) == (swap_id, "done")
        await charges(pair, old)
        links = (await pair.do("bus"))["links"]
        assert {link["state"] for link in links} == {"up"}
        assert len(links) == 6
        assert await controller.end() == 0
        assert not pair.socket.exists()
        assert await simulator.end() == 0
        log = controller.said()
        for line in (
            "<6>station: dock1 EXECUTE: ",
            f"<6>station: {swap_id} at dock1 locking",
            f"{swap_id} at dock1 ended done",
        ):
            assert line in log
        assert "transitions" not in log
        assert "Traceback" not in log + simulator.said()


async def charges(pair: TwoProcesses, pack: str) -> None:
    """Wait until a pack is in a slot and current flows into it."""

    def on_charge(answer: Any) -> bool:
        row = next((row for row in answer["places"] if row["pack"] == pack), None)
        return row is not None and row["charger"] == "charging" and row["current_a"] > 1.0

    await pair.until("slots", on_charge)


async def test_refusals_have_reasons_and_exit_codes(pair: TwoProcesses) -> None:
    """Unreachable 3, not ready 4, no such dock or unit 2, no vehicle 4, hung controller 6: each with its reason."""
    gone = await pair.swapctl("status")
    assert gone.code == 3
    assert "no controller at" in gone.err
    async with pair.simulator(), pair.controller() as controller:
        early = await pair.swapctl("swap", "start", "--dock", "dock1")
        assert early.code == 4
        assert "dock1 takes reset and abort now" in early.err
        idle = await pair.swapctl("start", "--unit", "store")
        assert idle.code == 4
        assert (await pair.swapctl("clear")).code == 4
        await pair.do("reset")
        for arguments, code, words in (
            (("swap", "start", "--dock", "dock9"), 2, "no dock 'dock9'"),
            (("swap", "start", "--dock", "dock1"), 4, "no vehicle is heard at dock1"),
            (("reset", "--unit", "crane"), 2, "units: dock1, store"),
            (("swap", "watch", "--swap", "swap-9"), 2, "open: none"),
        ):
            refused = await pair.swapctl(*arguments)
            assert refused.code == code, (arguments, refused)
            assert words in refused.err
        assert (await pair.do("start", "--unit", "store"))["units"][0]["unit"] == "store"
        controller.process.send_signal(signal.SIGSTOP)
        hung = await pair.swapctl("status", "--timeout", "0.5")
        assert hung.code == 6
        controller.process.send_signal(signal.SIGCONT)
        assert await controller.end(signal.SIGINT) == 0


async def test_stop_kill_and_abort_in_mid_swap_and_the_swap_is_still_finished(pair: TwoProcesses) -> None:
    """A stop ends the running step, kill -9 and a restart lose no pack and move nothing, an abort waits for no step.

    After each, reset and swap start take up the same swap, and it ends done.
    """
    async with pair.simulator("--vehicle-every", "1"):
        async with pair.controller() as controller:
            await pair.do("reset")
            await pair.vehicle_heard()
            async with pair.watch() as watch:
                swap_id = (await pair.do("swap", "start", "--dock", "dock1"))["swap_id"]
                old = (await watch.until(type="pack", origin="", destination="dock1.mount_a"))["pack"]
                await stop_in_raise_table(pair, watch)
                assert (await pair.do("swap", "start", "--dock", "dock1"))["swap_id"] == swap_id
                await watch.until(kind="unlock_pack", state="started")
                await controller.kill()
                assert await watch.end() == 3
        await pair.drives_without_power()
        async with pair.controller() as controller:
            await restarted_at_rest(pair, swap_id, STOCK | {old})
            async with pair.watch() as watch:
                assert (await pair.do("swap", "start", "--dock", "dock1"))["swap_id"] == swap_id
                await abort_in_lock_pack(pair, watch)
                assert (await pair.do("swap", "start", "--dock", "dock1"))["swap_id"] == swap_id
                assert await watch.end() == 0
            await charges(pair, old)
            assert await controller.end() == 0


async def stop_in_raise_table(pair: TwoProcesses, watch: Watch) -> None:
    """Stop while the table rises: the step is done, nothing follows; then reset."""
    await watch.until(kind="raise_table", state="started")
    stopped = await pair.do("stop")
    assert {unit["state"] for unit in stopped["units"]} == {"STOPPED"}
    await watch.until(kind="raise_table", state="done")
    await still(pair)
    await pair.do("reset")


async def abort_in_lock_pack(pair: TwoProcesses, watch: Watch) -> None:
    """Abort while the bolts turn: the step fails, and only a clear makes a reset possible; then both."""
    await watch.until(kind="lock_pack", state="started")
    await pair.do("abort")
    await watch.until(kind="lock_pack", state="failed")
    assert (await pair.swapctl("reset")).code == 4
    at = await still(pair)
    await pair.do("clear")
    await pair.do("reset")
    assert await positions(pair) == pytest.approx(at, abs=STANDSTILL_MM)


async def restarted_at_rest(pair: TwoProcesses, swap_id: str, packs: set[str]) -> None:
    """Check that a restarted controller waits for a person, knows its swap and its packs; then clear and reset."""
    assert set((await pair.states()).values()) <= {"STOPPED", "ABORTED"}
    at = await still(pair)
    assert [swap["swap_id"] for swap in (await pair.do("status"))["swaps"]] == [swap_id]
    known = set(await pair.packs())
    assert known == packs or "UNKNOWN" in known
    assert (await pair.swapctl("swap", "start", "--dock", "dock1")).code == 4
    await pair.cleared_and_reset()
    assert await positions(pair) == pytest.approx(at, abs=STANDSTILL_MM)
    assert set(await pair.packs()) == packs


async def still(pair: TwoProcesses) -> Mapping[str, float]:
    """Check that every drive is off and stands; returns where."""
    at = await positions(pair)
    axes = await pair.axes()
    assert {axis["state"] for axis in axes.values()} <= {"power_off", "disabled", "fault"}
    assert at == {name: pytest.approx(axis["position_mm"], abs=STANDSTILL_MM) for name, axis in axes.items()}
    return at


async def positions(pair: TwoProcesses) -> dict[str, float]:
    """Where every axis is."""
    return {name: axis["position_mm"] for name, axis in (await pair.axes()).items()}


async def test_the_hardware_goes_away_and_comes_back(pair: TwoProcesses) -> None:
    """With the simulator killed and started anew links reconnect, nothing moves; after clear and reset it swaps."""
    async with pair.simulator() as simulator, pair.controller() as controller:
        await pair.do("reset")
        await simulator.kill()
        await pair.until("bus", lambda answer: not any(link["state"] == "up" for link in answer["links"]))
        await pair.until("status", all_aborted)
        deaf = await pair.swapctl("clear")
        assert deaf.code == 4
        assert "dock1.safety" in deaf.err
        async with pair.simulator("--vehicle-every", "1", "--on-site"):
            await pair.until("bus", all_up)
            await still(pair)
            assert all_aborted(await pair.do("status"))
            await pair.cleared_and_reset()
            await pair.vehicle_heard()
            async with pair.watch() as watch:
                await pair.do("swap", "start", "--dock", "dock1")
                assert await watch.end() == 0
            assert await controller.end() == 0


def all_aborted(answer: Any) -> bool:
    """Whether every unit is aborted."""
    return {unit["state"] for unit in answer["units"]} == {"ABORTED"}


def all_up(answer: Any) -> bool:
    """Whether every link is up."""
    return all(link["state"] == "up" for link in answer["links"])


async def test_a_bad_station_file_is_78_with_every_mistake(tmp_path: Path, pair: TwoProcesses) -> None:
    """Controller and ``config check`` both list every mistake at once and end with 78; a good file is 0."""
    text = pair.file.read_text(encoding="utf-8")
    bad = tmp_path / "bad.toml"
    changed = text.replace("schema = 1", "schema = 1\nturbo = true", 1).replace("limit_s = 15.0", "limit_s = -1.0", 1)
    bad.write_text(changed.replace("expected_s = 3.0", 'expected_s = "soon"', 1), encoding="utf-8")
    started = await ran("controller", "--config", str(bad))
    checked = await pair.swapctl("config", "check", str(bad))
    as_json = await pair.swapctl("config", "check", str(bad), "--json")
    for result in (started, checked, as_json):
        assert result.code == 78, result
    for key in ("turbo", "steps.clamp_vehicle.limit_s", "steps.lower_vehicle.expected_s"):
        assert key in started.err
        assert key in checked.err
        assert key in {problem["key_path"] for problem in as_json.document["problems"]}
    assert (await ran("controller", "--config", str(tmp_path / "none.toml"))).code == 78
    assert (await pair.swapctl("config", "check", str(pair.file))).code == 0


async def test_a_second_controller_is_refused(tmp_path: Path, pair: TwoProcesses) -> None:
    """A second controller on the same data, or the same socket, ends with 1 and one sentence; the first goes on."""
    other = tmp_path / "other.toml"
    text = pair.file.read_text(encoding="utf-8")
    other.write_text(text.replace(f"{tmp_path}/data", f"{tmp_path}/other"), encoding="utf-8")
    async with pair.simulator(), pair.controller() as first:
        for file, words in ((pair.file, "journal.db"), (other, "another controller serves")):
            second = await ran("controller", "--config", str(file))
            assert second.code == 1, second
            assert "not started: " in second.err
            assert words in second.err
            assert "Traceback" not in second.err
        assert (await pair.states())["dock1"] == "STOPPED"
        assert await first.end() == 0
