from __future__ import annotations

import pytest

from controller.config import load_station
from controller.model.faults import (
    FAULTS,
    Effect,
    FaultCode,
    Latch,
    Priority,
    Scope,
    fault_of_error,
    fault_of_link,
    fault_of_silence,
    faults_of_safety,
    faults_of_zone,
    scope_id,
)
from hal.errors import (
    DeviceFaulted,
    DeviceRefused,
    HalError,
    LinkDown,
    MotionFailed,
    NoReply,
    NotClaimed,
    NotReady,
    ProtocolError,
    StaleReading,
    StopLatched,
)
from hal.types import LinkState, SafetyInputs, ZoneStatus
from tests.support.config_files import ALL


def test_every_code_has_an_entry() -> None:
    """The catalogue has each code once, with words for a person."""
    assert set(FAULTS) == set(FaultCode)
    for spec in FAULTS.values():
        assert spec.cause.endswith(".")
        assert spec.what_to_do.endswith(".")
        assert (spec.number, spec.name) == (int(spec.code), spec.code.name)


def test_effects_are_ordered() -> None:
    """The worst effect wins: INFO is the least, SAFE_STOP the worst."""
    names = ["INFO", "DERATE", "ISOLATE_SLOT", "BLOCK_START", "HOLD", "ABORT", "SAFE_STOP"]
    assert [effect.name for effect in sorted(Effect)] == names


def test_slots_faults_stay_in_their_slot() -> None:
    """A fault whose scope is a slot isolates it at most: it may not stop the station."""
    for spec in FAULTS.values():
        if spec.scope is Scope.SLOT:
            assert spec.effect <= Effect.ISOLATE_SLOT


def test_what_stops_the_station_asks_for_a_person() -> None:
    """An ABORT or SAFE_STOP is latched and of high priority."""
    for spec in FAULTS.values():
        if spec.effect >= Effect.ABORT:
            assert spec.latch is not Latch.AUTO
            assert spec.priority is Priority.HIGH


def test_debounce_never_delays_a_stop_by_much() -> None:
    """What stops motion is told at once, but for detectors that flicker; nothing waits for over a minute."""
    for spec in FAULTS.values():
        assert 0.0 <= spec.raise_after_s <= 60.0
        if spec.effect is Effect.SAFE_STOP and spec.scope is Scope.DOCK:
            assert spec.raise_after_s == 0.0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LinkDown("dock1.clamp", "move_to", ""), FaultCode.AXIS_SILENT),
        (NoReply("stacker.x", "move_to", ""), FaultCode.AXIS_SILENT),
        (NoReply("dock1.mount_a.locks", "lock", ""), FaultCode.LOCKS_SILENT),
        (NoReply("dock1.io", "read", ""), FaultCode.IO_SILENT),
        (ProtocolError("dock1.safety", "read", ""), FaultCode.SAFETY_STATUS_SILENT),
        (StaleReading("store.zone", "read", ""), FaultCode.DETECTORS_SILENT),
        (StaleReading("dock1.vehicle", "read", ""), FaultCode.VEHICLE_SILENT),
        (NoReply("slot07.charger", "enable", ""), FaultCode.CHARGER_SILENT),
        (NoReply("slot07.connector", "engage", ""), FaultCode.CONNECTOR_SILENT),
        (StaleReading("slot07.pack", "read", ""), FaultCode.BMS_SILENT),
        (ProtocolError("slot07.pack", "read", ""), FaultCode.BMS_FRAMES_INVALID),
        (DeviceFaulted("dock1.shuttle_lift", "move_to", "", 2), FaultCode.AXIS_FAULT),
        (DeviceFaulted("slot07.charger", "enable", "", 1), FaultCode.CHARGER_FAULT),
        (MotionFailed("stacker.fork", "move_to", ""), FaultCode.TARGET_NOT_REACHED),
        (MotionFailed("dock1.mount_a.locks", "lock", ""), FaultCode.BOLT_NOT_PROVEN),
        (MotionFailed("slot07.connector", "engage", ""), FaultCode.CONNECTOR_STUCK),
        (DeviceRefused("dock1.clamp", "move_to", "", 3), None),
        (NotClaimed("dock1.clamp", "move_to", ""), None),
        (NotReady("dock1.clamp", "move_to", ""), None),
        (StopLatched("dock1.clamp", "move_to", ""), None),
        (LinkDown("dock1.coffee", "brew", ""), FaultCode.UNEXPECTED_EXCEPTION),
        (DeviceFaulted("dock1.vehicle", "wake", "", 1), FaultCode.UNEXPECTED_EXCEPTION),
    ],
)
def test_errors_become_faults(error: HalError, code: FaultCode | None) -> None:
    """Each error of a device call is a sign of one fault, or of none where the call alone was at fault."""
    assert fault_of_error(error) is code


def test_every_device_of_every_station_has_a_fault_of_silence() -> None:
    """No device of a delivered station falls silent without a name for it."""
    for path in ALL:
        config = load_station(path)
        scopes = {*config.docks, *config.store.slots, "store"}
        for device in config.devices:
            code = fault_of_silence(device)
            assert code is not FaultCode.UNEXPECTED_EXCEPTION
            assert scope_id(code, device) in scopes


@pytest.mark.parametrize("state", list(LinkState))
def test_link_states_become_faults(state: LinkState) -> None:
    """A link that is down or off is a fault by its kind, error passive a mild one, up and connecting none."""
    faults = {fault_of_link(state, is_can=True), fault_of_link(state, is_can=False)}
    expected = {
        LinkState.DOWN: {FaultCode.CAN_LINK_DOWN, FaultCode.MODBUS_LINK_DOWN},
        LinkState.BUS_OFF: {FaultCode.CAN_LINK_DOWN, FaultCode.MODBUS_LINK_DOWN},
        LinkState.ERROR_PASSIVE: {FaultCode.CAN_LINK_DEGRADED},
        LinkState.UP: {None},
        LinkState.CONNECTING: {None},
    }
    assert faults == expected[state]


def test_safety_and_detectors_become_faults() -> None:
    """Each safety input and each detector has its fault, present exactly when it alarms."""
    well = SafetyInputs(True, True, True, False, False, True, True, False)
    assert not any(present for _, present in faults_of_safety(well))
    ill = SafetyInputs(False, False, False, True, True, False, False, True)
    assert {code for code, present in faults_of_safety(ill) if present} == {
        FaultCode.ESTOP_OPEN, FaultCode.GUARD_OPEN, FaultCode.FIRE, FaultCode.DRIVES_OFF,
    }  # fmt: skip
    assert not any(present for _, present in faults_of_zone(ZoneStatus(False, False, False)))
    assert [code for code, present in faults_of_zone(ZoneStatus(True, False, True)) if present] == [
        FaultCode.SMOKE,
        FaultCode.WATER,
    ]


def test_scope_ids() -> None:
    """A fault touches the slot, dock or store of its device, or the station, or the host."""
    assert scope_id(FaultCode.BMS_SILENT, "slot07.pack") == "slot07"
    assert scope_id(FaultCode.AXIS_FAULT, "dock2.clamp") == "dock2"
    assert scope_id(FaultCode.AXIS_FAULT, "stacker.fork") == "store"
    assert scope_id(FaultCode.ESTOP_OPEN, "store.safety") == "store"
    assert scope_id(FaultCode.CAN_LINK_DOWN, "can_packs") == "station"
    assert scope_id(FaultCode.DISK_LOW, "disk") == "host"
