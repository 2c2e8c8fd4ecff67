from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.model.facts import EXCHANGE, At, SlotFacts, StackerFacts, VehicleAt, facts_from, lock_of
from controller.model.intent import Goal, Move, MoveKind, Step, StepKind, SwapOrder
from controller.model.inventory import (
    Inventory,
    PackArrived,
    PackNoted,
    PlaceUnknown,
    Reserved,
    Unreserved,
    empty_inventory,
)
from controller.model.layout import FORK, LockBankLayout, locks_of
from controller.model.plan_state import Lock
from controller.model.planner import claims, plan, refusal, reservations, stale_reservations
from hal.types import (
    BoltResult,
    BoltState,
    BoltStatus,
    ChargerState,
    LockBankState,
    LockBankStatus,
    VehicleRequest,
)
from tests.support.plan_world import World, layout_of
from tests.support.scene import DOCK, MOUNT, OLD, SLOT, TABLE, Scene

MOUNT_A, TABLE_1, TABLE_2 = "dock1.mount_a", "dock1.table_1", "dock1.table_2"


def _ready_world(**shape: int) -> World:
    """A world whose one vehicle stands in dock1, clamped and secured."""
    world = World(layout_of(**shape), fresh=6)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    world.arrive("dock1")
    bay = world.bays["dock1"]
    bay.clamp, bay.lifted, bay.secured, bay.awake = At.WORK, At.WORK, True, False
    return world


def _plan(world: World, *running: Move) -> list[Move]:
    return plan(world.facts(), world.orders, running)


def _ends(moves: list[Move]) -> list[tuple[str, str, str]]:
    return [(move.kind.value, move.origin, move.destination) for move in moves]


# --- a swap as it should be ---------------------------------------------------------------------------------


def test_one_mount_two_tables_takes_the_shortest_way() -> None:
    """The vehicle waits for nothing but clamp, lift, bolts, check and wake: fetch and store lie outside its stay."""
    world = World(layout_of(), fresh=6)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    assert _ends(world.start()) == [("free_slot", "slot01", "")]
    world.run()
    kinds = [move.kind.value for move in world.log if move.kind is not MoveKind.TRANSFER]
    assert kinds.index("align") < kinds.index("clamp") < kinds.index("check") < kinds.index("wake")
    assert kinds.index("wake") < kinds.index("unclamp") < kinds.index("release")
    transfers = [(move.origin, move.destination) for move in world.log if move.kind is MoveKind.TRANSFER]
    assert transfers == [
        ("slot01", TABLE_1),
        (MOUNT_A, TABLE_2),
        (TABLE_1, MOUNT_A),
        (TABLE_2, "slot01"),
    ]
    assert world.inventory.place_of("OLD") == "slot01"
    assert world.returned == []


def test_clamp_and_secure_start_together() -> None:
    """As soon as the vehicle stands, it is clamped and secured side by side."""
    world = World(layout_of(), fresh=6)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    world.arrive("dock1")
    assert {MoveKind.CLAMP, MoveKind.SECURE} <= {move.kind for move in _plan(world)}


def test_check_starts_while_the_lift_is_still_up() -> None:
    """With the bolts proven and the transfer still lowering, the vehicle is asked to check the pack."""
    world = _ready_world()
    world.bays["dock1"].locks[MOUNT_A] = Lock.PROVEN
    world.bays["dock1"].checked[MOUNT_A] = False
    world.bays["dock1"].shuttle, world.bays["dock1"].lift = (MOUNT_A, TABLE_1), At.WORK
    world.inventory = _moved_in(world.inventory)
    putting = Move(MoveKind.TRANSFER, "dock1", "P00", TABLE_1, MOUNT_A, "swap-dock1")
    moves = _plan(world, putting)
    assert ("check", MOUNT_A, "") in _ends(moves)
    assert MoveKind.WAKE not in {move.kind for move in moves}


def _moved_in(inventory: Inventory) -> Inventory:
    contents = {place: pack for place, pack in inventory.contents.items() if pack not in {"P00", "OLD"}}
    return replace(inventory, contents={**contents, MOUNT_A: "P00", TABLE_2: "OLD"})


