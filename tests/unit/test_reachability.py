from __future__ import annotations

from dataclasses import replace

import pytest

from controller.config import load_station
from controller.model import plan_choice
from controller.model.intent import Goal
from controller.model.plan_choice import decide
from controller.model.plan_model import apply
from controller.model.plan_state import PlanState
from controller.model.reachability import (
    DockShape,
    Events,
    Node,
    Shape,
    admitted,
    check_station,
    problems_of,
    search,
    unfinished,
)
from hal.errors import InvariantError
from tests.support.config_files import STATIONS
from tests.support.plan_world import layout_of

ONE_TWO = Shape((DockShape(1, 2),), 8, 0)


@pytest.mark.timeout(180)  # evogo's pair of docks is 12 s of computing on an idle core
@pytest.mark.parametrize("name", ["demo", "choco-swap", "evogo"])
def test_our_stations_are_proven(name: str) -> None:
    """Each station that we ship completes every swap that it accepts."""
    assert check_station(load_station(STATIONS / f"{name}.toml").layout()) == []


@pytest.mark.parametrize(
    ("mounts", "tables", "slots", "docks"),
    [(1, 1, 2, 1), (1, 2, 1, 1), (2, 1, 4, 1), (2, 2, 3, 1), (1, 1, 3, 2), (1, 1, 4, 2)],
)
def test_tight_stations_are_proven(mounts: int, tables: int, slots: int, docks: int) -> None:
    """Stations with hardly any room finish too: the guards keep them from wedging."""
    assert problems_of(Shape((DockShape(mounts, tables),) * docks, slots, 0)) == []


def test_one_table_and_one_slot_cannot_swap_and_two_things_would_mend_it() -> None:
    """A station with one table and one slot is refused, and told what would help."""
    (problem,) = check_station(layout_of(tables=1, slots=1))
    assert "fresh" in problem
    assert "one slot more or one table more per dock would mend it" in problem


def test_no_table_at_all_is_named() -> None:
    """A dock without a table is named as such."""
    assert any("dock1 has no table" in problem for problem in check_station(layout_of(tables=0)))


def test_a_place_that_nothing_reaches_is_named() -> None:
    """A slot that the stacker has no position for, and a pair that the shuttle has none for, are named."""
    layout = layout_of()
    places = {place: at for place, at in layout.stacker.places.items() if place != "slot03"}
    problems = check_station(replace(layout, stacker=replace(layout.stacker, places=places)))
    assert problems == ["no stacker position for slot03"]
    dock = replace(layout.docks["dock1"], align_mm={})
    assert len(check_station(replace(layout, docks={"dock1": dock}))) == 2


def test_the_search_notices_a_missing_table_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard that leaves a table free, the search finds where the planner wedges."""
    monkeypatch.setattr(plan_choice, "table_guard", lambda *_: True)
    assert problems_of(Shape((DockShape(1, 1),), 3, 0)) != []


def test_the_search_notices_a_missing_out_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard that reserves an exit, the search meets a pack that has nowhere to go."""
    monkeypatch.setattr(plan_choice, "out_guard", lambda *_: True)
    with pytest.raises(InvariantError, match="out guard"):
        problems_of(Shape((DockShape(2, 2),), 3, 0))


@pytest.mark.parametrize("mounts", [1, 2])
def test_a_swap_is_not_given_up_while_a_fresh_pack_is_to_spare(mounts: int) -> None:
    """With one fresh pack failing and another in store, no order is ever given up."""
    goals = (Goal.FRESH,) * mounts
    states = [s for s in admitted(Shape((DockShape(mounts, 2),), 8, 0), [goals]) if s.fresh > mounts]
    nodes = search([Node(state, Events(fails=1)) for state in states]).nodes
    assert len(nodes) > 300
    assert not any(d.home for node in nodes for d in node.state.docks)


def test_every_state_counts_places_right() -> None:
    """In no state that can be reached is a count below zero or a place of the store lost."""
    shape = Shape((DockShape(1, 2),), 3, 0)
    starts = [Node(state, Events(aborts=1)) for state in admitted(shape, [(Goal.FRESH,)])]
    for node in search(starts).nodes:
        s = node.state
        assert min(s.fresh, s.other, s.empty, s.quarantine) >= 0
        own = sum(d.own_stored for d in s.docks)
        booked = sum(spot is not None for d in s.docks for spot in d.booked)
        on_fork = s.fork is not None and s.fork.to is not None and s.fork.to.dock < 0
        assert s.fresh + s.other + s.empty + own + booked + on_fork <= 3


def test_any_order_of_finishing_ends_with_the_fresh_pack_in() -> None:
    """With nothing going wrong, all ways of choosing among startable acts end in the same finished state."""
    (start, *_) = admitted(ONE_TWO, [(Goal.FRESH,)])
    tried, bad = unfinished([Node(start, Events())])
    assert bad == []
    assert tried > 20
    state: PlanState = start._replace(docks=tuple(d._replace(present=True) for d in start.docks))
    done = []
    while acts := decide(state):
        done.append(acts[0].kind.value)
        state = apply(state, acts[0])
    assert [kind for kind in done if kind in {"fetch", "take", "put", "leave", "store"}] == [
        "fetch",
        "take",
        "put",
        "leave",
        "store",
    ]
