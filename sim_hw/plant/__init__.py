"""Physical truth of a station: what moves, carries, turns, charges and drives, and the laws it cannot break.

The plant knows no wire: no register, frame or command id. Nodes call it and read it; values are computed for the
loop time of the read and reading never advances anything. Names are the station file's device ids and place ids.

Commands return ``None`` when accepted, else the name of the refusal as the device's profile spells it
(``"out_of_range"``, ``"heads_not_engaged"``, ``"busy"``, ...). ``done`` is called once, when the command is done as
the profile means it, at once if there is nothing to do; never after a stop, a fault or a loss of power. ``fault`` is
the profile's name of the fault code, ``"none"`` without one. States are the enumerations of ``hal.types``.

    Plant(station, world, clock)   clock: anything with time() and call_at(), such as the running loop
      .axes[device]        AxisPlant       enable disable move(target_mm, speed_pct) home stop clear feed
                                           state position_mm torque_pct homed in_position brake_closed
                                           watchdog_tripped fault moving
      .locks[device]       LockBankPlant   unlock(bolt_mask) lock(bolt_mask) stop clear feed
                                           state heads_engaged fault bolts (tuple[BoltStatus, ...])
      .connectors[device]  ConnectorPlant  engage disengage stop clear; state engaged disengaged fault
      .chargers[device]    ChargerPlant    write(on, voltage_v, current_a) clear; state output_voltage_v
                                           output_current_a setpoint_voltage_v setpoint_current_a temperature_c
                                           watchdog_tripped fault
      .packs[serial]       PackPlant       status() -> PackStatus, place, soc_pct, talks
      .pack_on_bus(slot)                   the pack whose BMS talks on that slot's CAN address now, or None
      .vehicles[dock]      VehiclePlant    or None; heard, status() -> VehicleStatus, request(VehicleRequest),
                                           request_lost(), request_echo
      .safety[zone]        ZoneSafety      inputs() -> SafetyInputs; zone: a dock's id, or "store"
      .zones[zone]         ZoneEnvironment status() -> ZoneStatus
      .input(name)                         one named input; io_inputs() all of them
      .set_output(name, value), .outputs
      .is_silent(device)                   an injected fault: the device's node must not answer or send
      .bring_vehicle(dock, ...), .rearm(zone), .press_estop(zone), .release_estop(zone)
      .violations, .trace, .activity, .places

``feed()``: the node calls it whenever the station's heartbeat counter changed (axes and lock banks).
``ChargerPlant.write`` feeds the module's own watchdog by itself.
"""

from sim_hw.plant.activity import Activity, Interval, SwapWindow
from sim_hw.plant.axes import AxisPlant
from sim_hw.plant.chargers import ChargerPlant
from sim_hw.plant.connectors import ConnectorPlant
from sim_hw.plant.core import Clock, Timer, TraceEvent
from sim_hw.plant.laws import LAWS, Law, PhysicsViolation
from sim_hw.plant.locks import LockBankPlant
from sim_hw.plant.packs import PackPlant
from sim_hw.plant.safety import ZoneEnvironment, ZoneSafety
from sim_hw.plant.station import Plant
from sim_hw.plant.vehicle import VehiclePlant

__all__ = [
    "LAWS",
    "Activity",
    "AxisPlant",
    "ChargerPlant",
    "Clock",
    "ConnectorPlant",
    "Interval",
    "Law",
    "LockBankPlant",
    "PackPlant",
    "PhysicsViolation",
    "Plant",
    "SwapWindow",
    "Timer",
    "TraceEvent",
    "VehiclePlant",
    "ZoneEnvironment",
    "ZoneSafety",
]