def test_the_fullest_pack_is_fetched_and_ties_go_to_the_first_slot() -> None:
    """Of the packs that may be handed out the fullest is chosen, of equals the one in the first slot."""
    world = World(layout_of(), fresh=3)
    world.soc.update(P00=81.0, P01=90.0, P02=90.0)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    assert _ends(_plan(world)) == [("free_slot", "slot02", "")]


def test_a_begun_slot_is_not_changed_for_a_fuller_pack() -> None:
    """A slot that has been freed is used, though another pack has become fuller meanwhile."""
    world = World(layout_of(), fresh=3)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    world.plugged["slot01"] = False
    world.soc["P02"] = 99.0
    assert ("transfer", "slot01", TABLE_1) in _ends(_plan(world))


def test_docked_comes_before_coming_and_older_before_younger() -> None:
    """The stacker serves the vehicle that stands before the one that comes, and of two that stand the older order."""
    world = World(layout_of(docks=2), fresh=6)
    world.order("dock1", [Goal.FRESH], ["OLD1"], at=1.0)
    world.order("dock2", [Goal.FRESH], ["OLD2"], at=2.0)
    world.plugged.update(slot01=False, slot02=False)
    assert _plan(world)[0].destination == TABLE_1
    world.arrive("dock2")
    fetches = [move for move in _plan(world) if move.kind is MoveKind.TRANSFER]
    assert fetches[0].dock == "dock2"
    world.arrive("dock1")
    fetches = [move for move in _plan(world) if move.kind is MoveKind.TRANSFER]
    assert fetches[0].dock == "dock1"


# --- whatever happens ---------------------------------------------------------------------------------------

shapes = st.sampled_from([(1, 1, 2), (1, 1, 1), (1, 3, 2), (2, 1, 2), (2, 2, 2), (3, 3, 2), (2, 1, 1)])
goals = st.sampled_from([Goal.FRESH, Goal.FRESH, Goal.FRESH, Goal.KEEP, Goal.EMPTY, Goal.ADD])


@settings(max_examples=120, deadline=None)
@given(shapes, st.data())
def test_every_accepted_swap_ends(shape: tuple[int, int, int], data: st.DataObject) -> None:
    """With aborts and a failing pack at any moment, every vehicle leaves proven and every pack is stored.

    The world objects to shared devices, a travelling raised shuttle, bolts turned without exit or hold, a fork in
    an unready table or plugged slot, a vehicle woken with a bolt or a pack in doubt, and to packs doubled or lost.
    """
    docks, mounts, tables = shape
    slots = data.draw(st.integers(mounts * docks + 1, mounts * docks + 4), "slots")
    fresh = data.draw(st.integers(mounts, slots), "fresh")
    other = data.draw(st.integers(0, slots - fresh), "other")
    layout = layout_of(docks, mounts, tables, slots, data.draw(st.integers(0, 1), "quarantine"))
    world = World(layout, fresh, other, data.draw(st.integers(0, 1 << 30), "seed"))
    for dock in layout.docks.values():
        wanted = data.draw(st.lists(goals, min_size=mounts, max_size=mounts), dock.dock_id)
        order = SwapOrder("x", dock.dock_id, "V", tuple(zip(dock.mounts, wanted, strict=True)), 0.0)
        if refusal(order, world.facts()) is None:
            old = [None if g is Goal.ADD else f"OLD-{dock.dock_id}-{n}" for n, g in enumerate(wanted)]
            world.order(dock.dock_id, wanted, old, data.draw(st.floats(0, 9), "at"))
    aborts = [(step, World.abort) for step in data.draw(st.lists(st.integers(0, 150), max_size=2), "aborts")]
    failing = data.draw(st.none() | st.tuples(st.integers(0, 120), st.integers(0, fresh - 1)), "failing")
    events: list[tuple[int, Callable[[World], None]]] = [*aborts]
    if failing is not None:
        events.append((failing[0], lambda world: world.fail(f"P{failing[1]:02}")))
    world.run(events)
    inventory = world.inventory
    assert world.orders == []
    assert all(layout.dock_of(place) is None and place != FORK for place in inventory.contents)
    good = {slot for slot, pack in inventory.contents.items() if not inventory.note(pack).failed}
    assert not inventory.to_hand_off & good & set(layout.store.slots)


