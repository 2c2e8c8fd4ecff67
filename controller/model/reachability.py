"""Proves, before anything moves, that a station can swap: every state that its planner can get into is tried.

The model is ``plan_state``: packs are kinds, equal slots are one class, counts stop where more changes nothing. The
planner's own ``decide`` makes every choice; whichever of the things it may start ends first, and whatever happens in
between, it must go on to "no vehicle, tables and fork empty".

What may happen, each at most once per run and at any moment: an order is withdrawn before the vehicle comes; an abort
leaves the shuttle anywhere in its move (lift up with the pack held, half unlocked or half locked, or on the table;
shuttle between positions) or forgets where the pack on the fork was to go, with the order going on or given up; a
fresh pack turns out to be bad, in a slot, on the fork, on a table or in the vehicle.

What is proven: each kind of dock alone, for every mix of charged packs, other packs and empty slots for which the
planner's own admission accepts the order, with 1 to all of its mounts swapped, emptied, filled or kept, and the next
order accepted as early as can be; and each pair of docks that share the stacker and the slots, with one pack per
vehicle and no charged pack and no empty slot to spare. Docks with one mount are tried with all happenings together,
others with one kind at a time. Three docks and more at once are not
searched: docks meet only in the stacker and the counts of the store, and a pair shows both.
What is not: sensors that lie, bolts that stay stuck, UNKNOWN places. Those stop with a question to a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement, product
from typing import NamedTuple, TypeVar

from controller.model.intent import Goal
from controller.model.layout import Layout
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
    decide,
    given_back,
    refusal_by_counts,
    store_spot,
    without_needless_bookings,
)
from hal.errors import invariant

T = TypeVar("T")

SPARE = 1  # packs and slots counted beyond what the orders need: one for a pack that fails


class DockShape(NamedTuple):
    """What of a dock matters here."""

    mounts: int
    tables: int


class Shape(NamedTuple):
    """What of a station matters here."""

    docks: tuple[DockShape, ...]
    slots: int
    quarantine: int


class Events(NamedTuple):
    """How often each thing may still happen in a run."""

    aborts: int = 0
    fails: int = 0
    withdrawals: int = 0
    next_order: tuple[Goal, ...] = ()  # comes as soon as a dock is free and admission accepts it


class Node(NamedTuple):
    """A state, and what may still happen."""

    state: PlanState
    events: Events


# --- the model's own physics: what an act does ---------------------------------------------------------------------


def apply(s: PlanState, act: Act) -> PlanState:
    """Return the state after an act. A transfer by the stacker ends on the fork; PLACE ends it."""
    return without_needless_bookings(_APPLY[act.kind](s, act))


def _dock(s: PlanState, i: int, d: DockState) -> PlanState:
    return s._replace(docks=(*s.docks[:i], d, *s.docks[i + 1 :]))


def _at(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _reserve(s: PlanState, spot: Spot) -> PlanState:
    if spot.kind is SpotKind.SLOT:
        return s._replace(empty=s.empty - 1)
    return s._replace(quarantine=s.quarantine - 1) if spot.kind is SpotKind.QUARANTINE else s


def _go_home(s: PlanState, act: Act) -> PlanState:
    return _dock(s, act.dock, s.docks[act.dock]._replace(home=True))


def _enter(s: PlanState, act: Act) -> PlanState:
    return _dock(s, act.dock, s.docks[act.dock]._replace(ready=True))


def _check(s: PlanState, act: Act) -> PlanState:
    d = s.docks[act.dock]
    return _dock(s, act.dock, d._replace(checked=_at(d.checked, act.mount, True)))


def _leave(s: PlanState, act: Act) -> PlanState:
    """The vehicle is gone: what it left behind is nobody's."""
    d = s.docks[act.dock]
    tables = tuple(Kind.OLD if kind is Kind.OWN else kind for kind in d.tables)
    if s.fork is not None and s.fork.kind is Kind.OWN and s.fork.home_dock == act.dock:
        s = s._replace(fork=s.fork._replace(kind=Kind.OLD))
    s = s._replace(other=min(s.other + d.own_stored, SPARE))
    gone = DockState((), (), (), (), tables, d.booked, under=d.under, up=d.up, rank=d.rank)
    return _dock(s, act.dock, gone)


