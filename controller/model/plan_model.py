"""What the planner's acts do to kinds and counts, whole or cut short: the other half of the exhaustive check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from controller.model.plan_state import (
    AWAY,
    SLOT,
    Act,
    ActKind,
    Carried,
    DockState,
    Kind,
    Lock,
    PlanState,
    Spot,
    SpotKind,
    given_back,
    store_spot,
    without_needless_bookings,
)
from hal.errors import invariant

T = TypeVar("T")

SPARE = 1  # packs and slots counted beyond what the orders need: one for a pack that fails

# --- the model's own physics: what an act does ---------------------------------------------------------------------


def apply(s: PlanState, act: Act) -> PlanState:
    """Return the state after an act. A transfer by the stacker ends on the fork; PLACE ends it."""
    return without_needless_bookings(_APPLY[act.kind](s, act))


def with_dock(s: PlanState, i: int, d: DockState) -> PlanState:
    """Return the state with one dock changed."""
    return s._replace(docks=(*s.docks[:i], d, *s.docks[i + 1 :]))


def with_item(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    """Return the tuple with one item changed."""
    return (*values[:index], value, *values[index + 1 :])


def _reserve(s: PlanState, spot: Spot) -> PlanState:
    if spot.kind is SpotKind.SLOT:
        return s._replace(empty=s.empty - 1)
    return s._replace(quarantine=s.quarantine - 1) if spot.kind is SpotKind.QUARANTINE else s


def _go_home(s: PlanState, act: Act) -> PlanState:
    return with_dock(s, act.dock, s.docks[act.dock]._replace(home=True))


def _enter(s: PlanState, act: Act) -> PlanState:
    return with_dock(s, act.dock, s.docks[act.dock]._replace(ready=True))


def _check(s: PlanState, act: Act) -> PlanState:
    d = s.docks[act.dock]
    return with_dock(s, act.dock, d._replace(checked=with_item(d.checked, act.mount, True)))


def vehicle_gone(s: PlanState, act: Act) -> PlanState:
    """The vehicle is gone: what it left behind is nobody's."""
    d = s.docks[act.dock]
    tables = tuple(Kind.OLD if kind is Kind.OWN else kind for kind in d.tables)
    if s.fork is not None and s.fork.kind is Kind.OWN and s.fork.home_dock == act.dock:
        s = s._replace(fork=s.fork._replace(kind=Kind.OLD))
    s = s._replace(other=min(s.other + d.own_stored, SPARE))
    gone = DockState((), (), (), (), tables, d.booked, under=d.under, up=d.up, rank=d.rank)
    return with_dock(s, act.dock, gone)


def _take(s: PlanState, act: Act) -> PlanState:
    d = s.docks[act.dock]
    kind = d.mounts[act.mount]
    d = d._replace(under=(act.mount, act.table), up=False, locks=with_item(d.locks, act.mount, Lock.OPEN))
    if kind is None:  # unlocked already: it was only to be lowered
        return with_dock(s, act.dock, d)
    exit_spot = store_spot(s, kind)
    invariant(exit_spot is not None, "the out guard leaves a place for the pack")
    spot = exit_spot or SLOT
    d = d._replace(
        mounts=with_item(d.mounts, act.mount, None),
        checked=with_item(d.checked, act.mount, False),
        tables=with_item(d.tables, act.table, kind),
        booked=with_item(d.booked, act.table, spot.kind),
    )
    return with_dock(_reserve(s, spot), act.dock, d)


def _put(s: PlanState, act: Act) -> PlanState:
    d = s.docks[act.dock]
    locks = with_item(d.locks, act.mount, Lock.PROVEN)
    d = d._replace(under=(act.mount, act.table), up=False, locks=locks)
    if d.mounts[act.mount] is not None:  # in the mount already: its bolts were only to be closed
        return with_dock(s, act.dock, d)
    s = given_back(s, d.booked[act.table])
    d = d._replace(
        mounts=with_item(d.mounts, act.mount, d.tables[act.table]),
        checked=with_item(d.checked, act.mount, False),
        tables=with_item(d.tables, act.table, None),
        booked=with_item(d.booked, act.table, None),
    )
    return with_dock(s, act.dock, d)