@pytest.mark.parametrize("step", range(60))
def test_an_abort_at_every_step_of_a_swap(step: int) -> None:
    """Wherever the one-pack swap is cut short, it is taken up again and ends with the fresh pack in the vehicle."""
    world = World(layout_of(), fresh=6, seed=step)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    world.run([(step, World.abort)])
    assert world.orders == []
    assert world.returned == []
    assert world.inventory.place_of("P00") is None
    assert world.layout.is_slot(world.inventory.place_of("OLD") or "")


def test_without_a_fresh_pack_the_own_one_goes_back() -> None:
    """When the only charged pack fails, the vehicle leaves with its own, and both stay accounted for."""
    world = World(layout_of(), fresh=1, other=2)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    world.run([(25, lambda world: world.fail("P00"))])
    assert world.returned == ["swap-dock1"]
    assert world.orders == []
    assert world.inventory.place_of("OLD") is None
    assert world.layout.is_slot(world.inventory.place_of("P00") or "")


# --- guards, claims, reservations ---------------------------------------------------------------------------


def test_the_exit_is_reserved_before_the_bolts_are_touched() -> None:
    """Taking a pack out reserves the table and a place in the store, and again only what is not reserved yet."""
    world = _ready_world()
    (take,) = [move for move in _plan(world) if move.origin == MOUNT_A]
    records = reservations(take, world.facts())
    assert records == (Reserved(take.destination, "OLD"), Reserved("slot07", "OLD"))
    for record in records:
        world.record(record)
    assert reservations(take, world.facts()) == ()


def test_nothing_is_unlocked_without_room() -> None:
    """With every slot full, one table and nothing fetched, the vehicle's pack stays where it is."""
    world = _ready_world(tables=1, slots=6)
    assert not [move for move in _plan(world) if move.origin == MOUNT_A and move.destination == TABLE_1]


def test_a_reservation_that_has_lost_its_meaning_is_lifted() -> None:
    """A table kept for a pack that is not on its way there any more is given to another."""
    world = _ready_world()
    world.record(Reserved(TABLE_1, "P05"))
    world.record(Reserved("slot07", "P05"))
    assert set(stale_reservations(world.facts(), ())) == {TABLE_1, "slot07"}
    (take,) = [move for move in _plan(world) if move.origin == MOUNT_A]
    assert take.destination == TABLE_1
    assert Unreserved(TABLE_1) in reservations(take, world.facts())


def test_what_a_slot_said_last_is_noted_before_it_is_freed() -> None:
    """Freeing a slot notes the pack's state of charge, for the time in which nobody can ask it."""
    world = World(layout_of(), fresh=3)
    free = Move(MoveKind.FREE_SLOT, "", "P00", "slot01")
    assert reservations(free, world.facts()) == (PackNoted("P00", 95.0, failed=False),)


def test_two_docks_do_not_reserve_the_same_slot() -> None:
    """One call starts at most one move that needs a new place in the store."""
    world = World(layout_of(docks=2, slots=8), fresh=6)
    for n in (1, 2):
        world.order(f"dock{n}", [Goal.FRESH], [f"OLD{n}"], at=float(n))
        world.arrive(f"dock{n}")
        bay = world.bays[f"dock{n}"]
        bay.clamp, bay.lifted, bay.secured = At.WORK, At.WORK, True
    takes = [move for move in _plan(world) if move.origin.endswith("mount_a")]
    assert [move.dock for move in takes] == ["dock1"]


def test_claims_name_what_a_move_moves() -> None:
    """Each kind of move claims its devices; a store gives the shuttle back once the fork is out of the table."""
    world = _ready_world()
    layout = world.layout
    shuttle = {"dock1.shuttle_travel", "dock1.shuttle_lift"}
    stacker = {"stacker.x", "stacker.z", "stacker.fork"}
    slot = {"slot07.charger", "slot07.connector"}
    store = Move(MoveKind.TRANSFER, "dock1", "OLD", TABLE_1, "slot07")
    assert claims(store, layout) == {*shuttle, *stacker, *slot}
    assert claims(Move(MoveKind.TRANSFER, "dock1", "OLD", MOUNT_A, TABLE_1), layout) == {
        *shuttle,
        "dock1.mount_a.locks",
    }
    assert claims(Move(MoveKind.CLAMP, "dock1"), layout) == {"dock1.clamp", "dock1.vehicle_lift"}
    assert claims(Move(MoveKind.HAND_OFF, "", "OLD", "slot07"), layout) == slot
    contents = {FORK: "OLD"}
    facts = replace(world.facts(), inventory=replace(world.inventory, contents=contents))
    assert claims(store, layout, facts) == {*stacker, *slot}
    out = replace(facts, stacker=StackerFacts(At.WORK, TABLE_1))
    assert claims(store, layout, out) == {*shuttle, *stacker, *slot}


