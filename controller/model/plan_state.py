"""What the planner decides on, and how: kinds and counts instead of packs and slots, so that all states can be tried.

``decide`` is the planner's only decision function: controller/model/planner.py binds its acts to real places and
packs, controller/model/reachability.py tries every state it can lead to. Three guards keep moves that only go
forward from wedging the station: *demand* (fetch only what is wanted), *table* (leave a table free while a pack has
still to come out), *out* (start to unlock only when a place in the store can be reserved for the pack).

States are named tuples of ints and strings: hashed and compared millions of times by the exhaustive check.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import NamedTuple

from controller.model.intent import Goal


class Kind(StrEnum):
    """What a pack is to the swap at hand."""

    FRESH = "fresh"  # charged enough to be handed out
    OWN = "own"  # came with the vehicle that stands in this dock
    OLD = "old"  # came with another vehicle, or is not charged enough
    FAILED = "failed"  # never to be handed out


class Lock(IntEnum):
    """The bolts of a mount. PROVEN: every bolt closed by its sensors, to torque and angle in its last turn."""

    OPEN = 0
    PARTIAL = 1
    CLOSED = 2
    PROVEN = 3


class SpotKind(IntEnum):
    """Where the stacker puts a pack. Slots and quarantine places are counted here and chosen by the planner."""

    TABLE = 0
    SLOT = 1
    QUARANTINE = 2


class Spot(NamedTuple):
    """A place for the stacker; ``dock`` and ``table`` are indices of a table, else -1."""

    kind: SpotKind
    dock: int = -1
    table: int = -1


SLOT = Spot(SpotKind.SLOT)
QUARANTINE = Spot(SpotKind.QUARANTINE)

AWAY = (-1, -1)  # the shuttle stands at no taught position


class DockState(NamedTuple):
    """One dock. ``goals`` is empty without an order; for a vehicle to come, ``mounts`` says what is expected.

    ``booked``: per table, whether the pack on it has a place in the store reserved. ``under``: (mount, table) that
    the shuttle is aligned to, None at the exchange. ``ready``: clamped, raised and secured. ``robot_busy``: a move
    that raises or lowers the lift is running. ``own_stored``: packs of this vehicle that are in slots. ``rank``:
    0 is the oldest order.
    """

    goals: tuple[Goal, ...]
    mounts: tuple[Kind | None, ...]
    locks: tuple[Lock, ...]
    checked: tuple[bool, ...]
    tables: tuple[Kind | None, ...]
    booked: tuple[SpotKind | None, ...]
    present: bool = False
    home: bool = False
    under: tuple[int, int] | None = None
    up: bool = False
    ready: bool = False
    blocked: bool = False
    robot_busy: bool = False
    own_stored: int = 0
    rank: int = 0


class Carried(NamedTuple):
    """A pack on the fork, or as good as: a transfer that is running. ``to`` None: nothing is reserved for it."""

    kind: Kind
    to: Spot | None
    home_dock: int = -1  # the dock whose vehicle brought an OWN pack


class PlanState(NamedTuple):
    """The station. ``fresh``, ``other``: packs in slots that can be given out, or only as a last way home.

    ``empty``, ``quarantine``: places of the store that are empty and not reserved.
    """

    docks: tuple[DockState, ...]
    fresh: int
    other: int
    empty: int
    quarantine: int
    fork: Carried | None = None
    stacker_blocked: bool = False


class ActKind(StrEnum):
    """What may be started, as seen by kinds and counts."""

    GO_HOME = "go_home"  # no fresh pack left: give the order up, the own packs go back
    ENTER = "enter"  # clamp, raise, secure
    CHECK = "check"
    LEAVE = "leave"  # wake, unclamp, release
    TAKE = "take"  # mount → table, or lower what is unlocked already
    PUT = "put"  # table → mount, or lock and lower what is in the mount already
    ALIGN = "align"
    RETURN = "return"  # lift down, shuttle to the exchange
    FETCH = "fetch"  # store → table
    STORE = "store"  # table → store
    PLACE = "place"  # fork → its destination


class Act(NamedTuple):
    """One thing that may start now. Fields that a kind does not use are left out."""

    kind: ActKind
    dock: int = -1
    mount: int = -1
    table: int = -1
    pack: Kind | None = None
    to: Spot | None = None


# --- what a mount wants --------------------------------------------------------------------------------------------


def wants_pack(goal: Goal, *, home: bool) -> bool:
    """Whether a mount with this goal must not be left empty."""
    return goal is Goal.FRESH or (goal is Goal.ADD and not home)


def stays(kind: Kind, goal: Goal, *, home: bool) -> bool:
    """Whether a pack that sits in a mount with this goal is left there."""
    if goal is Goal.KEEP:
        return True
    if goal is Goal.EMPTY:
        return home
    if goal is Goal.ADD or home:
        return kind is not Kind.FAILED
    return kind is Kind.FRESH


class Wants(NamedTuple):
    """What the mounts of a vehicle still want: a pack to be brought, a pack to come out; and how many."""

    needs: tuple[bool, ...]
    goes_out: tuple[bool, ...]
    demand: int  # packs still to be put in
    receivable: int  # mounts that are empty and need one
    to_take_out: int


@lru_cache(maxsize=4096)
def _wants(goals: tuple[Goal, ...], mounts: tuple[Kind | None, ...], home: bool) -> Wants:
    pairs = tuple(zip(goals, mounts, strict=True)) if goals else ()
    out = tuple(kind is not None and not stays(kind, goal, home=home) for goal, kind in pairs)
    needs = tuple(
        wants_pack(goal, home=home) and (kind is None or leaves)
        for (goal, kind), leaves in zip(pairs, out, strict=True)
    )
    empty = sum(needed and kind is None for needed, (_, kind) in zip(needs, pairs, strict=True))
    return Wants(needs, out, sum(needs), empty, sum(out))


def wants(d: DockState) -> Wants:
    """Return what the mounts of this dock's vehicle, present or expected, still want."""
    return _wants(d.goals, d.mounts, d.home)