def _align(s: PlanState, act: Act) -> PlanState:
    under = (act.mount, act.table)
    return with_dock(s, act.dock, s.docks[act.dock]._replace(under=under, up=False))


def _return(s: PlanState, act: Act) -> PlanState:
    return with_dock(s, act.dock, s.docks[act.dock]._replace(under=None, up=False))


def _fetch(s: PlanState, act: Act) -> PlanState:
    kind = act.pack or Kind.FRESH
    d = s.docks[act.dock]
    match kind:
        case Kind.OWN:
            s = with_dock(s, act.dock, d._replace(own_stored=d.own_stored - 1))
        case Kind.FRESH:
            s = s._replace(fresh=s.fresh - 1)
        case _:
            s = s._replace(other=s.other - 1)
    return s._replace(empty=s.empty + 1, fork=Carried(kind, act.to, act.dock))


def _store(s: PlanState, act: Act) -> PlanState:
    d = s.docks[act.dock]
    if d.booked[act.table] is None and act.to is not None:
        s = _reserve(s, act.to)
    d = d._replace(tables=with_item(d.tables, act.table, None), booked=with_item(d.booked, act.table, None))
    return with_dock(s, act.dock, d)._replace(fork=Carried(act.pack or Kind.OLD, act.to, act.dock))


def _place(s: PlanState, act: Act) -> PlanState:
    fork, to = s.fork, act.to
    if fork is None or to is None:
        return s
    if fork.to != to:  # another destination than was reserved
        s = _reserve(given_back(s, fork.to.kind if fork.to else None), to)
    s = s._replace(fork=None)
    if to.kind is SpotKind.TABLE:
        d = s.docks[to.dock]
        return with_dock(s, to.dock, d._replace(tables=with_item(d.tables, to.table, fork.kind)))
    if to.kind is SpotKind.QUARANTINE or fork.kind is Kind.FAILED:
        return s
    if fork.kind is Kind.OWN:
        d = s.docks[fork.home_dock]
        return with_dock(s, fork.home_dock, d._replace(own_stored=d.own_stored + 1))
    if fork.kind is Kind.FRESH:
        return s._replace(fresh=s.fresh + 1)
    return s._replace(other=min(s.other + 1, SPARE))


_APPLY: Mapping[ActKind, Callable[[PlanState, Act], PlanState]] = {
    ActKind.GO_HOME: _go_home,
    ActKind.ENTER: _enter,
    ActKind.CHECK: _check,
    ActKind.LEAVE: vehicle_gone,
    ActKind.TAKE: _take,
    ActKind.PUT: _put,
    ActKind.ALIGN: _align,
    ActKind.RETURN: _return,
    ActKind.FETCH: _fetch,
    ActKind.STORE: _store,
    ActKind.PLACE: _place,
}


# --- acts cut short ------------------------------------------------------------------------------------------


def _half_take(s: PlanState, act: Act) -> Iterator[PlanState]:
    d = s.docks[act.dock]
    if d.mounts[act.mount] is None:
        return
    up = d._replace(under=(act.mount, act.table), up=True)
    yield with_dock(s, act.dock, up)
    yield with_dock(s, act.dock, up._replace(locks=with_item(d.locks, act.mount, Lock.PARTIAL)))
    out = _take(s, act)
    yield with_dock(out, act.dock, out.docks[act.dock]._replace(up=True))


def _half_put(s: PlanState, act: Act) -> Iterator[PlanState]:
    d = s.docks[act.dock]
    up = d._replace(under=(act.mount, act.table), up=True)
    yield with_dock(s, act.dock, up)
    yield with_dock(s, act.dock, up._replace(locks=with_item(d.locks, act.mount, Lock.PARTIAL)))
    within = _put(s, act)
    yield with_dock(within, act.dock, within.docks[act.dock]._replace(up=True))


def _half_travel(s: PlanState, act: Act) -> Iterator[PlanState]:
    yield with_dock(s, act.dock, s.docks[act.dock]._replace(under=AWAY, up=False))


HALVES: Mapping[ActKind, Callable[[PlanState, Act], Iterator[PlanState]]] = {
    ActKind.TAKE: _half_take,
    ActKind.PUT: _half_put,
    ActKind.ALIGN: _half_travel,
    ActKind.RETURN: _half_travel,
}
