"""A station of plain values that does what the planner says, step by step, and objects to what must never be done."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from controller.model.facts import (
    EXCHANGE,
    At,
    DockFacts,
    PackFacts,
    SlotFacts,
    StackerFacts,
    StationFacts,
    VehicleAt,
)
from controller.model.intent import Goal, Move, MoveKind, SwapOrder
from controller.model.inventory import (
    HandedOff,
    Inventory,
    PackArrived,
    PackLeft,
    PackMoved,
    PackNoted,
    empty_inventory,
)
from controller.model.layout import FORK, DockLayout, Layout, StackerLayout, StackerPlace, StoreLayout
from controller.model.plan_state import Lock
from controller.model.planner import claims, homeward, plan, reservations, stale_reservations


def layout_of(docks: int = 1, mounts: int = 1, tables: int = 2, slots: int = 8, quarantine: int = 0) -> Layout:
    """Return a station of this shape; positions are spread, so that each names one place."""
    made: dict[str, DockLayout] = {}
    for n in range(1, docks + 1):
        dock_id = f"dock{n}"
        mount_ids = tuple(f"{dock_id}.mount_{'abc'[m]}" for m in range(mounts))
        table_ids = tuple(f"{dock_id}.table_{t + 1}" for t in range(tables))
        made[dock_id] = DockLayout(
            dock_id=dock_id,
            mounts=mount_ids,
            tables=table_ids,
            clamp_open_mm=0.0,
            clamp_closed_mm=180.0,
            vehicle_lift_down_mm=0.0,
            vehicle_lift_up_mm=120.0,
            shuttle_exchange_mm=0.0,
            shuttle_lift_down_mm=0.0,
            shuttle_lift_up_mm=400.0,
            align_mm={
                (mount, table): 4000.0 + 1500.0 * t + 500.0 * m
                for m, mount in enumerate(mount_ids)
                for t, table in enumerate(table_ids)
            },
        )
    slot_ids = tuple(f"slot{n:02}" for n in range(1, slots + 1))
    quarantine_ids = tuple(f"quarantine{n}" for n in range(1, quarantine + 1))
    served = [table for dock in made.values() for table in dock.tables] + [*slot_ids, *quarantine_ids]
    places = {place: StackerPlace(1000.0 * n, 500.0, 1200.0) for n, place in enumerate(served)}
    return Layout(
        station_id="test",
        docks=made,
        store=StoreLayout(slot_ids, quarantine_ids, (slot_ids,), 80.0),
        stacker=StackerLayout(places, 0.0, 80.0),
    )


@dataclass
class Bay:
    """One dock as it is."""

    vehicle: dict[str, str] | None = None  # mount → pack of the vehicle that will come; None: none on its way
    in_place: bool = False
    clamp: At = At.HOME
    lifted: At = At.HOME
    secured: bool = False
    awake: bool = True
    locks: dict[str, Lock] = field(default_factory=dict)
    checked: dict[str, bool] = field(default_factory=dict)
    shuttle: str | tuple[str, str] | None = EXCHANGE
    lift: At = At.HOME


class World:
    """A station that executes. ``log`` lists moves as they start; ``steps`` what was done, in order."""

    def __init__(self, layout: Layout, fresh: int, other: int = 0, seed: int = 0) -> None:
        self.layout = layout
        self.random = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self.inventory: Inventory = empty_inventory(layout)
        self.bays = {dock_id: Bay() for dock_id in layout.docks}
        self.plugged = dict.fromkeys(layout.store.slots, False)
        self.soc: dict[str, float] = {}
        self.fork = At.HOME
        self.fork_at: str | None = None
        self.orders: list[SwapOrder] = []
        self.running: dict[Move, int] = {}
        self.log: list[Move] = []
        self.steps: list[str] = []
        self.returned: list[str] = []
        for n in range(fresh + other):
            pack, slot = f"P{n:02}", layout.store.slots[n]
            self.soc[pack] = 95.0 - n if n < fresh else 30.0
            self.record(PackArrived(pack, slot))
            self.plugged[slot] = True

    def record(self, record: object) -> None:
        """Enter one record; the inventory objects to what cannot be."""
        self.inventory = self.inventory.apply(record)  # type: ignore[arg-type]  # tests pass records only

    # --- what the planner sees ------------------------------------------------------------------------------------

    def facts(self) -> StationFacts:
        """Return the facts as they are."""
        docks = {dock_id: self._dock(dock_id, bay) for dock_id, bay in self.bays.items()}
        slots = {}
        for slot, plugged in self.plugged.items():
            pack = self.inventory.at(slot)
            due = isinstance(pack, str) and (not plugged or slot in self.inventory.to_hand_off)
            slots[slot] = SlotFacts(plugged, not plugged, due, in_service=True)
        packs = {}
        for pack in self.inventory.contents.values():
            failed = self.inventory.note(pack).failed
            soc = self.soc[pack]
            packs[pack] = PackFacts(soc, deliverable=soc >= 80.0 and not failed, failed=failed)
        stacker = StackerFacts(self.fork, self.fork_at)
        return StationFacts(self.layout, self.inventory, docks, slots, packs, stacker, tuple(self.orders))

    def _dock(self, dock_id: str, bay: Bay) -> DockFacts:
        mounts = self.layout.docks[dock_id].mounts
        coming = any(order.dock == dock_id for order in self.orders)
        vehicle = VehicleAt.IN_PLACE if bay.in_place else VehicleAt.COMING if coming else VehicleAt.NONE
        return DockFacts(
            vehicle=vehicle,
            noted=True,
            clamp=bay.clamp,
            lifted=bay.lifted,
            secured=bay.secured,
            awake=bay.awake,
            locks={mount: bay.locks.get(mount, Lock.OPEN) for mount in mounts},
            checked={mount: bay.checked.get(mount, False) for mount in mounts},
            shuttle=bay.shuttle,
            shuttle_known=True,
            lift=bay.lift,
        )

    # --- events -----------------------------------------------------------------------------------------------------

    def order(self, dock: str, goals: Sequence[Goal], packs: Sequence[str | None], at: float = 0.0) -> SwapOrder:
        """Accept a swap; the vehicle with these packs (None: empty mount) is on its way."""
        mounts = self.layout.docks[dock].mounts
        order = SwapOrder(f"swap-{dock}", dock, "V", tuple(zip(mounts, goals, strict=True)), at)
        self.orders.append(order)
        self.bays[dock].vehicle = {mount: pack for mount, pack in zip(mounts, packs, strict=True) if pack}
        return order

    def arrive(self, dock: str) -> None:
        """The vehicle drives in; its packs are noted."""
        bay = self.bays[dock]
        packs = bay.vehicle or {}
        bay.in_place, bay.vehicle = True, None
        bay.locks = {mount: Lock.CLOSED if mount in packs else Lock.OPEN for mount in self.layout.docks[dock].mounts}
        bay.checked = dict.fromkeys(packs, True)
        for mount, pack in packs.items():
            self.soc.setdefault(pack, 25.0)
            self.record(PackArrived(pack, mount))

    def fail(self, pack: str) -> None:
        """A pack turns out to be bad; one that a vehicle has accepted and wakes up with is the vehicle's own."""
        place = self.inventory.place_of(pack) or ""
        leaving = {
            move.dock for move in self.running if move.kind in {MoveKind.WAKE, MoveKind.UNCLAMP, MoveKind.RELEASE}
        }
        if not place or place.split(".")[0] in leaving:
            return
        self.record(PackNoted(pack, self.soc[pack], failed=True))
        for bay in self.bays.values():
            bay.checked = {m: ok and self.inventory.at(m) != pack for m, ok in bay.checked.items()}

    def abort(self) -> None:
        """Everything stops where it is; vehicles take back their word."""
        self.running.clear()
        for bay in self.bays.values():
            bay.secured = False

    # --- doing ------------------------------------------------------------------------------------------------------

    def start(self) -> list[Move]:
        """Ask the planner until it has nothing more to start."""
        started: list[Move] = []
        while True:
            facts = self.facts()
            running = tuple(self.running)
            given_up = homeward(facts, self.orders, running)
            self.returned += given_up
            self.orders = [replace(o, homeward=o.homeward or o.swap_id in given_up) for o in self.orders]
            stale = stale_reservations(facts, running)
            moves = plan(facts, self.orders, running)
            if not moves:
                return started
            del stale  # the planner must get on without anybody tidying up
            for move in moves:
                self._begin(move)
                started.append(move)

    def _begin(self, move: Move) -> None:
        facts = self.facts()
        held = [claims(other, self.layout, facts) for other in self.running]
        wanted = claims(move, self.layout)
        assert not any(wanted & other for other in held), f"{move} shares a device"
        for record in reservations(move, facts):
            self.record(record)
        self.running[move] = 0
        self.log.append(move)

    def advance(self, move: Move) -> None:
        """Do one step of a move; it ends when nothing is left to do."""
        self.running[move] += 1
        assert self.running[move] < 40, f"{move} does not end"
        if self._step(move):
            del self.running[move]

    def run(self, events: Sequence[tuple[int, Callable[[World], None]]] = (), limit: int = 4000) -> None:
        """Start and advance, in random order, with events after so many steps, until the station is at rest."""
        pending = sorted(events, key=lambda event: event[0])
        for count in range(limit):
            while pending and pending[0][0] <= count:
                pending.pop(0)[1](self)
            self.start()
            if self.running:
                self.advance(self.random.choice(list(self.running)))
                continue
            waiting = [dock for dock, bay in self.bays.items() if bay.vehicle is not None]
            if waiting:
                self.arrive(waiting[0])
            elif not pending:
                return
        raise AssertionError(f"no rest after {limit} steps: {self.running} {self.orders}")

    def _step(self, move: Move) -> bool:
        if move.kind is MoveKind.TRANSFER:
            both = self.layout.dock_of(move.origin) and self.layout.dock_of(move.destination)
            return self._shuttle(move) if both else self._stacker(move)
        return _SIMPLE[move.kind](self, move)

    def _did(self, what: str) -> bool:
        self.steps.append(what)
        return False

    def _shuttle(self, move: Move) -> bool:
        dock = self.layout.docks[move.dock]
        bay = self.bays[move.dock]
        inward = move.destination in dock.mounts
        mount, table = (move.destination, move.origin) if inward else (move.origin, move.destination)
        there = self.inventory.at(move.destination) == move.pack
        arrived = there and bay.locks[mount] is (Lock.PROVEN if inward else Lock.OPEN)
        if bay.lift is At.HOME and arrived:
            return True
        if bay.shuttle != (mount, table):
            assert bay.lift is At.HOME, "the shuttle travels with its lift up"
            bay.shuttle = (mount, table)
            return self._did("align")
        if arrived:
            bay.lift = At.HOME
            return self._did("lower")
        if bay.lift is not At.WORK:
            assert bay.in_place
            bay.lift = At.WORK
            return self._did("raise")
        self._turn(move, mount, table, inward=inward)
        return self._did("lock" if inward else "unlock")

    def _turn(self, move: Move, mount: str, table: str, *, inward: bool) -> None:
        bay = self.bays[move.dock]
        held = (bay.in_place, bay.secured, bay.clamp, bay.lifted)
        assert held == (True, True, At.WORK, At.WORK), "bolts are turned under a loose vehicle"
        goal = Lock.PROVEN if inward else Lock.OPEN
        if bay.locks[mount] not in {Lock.PARTIAL, goal}:  # half-way first: an abort may come
            if not inward:
                kept = [p for p, who in self.inventory.reserved.items() if who == move.pack]
                assert any(self.layout.dock_of(p) is None for p in kept), "unlocked with no exit reserved"
                assert self.inventory.at(table) is None, "unlocked over an occupied table"
            bay.locks[mount] = Lock.PARTIAL
            return
        bay.locks[mount] = goal
        origin, destination = (table, mount) if inward else (mount, table)
        if self.inventory.at(origin) == move.pack:
            bay.checked[mount] = False
            self.record(PackMoved(move.pack, origin, destination))

    def _stacker(self, move: Move) -> bool:
        loaded = self.inventory.at(FORK) == move.pack
        arrived = self.inventory.at(move.destination) == move.pack
        if arrived and self.fork is At.HOME:
            return True
        goal = move.destination if loaded or arrived else move.origin
        if self.fork is At.WORK and (arrived or self.fork_at != goal):
            self.fork = At.HOME
            return self._did("retract")
        if self.fork is At.HOME and self.fork_at != goal:
            self.fork_at = goal
            return self._did("stacker")
        if self.fork is At.HOME:
            self._reach(goal)
            self.fork = At.WORK
            return self._did("extend")
        if loaded:
            self.record(PackMoved(move.pack, FORK, goal))
            return self._did("set down")
        self.record(PackMoved(move.pack, goal, FORK))
        return self._did("lift")

    def _reach(self, place: str) -> None:
        dock = self.layout.dock_of(place)
        if dock is not None:
            bay = self.bays[dock.dock_id]
            assert (bay.shuttle, bay.lift) == (EXCHANGE, At.HOME), f"the fork reaches into {place}"
        elif self.layout.is_slot(place):
            assert not self.plugged[place], f"the fork reaches into {place}, plugged in"

    def _clamp(self, move: Move) -> bool:
        bay = self.bays[move.dock]
        if bay.clamp is not At.WORK:
            bay.clamp = At.WORK
            return self._did("clamp")
        bay.lifted = At.WORK
        return not self._did("lift vehicle")

    def _unclamp(self, move: Move) -> bool:
        bay = self.bays[move.dock]
        assert bay.lift is At.HOME
        if bay.lifted is not At.HOME:
            bay.lifted = At.HOME
            return self._did("lower vehicle")
        bay.clamp = At.HOME
        return not self._did("unclamp")

    def _secure(self, move: Move) -> bool:
        self.bays[move.dock].secured, self.bays[move.dock].awake = True, False
        return not self._did("secure")

    def _wake(self, move: Move) -> bool:
        self._must_be_safe(move.dock)
        self.bays[move.dock].secured, self.bays[move.dock].awake = False, True
        return not self._did("wake")

    def _check(self, move: Move) -> bool:
        bay = self.bays[move.dock]
        assert bay.locks[move.origin] is Lock.PROVEN
        bay.checked[move.origin] = not self.inventory.note(move.pack).failed
        return not self._did("check")

    def _release(self, move: Move) -> bool:
        bay = self.bays[move.dock]
        self._must_be_safe(move.dock)
        assert bay.clamp is At.HOME
        assert bay.lifted is At.HOME
        assert bay.awake
        for mount in self.layout.docks[move.dock].mounts:
            pack = self.inventory.at(mount)
            if isinstance(pack, str):
                self.record(PackLeft(pack, mount))
        bay.in_place, bay.locks, bay.checked = False, {}, {}
        self.orders = [order for order in self.orders if order.dock != move.dock]
        return not self._did("release")

    def _must_be_safe(self, dock: str) -> None:
        bay = self.bays[dock]
        assert bay.lift is At.HOME, "the lift is up under a vehicle that goes"
        order = next(order for order in self.orders if order.dock == dock)
        for mount, goal in order.goals:
            if self.inventory.at(mount) is not None:
                assert (bay.locks[mount], bay.checked[mount]) == (Lock.PROVEN, True), f"{mount} is not proven"
            else:
                empty_is_right = goal in {Goal.EMPTY, Goal.KEEP} or (goal is Goal.ADD and order.homeward)
                assert empty_is_right, f"{mount} is left empty"

    def _align(self, move: Move) -> bool:
        bay = self.bays[move.dock]
        if bay.lift is not At.HOME:
            bay.lift = At.HOME
            return self._did("lower")
        bay.shuttle = (move.origin, move.destination)
        return not self._did("align")

    def _return(self, move: Move) -> bool:
        bay = self.bays[move.dock]
        if bay.lift is not At.HOME:
            assert Lock.PARTIAL not in bay.locks.values(), "lowered under half-locked bolts"
            bay.lift = At.HOME
            return self._did("lower")
        bay.shuttle = EXCHANGE
        return not self._did("return")

    def _free_slot(self, move: Move) -> bool:
        self.plugged[move.origin] = False
        return not self._did("free slot")

    def _hand_off(self, move: Move) -> bool:
        self.plugged[move.origin] = True
        self.record(HandedOff(move.origin, move.pack))
        return not self._did("hand off")


_SIMPLE: dict[MoveKind, Callable[[World, Move], bool]] = {
    MoveKind.CLAMP: World._clamp,
    MoveKind.UNCLAMP: World._unclamp,
    MoveKind.SECURE: World._secure,
    MoveKind.WAKE: World._wake,
    MoveKind.CHECK: World._check,
    MoveKind.RELEASE: World._release,
    MoveKind.ALIGN: World._align,
    MoveKind.RETURN: World._return,
    MoveKind.FREE_SLOT: World._free_slot,
    MoveKind.HAND_OFF: World._hand_off,
}
