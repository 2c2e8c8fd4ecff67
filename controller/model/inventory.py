"""Which pack is where, folded from journal records. UNKNOWN is a value of its own and blocks what depends on it.

Every record is checked against what is known (double entry): a pack is in one place, a place holds one pack, a move
starts where the pack is. A record that does not fit raises InventoryError and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum, StrEnum
from typing import Final, TypeVar

from controller.model.layout import FORK, Layout

V = TypeVar("V")


class InventoryError(Exception):
    """A record does not fit what is known: a pack would be doubled, lost, or moved from where it is not."""


class _Unknown(Enum):
    """The type of UNKNOWN."""

    UNKNOWN = "unknown"


UNKNOWN: Final = _Unknown.UNKNOWN
"""Nobody can say whether a pack is in this place, or which: never equal to a serial or to None (empty)."""

Content = str | None | _Unknown


# --- records ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackArrived:
    """A pack came into the station: with a vehicle, or found when the station was commissioned."""

    pack: str
    place: str


@dataclass(frozen=True, slots=True)
class PackMoved:
    """A pack changed its place. At a mount: when every bolt was confirmed open (out) or locked (in)."""

    pack: str
    origin: str
    destination: str


@dataclass(frozen=True, slots=True)
class PackLeft:
    """A pack left the station with its vehicle, or was taken out by a person."""

    pack: str
    place: str


@dataclass(frozen=True, slots=True)
class PlaceUnknown:
    """Nobody can say what is in the place. ``why`` is a sentence for a person."""

    place: str
    why: str


@dataclass(frozen=True, slots=True)
class PlaceResolved:
    """Sensors or a person said what is in an unknown place: a pack, or nothing."""

    place: str
    pack: str | None


@dataclass(frozen=True, slots=True)
class Reserved:
    """A place is kept for a pack that is on its way to it, or will be."""

    place: str
    pack: str


@dataclass(frozen=True, slots=True)
class Unreserved:
    """A place is kept for nobody."""

    place: str


@dataclass(frozen=True, slots=True)
class PackNoted:
    """What is known of a pack, for while no BMS link reaches it. ``failed``: not to be given out."""

    pack: str
    soc_pct: float | None
    failed: bool


@dataclass(frozen=True, slots=True)
class HandedOff:
    """The pack in a slot is plugged in, identified and on charge."""

    place: str
    pack: str


InventoryRecord = (
    PackArrived | PackMoved | PackLeft | PlaceUnknown | PlaceResolved | Reserved | Unreserved | PackNoted | HandedOff
)

_RECORDS: Final[tuple[type[InventoryRecord], ...]] = (
    PackArrived,
    PackMoved,
    PackLeft,
    PlaceUnknown,
    PlaceResolved,
    Reserved,
    Unreserved,
    PackNoted,
    HandedOff,
)
_BY_NAME: Final = {record.__name__: record for record in _RECORDS}
RECORD_KINDS: Final = frozenset(_BY_NAME)
"""Names of the records, as ``to_json`` writes them under ``kind``."""


def to_json(record: InventoryRecord) -> dict[str, object]:
    """Return the record as a JSON object; ``kind`` is its name."""
    return {"kind": type(record).__name__, **asdict(record)}


def from_json(body: Mapping[str, object]) -> InventoryRecord:
    """Return the record that ``to_json`` wrote.

    Raises:
        InventoryError: unknown kind, or fields missing, superfluous or of the wrong type.
    """
    kind = body.get("kind")
    record = _BY_NAME.get(kind) if isinstance(kind, str) else None
    if record is None:
        raise InventoryError(f"no such inventory record: {kind!r}")
    values = {key: value for key, value in body.items() if key != "kind"}
    wanted = {item.name: str(item.type) for item in fields(record)}
    if set(values) != set(wanted):
        raise InventoryError(f"{kind}: fields {sorted(values)} instead of {sorted(wanted)}")
    for name, value in values.items():
        if not isinstance(value, _JSON_TYPES[wanted[name]]):
            raise InventoryError(f"{kind}.{name}: {value!r} is not {wanted[name]}")
    return record(**values)  # type: ignore[arg-type]  # checked field by field above


_JSON_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "float | None": (float, int, type(None)),
    "bool": (bool,),
}


# --- the fold --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackNote:
    """The last known of a pack."""

    soc_pct: float | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Inventory:
    """Where every pack is. Immutable; ``apply`` returns the next one.

    ``contents``: place → pack. ``unknown``: place → why. ``reservations``: place → pack it is kept for.
    ``arrived_on``: pack → mount on which its vehicle, still here,
    brought it. ``to_hand_off``: slots whose pack was put in and
    has not been reported on charge since (other places may be in it and mean nothing).
    """

    places: frozenset[str]
    contents: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    reservations: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, PackNote] = field(default_factory=dict)
    arrived_on: Mapping[str, str] = field(default_factory=dict)
    to_hand_off: frozenset[str] = frozenset()

    def at(self, place: str) -> Content:
        """Return the serial of the pack in a place, None if it is empty, UNKNOWN if nobody can say."""
        return UNKNOWN if place in self.unknown else self.contents.get(place)

    def place_of(self, pack: str) -> str | None:
        """Return where a pack is; None if it is not in the station or in an unknown place."""
        return next((place for place, content in self.contents.items() if content == pack), None)

    @property
    def unknown_places(self) -> frozenset[str]:
        """Places whose content nobody can say."""
        return frozenset(self.unknown)

    @property
    def reserved(self) -> Mapping[str, str]:
        """Place → the pack it is kept for."""
        return self.reservations

    def note(self, pack: str) -> PackNote:
        """Return what is known of a pack."""
        return self.notes.get(pack, PackNote())

    def apply(self, record: InventoryRecord) -> Inventory:
        """Return the inventory after the record.

        Raises:
            InventoryError: the record does not fit; nothing has changed.
        """
        return _FOLD[type(record)](self, record)

    def apply_all(self, records: Sequence[InventoryRecord]) -> Inventory:
        """Fold records, oldest first."""
        inventory = self
        for record in records:
            inventory = inventory.apply(record)
        return inventory

    def must_exist(self, place: str) -> None:
        """Raise InventoryError unless the station has this place."""
        if place not in self.places:
            raise InventoryError(f"no such place: {place}")

    def must_hold(self, place: str, pack: str) -> None:
        """Raise InventoryError unless the pack is in the place."""
        self.must_exist(place)
        if self.at(place) != pack:
            raise InventoryError(f"{pack} is not in {place}: {_said(self.at(place))} is there")

    def must_be_free(self, place: str, pack: str) -> None:
        """Raise InventoryError unless the place is empty and kept for nobody or for this pack."""
        self.must_exist(place)
        if self.at(place) is not None:
            raise InventoryError(f"{pack} cannot go to {place}: {_said(self.at(place))} is there")
        holder = self.reservations.get(place, pack)
        if holder != pack:
            raise InventoryError(f"{pack} cannot go to {place}: it is reserved for {holder}")

    def must_be_nowhere(self, pack: str) -> None:
        """Raise InventoryError if the pack is known to be in the station."""
        place = self.place_of(pack)
        if place is not None:
            raise InventoryError(f"{pack} is in {place} already")


def _arrive(old: Inventory, record: PackArrived) -> Inventory:
    old.must_be_free(record.place, record.pack)
    old.must_be_nowhere(record.pack)
    return replace(
        old,
        contents={**old.contents, record.place: record.pack},
        reservations=_without(old.reservations, record.place),
        arrived_on={**old.arrived_on, record.pack: record.place},
    )


def _move(old: Inventory, record: PackMoved) -> Inventory:
    old.must_hold(record.origin, record.pack)
    old.must_be_free(record.destination, record.pack)
    return replace(
        old,
        contents={**_without(old.contents, record.origin), record.destination: record.pack},
        reservations=_without(old.reservations, record.destination),
        to_hand_off=(old.to_hand_off - {record.origin}) | {record.destination},
    )


def _leave(old: Inventory, record: PackLeft) -> Inventory:
    old.must_hold(record.place, record.pack)
    return replace(
        old,
        contents=_without(old.contents, record.place),
        reservations={place: pack for place, pack in old.reservations.items() if pack != record.pack},
        notes=_without(old.notes, record.pack),
        arrived_on=_of_vehicles_here(old.arrived_on, record),
        to_hand_off=old.to_hand_off - {record.place},
    )


def _of_vehicles_here(arrived_on: Mapping[str, str], record: PackLeft) -> dict[str, str]:
    """What is left of ``arrived_on`` when a vehicle takes its packs from a dock: nothing of that dock's."""
    dock, dot, _ = record.place.rpartition(".")
    return {
        pack: mount
        for pack, mount in arrived_on.items()
        if pack != record.pack and not (dot and mount.rpartition(".")[0] == dock)
    }


