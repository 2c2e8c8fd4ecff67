"""Where every pack is and which swaps are open, folded from the journal; every change is on disk before it counts.

Intent before motion, outcome after. Place changes travel inside the outcome record, so that a step and what it did
to the packs are one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from controller.model.intent import Goal, Step, StepKind, SwapOrder
from controller.model.inventory import InventoryRecord, PackLeft, PlaceUnknown, empty_inventory, from_json, to_json
from controller.model.layout import Layout
from controller.records.journal import Journal, JournalEntry


@dataclass(frozen=True, slots=True)
class Swap:
    """A swap that has not ended.

    ``arrived``: its vehicle stands in the dock, its packs are in the books. ``released``: the vehicle has left, the
    store owns the rest. ``old_packs``: serials that came with it and must
    end in a slot, on charge.
    """

    order: SwapOrder
    arrived: bool = False
    released: bool = False
    old_packs: tuple[str, ...] = ()


class Ledger:
    """The station's books. ``inventory`` and ``swaps`` change only by the methods below, once written and synced."""

    def __init__(self, journal: Journal, layout: Layout) -> None:
        self._journal = journal
        self._turn = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[InventoryRecord], None]] = []
        self.inventory = empty_inventory(layout)
        self.swaps: dict[str, Swap] = {}
        self.unfinished: dict[int, Step] = {}
        self.swap_count = 0
        self.tripped: set[str] = set()
        self._doubts: dict[str, tuple[str, ...]] = {}
        self.was_empty = True

    async def open(self) -> None:
        """Fold the whole journal. Raises JournalError if it cannot be read or does not add up."""
        for entry in await self._journal.read_all():
            self._fold(entry)

    def on_record(self, listener: Callable[[InventoryRecord], None]) -> Callable[[], None]:
        """Call ``listener`` with every place change after it is on disk; returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # --- steps ---------------------------------------------------------------------------------------------------

    async def intent(self, step: Step) -> int:
        """Write what is about to be done; returns its number. Synced before it returns."""
        return await self._journal.append("intent", {"step": asdict(step)})

    async def done(self, intent: int, step: Step, records: Sequence[InventoryRecord]) -> None:
        """Write that a step was confirmed, with what follows: place changes, a released vehicle's swap."""
        body: dict[str, object] = {"intent": intent, "kind": step.kind, "result": "done"}
        if step.kind is StepKind.RELEASE_VEHICLE and step.swap_id in self.swaps:
            body["swap"] = {"swap_id": step.swap_id, "released": True}
        await self._write("outcome", body, records)

    async def failed(self, intent: int, step: Step, detail: str, records: Sequence[InventoryRecord]) -> None:
        """Write that a step did not end well, with what the sensors say of its pack."""
        body: dict[str, object] = {"intent": intent, "kind": step.kind, "result": "failed", "detail": detail}
        unknown = [record.place for record in records if isinstance(record, PlaceUnknown)]
        if unknown:
            body["doubt"] = {"pack": step.pack, "candidates": unknown}
        await self._write("outcome", body, records)

    async def places(
        self, why: str, records: Sequence[InventoryRecord], swap: Mapping[str, object] | None = None
    ) -> None:
        """Write place changes that no step made: a vehicle arrived, a reservation, a person's answer.

        ``swap`` is what changes of a swap by that (``swap_id`` and what ``swap_changed`` takes): one write, so that
        no power cut can come between the two.
        """
        if records or swap:
            await self._write("places", {"why": why, **({"swap": swap} if swap else {})}, records)

    async def unit_tripped(self, unit: str, *, tripped: bool) -> None:
        """Write that a safety trip stopped a unit, or that a person on site has reset it."""
        await self._write("unit_tripped", {"unit": unit, "tripped": tripped}, ())

    # --- swaps ---------------------------------------------------------------------------------------------------

    async def swap_ordered(self, order: SwapOrder) -> None:
        """Write a new swap."""
        body = {
            "swap_id": order.swap_id,
            "dock": order.dock,
            "vehicle_id": order.vehicle_id,
            "goals": dict(order.goals),
        }
        await self._write("swap_ordered", {**body, "ordered_at": order.ordered_at}, ())

    async def swap_changed(self, swap_id: str, **changes: object) -> None:
        """Write a change of a swap: ``arrived``, ``released``, ``homeward``, ``old_packs``."""
        await self._write("swap_changed", {"swap_id": swap_id, **changes}, ())

    async def swap_ended(self, swap_id: str, result: str, detail: str) -> None:
        """Write a swap's result."""
        await self._write("swap_ended", {"swap_id": swap_id, "result": result, "detail": detail}, ())

    # --- folding -------------------------------------------------------------------------------------------------

    async def _write(self, kind: str, body: Mapping[str, object], records: Sequence[InventoryRecord]) -> None:
        """Write, then fold. What is on disk is folded also when the caller is cancelled meanwhile."""
        task = asyncio.get_running_loop().create_task(self._write_in_turn(kind, body, records))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        await asyncio.shield(task)

    async def _write_in_turn(self, kind: str, body: Mapping[str, object], records: Sequence[InventoryRecord]) -> None:
        """One writer at a time, so that records are checked against the inventory that they will change."""
        async with self._turn:
            self.inventory.apply_all(records)  # refuses before anything is written
            entry = {**body, "records": [to_json(record) for record in records]}
            seq = await self._journal.append(kind, entry)
            self._fold(JournalEntry(seq, "", kind, entry))
            for listener in tuple(self._listeners):
                for record in records:
                    listener(record)

    def _fold(self, entry: JournalEntry) -> None:
        self.was_empty = False
        body = entry.body
        records = body.get("records", ())
        if isinstance(records, (list, tuple)):
            self.inventory = self.inventory.apply_all([from_json(record) for record in records])
        change = body.get("swap")
        if isinstance(change, Mapping):
            self._change({**change, "records": records})
        match entry.kind:
            case "unit_tripped":
                (self.tripped.add if body["tripped"] else self.tripped.discard)(str(body["unit"]))
            case "intent":
                self.unfinished[entry.seq] = _step(body["step"])
            case "outcome":
                self.unfinished.pop(int(str(body["intent"])), None)
                self._doubt(body.get("doubt"))
            case "swap_ordered":
                order = _order(body)
                self.swaps[order.swap_id] = Swap(order)
                self.swap_count += 1
            case "swap_changed":
                self._change(body)
            case "swap_ended":
                self.swaps.pop(str(body["swap_id"]), None)

    def _doubt(self, raw: object) -> None:
        if isinstance(raw, Mapping):
            candidates = raw["candidates"]
            self._doubts[str(raw["pack"])] = tuple(candidates) if isinstance(candidates, (list, tuple)) else ()

    @property
    def doubts(self) -> Mapping[str, tuple[str, ...]]:
        """Packs that were under way when a step was cut short, with the UNKNOWN places that each may be in."""
        unknown = self.inventory.unknown_places
        open_doubts = {
            pack: tuple(place for place in candidates if place in unknown)
            for pack, candidates in self._doubts.items()
        }
        return {p: places for p, places in open_doubts.items() if places and self.inventory.place_of(p) is None}

    def _change(self, body: Mapping[str, object]) -> None:
        swap = self.swaps[str(body["swap_id"])]
        if "homeward" in body:
            swap = replace(swap, order=replace(swap.order, homeward=bool(body["homeward"])))
        if "arrived" in body:
            swap = replace(swap, arrived=bool(body["arrived"]))
        if "released" in body:
            left = {record["pack"] for record in _left(body.get("records", ()))}
            kept = tuple(pack for pack in swap.old_packs if pack not in left)
            swap = replace(swap, released=bool(body["released"]), old_packs=kept)
        if "old_packs" in body:
            packs = body["old_packs"]
            swap = replace(swap, old_packs=tuple(str(p) for p in packs) if isinstance(packs, (list, tuple)) else ())
        self.swaps[swap.order.swap_id] = swap


def _left(records: object) -> list[Mapping[str, object]]:
    found = records if isinstance(records, (list, tuple)) else ()
    return [record for record in found if isinstance(record, Mapping) and record.get("kind") == PackLeft.__name__]


def _step(raw: object) -> Step:
    fields = {str(key): str(value) for key, value in raw.items()} if isinstance(raw, Mapping) else {}
    return Step(StepKind(fields.pop("kind")), **fields)


def _order(body: Mapping[str, object]) -> SwapOrder:
    goals = body["goals"]
    pairs = goals.items() if isinstance(goals, Mapping) else ()
    return SwapOrder(
        swap_id=str(body["swap_id"]),
        dock=str(body["dock"]),
        vehicle_id=str(body["vehicle_id"]),
        goals=tuple((str(mount), Goal(str(goal))) for mount, goal in pairs),
        ordered_at=float(str(body["ordered_at"])),
    )