def _take(s: PlanState, act: Act) -> PlanState:
    d = s.docks[act.dock]
    kind = d.mounts[act.mount]
    d = d._replace(under=(act.mount, act.table), up=False, locks=_at(d.locks, act.mount, Lock.OPEN))
    if kind is None:  # unlocked already: it was only to be lowered
        return _dock(s, act.dock, d)
    exit_spot = store_spot(s, kind)
    invariant(exit_spot is not None, "the out guard leaves a place for the pack")
    spot = exit_spot or SLOT
    d = d._replace(
        mounts=_at(d.mounts, act.mount, None),
        checked=_at(d.checked, act.mount, False),
        tables=_at(d.tables, act.table, kind),
        booked=_at(d.booked, act.table, spot.kind),
    )
    return _dock(_reserve(s, spot), act.dock, d)


def _put(s: PlanState, act: Act) -> PlanState:
    d = s.docks[act.dock]
    locks = _at(d.locks, act.mount, Lock.PROVEN)
    d = d._replace(under=(act.mount, act.table), up=False, locks=locks)
    if d.mounts[act.mount] is not None:  # in the mount already: its bolts were only to be closed
        return _dock(s, act.dock, d)
    s = given_back(s, d.booked[act.table])
    d = d._replace(
        mounts=_at(d.mounts, act.mount, d.tables[act.table]),
        checked=_at(d.checked, act.mount, False),
        tables=_at(d.tables, act.table, None),
        booked=_at(d.booked, act.table, None),
    )
    return _dock(s, act.dock, d)


def _align(s: PlanState, act: Act) -> PlanState:
    under = (act.mount, act.table)
    return _dock(s, act.dock, s.docks[act.dock]._replace(under=under, up=False))


def _return(s: PlanState, act: Act) -> PlanState:
    return _dock(s, act.dock, s.docks[act.dock]._replace(under=None, up=False))


def _fetch(s: PlanState, act: Act) -> PlanState:
    kind = act.pack or Kind.FRESH
    d = s.docks[act.dock]
    match kind:
        case Kind.OWN:
            s = _dock(s, act.dock, d._replace(own_stored=d.own_stored - 1))
        case Kind.FRESH:
            s = s._replace(fresh=s.fresh - 1)
        case _:
            s = s._replace(other=s.other - 1)
    return s._replace(empty=s.empty + 1, fork=Carried(kind, act.to, act.dock))


def _store(s: PlanState, act: Act) -> PlanState:
    d = s.docks[act.dock]
    if d.booked[act.table] is None and act.to is not None:
        s = _reserve(s, act.to)
    d = d._replace(tables=_at(d.tables, act.table, None), booked=_at(d.booked, act.table, None))
    return _dock(s, act.dock, d)._replace(fork=Carried(act.pack or Kind.OLD, act.to, act.dock))


def _place(s: PlanState, act: Act) -> PlanState:
    fork, to = s.fork, act.to
    if fork is None or to is None:
        return s
    if fork.to != to:  # another destination than was reserved
        s = _reserve(given_back(s, fork.to.kind if fork.to else None), to)
    s = s._replace(fork=None)
    if to.kind is SpotKind.TABLE:
        d = s.docks[to.dock]
        return _dock(s, to.dock, d._replace(tables=_at(d.tables, to.table, fork.kind)))
    if to.kind is SpotKind.QUARANTINE or fork.kind is Kind.FAILED:
        return s
    if fork.kind is Kind.OWN:
        d = s.docks[fork.home_dock]
        return _dock(s, fork.home_dock, d._replace(own_stored=d.own_stored + 1))
    if fork.kind is Kind.FRESH:
        return s._replace(fresh=s.fresh + 1)
    return s._replace(other=min(s.other + 1, SPARE))


_APPLY: Mapping[ActKind, Callable[[PlanState, Act], PlanState]] = {
    ActKind.GO_HOME: _go_home,
    ActKind.ENTER: _enter,
    ActKind.CHECK: _check,
    ActKind.LEAVE: _leave,
    ActKind.TAKE: _take,
    ActKind.PUT: _put,
    ActKind.ALIGN: _align,
    ActKind.RETURN: _return,
    ActKind.FETCH: _fetch,
    ActKind.STORE: _store,
    ActKind.PLACE: _place,
}


# --- what may happen ------------------------------------------------------------------------------------------------


def arrivals(s: PlanState) -> Iterator[PlanState]:
    """A vehicle that was expected comes in."""
    for i, d in enumerate(s.docks):
        if d.goals and not d.present:
            yield _dock(s, i, d._replace(present=True))


