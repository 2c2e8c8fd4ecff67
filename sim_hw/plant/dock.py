"""One dock: vehicle, clamp, lifts, shuttle with its tables, lane door and curtain; who bears a pack; the laws there.

The shuttle's lift raises the table that is aligned under a mount. Up there it bears the mount's pack and the nut
runners sit on the bolts: all bolts open → the pack is the table's; all closed → the mount's; in between it stays
where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from sim_hw.plant.axes import AxisPlant, Watch
from sim_hw.plant.core import BouncingSwitch, Core
from sim_hw.plant.locks import LockBankPlant, any_mixed
from sim_hw.plant.packs import Places
from sim_hw.plant.safety import ZoneSafety
from sim_hw.plant.vehicle import Drive, VehicleMount, VehiclePlant
from sim_hw.station_file import DockFile
from sim_hw.world import GateWorld

ALIGNED_MM = 3.0  # the table's pins find the mount's within this
LIFT_CLEAR_MM = 10.0  # the lift is clear of the vehicle this far above its lower end
LIFT_BEARS_MM = 5.0  # it bears and the heads engage this close to its upper end
CLAMP_FREE_MM = 5.0


@dataclass(frozen=True, slots=True)
class DockAxes:
    """The axes of a dock."""

    clamp: AxisPlant
    vehicle_lift: AxisPlant | None
    travel: AxisPlant
    lift: AxisPlant


class Gate:
    """The lane's entrance door with a controller of its own: closes behind a vehicle, opens for the next."""

    def __init__(self, core: Core, device_id: str, world: GateWorld) -> None:
        self.sensor = BouncingSwitch(core.stream(device_id), 0.2)
        self.is_open = True
        self.blocked = False  # injected: it will not close
        self._core = core
        self._device_id = device_id
        self._world = world
        self._generation = 0

    def close(self) -> None:
        """Close, some seconds from now."""
        self._run(self._world.wait_s, self._world.close_s, closed=True)

    def open(self) -> None:
        """Open now."""
        self.sensor.set(False, self._core.now)
        self._run(0.0, self._world.open_s, closed=False)

    def _run(self, wait_s: float, lasts_s: float, *, closed: bool) -> None:
        self._generation += 1
        mine = self._generation

        def begin() -> None:
            if mine == self._generation and not (closed and self.blocked):
                self.is_open = False
                self._core.activity.begin(self._device_id, "close" if closed else "open", self._core.now)
                self._core.after(lasts_s, end)

        def end() -> None:
            if mine == self._generation:
                self.is_open = not closed
                self.sensor.set(closed, self._core.now)
                self._core.activity.end(self._device_id, self._core.now)
                self._core.log(f"{self._device_id} {'closed' if closed else 'open'}")

        self._core.after(wait_s, begin)


