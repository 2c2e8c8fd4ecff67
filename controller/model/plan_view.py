"""The facts as the planner decides on them: running moves taken as done, packs as kinds, slots as counts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from controller.model.facts import EXCHANGE, At, DockFacts, PackFacts, StationFacts, VehicleAt
from controller.model.intent import Goal, Move, MoveKind, SwapOrder
from controller.model.inventory import UNKNOWN
from controller.model.layout import FORK, DockLayout, Layout
from controller.model.plan_choice import decide
from controller.model.plan_state import (
    AWAY,
    QUARANTINE,
    SLOT,
    ActKind,
    Carried,
    DockState,
    Kind,
    Lock,
    PlanState,
    Spot,
    SpotKind,
    demand,
    supply,
    without_needless_bookings,
)


class View:
    """The facts with running moves taken as done, their packs where they will be, and the state to decide on.

    ``contents``: place → pack, of mounts and tables as they will be. ``carried``: the pack that the stacker has
    or is sent for, with its destination. ``orders``: by dock, without those whose vehicle is driving out.
    ``kept``: reservations that still mean something.
    """

    def __init__(self, facts: StationFacts, orders: Sequence[SwapOrder], running: Sequence[Move]) -> None:
        self.facts = facts
        self.running = running
        self.docks = list(facts.layout.docks)
        leaving = {move.dock for move in running if move.kind is MoveKind.RELEASE}
        oldest_first = sorted((order for order in orders if order.dock not in leaving), key=_age)
        self.orders = {order.dock: order for order in reversed(oldest_first)}
        self.ranks = {order.swap_id: rank for rank, order in enumerate(oldest_first)}
        self.contents = dict(facts.inventory.contents)
        self.carried: tuple[str, str] | None = None
        self._look_ahead()
        self.kept = {
            place: pack for place, pack in facts.inventory.reserved.items() if self._means_something(place, pack)
        }
        self.given_up: tuple[str, ...] = ()
        self.state = self._give_up_hopeless(without_needless_bookings(self._state()))
        self._drop_needless()

    def order_at(self, i: int) -> str:
        """Return the id of the swap of a dock, or nothing."""
        order = self.orders.get(self.docks[i])
        return order.swap_id if order is not None else ""

    def layout_of(self, i: int) -> DockLayout:
        """Return the layout of a dock by its index."""
        return self.facts.layout.docks[self.docks[i]]

    def at(self, place: str) -> str:
        """Return the pack that is or will be in a mount or on a table; empty: none."""
        return self.contents.get(place, "")

    def is_running(self, kind: MoveKind, dock: str) -> bool:
        """Whether a move of this kind is running in a dock."""
        return any(move.kind is kind and move.dock == dock for move in self.running)

    def _look_ahead(self) -> None:
        """Put every pack that is under way to where it is going."""
        layout = self.facts.layout
        for move in self.running:
            if move.kind is not MoveKind.TRANSFER or self.contents.get(move.destination) == move.pack:
                continue
            for place in [place for place, pack in self.contents.items() if pack == move.pack]:
                del self.contents[place]
            if is_shuttle_move(move, layout):
                self.contents[move.destination] = move.pack
            else:
                self.carried = (move.pack, move.destination)
        on_fork = self.contents.pop(FORK, None)
        if on_fork is not None:
            reserved = self.facts.inventory.reserved
            places = [p for p, pack in reserved.items() if pack == on_fork and layout.dock_of(p) is not None]
            places += [p for p, pack in reserved.items() if pack == on_fork and layout.dock_of(p) is None]
            self.carried = (on_fork, next(iter(places), ""))

    def _means_something(self, place: str, pack: str) -> bool:
        if any(move.destination == place and move.pack == pack for move in self.running):
            return True
        if self.carried is not None and pack == self.carried[0]:
            return place == self.carried[1]
        in_store = self.facts.layout.dock_of(place) is None
        tables = (table for dock in self.facts.layout.docks.values() for table in dock.tables)
        return in_store and any(self.at(table) == pack for table in tables)

    def kind(self, pack: str, dock_id: str) -> Kind:
        """Return what a pack is to a dock."""
        known = self.facts.packs.get(pack, PackFacts(None, deliverable=False, failed=False))
        if known.failed:
            return Kind.FAILED
        if dock_id and self.home_dock(pack) == dock_id:
            return Kind.OWN
        return Kind.FRESH if known.deliverable and not self.home_dock(pack) else Kind.OLD

    def home_dock(self, pack: str) -> str:
        """Return the dock in which the vehicle stands that brought this pack; empty: none."""
        mount = self.facts.inventory.arrived_on.get(pack)
        dock = self.facts.layout.dock_of(mount) if mount is not None else None
        return dock.dock_id if dock is not None and dock.dock_id in self.orders else ""

    def stored(self) -> list[tuple[str, str]]:
        """Return (slot, pack) of what can be fetched: good, in a slot in service, and not on its way out already."""
        return [
            (slot, self.contents[slot])
            for slot, known in self.facts.slots.items()
            if known.in_service and slot in self.contents and not failed(self.facts, self.contents[slot])
        ]

    def _state(self) -> PlanState:
        facts = self.facts
        stored = [self.home_dock(pack) or self.kind(pack, "") for _, pack in self.stored() if not failed(facts, pack)]
        docks = tuple(self._dock_state(i, stored.count(dock)) for i, dock in enumerate(self.docks))
        return PlanState(
            docks=docks,
            fresh=stored.count(Kind.FRESH),
            other=stored.count(Kind.OLD),
            empty=len(list(empty_slots(facts, self.kept))),
            quarantine=len(list(empty_quarantine(facts, self.kept))),
            fork=self._fork(),
            stacker_blocked=_stacker_blocked(facts, self.running),
        )

    def _fork(self) -> Carried | None:
        if self.carried is None:
            return None
        pack, destination = self.carried
        home = self.home_dock(pack)
        to = self._spot(destination)
        dock_id = self.docks[to.dock] if to is not None and to.dock >= 0 else home
        return Carried(self.kind(pack, dock_id), to, self.docks.index(home) if home else -1)

    def _spot(self, place: str) -> Spot | None:
        layout = self.facts.layout
        dock = layout.dock_of(place)
        if dock is not None and place in dock.tables:
            return Spot(SpotKind.TABLE, self.docks.index(dock.dock_id), dock.tables.index(place))
        if layout.is_slot(place):
            return SLOT
        return QUARANTINE if place in layout.store.quarantine else None

    def _dock_state(self, i: int, own_stored: int) -> DockState:
        dock, known = self.layout_of(i), self.facts.docks[self.docks[i]]
        order = self.orders.get(dock.dock_id)
        goals = goals_of(dock, order) if order is not None else ()
        present = known.vehicle is VehicleAt.IN_PLACE
        moving = any(is_mount_transfer(move, dock) for move in self.running)
        # A pack that is on its way into or out of a mount is one that the vehicle may tell of before the books do.
        here = (known.noted or moving) and known.vehicle in {VehicleAt.IN_PLACE, VehicleAt.UNKNOWN}
        mounts, locks, checked = self._mounts(dock, known) if here else _expected(goals)
        moving = moving or (known.lift is not At.HOME and self._shuttle_runs(dock.dock_id))
        under, up = self._shuttle(dock, known)
        tables = tuple(self.kind(self.at(t), dock.dock_id) if self.at(t) else None for t in dock.tables)
        return DockState(
            goals=goals,
            mounts=mounts if goals else (),
            locks=locks if goals else (),
            checked=checked if goals else (),
            tables=tables,
            booked=tuple(self._booked(self.at(table)) for table in dock.tables),
            present=present,
            home=order.homeward if order is not None else False,
            under=under,
            up=up,
            ready=here and clamped(dock, known) and known.secured,
            blocked=_dock_blocked(self.facts, dock, known),
            robot_busy=moving,
            own_stored=own_stored,
            rank=self.ranks[order.swap_id] if order is not None else len(self.ranks),
        )

    def _shuttle_runs(self, dock_id: str) -> bool:
        return self.is_running(MoveKind.RETURN, dock_id) or self.is_running(MoveKind.ALIGN, dock_id)

    def _mounts(
        self, dock: DockLayout, known: DockFacts
    ) -> tuple[tuple[Kind | None, ...], tuple[Lock, ...], tuple[bool, ...]]:
        packs = [self.at(mount) for mount in dock.mounts]
        mounts = tuple(self.kind(pack, dock.dock_id) if pack else None for pack in packs)
        there = [
            pack != "" and self.facts.inventory.at(m) == pack for m, pack in zip(dock.mounts, packs, strict=True)
        ]
        locks = tuple(
            lock if is_there or not pack else min(lock, Lock.CLOSED)  # on its way in: nothing is proven yet
            for lock, is_there, pack in zip(_locks(dock, known), there, packs, strict=True)
        )
        return mounts, locks, tuple(known.checked[mount] for mount in dock.mounts)

    def _booked(self, pack: str) -> SpotKind | None:
        place = next((place for place, holder in self.kept.items() if holder == pack), None) if pack else None
        spot = self._spot(place) if place is not None else None
        return spot.kind if spot is not None and spot.kind is not SpotKind.TABLE else None

    def _shuttle(self, dock: DockLayout, known: DockFacts) -> tuple[tuple[int, int] | None, bool]:
        """Where the shuttle is or, with a move running, will be."""
        at, up = known.shuttle, known.lift is not At.HOME
        for move in self.running:
            if move.dock == dock.dock_id and move.kind is MoveKind.RETURN:
                at, up = EXCHANGE, False
            elif move.kind is MoveKind.ALIGN and move.dock == dock.dock_id:
                at, up = (move.origin, move.destination), False
            elif is_mount_transfer(move, dock):
                ends = (move.origin, move.destination)
                at, up = (ends if move.origin in dock.mounts else ends[::-1]), False
        if at == EXCHANGE:
            return None, up
        if isinstance(at, tuple):
            return (dock.mounts.index(at[0]), dock.tables.index(at[1])), up
        return AWAY, up

    def _give_up_hopeless(self, state: PlanState) -> PlanState:
        """Set the orders homeward that no pack can be found for, as ``decide`` says, until it says so no more."""
        while True:
            hopeless = [act.dock for act in decide(state) if act.kind is ActKind.GO_HOME]
            wanting = [i for i in hopeless if not self.running or supply(state, i) < demand(state.docks[i])]
            if not wanting:
                return state
            docks = list(state.docks)
            for i in wanting:
                docks[i] = docks[i]._replace(home=True)
            self.given_up += tuple(self.order_at(i) for i in wanting)
            state = without_needless_bookings(state._replace(docks=tuple(docks)))

    def _drop_needless(self) -> None:
        """Forget the exits of packs that go into a vehicle after all, as the state has."""
        for i, d in enumerate(self.state.docks):
            for table, booked in zip(self.layout_of(i).tables, d.booked, strict=True):
                pack = self.at(table)
                if pack and booked is None:
                    self.kept = {place: holder for place, holder in self.kept.items() if holder != pack}


def _age(order: SwapOrder) -> tuple[float, str]:
    return (order.ordered_at, order.swap_id)


def goals_of(dock: DockLayout, order: SwapOrder) -> tuple[Goal, ...]:
    """Return the goal of every mount of a dock; one that the order does not name is kept as it is."""
    wanted = dict(order.goals)
    return tuple(wanted.get(mount, Goal.KEEP) for mount in dock.mounts)


def _expected(goals: tuple[Goal, ...]) -> tuple[tuple[Kind | None, ...], tuple[Lock, ...], tuple[bool, ...]]:
    """What the mounts of a vehicle that is still to come, or has just come, will hold."""
    mounts = tuple(None if goal is Goal.ADD else Kind.OWN for goal in goals)
    locks = tuple(Lock.OPEN if kind is None else Lock.CLOSED for kind in mounts)
    return mounts, locks, (False,) * len(goals)


def _locks(dock: DockLayout, known: DockFacts) -> tuple[Lock, ...]:
    locks = (known.locks[mount] for mount in dock.mounts)
    return tuple(Lock.PARTIAL if lock is None else lock for lock in locks)


def clamped(dock: DockLayout, known: DockFacts) -> bool:
    """Whether the vehicle is clamped, and raised where the dock raises it."""
    return known.clamp is At.WORK and (known.lifted is At.WORK or not dock.has_vehicle_lift)


def _dock_blocked(facts: StationFacts, dock: DockLayout, known: DockFacts) -> bool:
    """Whether something of this dock is not known that every move in it depends on."""
    unknown = facts.inventory.unknown_places & {*dock.mounts, *dock.tables}
    standing = known.vehicle is VehicleAt.IN_PLACE
    dark = standing and any(lock is None for lock in known.locks.values())
    lost = known.vehicle is VehicleAt.UNKNOWN or known.lift is At.UNKNOWN or not known.shuttle_known
    return bool(unknown) or dark or lost


def _stacker_blocked(facts: StationFacts, running: Collection[Move]) -> bool:
    """Whether the stacker must not begin anything; a fork left out and empty is drawn back first."""
    if facts.stacker.fork is At.UNKNOWN or facts.inventory.at(FORK) is UNKNOWN:
        return True
    idle = not any(is_stacker_move(move, facts.layout) for move in running)
    return idle and facts.stacker.fork is At.WORK and facts.inventory.at(FORK) is None


def is_shuttle_move(move: Move, layout: Layout) -> bool:
    """Whether a move is a transfer between a mount and a table."""
    ends = (layout.dock_of(move.origin), layout.dock_of(move.destination))
    return move.kind is MoveKind.TRANSFER and None not in ends


def is_stacker_move(move: Move, layout: Layout) -> bool:
    """Whether a move is a transfer by the stacker."""
    return move.kind is MoveKind.TRANSFER and not is_shuttle_move(move, layout)


def is_mount_transfer(move: Move, dock: DockLayout) -> bool:
    """Whether a move is a transfer into or out of a mount of this dock."""
    return move.kind is MoveKind.TRANSFER and (move.origin in dock.mounts or move.destination in dock.mounts)


def failed(facts: StationFacts, pack: str) -> bool:
    """Whether a pack is known to have failed."""
    return pack in facts.packs and facts.packs[pack].failed


def empty_slots(facts: StationFacts, kept: Collection[str]) -> Iterator[str]:
    """Slots that a pack can be put into now, those that nobody ever reserved first."""
    reserved = facts.inventory.reserved
    free = [
        slot
        for slot, known in facts.slots.items()
        if known.in_service and known.unplugged and facts.inventory.at(slot) is None and slot not in kept
    ]
    return iter(sorted(free, key=lambda slot: slot in reserved))


def empty_quarantine(facts: StationFacts, kept: Collection[str]) -> Iterator[str]:
    """Quarantine places that a pack can be put into now."""
    places = facts.layout.store.quarantine
    return (place for place in places if facts.inventory.at(place) is None and place not in kept)
