"""The contracts of Charger, PackMonitor, VehicleLink, RemoteIo, the monitors and HalSet, over whole wires."""

from __future__ import annotations

import asyncio

import pytest

from hal.api import Charger, HalSet
from hal.errors import (
    DeviceRefused,
    HalError,
    InvariantError,
    NoReply,
    NotReady,
    ProtocolError,
    StopLatched,
)
from hal.factory import build_hal
from hal.profiles import ProfileError
from hal.types import (
    ChargerState,
    DeviceSpec,
    HalSpec,
    Lifecycle,
    LinkState,
    ModbusLinkSpec,
    Quality,
    VehicleRequest,
)
from sim_hw.station_file import read_station
from sim_hw.wire_modbus import WireFault, WireFaultKind
from tests.support.hal_peer import running
from tests.support.hal_station import demo_station, hal_spec
from tests.support.sim_station import DEMO, demo_hardware

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])


async def charging(charger: Charger, voltage_v: float, current_a: float) -> None:
    """Enable under a claim."""
    async with charger.claim("test"):
        await charger.enable(voltage_v, current_a)


async def test_charger_charges_what_it_was_told_and_stops_safe() -> None:
    """Enabled it follows its set-points for longer than its watchdog; after stop no current flows in the plant."""
    async with demo_station() as station:
        charger, truth = station.hal.chargers["slot01.charger"], station.hardware.plant.chargers["slot01.charger"]
        await charging(charger, 450.0, 20.0)
        await asyncio.sleep(30.0)
        status = (await charger.refresh()).value
        assert status is not None
        assert (status.state, status.setpoint_current_a) == (ChargerState.CHARGING, 20.0)
        assert truth.output_current_a == pytest.approx(20.0, abs=1.0)
        await charger.stop()
        assert truth.output_current_a <= 1.0


async def test_charger_survives_a_lost_link_and_goes_on() -> None:
    """After a link loss longer than the module's watchdog the set-points are applied again, with nobody asking."""
    async with demo_station() as station:
        charger, truth = station.hal.chargers["slot01.charger"], station.hardware.plant.chargers["slot01.charger"]
        await charging(charger, 450.0, 20.0)
        station.hardware.wires["chargers"].faults[1] = WireFault(WireFaultKind.DEAF)
        await station.until(lambda: charger.reading.quality is Quality.LOST, 5.0)
        await asyncio.sleep(15.0)
        assert truth.watchdog_tripped
        del station.hardware.wires["chargers"].faults[1]
        await station.until(lambda: charger.reading.quality is Quality.GOOD, 20.0)
        await station.until(
            lambda: charger.reading.value is not None and not charger.reading.value.watchdog_tripped, 5.0
        )
        await asyncio.sleep(10.0)
        assert truth.output_current_a == pytest.approx(20.0, abs=1.0)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 8, 10, 11])
async def test_charger_that_answers_with_an_exception_ends_in_its_name(code: int) -> None:
    """Every Modbus exception code of the device comes out as DeviceRefused with that code, for this device."""
    async with demo_station() as station:
        charger = station.hal.chargers["slot02.charger"]
        station.hardware.wires["chargers"].faults[2] = WireFault(WireFaultKind.EXCEPTION, code=code)
        with pytest.raises(DeviceRefused) as caught:
            await charging(charger, 450.0, 20.0)
        assert (caught.value.code, caught.value.device) == (code, "slot02.charger")


@pytest.mark.parametrize(
    ("kind", "errors"),
    [
        (WireFaultKind.DELAY, NoReply),
        (WireFaultKind.DROP, NoReply),
        (WireFaultKind.DEAF, NoReply),
        (WireFaultKind.GARBLE, (NoReply, ProtocolError)),
        (WireFaultKind.LENGTH, ProtocolError),
        (WireFaultKind.OTHER, (NoReply, ProtocolError)),
        (WireFaultKind.CLOSE, NoReply),
    ],
)
async def test_a_device_that_answers_wrongly_never_gives_a_value(
    kind: WireFaultKind, errors: type[HalError] | tuple[type[HalError], ...]
) -> None:
    """Late, missing, damaged, short, foreign answers end refresh in a named error; the value stays, then is lost."""
    async with demo_station() as station:
        zone = station.hal.zones["dock1.zone"]
        value = zone.reading.value
        station.hardware.wires["slots"].faults[9] = WireFault(kind, delay_s=0.7)
        with pytest.raises(errors) as caught:
            await zone.refresh()
        assert caught.value.device == "dock1.zone"
        await asyncio.sleep(4.0)
        assert zone.reading.quality in {Quality.LOST, Quality.INVALID}
        assert zone.reading.value == value
        del station.hardware.wires["slots"].faults[9]
        await station.until(lambda: zone.reading.quality is Quality.GOOD, 20.0)


