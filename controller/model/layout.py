"""Places, carriers and taught positions of a station. Built by controller/config.py from the station file.

Ids are the station file's: places ``dock1.mount_a``, ``dock1.table_1``, ``slot07``, ``quarantine1``; transit
``stacker.fork``. Device ids follow from the role: ``dock1.clamp``, ``dock1.mount_a.locks``, ``slot07.charger``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FORK = "stacker.fork"  # transit place of the stacker, and its fork axis

STACKER_AXES = ("stacker.x", "stacker.z", FORK)


@dataclass(frozen=True, slots=True)
class LockBankLayout:
    """How many bolts hold a mount's pack, and the window that proves one closed (from the bank's profile)."""

    bolts: int
    torque_nm_min: float
    torque_nm_max: float
    angle_deg_min: float
    angle_deg_max: float


@dataclass(frozen=True, slots=True)
class DockLayout:
    """One dock: where a vehicle stands, its mounts, and the shuttle's tables below it.

    Mounts and tables are full place ids. ``align_mm`` maps (mount, table) to shuttle travel. A mount that
    ``lock_banks`` does not name can never be proven locked.
    """

    dock_id: str
    mounts: tuple[str, ...]
    tables: tuple[str, ...]
    clamp_open_mm: float
    clamp_closed_mm: float
    vehicle_lift_down_mm: float | None  # None: this dock does not raise the vehicle
    vehicle_lift_up_mm: float | None
    shuttle_exchange_mm: float
    shuttle_lift_down_mm: float
    shuttle_lift_up_mm: float
    align_mm: Mapping[tuple[str, str], float]
    lock_banks: Mapping[str, LockBankLayout] = field(default_factory=dict)

    def device(self, role: str) -> str:
        """Return the id of this dock's device in a role: ``clamp`` → ``dock1.clamp``."""
        return f"{self.dock_id}.{role}"

    @property
    def has_vehicle_lift(self) -> bool:
        """Whether the vehicle is raised before its packs are exchanged."""
        return self.vehicle_lift_up_mm is not None


@dataclass(frozen=True, slots=True)
class StackerPlace:
    """Where the stacker stands to serve a place. ``z_mm`` is with the fork just under the pack."""

    x_mm: float
    z_mm: float
    fork_mm: float


@dataclass(frozen=True, slots=True)
class StackerLayout:
    """Taught positions of the stacker, by place id."""

    places: Mapping[str, StackerPlace]
    fork_retracted_mm: float
    carry_offset_mm: float  # z rises by this to take a pack's weight


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """Slots (with charger, connector and BMS link) and quarantine places (with none)."""

    slots: tuple[str, ...]
    quarantine: tuple[str, ...]
    neighbours: tuple[tuple[str, ...], ...]
    pack_soc_pct_min: float


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole station."""

    station_id: str
    docks: Mapping[str, DockLayout]
    store: StoreLayout
    stacker: StackerLayout

    @property
    def places(self) -> tuple[str, ...]:
        """Every resting place, in file order."""
        mounts_and_tables = [p for dock in self.docks.values() for p in (*dock.mounts, *dock.tables)]
        return (*mounts_and_tables, *self.store.slots, *self.store.quarantine)

    def dock_of(self, place: str) -> DockLayout | None:
        """Return the dock that a mount or table belongs to; None for slots, quarantine and the fork."""
        return self.docks.get(place.split(".", 1)[0])

    def is_slot(self, place: str) -> bool:
        """Whether the place has a charger, a connector and a BMS link."""
        return place in self.store.slots


def short(place: str) -> str:
    """Return a place's name without its dock: ``dock1.mount_a`` → ``mount_a``."""
    return place.rsplit(".", 1)[-1]


def locks_of(mount: str) -> str:
    """Return the lock bank of a mount."""
    return f"{mount}.locks"


def charger_of(slot: str) -> str:
    """Return the charger of a slot."""
    return f"{slot}.charger"


def connector_of(slot: str) -> str:
    """Return the connector of a slot."""
    return f"{slot}.connector"


def pack_monitor_of(slot: str) -> str:
    """Return the pack monitor of a slot."""
    return f"{slot}.pack"