def _forget(old: Inventory, record: PlaceUnknown) -> Inventory:
    old.must_exist(record.place)
    return replace(
        old,
        contents=_without(old.contents, record.place),
        unknown={**old.unknown, record.place: record.why},
    )


def _resolve(old: Inventory, record: PlaceResolved) -> Inventory:
    if record.place not in old.unknown:
        raise InventoryError(f"{record.place} is not unknown")
    known = replace(old, unknown=_without(old.unknown, record.place))
    if record.pack is None:
        return known
    known.must_be_nowhere(record.pack)
    return replace(
        known,
        contents={**known.contents, record.place: record.pack},
        reservations=_without(known.reservations, record.place),
        to_hand_off=known.to_hand_off | {record.place},
    )


def _reserve(old: Inventory, record: Reserved) -> Inventory:
    old.must_be_free(record.place, record.pack)
    return replace(old, reservations={**old.reservations, record.place: record.pack})


def _unreserve(old: Inventory, record: Unreserved) -> Inventory:
    old.must_exist(record.place)
    return replace(old, reservations=_without(old.reservations, record.place))


def _note(old: Inventory, record: PackNoted) -> Inventory:
    return replace(old, notes={**old.notes, record.pack: PackNote(record.soc_pct, record.failed)})


def _hand_off(old: Inventory, record: HandedOff) -> Inventory:
    old.must_hold(record.place, record.pack)
    return replace(old, to_hand_off=old.to_hand_off - {record.place})


