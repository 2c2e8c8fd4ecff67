from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.model.inventory import (
    RECORD_KINDS,
    UNKNOWN,
    HandedOff,
    Inventory,
    InventoryError,
    InventoryRecord,
    PackArrived,
    PackLeft,
    PackMoved,
    PackNote,
    PackNoted,
    PlaceResolved,
    PlaceUnknown,
    PlaceWitness,
    Reserved,
    Unreserved,
    Verdict,
    compare,
    empty_inventory,
    from_json,
    resolve_by_sensors,
    to_json,
)
from controller.model.layout import FORK
from tests.support.plan_world import layout_of

MOUNT, TABLE, SLOT, OTHER = "dock1.mount_a", "dock1.table_1", "slot01", "slot02"
EMPTY = empty_inventory(layout_of())
PLACES = sorted(EMPTY.places)

packs = st.sampled_from(["P1", "P2", "P3"])
places = st.sampled_from([MOUNT, TABLE, SLOT, OTHER, FORK, "nowhere"])
records: st.SearchStrategy[InventoryRecord] = st.one_of(
    st.builds(PackArrived, packs, places),
    st.builds(PackMoved, packs, places, places),
    st.builds(PackLeft, packs, places),
    st.builds(PlaceUnknown, places, st.text(max_size=5)),
    st.builds(PlaceResolved, places, st.none() | packs),
    st.builds(Reserved, places, packs),
    st.builds(Unreserved, places),
    st.builds(PackNoted, packs, st.none() | st.floats(0, 100), st.booleans()),
    st.builds(HandedOff, places, packs),
)


@given(records)
def test_record_survives_json(record: InventoryRecord) -> None:
    """Every record comes back from JSON text as it went in."""
    body = json.loads(json.dumps(to_json(record)))
    assert from_json(body) == record
    assert body["kind"] in RECORD_KINDS


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "PackStolen", "pack": "P1"},
        {"kind": ["PackLeft"]},
        {"kind": "PackLeft", "pack": "P1"},
        {"kind": "PackLeft", "pack": "P1", "place": SLOT, "why": "x"},
        {"kind": "PackLeft", "pack": 1, "place": SLOT},
        {"kind": "PackNoted", "pack": "P1", "soc_pct": "full", "failed": False},
        {"kind": "PackNoted", "pack": "P1", "soc_pct": 1.0, "failed": "no"},
    ],
)
def test_malformed_record_is_refused(body: dict[str, object]) -> None:
    """What is not exactly a record is refused, not guessed."""
    with pytest.raises(InventoryError):
        from_json(body)


@given(st.lists(records, max_size=40))
def test_packs_are_conserved(history: list[InventoryRecord]) -> None:
    """Whatever is recorded, a pack is in at most one place, and a record that is refused changes nothing."""
    inventory = EMPTY
    for record in history:
        before = inventory
        try:
            inventory = inventory.apply(record)
        except InventoryError:
            assert inventory is before
        contents = list(inventory.contents.values())
        assert len(contents) == len(set(contents))
        assert not set(inventory.contents) & inventory.unknown_places
        assert set(inventory.contents) | inventory.unknown_places <= inventory.places
        if isinstance(record, PackMoved) and inventory is not before:
            assert sorted(contents) == sorted(before.contents.values())


def _with(*history: InventoryRecord) -> Inventory:
    return EMPTY.apply_all(history)


@pytest.mark.parametrize(
    ("history", "record"),
    [
        ([PackArrived("P1", SLOT)], PackArrived("P1", OTHER)),
        ([PackArrived("P1", SLOT)], PackArrived("P2", SLOT)),
        ([PackArrived("P1", SLOT)], PackMoved("P1", OTHER, TABLE)),
        ([PackArrived("P1", SLOT), PackArrived("P2", OTHER)], PackMoved("P1", SLOT, OTHER)),
        ([PackArrived("P1", SLOT), Reserved(TABLE, "P2")], PackMoved("P1", SLOT, TABLE)),
        ([PackArrived("P1", SLOT), PlaceUnknown(TABLE, "?")], PackMoved("P1", SLOT, TABLE)),
        ([PackArrived("P1", SLOT)], PackLeft("P1", OTHER)),
        ([PackArrived("P1", SLOT)], Reserved(SLOT, "P2")),
        ([Reserved(SLOT, "P1")], Reserved(SLOT, "P2")),
        ([], PlaceResolved(SLOT, "P1")),
        ([PackArrived("P1", SLOT), PlaceUnknown(OTHER, "?")], PlaceResolved(OTHER, "P1")),
        ([], PackArrived("P1", "nowhere")),
        ([], PlaceUnknown("nowhere", "?")),
        ([], Unreserved("nowhere")),
        ([PackArrived("P1", SLOT)], HandedOff(SLOT, "P2")),
    ],
)
def test_record_that_does_not_fit_is_refused(history: list[InventoryRecord], record: InventoryRecord) -> None:
    """Doubling, losing, moving from elsewhere, and taking what is kept for another are refused with a sentence."""
    with pytest.raises(InventoryError, match=r"\w+ \w+"):
        _with(*history).apply(record)