def demand(d: DockState) -> int:
    """How many packs have still to be put into this vehicle."""
    return wants(d).demand


def goes_out(d: DockState, m: int) -> bool:
    """Whether the pack in this mount has to come out."""
    return bool(d.goals) and wants(d).goes_out[m]


def bound_for(s: PlanState, i: int) -> bool:
    """Whether the fork carries a pack for a table of this dock."""
    return s.fork is not None and s.fork.to is not None and s.fork.to.dock == i


def supply(s: PlanState, i: int) -> int:
    """How many fresh packs this dock can still count on."""
    on_fork = s.fork is not None and s.fork.kind is Kind.FRESH and (bound_for(s, i) or not _to_table(s.fork))
    return s.fresh + sum(kind is Kind.FRESH for kind in s.docks[i].tables) + on_fork


def _to_table(fork: Carried) -> bool:
    return fork.to is not None and fork.to.kind is SpotKind.TABLE


def usable_kinds(s: PlanState, i: int) -> tuple[Kind, ...]:
    """Which packs may be put into this vehicle, best first. On the way home, its own; at worst another's."""
    d = s.docks[i]
    if demand(d) == 0:
        return ()
    if not d.home:
        return (Kind.FRESH,)
    own = d.own_stored + sum(kind is Kind.OWN for kind in d.tables)
    own += s.fork is not None and s.fork.kind is Kind.OWN and s.fork.home_dock == i
    if own + supply(s, i) >= demand(d):
        return (Kind.OWN, Kind.FRESH)
    return (Kind.OWN, Kind.FRESH, Kind.OLD)


def at_hand(s: PlanState, i: int, usable: tuple[Kind, ...]) -> int:
    """How many usable packs are on this dock's tables or on their way to them."""
    on_fork = s.fork is not None and bound_for(s, i) and s.fork.kind in usable
    return sum(kind in usable for kind in s.docks[i].tables) + on_fork


def missing(s: PlanState, i: int) -> int:
    """How many packs have still to be fetched for this dock."""
    return demand(s.docks[i]) - at_hand(s, i, usable_kinds(s, i))