def test_without_a_vehicle_lift_none_is_claimed() -> None:
    """A dock that does not raise the vehicle has no vehicle lift to claim."""
    layout = layout_of()
    flat = replace(layout.docks["dock1"], vehicle_lift_down_mm=None, vehicle_lift_up_mm=None)
    assert claims(Move(MoveKind.UNCLAMP, "dock1"), replace(layout, docks={"dock1": flat})) == {"dock1.clamp"}


def test_a_vehicle_that_drives_out_is_not_one_that_comes() -> None:
    """While a vehicle is released its swap fetches nothing more."""
    world = World(layout_of(), fresh=6)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    assert _plan(world, Move(MoveKind.RELEASE, "dock1", swap_id="swap-dock1")) == []


# --- the middle of things -----------------------------------------------------------------------------------


def test_a_pack_between_bolts_and_table_is_settled_first() -> None:
    """With the lift up under half-open bolts, the only move of the shuttle is the one that settles this pack."""
    world = _ready_world()
    bay = world.bays["dock1"]
    bay.shuttle, bay.lift, bay.locks[MOUNT_A] = (MOUNT_A, TABLE_2), At.WORK, Lock.PARTIAL
    assert [move for move in _ends(_plan(world)) if move[0] != "free_slot"] == [("transfer", MOUNT_A, TABLE_2)]
    world.orders = [replace(world.orders[0], homeward=True)]
    assert ("transfer", TABLE_2, MOUNT_A) in _ends(_plan(world))


def test_a_loaded_fork_goes_to_its_destination_or_elsewhere() -> None:
    """A pack on the fork goes where it was to go while that makes sense, else back into the store."""
    world = World(layout_of(), fresh=6)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    contents = {**world.inventory.contents, FORK: "P00"}
    del contents["slot01"]
    world.plugged["slot01"] = False
    world.inventory = replace(world.inventory, contents=contents, reservations={TABLE_2: "P00"})
    assert ("transfer", FORK, TABLE_2) in _ends(_plan(world))
    world.orders = []
    assert ("transfer", FORK, "slot01") in _ends(_plan(world))


def test_an_empty_fork_left_out_is_drawn_back_before_anything_else() -> None:
    """A fork that stands in a table holds up that shuttle and the stacker until it is back."""
    world = _ready_world()
    world.inventory = world.inventory.apply(PackArrived("P99", TABLE_1))
    world.soc["P99"] = 90.0
    world.fork, world.fork_at = At.WORK, TABLE_1
    moves = [move for move in _plan(world) if move.kind not in {MoveKind.FREE_SLOT, MoveKind.HAND_OFF}]
    assert _ends(moves) == [("transfer", FORK, TABLE_1)]


def test_unknown_blocks_what_depends_on_it_and_nothing_else() -> None:
    """An unknown table stops its dock, an unknown fork the stacker, an unknown slot only itself."""
    world = World(layout_of(docks=2), fresh=6)
    for n in (1, 2):
        world.order(f"dock{n}", [Goal.FRESH], [f"OLD{n}"], at=float(n))
    world.plugged.update(dict.fromkeys(world.plugged, False))
    base = world.inventory
    world.inventory = base.apply(PlaceUnknown(TABLE_1, "?"))
    assert {move.dock for move in _plan(world) if move.kind is MoveKind.TRANSFER} == {"dock2"}
    world.inventory = base.apply(PlaceUnknown(FORK, "?"))
    assert not [move for move in _plan(world) if move.kind is MoveKind.TRANSFER]
    world.inventory = base.apply(PlaceUnknown("slot01", "?"))
    assert [move.origin for move in _plan(world) if move.kind is MoveKind.TRANSFER] == ["slot02"]


