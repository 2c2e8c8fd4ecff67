"""How much of a swap nobody on its critical path moves: the demo station under virtual time, several seeds."""

from __future__ import annotations

import logging
import math
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from controller.events import SwapEvent
from controller.model.phases import SwapPhase
from sim_hw.clock import run_virtual
from tests.bench.row import Row
from tests.support.station_rig import station_rig

STATION = "demo"
SEEDS = range(1, 13)
DEAD_TIME_S_MAX = 1.0
OVER_CRITICAL_PATH_MAX = 1 / 0.98  # at least 98 % of a swap is the critical path


@dataclass(frozen=True, slots=True)
class Measured:
    """One swap, from the vehicle standing in place to its driving off. ``door_s``: the lane door's own delay."""

    swap_s: float
    critical_path_s: float
    dead_time_s: float
    door_s: float


async def _swap(seed: int, scratch: Path) -> Measured:
    async with station_rig(STATION, scratch, seed) as rig:
        await rig.bring_vehicle()  # so early that the fresh pack is fetched by the time the vehicle stands there
        await rig.app.service.swap_start("dock1", None)
        await rig.until(lambda event: isinstance(event, SwapEvent) and event.phase == SwapPhase.HANDING_OFF)
        (window,) = rig.plant.activity.windows
        found = rig.plant.activity.critical_path(window, rig.plant.now)
        return Measured(found.swap_s, found.critical_path_s, found.dead_time_s, rig.plant.world.gate.wait_s)


def measure(seed: int) -> Measured:
    """Run one swap with the noise of a seed."""
    logging.disable(logging.WARNING)  # lines that are closed at the end say so
    with tempfile.TemporaryDirectory(prefix="swap-bench-") as scratch:
        return run_virtual(_swap(seed, Path(scratch)))


def _p99(values: list[float]) -> float:
    """Return the 99th percentile by nearest rank: of fewer than a hundred values, the worst."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def run() -> list[Row]:
    """Measure all seeds, one process for each core; virtual time does not notice."""
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(measure, SEEDS))
    swaps = f"{len(found)} seeds of {STATION}, swaps of {min(f.swap_s for f in found):.1f} to "
    swaps += f"{max(f.swap_s for f in found):.1f} s"
    door = f"of which the lane door's own controller waits {found[0].door_s:g} s before it moves"
    over = _p99([f.swap_s / f.critical_path_s for f in found])
    return [
        Row("swap.dead_time_p99_s", _p99([f.dead_time_s for f in found]), "s", DEAD_TIME_S_MAX, "lower", door),
        Row(
            "swap.dead_time_beyond_door_p99_s",
            _p99([f.dead_time_s - f.door_s for f in found]),
            "s",
            DEAD_TIME_S_MAX,
            "lower",
            "hand-overs from step to step alone",
        ),
        Row("swap.over_critical_path", over, "", OVER_CRITICAL_PATH_MAX, "lower", swaps),
    ]