def happenings(node: Node, acts: Sequence[Act]) -> Iterator[Node]:
    """Everything that may happen in this state beside the planner's own acts."""
    s, left = node
    if left.withdrawals:
        after = left._replace(withdrawals=left.withdrawals - 1)
        for i, d in enumerate(s.docks):
            if d.goals and not d.present:
                yield Node(_leave(s, Act(ActKind.LEAVE, i)), after)
    if left.next_order:
        after = left._replace(next_order=())
        for i, d in enumerate(s.docks):
            if not d.goals and refusal_by_counts(s, i, left.next_order) is None:
                yield Node(ordered(s, i, left.next_order), after)
    if left.fails:
        after = left._replace(fails=left.fails - 1)
        yield from (Node(state, after) for state in failures(s))
    if left.aborts:
        after = left._replace(aborts=left.aborts - 1)
        yield from (Node(state, after) for state in aborted(s, acts))


def failures(s: PlanState) -> Iterator[PlanState]:
    """One fresh pack, wherever it is, turns out to be bad."""
    if s.fresh:
        yield s._replace(fresh=s.fresh - 1)  # it stays in its slot, isolated
    if s.fork is not None and s.fork.kind is Kind.FRESH:
        yield s._replace(fork=s.fork._replace(kind=Kind.FAILED))
    for i, d in enumerate(s.docks):
        for t, kind in enumerate(d.tables):
            if kind is Kind.FRESH:
                yield _dock(s, i, d._replace(tables=_at(d.tables, t, Kind.FAILED)))
        for m, kind in enumerate(d.mounts):
            if kind is Kind.FRESH and d.present:
                checked = _at(d.checked, m, False)
                yield _dock(s, i, d._replace(mounts=_at(d.mounts, m, Kind.FAILED), checked=checked))


def aborted(s: PlanState, acts: Sequence[Act]) -> Iterator[PlanState]:
    """The states in which an abort may leave the acts that may be running; each with the order given up or not."""
    halves = [s, *(half for act in acts if act.kind in _HALVES for half in _HALVES[act.kind](s, act))]
    if s.fork is not None and s.fork.to is not None:
        halves.append(given_back(s, s.fork.to.kind)._replace(fork=s.fork._replace(to=None)))
    for half in halves:
        docks = tuple(d._replace(ready=False) for d in half.docks)
        stopped = half._replace(docks=docks)
        yield stopped
        for i, d in enumerate(stopped.docks):
            if d.present and d.goals and not d.home:
                yield _dock(stopped, i, d._replace(home=True))


def _half_take(s: PlanState, act: Act) -> Iterator[PlanState]:
    d = s.docks[act.dock]
    if d.mounts[act.mount] is None:
        return
    up = d._replace(under=(act.mount, act.table), up=True)
    yield _dock(s, act.dock, up)
    yield _dock(s, act.dock, up._replace(locks=_at(d.locks, act.mount, Lock.PARTIAL)))
    out = _take(s, act)
    yield _dock(out, act.dock, out.docks[act.dock]._replace(up=True))


def _half_put(s: PlanState, act: Act) -> Iterator[PlanState]:
    d = s.docks[act.dock]
    up = d._replace(under=(act.mount, act.table), up=True)
    yield _dock(s, act.dock, up)
    yield _dock(s, act.dock, up._replace(locks=_at(d.locks, act.mount, Lock.PARTIAL)))
    within = _put(s, act)
    yield _dock(within, act.dock, within.docks[act.dock]._replace(up=True))


def _half_travel(s: PlanState, act: Act) -> Iterator[PlanState]:
    yield _dock(s, act.dock, s.docks[act.dock]._replace(under=AWAY, up=False))


_HALVES: Mapping[ActKind, Callable[[PlanState, Act], Iterator[PlanState]]] = {
    ActKind.TAKE: _half_take,
    ActKind.PUT: _half_put,
    ActKind.ALIGN: _half_travel,
    ActKind.RETURN: _half_travel,
}


# --- the search ----------------------------------------------------------------------------------------------------


class Searched(NamedTuple):
    """Every node, who leads to it, how many followers each one waits for, and those that are finished."""

    nodes: list[Node]
    before: list[list[int]]
    waits_for: list[int]
    finished: list[int]