class DockPlant:
    """One dock. ``fork_at`` returns the table that the stacker's fork is in, or "" ."""

    def __init__(
        self,
        core: Core,
        file: DockFile,
        axes: DockAxes,
        safety: ZoneSafety,
        banks: Mapping[str, LockBankPlant],
    ) -> None:
        self.file = file
        self.axes = axes
        self.safety = safety
        self.banks = banks
        self.vehicle: VehiclePlant | None = None
        self.gate = Gate(core, f"{file.dock_id}.gate", GateWorld(0.0, 0.0, 0.0))
        self.exit_blocked = False  # injected: something stands in the exit
        self.fork_at: Callable[[], str] = lambda: ""
        self._core = core
        self._places: Places | None = None

    def connect(self, places: Places, gate: GateWorld) -> None:
        """Tie axes, banks and laws together; once, at the start."""
        self._places = places
        self.gate = Gate(self._core, f"{self.file.dock_id}.gate", gate)
        axes, file = self.axes, self.file
        axes.travel.starting.append(lambda _target: self._travel_starts())
        axes.lift.starting.append(lambda _target: self._lift_starts())
        axes.lift.gait = lambda: "loaded" if self._bears_pack() else "normal"
        axes.lift.watches.append(Watch(file.shuttle_lift_down_mm + LIFT_CLEAR_MM, self._lift_passes_clear))
        axes.lift.watches.append(Watch(file.shuttle_lift_up_mm - LIFT_BEARS_MM, self._lift_passes_bearing))
        for axis in filter(None, (axes.clamp, axes.vehicle_lift)):
            axis.starting.append(partial(self._holder_starts, axis))
        for mount, bank in self.banks.items():
            bank.engaged = partial(self._heads_engaged, mount)
            bank.bearing = partial(self._pack_for, mount)
            bank.opening = partial(self._opening, mount)
            bank.changed = partial(self._bolts_changed, mount)

    # --- geometry -------------------------------------------------------------------------------------------

    @property
    def lift_bears(self) -> bool:
        """Whether the lift is up far enough to bear a pack and to engage the runners."""
        return self.axes.lift.true_mm >= self.file.shuttle_lift_up_mm - LIFT_BEARS_MM

    @property
    def lift_clear(self) -> bool:
        """Whether the lift is down far enough to travel."""
        return self.axes.lift.true_mm <= self.file.shuttle_lift_down_mm + LIFT_CLEAR_MM

    @property
    def shuttle_ready_for_fork(self) -> bool:
        """Whether the shuttle stands at the exchange with its lift down."""
        travel = self.axes.travel
        at_exchange = abs(travel.true_mm - self.file.shuttle_exchange_mm) <= ALIGNED_MM
        return at_exchange and not travel.moving and self.lift_clear and not self.axes.lift.moving

    def aligned(self) -> tuple[tuple[str, str], ...]:
        """Return the (mount, table) pairs that stand over one another."""
        here = self.axes.travel.true_mm
        return tuple(pair for pair, at_mm in self.file.align_mm.items() if abs(here - at_mm) <= ALIGNED_MM)

    def table_under(self, mount: str) -> str:
        """Return the table under a mount of the vehicle that stands in the dock, or ""."""
        vehicle_mount = self._vehicle_mount(mount)
        return next((table for m, table in self.aligned() if m == mount and vehicle_mount is not None), "")

    def _vehicle_mount(self, mount: str) -> VehicleMount | None:
        vehicle = self.vehicle
        if vehicle is None or vehicle.drive is not Drive.STANDING:
            return None
        return next((item for item in vehicle.mounts if item.place == mount), None)

    def _bears_pack(self) -> bool:
        """Whether the lift carries a pack's weight: one on an aligned table, or a mounted one that is borne."""
        return any(self._at(table) for _mount, table in self.aligned())

    def _heads_engaged(self, mount: str) -> bool:
        return bool(self.table_under(mount)) and self.lift_bears

    def _pack_for(self, mount: str) -> bool:
        return self._at(mount) or self._at(self.table_under(mount))

    def _at(self, place: str) -> bool:
        return bool(place) and self._places is not None and self._places.at(place) is not None

    # --- laws and what follows from motion --------------------------------------------------------------------

    def _travel_starts(self) -> None:
        if not self.lift_clear:
            self._core.violate("travel_lift_up", f"{self.file.dock_id}: lift at {self.axes.lift.true_mm:.0f} mm")
        self._fork_law("travels")

    def _lift_starts(self) -> None:
        self._fork_law("lifts")

    def _fork_law(self, what: str) -> None:
        if self.fork_at() in self.file.tables:
            self._core.violate("fork_into_shuttle", f"{self.file.dock_id} shuttle {what}, fork in {self.fork_at()}")

    def _holder_starts(self, axis: AxisPlant, _target_mm: float) -> None:
        if self.vehicle is not None and self.vehicle.driving:
            self._core.violate("clamp_driving", f"{axis.device_id} moves, {self.vehicle.vehicle_id} drives")

    def _lift_passes_clear(self, upward: bool) -> None:
        if not upward:
            return
        dock, vehicle = self.file.dock_id, self.vehicle
        if self.axes.travel.moving:
            self._core.violate("travel_lift_up", f"{dock}: the lift rises while the shuttle travels")
        if vehicle is None or vehicle.drive in {Drive.COMING, Drive.GONE}:
            return
        under_a_mount = any(self.table_under(mount.place) for mount in vehicle.mounts)
        if vehicle.driving or not under_a_mount:
            self._core.violate("lift_collision", f"{dock}: lift under {vehicle.vehicle_id}")

    def _lift_passes_bearing(self, upward: bool) -> None:
        for mount, table in self.aligned():
            vehicle_mount = self._vehicle_mount(mount)
            if vehicle_mount is None:
                continue
            if upward and self._at(mount) and self._at(table):
                self._core.violate("two_packs", f"{table} is pressed against the pack in {mount}")
            if not upward and (any_mixed(vehicle_mount.bolts) or self.banks[mount].moving):
                self._core.violate("lift_half_unlocked", f"{mount}: some bolts hold and some do not, or they turn")

    def _opening(self, mount: str) -> None:
        if self.vehicle is not None and not self.vehicle.high_voltage_off:
            self._core.violate("unlock_under_voltage", f"{mount}: {self.vehicle.vehicle_id} is live")

    def _bolts_changed(self, mount: str) -> None:
        """Bolts ended a turn: decide whose the pack is now."""
        vehicle_mount = self._vehicle_mount(mount)
        if vehicle_mount is None or self._places is None:
            return
        table = self.table_under(mount) if self.lift_bears else ""
        mounted = self._places.at(mount)
        if mounted is not None and all(bolt.is_open for bolt in vehicle_mount.bolts):
            if not table:
                self._core.violate("pack_falls", f"{mount}: {mounted.serial}")
                return
            self._places.move(mounted, table)
            self._tell(vehicle_mount, mount)
        borne = self._places.at(table) if table else None
        if borne is not None and all(bolt.is_closed for bolt in vehicle_mount.bolts):
            self._places.move(borne, mount)
            self._tell(vehicle_mount, mount)

    def _tell(self, vehicle_mount: VehicleMount, mount: str) -> None:
        if self.vehicle is not None and self._places is not None:
            self.vehicle.mount_changed(vehicle_mount, self._places.at(mount))

    # --- the vehicle's way ------------------------------------------------------------------------------------

    def expect(self, vehicle: VehiclePlant) -> None:
        """Let a vehicle come."""
        self.vehicle = vehicle
        vehicle.may_drive_in = self._free_to_enter
        vehicle.drives_in = self._drives_in
        vehicle.stands = self._stands
        vehicle.will_leave = self.gate.open
        vehicle.may_drive_out = lambda: self.gate.is_open
        vehicle.drives_out = self._drives_out
        vehicle.is_gone = self._gone

    @property
    def exit_clear(self) -> bool:
        """Whether the lane's exit is free."""
        leaving = self.vehicle is not None and self.vehicle.drive is Drive.DRIVING_OUT
        return not leaving and not self.exit_blocked

    def _free_to_enter(self) -> bool:
        axes, file = self.axes, self.file
        down = file.vehicle_lift_down_mm
        lowered = axes.vehicle_lift is None or down is None or axes.vehicle_lift.true_mm <= down + CLAMP_FREE_MM
        clamp_open = abs(axes.clamp.true_mm - file.clamp_open_mm) <= CLAMP_FREE_MM
        standing = not any(axis.moving for axis in (axes.clamp, axes.vehicle_lift) if axis is not None)
        return self.gate.is_open and lowered and clamp_open and standing and self.lift_clear

    def _drives_in(self) -> None:
        self.safety.set_muted(True)
        self.safety.set_curtain(False)

    def _stands(self) -> None:
        vehicle, places = self.vehicle, self._places
        if vehicle is None or places is None:
            return
        self.safety.set_curtain(True)
        self._core.after(1.0, self._arm_curtain)
        for mount in vehicle.mounts:
            self.banks[mount.place].attach(mount.bolts)
            if mount.pack is not None:
                places.move(mount.pack, mount.place)
        self._core.activity.vehicle_in_place(self.file.dock_id, vehicle.vehicle_id, self._core.now)
        self.gate.close()

    def _arm_curtain(self) -> None:
        if self.vehicle is None or not self.vehicle.driving:
            self.safety.set_muted(False)

    def _drives_out(self) -> None:
        vehicle, places = self.vehicle, self._places
        if vehicle is None or places is None:
            return
        self._release_laws(vehicle)
        self.safety.set_muted(True)
        self.safety.set_curtain(False)
        for mount in vehicle.mounts:
            self.banks[mount.place].stop()
            self.banks[mount.place].attach(None)
            if mount.pack is not None:
                places.move(mount.pack, "")
        self._core.activity.vehicle_released(self.file.dock_id, self._core.now)

    def _release_laws(self, vehicle: VehiclePlant) -> None:
        axes, file, who = self.axes, self.file, vehicle.vehicle_id
        down = file.vehicle_lift_down_mm
        raised = (
            axes.vehicle_lift is not None and down is not None and axes.vehicle_lift.true_mm > down + CLAMP_FREE_MM
        )
        if raised or abs(axes.clamp.true_mm - file.clamp_open_mm) > CLAMP_FREE_MM:
            self._core.violate("released_clamped", f"{who}: clamp at {axes.clamp.true_mm:.0f} mm, raised: {raised}")
        for axis in (axes.clamp, axes.vehicle_lift):
            if axis is not None and axis.moving:
                self._core.violate("clamp_driving", f"{axis.device_id} moves, {who} drives off")
        if not self.lift_clear:
            self._core.violate("released_lift_up", f"{who}: lift at {axes.lift.true_mm:.0f} mm")
        for mount in vehicle.mounts:
            window = self.banks[mount.place].window
            bad = [i + 1 for i, bolt in enumerate(mount.bolts) if not bolt.proven(window)]
            if self._at(mount.place) and bad:
                self._core.violate("released_unproven", f"{who}: {mount.place}: bolts {bad}")

    def _gone(self) -> None:
        self.vehicle = None
        self.safety.set_curtain(True)
        self.safety.set_muted(False)