_FOLD: Final[Mapping[type[InventoryRecord], Callable[..., Inventory]]] = {
    PackArrived: _arrive,
    PackMoved: _move,
    PackLeft: _leave,
    PlaceUnknown: _forget,
    PlaceResolved: _resolve,
    Reserved: _reserve,
    Unreserved: _unreserve,
    PackNoted: _note,
    HandedOff: _hand_off,
}


def empty_inventory(layout: Layout) -> Inventory:
    """Return the inventory of a station in which every place, the fork too, is empty."""
    return Inventory(places=frozenset((*layout.places, FORK)))


def _without(mapping: Mapping[str, V], key: str) -> dict[str, V]:
    return {kept: value for kept, value in mapping.items() if kept != key}


def _said(content: Content) -> str:
    if content is UNKNOWN:
        return "an unknown content"
    return "nothing" if content is None else str(content)


# --- witnesses -------------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """What the witnesses of a place make of the inventory."""

    AGREE = "agree"
    PROPOSED = "proposed"  # a witness is missing: likely, and a person (or the next reading) must say yes
    CONTRADICTION = "contradiction"  # witnesses differ: a person must look


@dataclass(frozen=True, slots=True)
class PlaceWitness:
    """What can be seen of a place beside the journal; None: this witness cannot be heard now."""

    presence: bool | None
    serial: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one place, with what it holds if the proposal is right, and a sentence for a person."""

    place: str
    verdict: Verdict
    proposal: str | None
    sentence: str


def compare(inventory: Inventory, witnesses: Mapping[str, PlaceWitness]) -> list[Finding]:
    """Compare the inventory with what sensors and BMS links say, place by place, in the order of ``witnesses``."""
    return [_judge(place, inventory.at(place), witness) for place, witness in witnesses.items()]


def _judge(place: str, content: Content, witness: PlaceWitness) -> Finding:
    if witness.presence is False and witness.serial is not None:
        return _contradiction(place, f"the sensor says that {place} is empty, but {witness.serial} answers there")
    if isinstance(content, _Unknown):
        return _judge_unknown(place, witness)
    return _judge_empty(place, witness) if content is None else _judge_held(place, content, witness)


def _judge_empty(place: str, witness: PlaceWitness) -> Finding:
    if witness.presence or witness.serial is not None:
        return _contradiction(place, f"{place} should be empty, but {witness.serial or 'a pack'} is seen there")
    if witness.presence is None:
        return Finding(place, Verdict.PROPOSED, None, f"{place} should be empty; its sensor cannot be read")
    return Finding(place, Verdict.AGREE, None, f"{place} is empty")


def _judge_held(place: str, pack: str, witness: PlaceWitness) -> Finding:
    if witness.presence is False:
        return _contradiction(place, f"{pack} should be in {place}, but the sensor says that it is empty")
    if witness.serial not in {None, pack}:
        return _contradiction(place, f"{pack} should be in {place}, but {witness.serial} answers there")
    if witness.presence is None:
        return Finding(place, Verdict.PROPOSED, pack, f"{pack} should be in {place}; its sensor cannot be read")
    return Finding(place, Verdict.AGREE, pack, f"{pack} is in {place}")


def _judge_unknown(place: str, witness: PlaceWitness) -> Finding:
    if witness.serial is not None:
        return Finding(place, Verdict.PROPOSED, witness.serial, f"{witness.serial} answers in {place}: is it there?")
    if witness.presence is False:
        return Finding(place, Verdict.PROPOSED, None, f"the sensor says that {place} is empty: is it?")
    if witness.presence:
        return _contradiction(place, f"a pack is seen in {place}, and nothing says which: which pack is it?")
    return _contradiction(place, f"nothing says what is in {place}: is a pack there, and which?")


def _contradiction(place: str, sentence: str) -> Finding:
    return Finding(place, Verdict.CONTRADICTION, None, sentence)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What sensors settle after a transfer was cut short: records to apply, or a question for a person."""

    records: tuple[PlaceResolved, ...]
    question: str = ""