def search(starts: Iterable[Node]) -> Searched:
    """Return everything that can come of these states."""
    numbers: dict[Node, int] = {}
    found = Searched([], [], [], [])

    def number(node: Node) -> int:
        known = numbers.get(node)
        if known is None:
            known = numbers[node] = len(found.nodes)
            found.nodes.append(node)
            found.before.append([])
        return known

    for node in starts:
        number(node)
    for done, node in enumerate(found.nodes):  # grows while it is gone through
        acts = decide(node.state)
        followers = {apply(node.state, act) for act in acts} | set(arrivals(node.state))
        found.waits_for.append(len(followers))
        for state in followers:
            found.before[number(Node(state, node.events))].append(done)
        for other in happenings(node, acts):
            number(other._replace(state=without_needless_bookings(other.state)))
        if not followers and _is_goal(node.state):
            found.finished.append(done)
    return found


def unfinished(starts: Iterable[Node]) -> tuple[int, list[PlanState]]:
    """Return how many states can come of these, and those from which the planner does not surely finish."""
    found = search(starts)
    bad = _not_led_to(found.before, found.waits_for, found.finished)
    return len(found.nodes), [found.nodes[n].state for n in bad]


def gives_up(starts: Iterable[Node]) -> bool:
    """Whether the planner gives an order up somewhere on the way from these states."""
    return any(d.home for node in search(starts).nodes for d in node.state.docks)


def _not_led_to(before: list[list[int]], waits_for: list[int], finished: list[int]) -> list[int]:
    """Which nodes have a path that does not end in a finished one: backwards from those that finish."""
    good = bytearray(len(before))
    for n in finished:
        good[n] = 1
    while finished:
        for n in before[finished.pop()]:
            waits_for[n] -= 1
            if waits_for[n] == 0 and not good[n]:
                good[n] = 1
                finished.append(n)
    return [n for n, led in enumerate(good) if not led]


def _is_goal(s: PlanState) -> bool:
    return s.fork is None and all(not d.goals and not d.up and not any(d.tables) for d in s.docks)


# --- a station ------------------------------------------------------------------------------------------------------


def orders_of(mounts: int) -> Iterator[tuple[Goal, ...]]:
    """The orders that are tried: 1 to all mounts swapped, and each other goal beside a swap and alone."""
    for n in range(1, mounts + 1):
        yield (Goal.FRESH,) * n + (Goal.KEEP,) * (mounts - n)
    for goal in (Goal.KEEP, Goal.EMPTY, Goal.ADD):
        yield (goal,) * mounts
        if mounts > 1:
            yield (goal,) + (Goal.FRESH,) * (mounts - 1)


def ordered(s: PlanState, i: int, goals: tuple[Goal, ...]) -> PlanState:
    """Return the state with a vehicle expected at a dock; its mounts hold what the goals imply."""
    mounts = tuple(None if goal is Goal.ADD else Kind.OWN for goal in goals)
    locks = tuple(Lock.OPEN if kind is None else Lock.CLOSED for kind in mounts)
    d = s.docks[i]._replace(goals=goals, mounts=mounts, locks=locks, checked=(True,) * len(goals), rank=i)
    return _dock(s, i, d)


def inventories(shape: Shape, most: int) -> Iterator[PlanState]:
    """Every mix of charged packs, other packs and empty slots, the first and last counted up to ``most``."""
    docks = tuple(DockState((), (), (), (), (None,) * dock.tables, (None,) * dock.tables) for dock in shape.docks)
    for fresh, empty in product(range(most + 1), range(most + 1)):
        if fresh + empty <= shape.slots:
            other = min(shape.slots - fresh - empty, SPARE)
            yield PlanState(docks, fresh, other, empty, min(shape.quarantine, SPARE))


def admitted(shape: Shape, orders: Sequence[tuple[Goal, ...]]) -> list[PlanState]:
    """The states in which these orders, one per dock, have just been accepted, from the tightest store on.

    Of the numbers of charged packs that are accepted, the least and the next: more are never touched. Of those of
    empty slots, the least, and one for every pack and a spare one.
    """
    states: dict[int, list[PlanState]] = {}
    for inventory in inventories(shape, sum(len(goals) for goals in orders) + SPARE):
        s = inventory
        for i, goals in enumerate(orders):
            if refusal_by_counts(s, i, goals) is not None:
                break
            s = ordered(s, i, goals)
        else:
            states.setdefault(s.fresh, []).append(s)
    chosen: list[PlanState] = []
    for fresh in sorted(states)[:2]:
        chosen += dict.fromkeys((states[fresh][0], states[fresh][-1]))
    return chosen


