"""The plant of a whole station: builds every object of the station file and ties them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from hal.profiles import load_register_map
from hal.types import DeviceSpec
from sim_hw.plant.activity import Activity
from sim_hw.plant.axes import AxisLimits, AxisPlant
from sim_hw.plant.chargers import ChargerLimits, ChargerPlant
from sim_hw.plant.connectors import ConnectorPlant
from sim_hw.plant.core import BouncingSwitch, Clock, Core, TraceEvent
from sim_hw.plant.dock import DockAxes, DockPlant
from sim_hw.plant.laws import PhysicsViolation
from sim_hw.plant.locks import LockBankPlant, TighteningWindow
from sim_hw.plant.packs import PackBirth, PackPlant, Places
from sim_hw.plant.safety import Watchdog, ZoneEnvironment, ZoneSafety
from sim_hw.plant.stacker import StackerPlant
from sim_hw.plant.vehicle import VehicleMount, VehiclePlant, arriving_bolts
from sim_hw.station_file import FORK, StationFile, StationFileError
from sim_hw.world import World

PRESENCE_BOUNCE_S = 0.1
SAFE_CURRENT_A = 1.0


class Plant:
    """Physical truth of one station. See the package for the shape.

    Args:
        station: what is there.
        world: how long it takes, and what stands where at the start.
        clock: loop time and events; the running loop in production of the simulator.
    """

    def __init__(self, station: StationFile, world: World, clock: Clock) -> None:
        self.station = station
        self.world = world
        self.core = Core(clock, world.seed, world.duration_noise)
        self.places = Places(self.core)
        self.outputs: dict[str, int] = {}
        self.silent_devices: set[str] = set()  # injected: nodes that neither answer nor send
        self.stuck_inputs: dict[str, bool] = {}  # injected: sensors that lie
        self._watchdogs: dict[tuple[str, int], Watchdog] = {}
        self.safety = {zone: ZoneSafety(self.core, zone) for zone in station.zones}
        self.zones = {station.zone_of(spec.device_id): ZoneEnvironment() for spec in station.of_kind("zone")}
        self.axes = {spec.device_id: self._axis(spec) for spec in station.of_kind("axis")}
        self.locks = {spec.device_id: self._lock_bank(spec) for spec in station.of_kind("lock_bank")}
        self.connectors = {spec.device_id: self._connector(spec) for spec in station.of_kind("connector")}
        self.chargers = {spec.device_id: self._charger(spec) for spec in station.of_kind("charger")}
        self.docks = {name: self._dock(name) for name in station.docks}
        self.stacker = StackerPlant(
            self.core, station, self.axes["stacker.x"], self.axes["stacker.z"], self.axes[FORK]
        )
        self._rng = self.core.stream("arrivals")
        self._vehicles_brought = 0
        self._connect()
        self._presence = {
            place: BouncingSwitch(self.core.stream(f"presence/{place}"), PRESENCE_BOUNCE_S)
            for place in self._all_places()
        }
        self._check_inputs()
        self._stock()
        self.places.changed.append(self._sense)

    # --- reading --------------------------------------------------------------------------------------------

    @property
    def packs(self) -> Mapping[str, PackPlant]:
        """Every pack that was ever here, by serial."""
        return self.places.packs

    @property
    def vehicles(self) -> Mapping[str, VehiclePlant | None]:
        """The vehicle in or near each dock."""
        return {name: dock.vehicle for name, dock in self.docks.items()}

    @property
    def violations(self) -> list[PhysicsViolation]:
        """Every law broken so far; a run with any has failed."""
        return self.core.violations

    @property
    def trace(self) -> list[TraceEvent]:
        """What happened, in order."""
        return self.core.trace

    @property
    def activity(self) -> Activity:
        """Who moved when."""
        return self.core.activity

    @property
    def clock(self) -> Clock:
        """What the plant takes its time from, for nodes to plan by."""
        return self.core.clock

    @property
    def now(self) -> float:
        """The loop time."""
        return self.core.now

    def pack_on_bus(self, slot: str) -> PackPlant | None:
        """Return the pack whose BMS talks on a slot's CAN address now."""
        pack = self.places.at(slot)
        return pack if pack is not None and pack.talks and not self.is_silent(f"{slot}.pack") else None

    def is_silent(self, device: str) -> bool:
        """Whether the device's node must neither answer nor send (an injected fault)."""
        return device in self.silent_devices

    def input(self, name: str) -> bool:
        """Return one named input as its sensor shows it now."""
        if name in self.stuck_inputs:
            return self.stuck_inputs[name]
        if name in self._presence:
            return self._presence[name].at(self.now)
        dock, _, what = name.rpartition(".")
        return self._dock_input(self.docks[dock], what)

    def io_inputs(self) -> dict[str, bool]:
        """Return every input that the station file names."""
        return {name: self.input(name) for name in self._named("inputs")}

    # --- acts of people and vehicles --------------------------------------------------------------------------

    def set_output(self, name: str, value: int) -> None:
        """Set a lamp or horn: 0 off, 1 on, 2 flashing."""
        if self.outputs.get(name) != value:
            self.outputs[name] = value
            self.core.log(f"output {name} {value}")

    def press_estop(self, zone: str) -> None:
        """Press an emergency-stop button of a zone."""
        self.safety[zone].press_estop()

    def release_estop(self, zone: str) -> None:
        """Pull it out again; the zone still has to be re-armed."""
        self.safety[zone].release_estop()

    def rearm(self, zone: str) -> bool:
        """Re-arm a zone by hand at its panel; False while a cause is still there."""
        return self.safety[zone].rearm()

    def bring_vehicle(
        self,
        dock: str,
        vehicle_id: str | None = None,
        packs: Sequence[PackBirth | None] | None = None,
        approach_s: float | None = None,
    ) -> VehiclePlant:
        """Let a vehicle come: heard at once, in place after ``approach_s``. What is not given is drawn from the seed.

        Args:
            dock: where to.
            vehicle_id: at most 21 ASCII characters.
            packs: one entry per mount that the vehicle has, None for an empty one; new packs with their charge.
            approach_s: seconds until it stands in place.

        Raises:
            ValueError: the dock has a vehicle, or the vehicle has more mounts than the dock.
        """
        plant = self.docks[dock]
        if plant.vehicle is not None:
            raise ValueError(f"{dock} has {plant.vehicle.vehicle_id}")
        self._vehicles_brought += 1
        number, way = self._vehicles_brought, self.world.vehicles
        vehicle_id = vehicle_id or f"EV{number:05d}"
        packs = packs if packs is not None else self._drawn_packs(number, len(plant.file.mounts))
        if len(packs) > len(plant.file.mounts):
            raise ValueError(f"{vehicle_id} has {len(packs)} mounts, {dock} has {len(plant.file.mounts)}")
        mounts = [
            VehicleMount(
                place,
                self._born(birth) if birth is not None else None,
                arriving_bolts(self._bolt_count(f"{place}.locks"), birth is not None, self.world.locks),
            )
            for place, birth in zip(plant.file.mounts, packs, strict=False)
        ]
        vehicle = VehiclePlant(self.core, dock, vehicle_id, mounts, way)
        plant.expect(vehicle)
        vehicle.approach(way.approach_s if approach_s is None else approach_s)
        return vehicle

    # --- building -------------------------------------------------------------------------------------------

    def _watchdog(self, spec: DeviceSpec) -> Watchdog:
        """Return the watchdog of the device's controller: one per Modbus unit."""
        key = (spec.link_id, spec.address)
        if key not in self._watchdogs:
            timeout_s = load_register_map(spec.profile).constants["watchdog_s"]
            self._watchdogs[key] = Watchdog(self.core, timeout_s)
        watchdog = self._watchdogs[key]
        zone = self._zone(spec)
        if watchdog not in zone.watchdogs:
            zone.watchdogs.append(watchdog)
        return watchdog

    def _zone(self, spec: DeviceSpec) -> ZoneSafety:
        zone = self.station.zone_of(spec.device_id)
        if zone not in self.safety:
            raise StationFileError(f"devices: {zone}.safety is missing, {spec.device_id} is in that zone")
        return self.safety[zone]

    def _axis(self, spec: DeviceSpec) -> AxisPlant:
        span = spec.settings.get("range_mm")
        if not isinstance(span, list | tuple) or len(span) != 2:
            raise StationFileError(f"devices.{spec.device_id}.range_mm: two numbers are wanted, found {span!r}")
        limits = AxisLimits(float(span[0]), float(span[1]), self._start_mm(spec.device_id))
        axis = AxisPlant(self.core, spec.device_id, limits, self.world.axis(spec.device_id), self._zone(spec))
        axis.watchdog = self._watchdog(spec)
        axis.watchdog.on_trip.append(axis.heartbeat_lost)
        return axis

    def _start_mm(self, device_id: str) -> float:
        """Axes begin where a station rests: clamp open, lifts down, shuttle at the exchange, fork retracted."""
        if device_id == FORK:
            return self.station.fork_retracted_mm
        dock, _, role = device_id.rpartition(".")
        if dock not in self.station.docks:
            first = next(iter(self.station.stacker_places.values()))
            return first.x_mm if device_id == "stacker.x" else first.z_mm
        file = self.station.docks[dock]
        starts = {
            "clamp": file.clamp_open_mm,
            "vehicle_lift": file.vehicle_lift_down_mm or 0.0,
            "shuttle_travel": file.shuttle_exchange_mm,
            "shuttle_lift": file.shuttle_lift_down_mm,
        }
        if role not in starts:
            raise StationFileError(f"devices.{device_id}: an axis of a dock that nothing is known of")
        return starts[role]

    def _lock_bank(self, spec: DeviceSpec) -> LockBankPlant:
        constants = load_register_map(spec.profile).constants
        names = ("torque_min_nm", "torque_max_nm", "angle_min_deg", "angle_max_deg")
        window = TighteningWindow(*(constants[name] for name in names))
        bank = LockBankPlant(self.core, spec.device_id, self.world.locks, window, self._zone(spec))
        bank.watchdog = self._watchdog(spec)
        bank.watchdog.on_trip.append(bank.heartbeat_lost)
        return bank

    def _connector(self, spec: DeviceSpec) -> ConnectorPlant:
        return ConnectorPlant(self.core, spec.device_id, self.world.connectors, self._zone(spec))

    def _charger(self, spec: DeviceSpec) -> ChargerPlant:
        constants = load_register_map(spec.profile).constants
        names = ("voltage_v_max", "current_a_max", "ramp_a_per_s", "watchdog_s")
        limits = ChargerLimits(*(constants[name] for name in names))
        return ChargerPlant(self.core, spec.device_id, limits, self.world.chargers, self.world.ambient_c)

    def _dock(self, name: str) -> DockPlant:
        file = self.station.docks[name]
        axes = DockAxes(
            clamp=self.axes[f"{name}.clamp"],
            vehicle_lift=self.axes.get(f"{name}.vehicle_lift"),
            travel=self.axes[f"{name}.shuttle_travel"],
            lift=self.axes[f"{name}.shuttle_lift"],
        )
        banks = {mount: self.locks[f"{mount}.locks"] for mount in file.mounts}
        return DockPlant(self.core, file, axes, self.safety[name], banks)

    def _connect(self) -> None:
        for dock in self.docks.values():
            dock.connect(self.places, self.world.gate)
            dock.fork_at = self.stacker.fork_at
        self.stacker.connect(self.places)
        self.stacker.shuttle_ready = self._shuttle_ready
        self.stacker.leaving = self._pack_leaves
        for slot in self.station.slots:
            connector, charger = self.connectors[f"{slot}.connector"], self.chargers[f"{slot}.charger"]
            connector.pack_here = partial(self._has_pack, slot)
            connector.live = partial(_live, charger)
            connector.changed = partial(self._plug_moved, slot)
            charger.load = partial(self._engaged_pack, slot)

    def _has_pack(self, slot: str) -> bool:
        return self.places.at(slot) is not None

    def _shuttle_ready(self, place: str) -> bool:
        dock = next((dock for dock in self.docks.values() if place in dock.file.tables), None)
        return dock is None or dock.shuttle_ready_for_fork

    def _engaged_pack(self, slot: str) -> PackPlant | None:
        return self.places.at(slot) if self.connectors[f"{slot}.connector"].engaged else None

    def _plug_moved(self, slot: str) -> None:
        pack, connector = self.places.at(slot), self.connectors[f"{slot}.connector"]
        if connector.moving or not connector.engaged:
            self.chargers[f"{slot}.charger"].unplugged()
        if pack is not None:
            pack.plug(connector.engaged and not connector.moving)

    def _pack_leaves(self, place: str) -> None:
        """The stacker takes a pack: in a slot the plug must be out."""
        pack = self.places.at(place)
        connector = self.connectors.get(f"{place}.connector")
        if pack is None or connector is None or connector.disengaged:
            return
        self.core.violate("plug_torn", f"{pack.serial} is lifted out of {place}")
        self.chargers[f"{place}.charger"].unplugged()
        pack.plug(False)

    def _all_places(self) -> list[str]:
        docks = [place for dock in self.station.docks.values() for place in (*dock.mounts, *dock.tables)]
        return [*docks, *self.station.slots, *self.station.quarantine, FORK]

    def _sense(self, place: str) -> None:
        self._presence[place].set(self.places.at(place) is not None, self.now)

    def _dock_input(self, dock: DockPlant, what: str) -> bool:
        if what == "exit_clear":
            return dock.exit_clear
        if what == "gate_closed":
            return dock.gate.sensor.at(self.now)
        return dock.vehicle is not None and dock.vehicle.in_place.at(self.now)

    def _named(self, setting: str) -> Iterable[str]:
        for spec in self.station.of_kind("io"):
            names = spec.settings.get(setting, {})
            if isinstance(names, Mapping):
                yield from names

    def _check_inputs(self) -> None:
        known = {f"{dock}.{what}" for dock in self.docks for what in ("in_place", "gate_closed", "exit_clear")}
        unknown = [name for name in self._named("inputs") if name not in known and name not in self._presence]
        if unknown:
            raise StationFileError(f"devices: nothing in the plant drives the input {unknown[0]!r}")

    # --- stock and vehicles -----------------------------------------------------------------------------------

    def _stock(self) -> None:
        if self.world.stock_packs > len(self.station.slots):
            raise StationFileError(f"{self.world.stock_packs} packs at the start, {len(self.station.slots)} slots")
        rng = self.core.stream("stock")
        for number, slot in enumerate(self.station.slots[: self.world.stock_packs], start=1):
            soc_pct = round(rng.uniform(*self.world.stock_soc_pct), 2)
            pack = self._born(PackBirth(f"{self.station.station_id.upper()[:14]}-{number:04d}", soc_pct))
            self.places.move(pack, slot)
            self.connectors[f"{slot}.connector"].put_in()
            pack.booted()
        self._presence_from_start()

    def _presence_from_start(self) -> None:
        for place, switch in self._presence.items():
            switch.set(self.places.at(place) is not None, float("-inf"))

    def _born(self, birth: PackBirth) -> PackPlant:
        known = self.places.packs.get(birth.serial)
        if known is not None and known.place:
            raise ValueError(f"pack {birth.serial} is in {known.place}")
        pack = PackPlant(self.core, birth, self.world.pack_model, self.world.ambient_c, self.world.bms_boot_s)
        self.places.packs[birth.serial] = pack
        return pack

    def _drawn_packs(self, number: int, mounts: int) -> list[PackBirth | None]:
        way = self.world.vehicles
        count = min(self._rng.randint(*way.packs), mounts)
        return [
            PackBirth(f"FIELD-{number:05d}-{index + 1}", round(self._rng.uniform(*way.soc_pct), 2))
            for index in range(count)
        ]

    def _bolt_count(self, bank: str) -> int:
        count = self.station.devices[bank].settings.get("bolts")
        if not isinstance(count, int):
            raise StationFileError(f"devices.{bank}.bolts: a number is wanted, found {count!r}")
        return count


def _live(charger: ChargerPlant) -> bool:
    return charger.current_a > SAFE_CURRENT_A
