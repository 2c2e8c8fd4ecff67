"""What the planner decides on: kinds and counts instead of packs and slots, so that all states can be tried.

Three guards keep moves that only go
forward from wedging the station: *demand* (fetch only what is wanted), *table* (leave a table free while a pack has
still to come out), *out* (start to unlock only when a place in the store can be reserved for the pack).

States are named tuples of ints and strings: hashed and compared millions of times by the exhaustive check.
"""

from __future__ import annotations

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