def problems_of(shape: Shape) -> list[str]:
    """Search one station of this shape; returns what it cannot do, in sentences."""
    found = []
    for dock in sorted(set(shape.docks)):
        found += _dock_problems(dock, shape)
    for pair in sorted(set(combinations_with_replacement(sorted(shape.docks), 2))):
        if all(pair.count(dock) <= shape.docks.count(dock) for dock in pair):
            found += _pair_problems(pair, shape)
    return found


def _dock_problems(dock: DockShape, shape: Shape) -> list[str]:
    alone = shape._replace(docks=(dock,))
    again = (Goal.FRESH,) + (Goal.KEEP,) * (dock.mounts - 1)
    all_at_once = (Events(1, 1, 1, again),)
    one_by_one = (Events(aborts=1), Events(fails=1, withdrawals=1), Events(next_order=again))
    starts: list[Node] = []
    found = []
    for goals in orders_of(dock.mounts):
        states = admitted(alone, [goals])
        if not states:
            found.append(f"{_said(goals)} can never be accepted at {_dock_said(dock)}")
        events = all_at_once if dock.mounts == 1 else one_by_one
        starts += [Node(state, event) for state in states for event in events]
        if gives_up(Node(state, Events()) for state in states):
            found.append(f"{_said(goals)} is accepted at {_dock_said(dock)} and given up though nothing failed")
    tried, bad = unfinished(starts)
    if bad:
        found.append(f"{_dock_said(dock)}: the planner does not finish from {len(bad)} of {tried} states")
    return found


def _pair_problems(pair: tuple[DockShape, ...], shape: Shape) -> list[str]:
    two = shape._replace(docks=tuple(dock._replace(mounts=1) for dock in pair))
    one_pack = (Goal.FRESH,)
    states = admitted(two, [one_pack, one_pack])
    said = " and ".join(_dock_said(dock) for dock in pair)
    if not states:
        return [f"one pack each can never be accepted at {said} at once"]
    tightest = states[0]  # where docks compete for slots; with more of them they meet in the stacker only
    tried, bad = unfinished([Node(tightest, Events(aborts=1)), Node(tightest, Events(fails=1))])
    return [f"{said} at once: the planner does not finish from {len(bad)} of {tried} states"] if bad else []


def check_station(layout: Layout) -> list[str]:
    """Prove that the station can complete every swap that it accepts. Takes seconds; see the module's text.

    Returns:
        One sentence per thing that it cannot do, each with the one change that would mend it; empty: proven.
    """
    found = _unserved(layout)
    docks = tuple(DockShape(len(dock.mounts), len(dock.tables)) for dock in layout.docks.values())
    shape = Shape(docks, len(layout.store.slots), len(layout.store.quarantine))
    problems = problems_of(shape)
    if problems:
        mended = [what for what, other in _relaxed(shape) if not problems_of(other)]
        found += [f"{problem}; {_mend_said(mended)}" for problem in problems]
    return found


def _unserved(layout: Layout) -> list[str]:
    """Places that the model takes for reachable and the taught positions do not serve."""
    found = []
    for dock in layout.docks.values():
        found += [
            f"{dock.dock_id}: no shuttle position for {mount} and {table}"
            for mount, table in product(dock.mounts, dock.tables)
            if (mount, table) not in dock.align_mm
        ]
        found += [
            f"{dock.dock_id} has no {what}"
            for what, places in (("mount", dock.mounts), ("table", dock.tables))
            if not places
        ]
    tables = [table for dock in layout.docks.values() for table in dock.tables]
    served = (*tables, *layout.store.slots, *layout.store.quarantine)
    found += [f"no stacker position for {place}" for place in served if place not in layout.stacker.places]
    return found


def _relaxed(shape: Shape) -> Iterator[tuple[str, Shape]]:
    """The station with one thing more."""
    docks = tuple(dock._replace(tables=dock.tables + 1) for dock in shape.docks)
    yield "one slot more", shape._replace(slots=shape.slots + 1)
    yield "one table more per dock", shape._replace(docks=docks)
    yield "one quarantine place more", shape._replace(quarantine=shape.quarantine + 1)


def _mend_said(mended: list[str]) -> str:
    return f"{' or '.join(mended)} would mend it" if mended else "no single table, slot or quarantine place mends it"


def _said(goals: tuple[Goal, ...]) -> str:
    return f"the order {'/'.join(goals)}"


def _dock_said(dock: DockShape) -> str:
    return f"a dock with {dock.mounts} mounts and {dock.tables} tables"
