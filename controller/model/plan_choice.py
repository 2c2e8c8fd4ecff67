"""What the planner chooses: from kinds and counts to all that may start now.

``decide`` is the planner's only decision function: controller/model/planner.py binds its acts to real places and
packs, controller/model/reachability.py tries every state that it can lead to.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.model.plan_state import (
    AWAY,
    Act,
    ActKind,
    Carried,
    DockState,
    Kind,
    Lock,
    PlanState,
    Spot,
    SpotKind,
    at_hand,
    best_in_store,
    demand,
    free_tables,
    goes_out,
    missing,
    out_guard,
    store_spot,
    supply,
    table_guard,
    usable_kinds,
    wants,
)

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
