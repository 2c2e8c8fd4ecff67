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
others, and pairs, with one kind at a time. Three docks and more at once are not searched: docks meet only in the
stacker and the counts of the store, and a pair shows both.
What is not: sensors that lie, bolts that stay stuck, UNKNOWN places. Those stop with a question to a person.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations_with_replacement, product
from typing import NamedTuple

from controller.model.intent import Goal
from controller.model.layout import Layout
from controller.model.plan_choice import decide
from controller.model.plan_model import HALVES, SPARE, apply, vehicle_gone, with_dock, with_item
from controller.model.plan_state import (
    Act,
    ActKind,
    DockState,
    Kind,
    Lock,
    PlanState,
    given_back,
    refusal_by_counts,
    without_needless_bookings,
)


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


# --- what may happen ------------------------------------------------------------------------------------------------


def arrivals(s: PlanState) -> Iterator[PlanState]:
    """A vehicle that was expected comes in."""
    for i, d in enumerate(s.docks):
        if d.goals and not d.present:
            yield with_dock(s, i, d._replace(present=True))


def happenings(node: Node, acts: Sequence[Act]) -> Iterator[Node]:
    """Everything that may happen in this state beside the planner's own acts."""
    s, left = node
    if left.withdrawals:
        after = left._replace(withdrawals=left.withdrawals - 1)
        for i, d in enumerate(s.docks):
            if d.goals and not d.present:
                yield Node(vehicle_gone(s, Act(ActKind.LEAVE, i)), after)
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
                yield with_dock(s, i, d._replace(tables=with_item(d.tables, t, Kind.FAILED)))
        for m, kind in enumerate(d.mounts):
            if kind is Kind.FRESH and d.present:
                checked = with_item(d.checked, m, False)
                yield with_dock(s, i, d._replace(mounts=with_item(d.mounts, m, Kind.FAILED), checked=checked))


def aborted(s: PlanState, acts: Sequence[Act]) -> Iterator[PlanState]:
    """The states in which an abort may leave the acts that may be running; each with the order given up or not."""
    halves = [s, *(half for act in acts if act.kind in HALVES for half in HALVES[act.kind](s, act))]
    if s.fork is not None and s.fork.to is not None:
        halves.append(given_back(s, s.fork.to.kind)._replace(fork=s.fork._replace(to=None)))
    for half in halves:
        docks = tuple(d._replace(ready=False) for d in half.docks)
        stopped = half._replace(docks=docks)
        yield stopped
        for i, d in enumerate(stopped.docks):
            if d.present and d.goals and not d.home:
                yield with_dock(stopped, i, d._replace(home=True))


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
    return with_dock(s, i, d)


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
    if not states:  # one of them waits until the other is done: admission sees to that
        return []
    tightest = states[0]  # where docks compete for slots; with more of them they meet in the stacker only
    tried, bad = unfinished([Node(tightest, Events(aborts=1)), Node(tightest, Events(fails=1))])
    return [f"{said} at once: the planner does not finish from {len(bad)} of {tried} states"] if bad else []


def check_station(layout: Layout) -> list[str]:
    """Prove that the station can complete every swap that it accepts. Takes seconds; see the module's text.

    Returns:
        One sentence per thing that it cannot do, each with the one change that would mend it; empty: proven.
    """
    unserved = _unserved(layout)
    if unserved:  # nothing to be proven of places that cannot be reached
        return unserved
    docks = tuple(DockShape(len(dock.mounts), len(dock.tables)) for dock in layout.docks.values())
    shape = Shape(docks, len(layout.store.slots), len(layout.store.quarantine))
    problems = problems_of(shape)
    mended = [what for what, other in _relaxed(shape) if not problems_of(other)] if problems else []
    return [f"{problem}; {_mend_said(mended)}" for problem in problems]


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