def best_in_store(s: PlanState, i: int) -> Kind | None:
    """Which kind of pack would be fetched for this dock; None: there is none."""
    d = s.docks[i]
    counts = {Kind.OWN: d.own_stored, Kind.FRESH: s.fresh, Kind.OLD: s.other}
    return next((kind for kind in usable_kinds(s, i) if counts[kind]), None)


def free_tables(s: PlanState, i: int) -> list[int]:
    """Tables that are empty, not awaited by the fork and not under a vehicle's bolts."""
    d = s.docks[i]
    coming = s.fork.to.table if s.fork is not None and s.fork.to is not None and s.fork.to.dock == i else -1
    lifted = d.under[1] if d.up and d.under is not None else -1
    return [t for t, kind in enumerate(d.tables) if kind is None and t not in {coming, lifted}]


def store_spot(s: PlanState, kind: Kind) -> Spot | None:
    """Where in the store a pack can go: a failed one into quarantine first, else into a slot, isolated."""
    if kind is Kind.FAILED and s.quarantine:
        return QUARANTINE
    return SLOT if s.empty else None


def without_needless_bookings(s: PlanState) -> PlanState:
    """Give back the places reserved for packs on tables that go into a vehicle after all."""
    for i, d in enumerate(s.docks):
        if any(d.booked):
            usable = usable_kinds(s, i)
            needless = [kind in usable for kind in d.tables]
            kept = tuple(None if drop else spot for spot, drop in zip(d.booked, needless, strict=True))
            dropped = [spot for spot, drop in zip(d.booked, needless, strict=True) if drop]
            s = s._replace(docks=(*s.docks[:i], d._replace(booked=kept), *s.docks[i + 1 :]))
            for spot in dropped:
                s = given_back(s, spot)
    return s


def given_back(s: PlanState, kind: SpotKind | None) -> PlanState:
    """Return the state with a reserved place of the store free again."""
    if kind is SpotKind.SLOT:
        return s._replace(empty=s.empty + 1)
    return s._replace(quarantine=s.quarantine + 1) if kind is SpotKind.QUARANTINE else s


# --- guards --------------------------------------------------------------------------------------------------------


def table_guard(s: PlanState, i: int) -> bool:
    """Whether one more usable pack may be brought: one table stays free while a pack has still to come out."""
    d = s.docks[i]
    usable = usable_kinds(s, i)
    out = wants(d).to_take_out > 0
    return at_hand(s, i, usable) + 1 <= wants(d).receivable + (len(d.tables) - 1 if out else 0)


def waiting_for_room(s: PlanState, i: int) -> int:
    """How many packs on this dock's tables have to go into the store and have no place there reserved."""
    d = s.docks[i]
    usable = usable_kinds(s, i)
    return sum(
        kind is not None and booked is None and kind not in usable
        for kind, booked in zip(d.tables, d.booked, strict=True)
    )


def out_guard(s: PlanState, i: int, m: int) -> bool:
    """Whether a place can be reserved for the pack in this mount, beyond what waits on tables for one already."""
    kind = s.docks[i].mounts[m]
    if kind is None or s.stacker_blocked:
        return False
    if kind is Kind.FAILED and s.quarantine:
        return True
    waiting = sum(waiting_for_room(s, j) for j in range(len(s.docks)))
    waiting += s.fork is not None and s.fork.to is None
    return s.empty > waiting


# --- the shuttle of a dock: one thing at a time -------------------------------------------------------------------


def robot_act(s: PlanState, i: int) -> Act | None:
    """Return what the shuttle, lift and locks of a dock should do next."""
    d = s.docks[i]
    if d.blocked:
        return None
    if d.up:
        return _finish_hanging(s, i)
    if awaited_at(s, i):
        return _go_to_exchange(i, d)
    job = _next_job(s, i) if d.present and d.ready else None
    if job is not None:
        return job
    if any(True for _ in exchange_work(s, i)):
        return _go_to_exchange(i, d)
    return None if d.ready else _pre_position(s, i)