async def test_pack_is_heard_while_plugged_in_and_lost_when_not() -> None:
    """A plugged pack is GOOD with its serial; unplugged it is LOST within its time-out; plugged, it is back."""
    async with demo_station() as station:
        pack, connector = station.hal.packs["slot01.pack"], station.hal.connectors["slot01.connector"]
        await station.until(lambda: pack.reading.quality is Quality.GOOD, 10.0)
        truth = station.hardware.plant.pack_on_bus("slot01")
        assert truth is not None
        assert pack.reading.value is not None
        assert pack.reading.value.serial == truth.status().serial
        async with connector.claim("test"):
            await connector.disengage()
            await station.until(lambda: pack.reading.quality is Quality.LOST, 3.5)
            with pytest.raises(NoReply):
                await pack.refresh()
            await connector.engage()
        await station.until(lambda: pack.reading.quality is Quality.GOOD, 20.0)


async def test_vehicle_obeys_a_request_and_says_so() -> None:
    """A vehicle in place that is asked to secure itself acknowledges, then shows park, brake and high voltage off."""
    async with demo_station() as station:
        vehicle = station.hal.vehicles["dock1.vehicle"]
        assert vehicle.reading.quality is Quality.NEVER
        station.hardware.plant.bring_vehicle("dock1", vehicle_id="VIN-0001", approach_s=8.0)
        io = station.hal.io["dock1.io"]
        await station.until(lambda: bool((io.reading.value or {}).get("dock1.in_place")), 60.0)
        async with vehicle.claim("test"):
            await vehicle.set_request(VehicleRequest.SECURE)
        await station.until(
            lambda: vehicle.reading.value is not None and vehicle.reading.value.high_voltage_off, 30.0
        )
        status = vehicle.reading.value
        assert status is not None
        assert (status.vehicle_id, status.acknowledged) == ("VIN-0001", VehicleRequest.SECURE)
        assert status.park_applied
        assert status.brake_applied


async def test_io_shows_the_plants_inputs_and_sets_its_outputs() -> None:
    """Inputs are the plant's; an output that was written is the plant's too."""
    async with demo_station() as station:
        io = station.hal.io["store.io"]
        truth = station.hardware.plant.io_inputs()
        inputs = (await io.refresh()).value
        assert inputs is not None
        assert dict(inputs) == {name: truth[name] for name in inputs}
        await io.set_output("store.light_green", 1)
        assert station.hardware.plant.outputs["store.light_green"] == 1
        assert io.outputs == {"store.light_green": 1}


async def test_safety_shows_a_trip_within_two_polls() -> None:
    """An emergency stop is read within two poll periods and an answer."""
    async with demo_station() as station:
        safety = station.hal.safety["dock1.safety"]
        pressed_at = asyncio.get_running_loop().time()
        station.hardware.plant.press_estop("dock1")
        await station.until(lambda: safety.reading.value is not None and not safety.reading.value.estop_ok, 1.0)
        assert asyncio.get_running_loop().time() - pressed_at <= 2 * 0.05 + 0.05


async def test_hal_set_tells_of_every_device_and_link() -> None:
    """Listeners hear of every device that answers; links are reported in file order; unsubscribing ends it."""
    async with demo_station() as station:
        heard: set[str] = set()
        stop = station.hal.on_reading(heard.add)
        await asyncio.sleep(3.0)
        groups = (station.hal.axes, station.hal.locks, station.hal.connectors, station.hal.chargers)
        for group in (*groups, station.hal.safety, station.hal.zones, station.hal.io):
            assert set(group) <= heard
        stop()
        heard.clear()
        await asyncio.sleep(1.0)
        assert heard == set()
        reports = station.hal.links()
        assert [report.link_id for report in reports] == list(read_station(DEMO).links)
        assert {report.state for report in reports} == {LinkState.UP}


