"""From where things are and what is wanted to the moves that may start now, most urgent first.

Nothing is remembered and nothing resumed: a start, the way back after an abort and going on after a power cut are
the same question. Facts become kinds and counts (``plan_state``), ``decide`` chooses, and its acts are bound to the
packs and places at hand. Start the moves in the order given, and ask again when something has changed.

A TRANSFER whose pack is at its destination already has only its tail to do: the bolts to be brought to where they
belong (all locked in a mount, all open over a table), the lift to be lowered, the fork to be retracted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from controller.model.facts import At, StationFacts, facts_from
from controller.model.intent import Move, MoveKind, SwapOrder
from controller.model.inventory import InventoryRecord, PackNoted, Reserved, Unreserved
from controller.model.layout import FORK, STACKER_AXES, Layout, charger_of, connector_of, locks_of
from controller.model.plan_choice import by_urgency, decide
from controller.model.plan_state import (
    Act,
    ActKind,
    Kind,
    SpotKind,
    best_in_store,
    missing,
    refusal_by_counts,
)
from controller.model.plan_view import View, clamped, empty_quarantine, empty_slots, failed, goals_of

__all__ = [
    "StationFacts",
    "claims",
    "facts_from",
    "homeward",
    "plan",
    "refusal",
    "reservations",
    "stale_reservations",
]

SLOT_MOVES = frozenset({MoveKind.FREE_SLOT, MoveKind.HAND_OFF})


# --- what the runner asks ------------------------------------------------------------------------------------------


def plan(facts: StationFacts, orders: Sequence[SwapOrder], running: Sequence[Move]) -> list[Move]:
    """Return the moves that may start now beside the running ones, most urgent first.

    None of them shares a device with another or with a running one. At most one of them needs a new place in the
    store: after it has started, its reservation is in the inventory for the next call.
    """
    view = View(facts, orders, running)
    chosen: list[Move] = []
    busy: set[str] = set()
    for move in running:
        busy |= claims(move, facts.layout, facts)
    reserving = False
    for move in _candidates(view):
        held = claims(move, facts.layout)
        needs_place = _needs_place(move, facts)
        if held & busy or (needs_place and reserving):
            continue
        busy |= held
        reserving = reserving or needs_place
        chosen.append(move)
    return chosen


def homeward(facts: StationFacts, orders: Sequence[SwapOrder], running: Sequence[Move]) -> tuple[str, ...]:
    """Return the swaps to be given up for want of a pack that can be handed out: the runner sets ``order.homeward``.

    ``plan`` acts on it at once; written down, it stays even if a pack becomes ready meanwhile.
    """
    return View(facts, orders, running).given_up


def claims(move: Move, layout: Layout, facts: StationFacts | None = None) -> frozenset[str]:
    """Return the devices that a move needs for itself.

    With the facts, what a running move needs no more is left out: the shuttle, once the fork has taken the pack
    from its table and is back.
    """
    if move.kind in SLOT_MOVES:
        return frozenset({connector_of(move.origin), charger_of(move.origin)})
    if move.kind is not MoveKind.TRANSFER:
        dock = layout.docks[move.dock]
        roles = [role for role in _ROLES[move.kind] if role != "vehicle_lift" or dock.has_vehicle_lift]
        return frozenset(dock.device(role) for role in roles)
    ends = {move.origin, move.destination}
    docks = [owner for owner in map(layout.dock_of, sorted(ends)) if owner is not None]
    mounts = [place for owner in docks for place in ends if place in owner.mounts]
    shuttle = {owner.device(role) for owner in docks for role in ("shuttle_travel", "shuttle_lift")}
    if mounts:
        return frozenset({*shuttle, *map(locks_of, mounts)})
    if facts is not None and layout.dock_of(move.destination) is None and _clear_of_table(move, facts):
        shuttle = set()
    slots = [place for place in ends if layout.is_slot(place)]
    return frozenset({*STACKER_AXES, *shuttle, *map(charger_of, slots), *map(connector_of, slots)})


def reservations(move: Move, facts: StationFacts) -> tuple[InventoryRecord, ...]:
    """Return what is to be journalled before the move starts: the places it needs, kept for its pack.

    A transfer keeps its destination; one out of a vehicle also keeps the pack's exit in the store. A reservation
    that stands in the way has lost its meaning and is lifted first. Before a slot is freed, what its BMS said last
    is noted: on its way the pack cannot be asked.
    """
    if move.kind is MoveKind.FREE_SLOT and move.pack in facts.packs:
        known = facts.packs[move.pack]
        return (PackNoted(move.pack, known.soc_pct, known.failed),)
    if move.kind is not MoveKind.TRANSFER:
        return ()
    wanted = [move.destination]
    dock = facts.layout.dock_of(move.origin)
    if dock is not None and move.origin in dock.mounts:
        wanted += [place for place in (_exit_place(move.pack, facts),) if place is not None]
    held = facts.inventory.reserved
    wanted = [p for p in wanted if facts.inventory.at(p) is None and held.get(p) != move.pack]
    lifted = [Unreserved(place) for place in wanted if place in held]
    return (*lifted, *(Reserved(place, move.pack) for place in wanted))


def stale_reservations(facts: StationFacts, running: Sequence[Move]) -> tuple[str, ...]:
    """Return reserved places that nobody is on the way to any more. ``plan`` takes them for free."""
    view = View(facts, facts.orders, running)
    return tuple(place for place in facts.inventory.reserved if place not in view.kept)


def refusal(order: SwapOrder, facts: StationFacts) -> str | None:
    """Say why a swap cannot be accepted, in a sentence for the one who asked; None: it can.

    ``facts`` are those of the orders accepted so far; the order itself may be among them.
    """
    dock = facts.layout.docks.get(order.dock)
    if dock is None:
        return f"there is no dock {order.dock}"
    others = [other for other in facts.orders if other.swap_id != order.swap_id]
    if any(other.dock == order.dock for other in others):
        return f"{order.dock} is busy with another swap"
    goals = dict(order.goals)
    strangers = [mount for mount in goals if mount not in dock.mounts]
    if strangers or len(goals) != len(order.goals):
        return f"each goal must name one of the mounts of {order.dock} once: {', '.join(dock.mounts)}"
    unknown = facts.inventory.unknown_places & {*dock.mounts, *dock.tables, FORK}
    if unknown:
        return f"nobody knows what is in {', '.join(sorted(unknown))}"
    view = View(facts, others, ())
    return refusal_by_counts(view.state, view.docks.index(order.dock), goals_of(dock, order))


_ROLES: Mapping[MoveKind, tuple[str, ...]] = {
    MoveKind.CLAMP: ("clamp", "vehicle_lift"),
    MoveKind.UNCLAMP: ("clamp", "vehicle_lift"),
    MoveKind.SECURE: ("vehicle",),
    MoveKind.CHECK: ("vehicle",),
    MoveKind.WAKE: ("vehicle", "clamp", "vehicle_lift"),  # not while it is still being raised
    MoveKind.RELEASE: ("vehicle", "clamp", "vehicle_lift"),
    MoveKind.ALIGN: ("shuttle_travel", "shuttle_lift"),
    MoveKind.RETURN: ("shuttle_travel", "shuttle_lift"),
}


def _clear_of_table(move: Move, facts: StationFacts) -> bool:
    lifted = facts.inventory.at(FORK) == move.pack or facts.inventory.at(move.destination) == move.pack
    return lifted and facts.stacker.fork is At.HOME


def _store_place(pack: str, facts: StationFacts, kept: Mapping[str, str]) -> str | None:
    """Return where in the store a pack goes: where a place is kept for it, else quarantine or the first slot."""
    own = (place for place, holder in kept.items() if holder == pack and facts.layout.dock_of(place) is None)
    usable = (place for place in own if place not in facts.slots or facts.slots[place].in_service)
    others = {place: holder for place, holder in kept.items() if holder != pack}
    quarantine = empty_quarantine(facts, others) if failed(facts, pack) else iter(())
    return next(usable, None) or next(quarantine, None) or next(empty_slots(facts, others), None)


def _exit_place(pack: str, facts: StationFacts) -> str | None:
    """Where a pack that comes out of a vehicle will go; what is kept for others of this dock may be given up."""
    layout = facts.layout
    dock = layout.dock_of(facts.inventory.place_of(pack) or "")
    mine = {*dock.mounts, *dock.tables} if dock is not None else set()
    kept = {
        place: holder
        for place, holder in facts.inventory.reserved.items()
        if holder == pack or facts.inventory.place_of(holder) not in mine
    }
    return _store_place(pack, facts, kept)


def _needs_place(move: Move, facts: StationFacts) -> bool:
    """Whether a move will reserve a place in the store that is not reserved for its pack yet."""
    places = [place for place, pack in facts.inventory.reserved.items() if pack == move.pack]
    if move.kind is not MoveKind.TRANSFER:
        return False
    dock = facts.layout.dock_of(move.origin)
    if dock is not None and move.origin in dock.mounts:
        return not any(facts.layout.dock_of(place) is None for place in places)
    return facts.layout.dock_of(move.destination) is None and move.destination not in places


# --- from acts to moves ---------------------------------------------------------------------------------------------


def _candidates(view: View) -> Iterator[Move]:
    """Everything that may start, most urgent first; moves further down may need devices of those further up."""
    acts = decide(view.state)
    chosen = _allot_slots(view)
    robots = {act.dock: act for act in acts if act.kind in _ROBOT_ACTS and not _fork_is_in(view, act.dock)}
    jobs = {i for i, act in robots.items() if act.kind in {ActKind.TAKE, ActKind.PUT}}
    for act in acts:
        if act.kind in _VEHICLE_ACTS:
            yield from _vehicle_moves(view, act)
    tail = _fork_tail(view.facts) if view.carried is None else None
    if tail is not None:
        yield tail
    for act in acts:
        hurries = act.kind is ActKind.STORE and act.dock in jobs  # a vehicle is not kept waiting for storing
        if act.kind in _STACKER_ACTS and not hurries:
            yield from _stacker_moves(view, act, chosen)
    for act in robots.values():
        yield _robot_move(view, act)
    yield from _slot_moves(view, chosen)


_ROBOT_ACTS = frozenset({ActKind.TAKE, ActKind.PUT, ActKind.ALIGN, ActKind.RETURN})
_STACKER_ACTS = frozenset({ActKind.FETCH, ActKind.STORE, ActKind.PLACE})
_VEHICLE_ACTS = frozenset({ActKind.ENTER, ActKind.CHECK, ActKind.LEAVE})


def _vehicle_moves(view: View, act: Act) -> Iterator[Move]:
    dock = view.layout_of(act.dock)
    known = view.facts.docks[dock.dock_id]
    swap = view.order_at(act.dock)
    kinds: list[MoveKind]
    if act.kind is ActKind.CHECK:
        mount = dock.mounts[act.mount]
        if not view.is_running(MoveKind.CHECK, dock.dock_id):
            yield Move(MoveKind.CHECK, dock.dock_id, view.at(mount), mount, swap_id=swap)
        return
    if act.kind is ActKind.ENTER:
        kinds = [MoveKind.CLAMP] * (not clamped(dock, known)) + [MoveKind.SECURE] * (not known.secured)
    elif not known.awake:
        kinds = [MoveKind.WAKE]
    else:
        loose = known.clamp is At.HOME and known.lifted is At.HOME
        kinds = [MoveKind.RELEASE if loose else MoveKind.UNCLAMP]
    yield from (Move(kind, dock.dock_id, swap_id=swap) for kind in kinds)


def _robot_move(view: View, act: Act) -> Move:
    dock = view.layout_of(act.dock)
    swap = view.order_at(act.dock)
    if act.kind is ActKind.RETURN:
        return Move(MoveKind.RETURN, dock.dock_id, swap_id=swap)
    mount, table = dock.mounts[act.mount], dock.tables[act.table]
    if act.kind is ActKind.ALIGN:
        return Move(MoveKind.ALIGN, dock.dock_id, "", mount, table, swap)
    pack = view.at(mount) or view.at(table)
    ends = (mount, table) if act.kind is ActKind.TAKE else (table, mount)
    return Move(MoveKind.TRANSFER, dock.dock_id, pack, *ends, swap)


def _stacker_moves(view: View, act: Act, chosen: Mapping[int, str]) -> Iterator[Move]:
    """The transfer of an act, once its slot is free; none while the slot is being freed."""
    facts, swap = view.facts, view.order_at(act.dock) if act.dock >= 0 else ""
    dock = view.layout_of(act.dock) if act.dock >= 0 else None
    table = dock.tables[act.table] if dock is not None else ""
    dock_id = dock.dock_id if dock is not None else ""
    if act.kind is ActKind.FETCH:
        slot = chosen.get(act.dock)
        if slot is not None and facts.slots[slot].unplugged:
            yield Move(MoveKind.TRANSFER, dock_id, view.contents[slot], slot, table, swap)
        return
    if act.kind is ActKind.STORE:
        pack = view.at(table)
        place = _store_place(pack, facts, view.kept)
        if place is not None:
            yield Move(MoveKind.TRANSFER, dock_id, pack, table, place, swap)
        return
    if view.carried is None:
        return
    pack, _ = view.carried
    to = table if act.to is not None and act.to.kind is SpotKind.TABLE else _store_place(pack, facts, view.kept)
    if facts.inventory.at(FORK) == pack and to is not None:
        yield Move(MoveKind.TRANSFER, dock_id, pack, FORK, to, swap)


def _fork_tail(facts: StationFacts) -> Move | None:
    """Draw back a fork that was left out and is empty, from under the pack that it set down or never lifted."""
    place = facts.stacker.at
    if facts.stacker.fork is not At.WORK or facts.inventory.at(FORK) is not None or place is None:
        return None
    pack = facts.inventory.at(place)
    return Move(MoveKind.TRANSFER, "", pack, FORK, place) if isinstance(pack, str) else None


def _fork_is_in(view: View, i: int) -> bool:
    """Whether the fork is out and may be over a table of this dock."""
    stacker = view.facts.stacker
    return stacker.fork is not At.HOME and (stacker.at is None or stacker.at in view.layout_of(i).tables)


# --- slots ----------------------------------------------------------------------------------------------------------


def _allot_slots(view: View) -> dict[int, str]:
    """Choose the slot of the next pack of every dock that still needs one, the most urgent dock first.

    A slot that is freed or being freed already, else the fullest pack; a vehicle going home gets its own back.
    """
    state, facts = view.state, view.facts
    allotted: dict[int, str] = {}
    being_handed_off = {move.origin for move in view.running if move.kind is MoveKind.HAND_OFF}
    being_freed = {move.origin for move in view.running if move.kind is MoveKind.FREE_SLOT}
    stored = [(slot, pack) for slot, pack in view.stored() if slot not in being_handed_off]
    order = {slot: index for index, (slot, _) in enumerate(stored)}

    def preference(slot: str) -> tuple[bool, float, int]:
        begun = facts.slots[slot].unplugged or slot in being_freed
        return (not begun, -(facts.packs[view.contents[slot]].soc_pct or 0.0), order[slot])

    for i in [] if state.stacker_blocked else by_urgency(state):
        kind = best_in_store(state, i) if missing(state, i) > 0 else None
        fitting = (
            slot
            for slot, pack in stored
            if view.kind(pack, view.docks[i]) is kind
            and slot not in allotted.values()
            and (kind is Kind.OWN or not view.home_dock(pack))
        )
        best = min(fitting, key=preference, default=None)
        if best is not None:
            allotted[i] = best
    return allotted


def _slot_moves(view: View, chosen: Mapping[int, str]) -> Iterator[Move]:
    """Free the slots of packs that will be fetched; put on charge what stands in a slot otherwise."""
    facts = view.facts
    for i, slot in chosen.items():
        if not facts.slots[slot].unplugged:
            yield Move(MoveKind.FREE_SLOT, "", view.contents[slot], slot, swap_id=view.order_at(i))
    wanted = set(chosen.values())
    for slot, known in facts.slots.items():
        pack = view.contents.get(slot)
        due = known.in_service and known.hand_off_due and slot not in wanted
        if due and pack is not None and not failed(facts, pack):
            yield Move(MoveKind.HAND_OFF, "", pack, slot)