def test_what_is_out_of_service_takes_no_part() -> None:
    """Packs in a slot out of service are not fetched, and nothing is put there."""
    world = World(layout_of(), fresh=2)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    facts = world.facts()
    slots = {**facts.slots, "slot01": SlotFacts(plugged=True, unplugged=False, hand_off_due=True, in_service=False)}
    assert _ends(plan(replace(facts, slots=slots), world.orders, ())) == [("free_slot", "slot02", "")]


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (SwapOrder("n", "dock9", "V", (), 0.0), "there is no dock dock9"),
        (SwapOrder("n", "dock1", "V", ((MOUNT_A, Goal.FRESH),), 0.0), "busy"),
        (SwapOrder("n", "dock2", "V", ((MOUNT_A, Goal.FRESH),), 0.0), "must name one of the mounts"),
        (SwapOrder("n", "dock2", "V", (("dock2.mount_a", Goal.FRESH),), 0.0), "no charged pack"),
        (SwapOrder("n", "dock2", "V", (("dock2.mount_a", Goal.EMPTY),), 0.0), "not enough empty slots"),
        (SwapOrder("n", "dock2", "V", (("dock2.mount_a", Goal.KEEP),), 0.0), None),
    ],
)
def test_refusals_have_reasons(order: SwapOrder, why: str | None) -> None:
    """A swap that cannot be done is refused with the reason; packs promised to another count as gone."""
    world = World(layout_of(docks=2, slots=2), fresh=1, other=1)
    world.order("dock1", [Goal.FRESH], ["OLD"])
    said = refusal(order, world.facts())
    assert said == why or (why is not None and said is not None and why in said)


def test_an_order_may_be_among_the_facts_it_is_judged_by() -> None:
    """A swap does not stand in its own way."""
    world = World(layout_of(), fresh=1)
    order = world.order("dock1", [Goal.FRESH], ["OLD"])
    assert refusal(order, world.facts()) is None
    world.inventory = world.inventory.apply(PlaceUnknown(FORK, "?"))
    assert refusal(order, world.facts()) == f"nobody knows what is in {FORK}"


# --- facts --------------------------------------------------------------------------------------------------

WINDOW = LockBankLayout(2, 100.0, 140.0, 1400.0, 2200.0)
SHUT = BoltStatus(BoltState.LOCKED, BoltResult.OK, 120.0, 1800.0)


@pytest.mark.parametrize(
    ("bolts", "window", "lock"),
    [
        ((SHUT, SHUT), WINDOW, Lock.PROVEN),
        ((SHUT, SHUT), None, Lock.CLOSED),
        ((SHUT,), WINDOW, Lock.CLOSED),
        ((SHUT, replace(SHUT, torque_nm=99.9)), WINDOW, Lock.CLOSED),
        ((SHUT, replace(SHUT, result=BoltResult.NONE)), WINDOW, Lock.CLOSED),
        ((SHUT, replace(SHUT, state=BoltState.UNLOCKED)), WINDOW, Lock.PARTIAL),
        ((SHUT, replace(SHUT, state=BoltState.UNKNOWN)), WINDOW, Lock.PARTIAL),
        ((replace(SHUT, state=BoltState.MOVING),) * 2, WINDOW, Lock.PARTIAL),
        ((replace(SHUT, state=BoltState.UNLOCKED),) * 2, WINDOW, Lock.OPEN),
        ((), WINDOW, Lock.PARTIAL),
    ],
)
def test_bolts_are_judged_together(bolts: tuple[BoltStatus, ...], window: LockBankLayout | None, lock: Lock) -> None:
    """A mount is open or closed only when all its bolts are, and proven only by torque and angle of every one."""
    assert lock_of(LockBankStatus(LockBankState.READY, False, 0, 0, 0, 0, 0, bolts), window) is lock


def _scene() -> tuple[Scene, Inventory]:
    scene = Scene(Step(StepKind.UNLOCK_PACK, DOCK, MOUNT, TABLE))
    return scene, empty_inventory(scene.layout).apply(PackArrived(OLD, MOUNT))


