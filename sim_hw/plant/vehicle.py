"""A vehicle and its driver: comes, is secured, has its packs checked, wakes, and drives off when it is released.

What the station asks is a state to be in; the vehicle does what is still lacking. Asked for nothing, or when the
request is lost, it stays as it is. It checks packs only while secured, wakes only with every pack accepted, and
drives only when awake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from hal.types import BoltResult, MountStatus, VehicleRequest, VehicleStatus
from sim_hw.plant.core import BouncingSwitch, Core, Noise, Timer, nothing
from sim_hw.plant.locks import Bolt
from sim_hw.plant.packs import PackPlant
from sim_hw.world import LockWorld, VehicleWorld

IN_PLACE_TOLERANCE_MM = 30.0
IDLE_A = -3.0  # what an awake vehicle draws


class Drive(StrEnum):
    """Where the vehicle is on its way through the lane."""

    COMING = "coming"  # heard, not yet in the lane
    DRIVING_IN = "driving_in"
    STANDING = "standing"
    DRIVING_OUT = "driving_out"
    GONE = "gone"


@dataclass(slots=True)
class VehicleMount:
    """One mount: its place id in the dock, its bolts, what it carries, and whether the vehicle accepts that."""

    place: str
    pack: PackPlant | None
    bolts: list[Bolt] = field(default_factory=list)
    accepted: bool = True
    rejects: bool = False  # injected: the vehicle's check will not accept what is put in


class VehiclePlant:
    """One vehicle in or near a dock. The dock's hooks are called with what the driver does."""

    def __init__(
        self, core: Core, dock: str, vehicle_id: str, mounts: list[VehicleMount], world: VehicleWorld
    ) -> None:
        rng = core.stream(f"vehicle/{vehicle_id}/{core.now:.3f}")
        self.dock = dock
        self.vehicle_id = vehicle_id
        self.mounts = mounts
        self.in_range = False
        self.park = False
        self.brake = False
        self.high_voltage_off = False
        self.doors_closed = True
        self.awake = True
        self.silent = False  # injected: nothing is heard of it any more
        self.deaf = False  # injected: it obeys no request
        self.offset_mm = 0.0  # how far from the mark it stands
        self.drive = Drive.COMING
        self.request_echo = VehicleRequest.NONE
        self.in_place = BouncingSwitch(rng, world.bounce_s)
        self.odometer_km = round(rng.uniform(2_000.0, 180_000.0), 1)
        self.may_drive_in: Callable[[], bool] = lambda: True
        self.drives_in: Callable[[], None] = nothing
        self.stands: Callable[[], None] = nothing
        self.will_leave: Callable[[], None] = nothing
        self.may_drive_out: Callable[[], bool] = lambda: True
        self.drives_out: Callable[[], None] = nothing
        self.is_gone: Callable[[], None] = nothing
        self._core = core
        self._world = world
        self._rng = rng
        self._noise = Noise(rng)
        self._request = VehicleRequest.NONE
        self._busy: Timer | None = None
        self._busy_with = ""

    @property
    def device_id(self) -> str:
        """The dock's vehicle link."""
        return f"{self.dock}.vehicle"

    @property
    def driving(self) -> bool:
        """Whether its wheels turn."""
        return self.drive in {Drive.DRIVING_IN, Drive.DRIVING_OUT}

    @property
    def heard(self) -> bool:
        """Whether it sends on the dock's bus now."""
        return self.in_range and not self.silent

    @property
    def pack_current_a(self) -> float:
        """Of all packs together; exactly zero only with the contactors open."""
        if self.high_voltage_off or not any(mount.pack for mount in self.mounts):
            return 0.0
        return IDLE_A + 0.4 * self._noise.at(self._core.now)

    def status(self) -> VehicleStatus:
        """Return what the vehicle says of itself now."""
        return VehicleStatus(
            vehicle_id=self.vehicle_id,
            park_applied=self.park,
            brake_applied=self.brake,
            high_voltage_off=self.high_voltage_off,
            doors_closed=self.doors_closed,
            pack_current_a=self.pack_current_a,
            ready_to_drive=self.awake and not self.high_voltage_off and self._busy_with != "secure",
            odometer_km=self.odometer_km,
            mounts=tuple(_mount_status(mount) for mount in self.mounts),
            acknowledged=self.request_echo,
        )

    # --- coming ---------------------------------------------------------------------------------------------

    def approach(self, approach_s: float) -> None:
        """Be heard at once and stand in place after ``approach_s``, later if the dock is not ready for it."""
        self.in_range = True
        self._core.log(f"{self.vehicle_id} heard at {self.dock}")
        self._core.after(max(approach_s - self._world.drive_in_s, 0.0), self._enter)

    def _enter(self) -> None:
        if not self.may_drive_in():
            self._core.after(1.0, self._enter)  # the driver waits for the light
            return
        self.drive = Drive.DRIVING_IN
        self._core.log(f"{self.vehicle_id} drives into {self.dock}")
        self.drives_in()
        self._core.after(self._world.drive_in_s, self._stop)

    def _stop(self) -> None:
        self.drive = Drive.STANDING
        self._core.log(f"{self.vehicle_id} stands, {self.offset_mm:+.0f} mm")
        self.shift(self.offset_mm)
        self.stands()

    def shift(self, offset_mm: float) -> None:
        """Stand this far from the mark; the in-place sensor sees a vehicle within its tolerance only."""
        self.offset_mm = offset_mm
        standing = self.drive is Drive.STANDING
        self.in_place.set(standing and abs(offset_mm) <= IN_PLACE_TOLERANCE_MM, self._core.now)

    # --- what the station asks --------------------------------------------------------------------------------

    def request(self, request: VehicleRequest) -> None:
        """Take the station's newest request; repeating it changes nothing."""
        if self.deaf:
            return
        self.request_echo = request
        if request is not self._request:
            self._request = request
            self._core.log(f"{self.vehicle_id} asked {request.name}")
            if self._busy_with not in {"", "secure"}:  # what another request began is given up
                self._give_up()
        self.reconsider()

    def request_lost(self) -> None:
        """Hear nothing from the station any more: stay as it is, finish securing, begin nothing."""
        self.request_echo = VehicleRequest.NONE
        self._request = VehicleRequest.NONE
        if self._busy_with not in {"", "secure"}:
            self._give_up()

    def reconsider(self) -> None:
        """Do the next thing that the request still lacks."""
        if self._busy is not None or self.drive is not Drive.STANDING:
            return
        request, world = self._request, self._world
        if request in {VehicleRequest.SECURE, VehicleRequest.CHECK} and not self._secured():
            self._core.after(0.15 * world.secure_s, self._apply_brakes)
            self._work("secure", world.secure_s, self._secure)
        elif request is VehicleRequest.CHECK and self._to_check():
            self._work("check", world.check_s, self._check)
        elif request is VehicleRequest.WAKE and not self.awake and self._packs_accepted():
            self._work("wake", world.wake_s, self._wake)
        elif request is VehicleRequest.LEAVE and self.awake:
            self.will_leave()
            self._work("react", world.react_s, self._leave)

    def mount_changed(self, mount: VehicleMount, pack: PackPlant | None) -> None:
        """A pack was taken from a mount or locked into it: the vehicle must check it anew."""
        mount.pack = pack
        mount.accepted = False
        self.reconsider()

    def _secured(self) -> bool:
        return self.park and self.brake and self.high_voltage_off

    def _to_check(self) -> list[VehicleMount]:
        return [m for m in self.mounts if m.pack and not m.accepted and not m.rejects and _all_closed(m.bolts)]

    def _packs_accepted(self) -> bool:
        carried = [mount for mount in self.mounts if mount.pack]
        return bool(carried) and all(mount.accepted for mount in carried)

    def _work(self, what: str, lasts_s: float, then: Callable[[], None]) -> None:
        self._busy_with = what
        self._core.activity.begin(self.device_id, what, self._core.now)

        def finish() -> None:
            self._busy, self._busy_with = None, ""
            self._core.activity.end(self.device_id, self._core.now)
            then()
            self.reconsider()

        self._busy = self._core.after(lasts_s * self._core.spread(self._rng), finish)

    def _give_up(self) -> None:
        if self._busy is not None:
            self._busy.cancel()
        self._busy, self._busy_with = None, ""
        self._core.activity.end(self.device_id, self._core.now)

    def _apply_brakes(self) -> None:
        self.park = self.brake = True

    def _secure(self) -> None:
        self._apply_brakes()
        self.high_voltage_off = True
        self.awake = False
        self._core.log(f"{self.vehicle_id} secured")

    def _check(self) -> None:
        for mount in self._to_check():
            mount.accepted = mount.pack is not None and not mount.pack.fault_code
            mount.rejects = not mount.accepted
            self._core.log(f"{self.vehicle_id} {mount.place} {'accepted' if mount.accepted else 'not accepted'}")

    def _wake(self) -> None:
        self.high_voltage_off = False
        self.awake = True
        self._core.log(f"{self.vehicle_id} awake")

    # --- leaving --------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        if not self.may_drive_out():
            return  # the lane's door is not open yet: reconsider() asks again
        self.park = self.brake = False
        self.drive = Drive.DRIVING_OUT
        self.in_place.set(False, self._core.now)
        self._core.log(f"{self.vehicle_id} drives off")
        self.drives_out()
        self._core.activity.begin(self.device_id, "leave", self._core.now)
        self._core.after(self._world.drive_out_s * self._core.spread(self._rng), self._go)

    def _go(self) -> None:
        self.drive = Drive.GONE
        self.in_range = False
        self._core.activity.end(self.device_id, self._core.now)
        self._core.log(f"{self.vehicle_id} gone")
        self.is_gone()


def arriving_bolts(count: int, carries: bool, world: LockWorld) -> list[Bolt]:
    """Return a mount's bolts as the last station left them: closed and proven on a pack, open without one."""
    torque_nm = world.torque_nm if carries else 0.0
    turned = 1.0 if carries else 0.0
    return [Bolt(turned, BoltResult.OK, torque_nm, world.angle_deg) for _ in range(count)]


def _all_closed(bolts: list[Bolt]) -> bool:
    return all(bolt.is_closed for bolt in bolts)


def _mount_status(mount: VehicleMount) -> MountStatus:
    if mount.pack is None:
        return MountStatus(None, 0.0, False)
    return MountStatus(mount.pack.serial, mount.pack.soc_pct, mount.accepted)