def awaited_at(s: PlanState, i: int) -> bool:
    """Whether the pack on the fork is to be put on a table of this dock."""
    to = placed_to(s, s.fork) if s.fork is not None and not s.stacker_blocked else None
    return to is not None and to.dock == i


def _go_to_exchange(i: int, d: DockState) -> Act | None:
    return Act(ActKind.RETURN, i) if d.under is not None else None


def _finish_hanging(s: PlanState, i: int) -> Act | None:
    """The lift is up: first settle what hangs between bolts and table."""
    d = s.docks[i]
    if d.under is None or d.under == AWAY:
        return None  # a raised lift where no mount is: a person must look
    m, t = d.under
    occupied, laden = (d.mounts[m] is not None, d.tables[t] is not None) if d.goals else (False, False)
    if not d.present or occupied == laden:  # nothing hangs, or two packs in one stack: then bolts must be sure
        certain = not (occupied and laden and d.locks[m] is Lock.PARTIAL)
        return Act(ActKind.RETURN, i) if certain else None
    return _settle(s, i, m, t)


def _settle(s: PlanState, i: int, m: int, t: int) -> Act | None:
    """One pack is between this mount and the raised table: in the mount, or on the table under open bolts."""
    d = s.docks[i]
    kind, below, lock = d.mounts[m], d.tables[t], d.locks[m]
    lower = Act(ActKind.RETURN, i)
    put = Act(ActKind.PUT, i, m, t, kind or below)
    take = Act(ActKind.TAKE, i, m, t, kind or below)
    if not d.ready:  # a pack that is held may be left; one that is not waits for a secured vehicle
        return lower if kind is not None and lock in {Lock.CLOSED, Lock.PROVEN} else None
    if kind is None:
        return put if below in usable_kinds(s, i) and wants(d).needs[m] else take
    if goes_out(d, m) and out_guard(s, i, m):
        return take
    settled = lock is Lock.PROVEN or (lock is Lock.CLOSED and goes_out(d, m))
    return lower if settled else put


def _next_job(s: PlanState, i: int) -> Act | None:
    """Put in what is at hand, else take out what has to go, else prove bolts that nobody has turned yet."""
    d = s.docks[i]
    usable = usable_kinds(s, i)
    free = free_tables(s, i)
    mounts = range(len(d.mounts))
    puts = [
        (usable.index(below), (m, t) != d.under, m, t)
        for m in mounts
        if d.mounts[m] is None and wants(d).needs[m]
        for t, below in enumerate(d.tables)
        if below in usable and below is not None
    ]
    if puts:
        _, _, m, t = min(puts)
        return Act(ActKind.PUT, i, m, t, d.tables[t])
    ready = any(kind in usable for kind in d.tables)
    waiting = any(kind is not None and kind not in usable for kind in d.tables)
    if ready or not waiting or demand(d) == 0:  # no second mount stands empty with no fresh pack at hand
        takes = [((m, t) != d.under, m, t) for m in mounts if goes_out(d, m) for t in free]
        takes = [take for take in takes if out_guard(s, i, take[1])]
        if takes:
            _, m, t = min(takes)
            return Act(ActKind.TAKE, i, m, t, d.mounts[m])
    unproven = [
        ((m, t) != d.under, m, t)
        for m in mounts
        if d.mounts[m] is not None and not goes_out(d, m) and d.locks[m] is not Lock.PROVEN
        for t in free
    ]
    if unproven:
        _, m, t = min(unproven)
        return Act(ActKind.PUT, i, m, t, d.mounts[m])
    return None


def _pre_position(s: PlanState, i: int) -> Act | None:
    """Bring the table that is needed first under its mount before the vehicle is ready."""
    d = s.docks[i]
    free = free_tables(s, i)
    usable = usable_kinds(s, i)
    out = [(m, t) for m in range(len(d.goals)) if goes_out(d, m) for t in free]
    into = [
        (m, t)
        for m in range(len(d.goals))
        if d.mounts[m] is None and wants(d).needs[m]
        for t, kind in enumerate(d.tables)
        if kind in usable
    ]
    target = next(iter([*into, *out]), None)
    if target is None or target == d.under:
        return None
    return Act(ActKind.ALIGN, i, *target)