def test_facts_are_read_off_a_snapshot() -> None:
    """A secured vehicle over an aligned, lowered shuttle is seen as such."""
    scene, inventory = _scene()
    facts = facts_from(scene.layout, inventory, scene.snapshot(), ())
    dock = facts.docks[DOCK]
    assert (dock.vehicle, dock.clamp, dock.lifted, dock.lift) == (VehicleAt.IN_PLACE, At.WORK, At.WORK, At.HOME)
    assert (dock.secured, dock.awake, dock.noted, dock.checked[MOUNT]) == (True, False, True, True)
    assert (dock.shuttle, dock.locks[MOUNT]) == ((MOUNT, TABLE), Lock.PROVEN)
    assert facts.stacker == StackerFacts(At.HOME, SLOT)
    assert facts.slots[SLOT].unplugged
    assert not facts.packs[OLD].deliverable


@pytest.mark.parametrize("age_s", [0.0, 10.0])
def test_what_is_stale_is_never_taken_for_known(age_s: float) -> None:
    """Any one reading that has grown old makes its fact unknown or not so, and facts are read all the same."""
    scene, _ = _scene()
    for device in scene.devices():
        scene, inventory = _scene()
        scene.age(device, age_s)
        dock = facts_from(scene.layout, inventory, scene.snapshot(), ()).docks[DOCK]
        sure = {
            "dock1.clamp": dock.clamp is not At.UNKNOWN,
            "dock1.vehicle_lift": dock.lifted is not At.UNKNOWN,
            "dock1.shuttle_lift": dock.lift is not At.UNKNOWN,
            "dock1.shuttle_travel": dock.shuttle_known,
            "dock1.vehicle": dock.secured,
            "dock1.in_place": dock.vehicle is not VehicleAt.UNKNOWN,
            locks_of(MOUNT): dock.locks[MOUNT] is not None,
        }
        assert sure.pop(device, age_s == 0.0) is (age_s == 0.0), device
        assert all(sure.values()), device


def test_vehicle_and_slots_are_read_as_they_say() -> None:
    """No word of obedience is no secured vehicle; a stranger in a slot takes the slot out of service."""
    scene, inventory = _scene()
    scene.change("dock1.vehicle", acknowledged=VehicleRequest.NONE)
    scene.at("dock1.shuttle_travel", 0.0)
    inventory = inventory.apply(PackArrived("MINE", SLOT))
    scene.pack(SLOT, "MINE", soc_pct=92.0).plug(SLOT, engaged=True, disengaged=False)
    facts = facts_from(scene.layout, inventory, scene.snapshot(), ())
    assert not facts.docks[DOCK].secured
    assert facts.docks[DOCK].shuttle == EXCHANGE
    assert facts.packs["MINE"].deliverable
    assert facts.slots[SLOT].in_service
    scene.pack(SLOT, "STRANGER")
    assert not facts_from(scene.layout, inventory, scene.snapshot(), ()).slots[SLOT].in_service


def test_hand_off_is_due_until_the_slot_charges() -> None:
    """A pack put into a slot is due while it is not plugged in, or has not been on charge since."""
    scene, inventory = _scene()
    inventory = replace(inventory.apply(PackArrived("MINE", SLOT)), to_hand_off=frozenset({SLOT}))

    def due() -> bool:
        return facts_from(scene.layout, inventory, scene.snapshot(), ()).slots[SLOT].hand_off_due

    assert due()
    scene.plug(SLOT, engaged=True, disengaged=False)
    assert due()
    scene.change(f"{SLOT}.charger", state=ChargerState.CHARGING)
    assert not due()


# --- cost ---------------------------------------------------------------------------------------------------


def test_planning_costs_little() -> None:
    """A decision for three docks with three packs each and 48 slots stays under some thousand function calls."""
    world = World(layout_of(docks=3, mounts=3, slots=48), fresh=40)
    for n in (1, 2, 3):
        world.order(f"dock{n}", [Goal.FRESH] * 3, [f"OLD{n}{m}" for m in "abc"], at=float(n))
        world.arrive(f"dock{n}")
    facts = world.facts()
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        plan(facts, world.orders, ())
    finally:
        sys.setprofile(before)
    assert 0 < calls < 5000