def test_unknown_is_neither_empty_nor_a_pack() -> None:
    """An unknown place answers UNKNOWN until it is resolved, and its pack is nowhere meanwhile."""
    inventory = _with(PackArrived("P1", SLOT), PlaceUnknown(SLOT, "aborted"))
    assert inventory.at(SLOT) is UNKNOWN
    assert inventory.at(SLOT) is not None
    assert inventory.place_of("P1") is None
    assert inventory.apply(PlaceResolved(SLOT, "P1")).at(SLOT) == "P1"
    assert inventory.apply(PlaceResolved(SLOT, None)).at(SLOT) is None


def test_arriving_ends_the_reservation_of_the_place_only() -> None:
    """A pack's exit stays reserved while it waits on the table."""
    inventory = _with(
        PackArrived("P1", MOUNT), Reserved(TABLE, "P1"), Reserved(SLOT, "P1"), PackMoved("P1", MOUNT, TABLE)
    )
    assert inventory.reserved == {SLOT: "P1"}


def test_a_vehicle_that_leaves_takes_its_memory_along() -> None:
    """After the new pack has left, the old one in its slot belongs to no vehicle any more."""
    inventory = _with(
        PackArrived("OLD", MOUNT),
        PackArrived("NEW", SLOT),
        PackMoved("OLD", MOUNT, OTHER),
        PackMoved("NEW", SLOT, MOUNT),
    )
    assert inventory.arrived_on["OLD"] == MOUNT
    left = inventory.apply(PackLeft("NEW", MOUNT))
    assert "OLD" not in left.arrived_on
    assert left.at(OTHER) == "OLD"


def test_hand_off_is_due_until_it_is_recorded() -> None:
    """A pack put into a slot is to be handed off until that is recorded."""
    inventory = _with(PackArrived("P1", MOUNT), PackMoved("P1", MOUNT, SLOT))
    assert SLOT in inventory.to_hand_off
    assert SLOT not in inventory.apply(HandedOff(SLOT, "P1")).to_hand_off


def test_notes_are_kept_by_pack() -> None:
    """What was noted of a pack is found again; of another nothing is known."""
    inventory = _with(PackNoted("P1", 91.5, failed=False))
    assert inventory.note("P1") == PackNote(91.5, failed=False)
    assert inventory.note("P2") == PackNote(None, failed=False)


@pytest.mark.parametrize("content", [None, "P1", UNKNOWN])
@pytest.mark.parametrize("presence", [None, False, True])
@pytest.mark.parametrize("serial", [None, "P1", "P2"])
def test_witnesses_are_judged(content: object, presence: bool | None, serial: str | None) -> None:
    """Only what no witness speaks against is agreed or proposed, and only what every one confirms is agreed."""
    inventory = EMPTY
    if content is UNKNOWN:
        inventory = _with(PlaceUnknown(SLOT, "?"))
    elif content is not None:
        inventory = _with(PackArrived("P1", SLOT))
    (finding,) = compare(inventory, {SLOT: PlaceWitness(presence, serial)})
    assert SLOT in finding.sentence
    impossible = presence is False and serial is not None
    if impossible:
        expected = Verdict.CONTRADICTION
    elif content is UNKNOWN:
        says_something = serial is not None or presence is False
        expected = Verdict.PROPOSED if says_something else Verdict.CONTRADICTION
    elif content is None:
        seen = presence or serial is not None
        expected = Verdict.CONTRADICTION if seen else Verdict.PROPOSED if presence is None else Verdict.AGREE
    else:
        wrong = presence is False or serial == "P2"
        expected = Verdict.CONTRADICTION if wrong else Verdict.PROPOSED if presence is None else Verdict.AGREE
    assert finding.verdict is expected


def _cut_short(*unknown: str) -> Inventory:
    inventory = _with(PackArrived("P1", SLOT))
    return inventory.apply_all([PlaceUnknown(place, "cut short") for place in unknown])


@pytest.mark.parametrize("where", [SLOT, FORK])
def test_one_sensor_settles_it(where: str) -> None:
    """If exactly one of the unknown places senses a pack, the pack is there and the others are empty."""
    inventory = _cut_short(SLOT, FORK)
    found = resolve_by_sensors(inventory, "P1", (SLOT, FORK, TABLE), {SLOT: where == SLOT, FORK: where == FORK})
    assert not found.question
    settled = inventory.apply_all(found.records)
    assert settled.place_of("P1") == where
    assert not settled.unknown_places


@pytest.mark.parametrize(
    "presence", [{SLOT: True, FORK: True}, {SLOT: False, FORK: False}, {SLOT: True, FORK: None}, {SLOT: True}, {}]
)
def test_what_sensors_do_not_settle_is_asked(presence: dict[str, bool | None]) -> None:
    """Two, none, or a silent sensor leave the places unknown, with a question that names the pack."""
    found = resolve_by_sensors(_cut_short(SLOT, FORK), "P1", (SLOT, FORK), presence)
    assert found.records == ()
    assert "P1" in found.question


def test_a_pack_that_is_known_elsewhere_is_not_placed_twice() -> None:
    """Sensors do not put a pack into a second place."""
    inventory = replace(_with(PackArrived("P1", SLOT)), unknown={FORK: "?"})
    found = resolve_by_sensors(inventory, "P1", (SLOT, FORK), {FORK: True})
    assert found.records == ()
    assert SLOT in found.question


def test_nothing_unknown_needs_no_answer() -> None:
    """Where nothing is unknown there is nothing to resolve."""
    assert resolve_by_sensors(_with(PackArrived("P1", SLOT)), "P1", (SLOT,), {}).question == ""