# --- the stacker: shared by all docks -----------------------------------------------------------------------------


def exchange_work(s: PlanState, i: int) -> Iterator[Act]:
    """What the stacker could do for a dock: fetch before store."""
    d = s.docks[i]
    if d.blocked or s.stacker_blocked:
        return
    usable = usable_kinds(s, i)
    free = free_tables(s, i)
    wanted = best_in_store(s, i) if missing(s, i) > 0 else None
    if wanted is not None and free and table_guard(s, i):
        yield Act(ActKind.FETCH, i, table=free[0], pack=wanted, to=Spot(SpotKind.TABLE, i, free[0]))
    out = wants(d).to_take_out > 0
    surplus = at_hand(s, i, usable) > demand(d)
    wedged = out and wants(d).receivable == 0 and all(kind in usable for kind in d.tables)
    stored_last = (*(kind for kind in Kind if kind not in usable), *reversed(usable))
    for t, kind in sorted(enumerate(d.tables), key=lambda at: stored_last.index(at[1]) if at[1] else 0):
        if kind is None or (kind in usable and not surplus and not wedged):
            continue
        booked = d.booked[t]
        to = Spot(booked) if booked is not None else store_spot(s, kind)
        if to is not None:
            yield Act(ActKind.STORE, i, table=t, pack=kind, to=to)


def at_exchange(d: DockState) -> bool:
    """Whether the stacker can reach this dock's tables."""
    return d.under is None and not d.up and not d.blocked


def stacker_acts(s: PlanState) -> list[Act]:
    """Return what the stacker could start, most urgent first: docked before coming, oldest first, fetch first."""
    if s.stacker_blocked:
        return []
    if s.fork is not None:
        to = placed_to(s, s.fork)
        if to is None or (to.kind is SpotKind.TABLE and not at_exchange(s.docks[to.dock])):
            return []
        return [Act(ActKind.PLACE, to.dock, table=to.table, pack=s.fork.kind, to=to)]
    return [act for i in by_urgency(s) if at_exchange(s.docks[i]) for act in exchange_work(s, i)]


def by_urgency(s: PlanState) -> list[int]:
    """Return the docks in the order in which the stacker serves them."""

    def urgency(i: int) -> tuple[int, int, int]:
        d = s.docks[i]
        wanting = bool(d.goals) and not vehicle_done(d)
        return (0 if d.present and wanting else 1 if wanting else 2, d.rank, i)

    return sorted(range(len(s.docks)), key=urgency)


def placed_to(s: PlanState, fork: Carried) -> Spot | None:
    """Where a pack on the fork goes: its destination while sensible, else a table that wants it, else the store."""
    to = fork.to
    if to is not None and (to.kind is not SpotKind.TABLE or _wanted_at(s, fork, to)):
        return to
    unbound = s._replace(fork=None)
    tables = [
        (i, Spot(SpotKind.TABLE, i, t))
        for i in by_urgency(s)
        if not s.docks[i].blocked
        for t in free_tables(unbound, i)
    ]
    wanted = (
        spot
        for i, spot in tables
        if fork.kind in usable_kinds(unbound, i) and missing(unbound, i) > 0 and table_guard(unbound, i)
    )
    return next(wanted, None) or store_spot(s, fork.kind) or next((spot for _, spot in tables), None)


def _wanted_at(s: PlanState, fork: Carried, to: Spot) -> bool:
    d = s.docks[to.dock]
    usable = usable_kinds(s, to.dock)
    wanted = fork.kind in usable and at_hand(s, to.dock, usable) <= demand(d)
    return wanted and d.tables[to.table] is None and not d.blocked


# --- the vehicle ----------------------------------------------------------------------------------------------------