async def test_hal_set_latch_reaches_every_kind_in_one_turn() -> None:
    """One latch call latches every device at once, first reason kept; what only reads is listed and goes on."""
    async with demo_station() as station:
        hal = station.hal
        await charging(hal.chargers["slot01.charger"], 450.0, 20.0)
        everything = list(read_station(DEMO).devices)
        hal.latch_stop("fire", everything)
        hal.latch_stop("later", ["dock1.clamp"])
        assert dict(hal.stop_latched) == dict.fromkeys(everything, "fire")
        for device in (hal.axes["dock1.clamp"], hal.locks["dock1.mount_a.locks"], hal.vehicles["dock1.vehicle"]):
            with pytest.raises(StopLatched):
                await device.clear_fault()
        await hal.io["dock1.io"].set_output("dock1.light_red", 2)
        await hal.chargers["slot01.charger"].stop()
        with pytest.raises(InvariantError, match="nowhere"):
            hal.latch_stop("typo", ["nowhere"])
        hal.clear_stop_latch(everything)
        assert dict(hal.stop_latched) == {}
        with pytest.raises(NotReady):
            async with hal.chargers["slot01.charger"].claim("test"):
                await hal.chargers["slot01.charger"].set_limits(450.0, 1.0)


async def test_hal_set_cancelled_stops_what_moves_before_it_closes() -> None:
    """When run() is cancelled in mid-move, twice, the axis stands by command, not by its watchdog, before it ends."""
    spec = hal_spec(read_station(DEMO))
    async with demo_hardware() as hardware:
        hal: HalSet = build_hal(spec, open_bus=hardware.open_bus, open_client=hardware.open_client)
        owner = asyncio.get_running_loop().create_task(hal.run())
        await asyncio.sleep(1.0)
        axis, truth = hal.axes["dock1.clamp"], hardware.plant.axes["dock1.clamp"]
        async with axis.claim("test"):
            await axis.enable()
            move = asyncio.get_running_loop().create_task(axis.move_to(180.0))
            await asyncio.sleep(2.0)
            assert truth.moving
            owner.cancel()
            await asyncio.sleep(0.05)
            owner.cancel()
            began = asyncio.get_running_loop().time()
            await asyncio.wait({owner})
            assert not truth.moving
            assert asyncio.get_running_loop().time() - began <= 1.1
            assert truth.fault == "none"
            assert {report.state for report in hal.links()} == {LinkState.DOWN}
            with pytest.raises(HalError):
                await move
        assert axis.lifecycle is Lifecycle.UNCONFIGURED


async def test_hal_set_runs_on_with_every_device_dead() -> None:
    """With nothing at the other end of any line run() goes on, and every device says that it was never read."""
    spec = ModbusLinkSpec("plc", "modbus_tcp", 0.2, host="__pymodbus_nullmodem", port=1)
    axis = DeviceSpec("a", "axis", "motion/positioning_axis", "plc", 1, 0, {"range_mm": (0.0, 1.0)})
    hal = build_hal(HalSpec((spec,), (axis,)))
    async with running(hal.run()):
        await asyncio.sleep(30.0)
        assert hal.axes["a"].reading.quality is Quality.NEVER
        assert hal.links()[0].state is LinkState.DOWN


async def test_a_device_on_the_wrong_kind_of_link_is_refused() -> None:
    """A pack on a Modbus line and an axis on a link that does not exist are refused by name when the HAL is built."""
    line = ModbusLinkSpec("plc", "modbus_tcp", 0.2, host="127.0.0.1", port=1)
    pack = DeviceSpec("p", "pack", "packs/generic_pack", "plc", 1)
    with pytest.raises(ProfileError, match="packs/generic_pack"):
        build_hal(HalSpec((line,), (pack,)))
    with pytest.raises(InvariantError, match="no link"):
        build_hal(HalSpec((line,), (DeviceSpec("a", "axis", "motion/positioning_axis", "x", 1),)))
