"""What a whole swap on the demo station leaves behind, as a hash: the same seed must give the same, bit for bit.

``python -m tests.support.trace_hash [--seed N]`` prints one JSON document. ``--update`` writes the golden file: do
that when the station is meant to behave otherwise, never to make two runs agree that should have agreed by
themselves. ``--text`` prints what is hashed, one line per happening, for a diff of two versions.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from controller.events import Event
from sim_hw.clock import run_virtual
from sim_hw.plant.core import TraceEvent
from tests.support.station_rig import station_rig

GOLDEN = Path(__file__).resolve().parents[1] / "swap" / "golden_trace.json"
GOLDEN_SEED = 1
# The golden file goes by microseconds: sine and exponential of two C libraries differ in the last bit.
GOLDEN_PLACES = 6


@dataclass(frozen=True, slots=True)
class Record:
    """All that happened in one run: what the plant did, what the controller told, and how it stood at the end.

    ``packs``: serial, place and charge, which integrates over every step of the charger. ``wires``: each link with
    its counters, in which each frame and each request counts.
    """

    result: str
    ended_at: float
    trace: tuple[TraceEvent, ...]
    events: tuple[Event, ...]
    packs: tuple[tuple[str, str, float], ...]
    wires: tuple[str, ...]

    def lines(self, places: int | None = None) -> Iterable[str]:
        """Yield everything as text, numbers in full or rounded to so many decimal places."""
        for entry in self.trace:
            yield f"{_cut(entry.at, places)!r} {entry.what}"
        for event in self.events:
            yield json.dumps({key: _cut(value, places) for key, value in event.to_json().items()}, sort_keys=True)
        for serial, place, soc_pct in self.packs:
            yield f"{serial} {place} {_cut(soc_pct, places)!r}"
        yield from self.wires

    def digest(self, places: int | None = None) -> str:
        """Return the hash of the lines."""
        return hashlib.sha256("\n".join(self.lines(places)).encode()).hexdigest()


def _cut(value: object, places: int | None) -> object:
    return round(value, places) if isinstance(value, float) and places is not None else value


async def one_swap(seed: int, scratch: Path) -> Record:
    """Run one swap on the demo station, from the arrival of a vehicle until its old pack is on charge."""
    async with station_rig("demo", scratch, seed) as rig:
        await rig.bring_vehicle(approach_s=20.0)
        end = await rig.swap()
        reports = rig.app.station.parts.hal.links()
        return Record(
            result=end.result,
            ended_at=asyncio.get_running_loop().time(),
            trace=tuple(rig.plant.trace),
            events=tuple(rig.events),
            packs=tuple((pack.serial, pack.place, pack.soc_pct) for pack in rig.plant.packs.values()),
            wires=tuple(f"{report.link_id} {sorted(report.counters.items())}" for report in reports),
        )


def main() -> int:
    """Run one swap and print, or store, what it left behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.trace_hash", description=__doc__)
    parser.add_argument("--seed", type=int, default=GOLDEN_SEED)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--update", action="store_true", help="write the golden file (seed 1)")
    what.add_argument("--text", action="store_true", help="print what is hashed")
    args = parser.parse_args()
    seed = GOLDEN_SEED if args.update else args.seed
    with tempfile.TemporaryDirectory(prefix="swap-trace-") as scratch:
        record = run_virtual(one_swap(seed, Path(scratch)))
    if args.text:
        print("\n".join(record.lines(GOLDEN_PLACES)))  # noqa: T201 - a command's output
        return 0
    rounded = {
        "seed": seed,
        "result": record.result,
        "ended_at": round(record.ended_at, GOLDEN_PLACES),
        "happenings": len(record.trace) + len(record.events),
        "rounded": record.digest(GOLDEN_PLACES),
    }
    if args.update:
        GOLDEN.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
    else:
        print(json.dumps({**rounded, "exact": record.digest(), "python": platform.python_version()}))  # noqa: T201 - a command's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