def mount_done(d: DockState, m: int) -> bool:
    """Whether this mount is as the vehicle may leave with it."""
    kind = d.mounts[m]
    if kind is None:
        return not wants(d).needs[m]
    return not goes_out(d, m) and d.locks[m] is Lock.PROVEN and d.checked[m]


def hangs_loose(d: DockState) -> bool:
    """Whether the raised table bears a pack under open bolts."""
    if not d.up or d.under is None or d.under == AWAY or not d.mounts:
        return False
    m, t = d.under
    return d.mounts[m] is None and d.tables[t] is not None


def vehicle_done(d: DockState) -> bool:
    """Whether every mount is done."""
    return all(mount_done(d, m) for m in range(len(d.mounts)))


def vehicle_acts(s: PlanState, i: int) -> Iterator[Act]:
    """What the vehicle itself should do: enter, check packs, leave, or give the swap up."""
    d = s.docks[i]
    if not d.present or not d.goals or d.blocked:
        return
    if vehicle_done(d) and not hangs_loose(d):
        if not d.up and not d.robot_busy:
            yield Act(ActKind.LEAVE, i)
        return
    if not d.home and supply(s, i) < demand(d):
        yield Act(ActKind.GO_HOME, i)
        return
    if not d.ready:
        yield Act(ActKind.ENTER, i)
        return
    for m, kind in enumerate(d.mounts):
        if kind is not None and not goes_out(d, m) and d.locks[m] is Lock.PROVEN and not d.checked[m]:
            yield Act(ActKind.CHECK, i, m, pack=kind)
            return


def decide(s: PlanState) -> list[Act]:
    """Return all that may start now: vehicles, then the stacker's work by urgency, then the shuttles."""
    order = by_urgency(s)
    vehicles = [act for i in order for act in vehicle_acts(s, i)]
    leaving = {act.dock for act in vehicles if act.kind in {ActKind.LEAVE, ActKind.GO_HOME}}
    robots = [act for i in order if (act := robot_act(s, i)) is not None]
    robots = [act for act in robots if act.dock not in leaving or act.kind is ActKind.RETURN]
    acts = [*vehicles, *stacker_acts(s), *robots]
    return acts or [Act(ActKind.GO_HOME, i) for i in order if _stuck(s, i)][:1]


def _stuck(s: PlanState, i: int) -> bool:
    """Whether a swap that was begun finds no way on, and neither a running move nor a person can be waited for."""
    d = s.docks[i]
    waits = s.stacker_blocked or any(other.blocked or other.robot_busy for other in s.docks)
    return d.present and bool(d.goals) and not d.home and d.ready and not waits


# --- admission -----------------------------------------------------------------------------------------------------


def refusal_by_counts(s: PlanState, i: int, goals: tuple[Goal, ...]) -> str | None:
    """Say why an order cannot be accepted at this dock by what is in the store; None: it can.

    Packs and places that other orders still need are theirs.
    """
    wanted = sum(wants_pack(goal, home=False) for goal in goals)
    promised = sum(max(0, missing(s, j)) for j, d in enumerate(s.docks) if j != i and not d.home)
    if s.fresh - promised < wanted:
        return f"no charged pack: {wanted} wanted, {max(0, s.fresh - promised)} ready and not promised"
    room = _room_needed(goals, len(s.docks[i].tables))
    others = sum(_room_needed_still(d) for j, d in enumerate(s.docks) if j != i)
    free = s.empty - others - sum(waiting_for_room(s, j) for j in range(len(s.docks)))
    free -= s.fork is not None and (s.fork.to is None or s.fork.to.dock == i)
    if free < room:
        return f"not enough empty slots: {room} needed, {max(0, free)} empty and not needed otherwise"
    return None


def _room_needed(goals: tuple[Goal, ...], tables: int) -> int:
    """Empty slots needed beyond those that fetching empties."""
    exchanged = any(goal is Goal.FRESH for goal in goals)
    return sum(goal is Goal.EMPTY for goal in goals) + (exchanged and tables == 1)


def _room_needed_still(d: DockState) -> int:
    return _room_needed(tuple(goal for m, goal in enumerate(d.goals) if goes_out(d, m)), len(d.tables))