def resolve_by_sensors(
    inventory: Inventory, pack: str, candidates: Sequence[str], presence: Mapping[str, bool | None]
) -> Resolution:
    """Find the pack of a transfer that was cut short, by the presence sensors alone.

    Args:
        inventory: has marked UNKNOWN those of the candidates whose content the abort left open.
        pack: the pack that was under way.
        candidates: where it can be: origin, fork or table, destination.
        presence: sensor by place; None or missing: cannot be read.

    Returns:
        The records that settle every unknown candidate if exactly one of them senses a pack and all others sense
        none; else no record and the question that a person must answer.
    """
    unknown = [place for place in candidates if place in inventory.unknown]
    if not unknown:
        return Resolution(())
    listed = ", ".join(unknown)
    if inventory.place_of(pack) is not None:
        return Resolution((), f"{pack} is known to be in {inventory.place_of(pack)}: what is in {listed}?")
    unread = [place for place in unknown if presence.get(place) is None]
    if unread:
        return Resolution((), f"the sensor of {', '.join(unread)} cannot be read: where is {pack} ({listed})?")
    sensed = [place for place in unknown if presence[place]]
    if len(sensed) != 1:
        what = f"{len(sensed)} of {listed} sense a pack" if sensed else f"none of {listed} senses a pack"
        return Resolution((), f"{what}: where is {pack}?")
    return Resolution(tuple(PlaceResolved(place, pack if place == sensed[0] else None) for place in unknown))
