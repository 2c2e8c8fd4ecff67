from __future__ import annotations

import asyncio

import pytest

from controller.fault_manager import FIRST_OUT_WINDOW_S, Change, FaultManager, FaultNotFound, FaultState
from controller.model.faults import FAULTS, Effect, FaultCode, Latch

pytestmark = pytest.mark.asyncio(loop_factories=["virtual"])

C = FaultCode
Heard = list[tuple[str, str, str]]


def listen(manager: FaultManager) -> Heard:
    """Return a list that fills with what the manager tells."""
    heard: Heard = []
    manager.on_change(lambda change, fault: heard.append((change.value, fault.code.name, fault.source)))
    return heard


async def test_a_fault_is_raised_once() -> None:
    """A condition reported with every reading is told once, and keeps its first detail."""
    manager = FaultManager()
    heard = listen(manager)
    for detail in ("first", "second"):
        manager.report(C.ESTOP_OPEN, "dock1.safety", present=True, detail=detail)
    assert heard == [("raised", "ESTOP_OPEN", "dock1.safety")]
    assert [fault.detail for fault in manager.active()] == ["first"]


async def test_debounce_of_raising() -> None:
    """A condition counts only once it has stood for the catalogue's time; a shorter one leaves no trace."""
    manager = FaultManager()
    heard = listen(manager)
    stands_s = FAULTS[C.WATER].raise_after_s
    manager.raise_fault(C.WATER, "dock1.zone")
    await asyncio.sleep(stands_s - 0.01)
    assert manager.active() == ()
    manager.clear_fault(C.WATER, "dock1.zone")
    await asyncio.sleep(stands_s)
    assert heard == []
    manager.raise_fault(C.WATER, "dock1.zone")
    await asyncio.sleep(stands_s + 0.01)
    assert [fault.state for fault in manager.active()] == [FaultState.UNACKNOWLEDGED]


async def test_debounce_of_clearing() -> None:
    """A condition that comes back before the catalogue's time is the same fault still."""
    manager = FaultManager()
    heard = listen(manager)
    gone_s = FAULTS[C.WATER].clear_after_s
    manager.raise_fault(C.WATER, "dock1.zone")
    await asyncio.sleep(FAULTS[C.WATER].raise_after_s + 0.01)
    for present in (False, True, False):
        manager.report(C.WATER, "dock1.zone", present)
        manager.report(C.WATER, "dock1.zone", present)
        await asyncio.sleep(gone_s - 0.01)
        assert manager.active()[0].state is FaultState.UNACKNOWLEDGED
    await asyncio.sleep(0.02)
    assert manager.active()[0].state is FaultState.RETURNED
    assert [change for change, *_ in heard] == ["raised", "returned"]


async def test_auto_latch_ends_with_its_condition() -> None:
    """A fault of latch AUTO is gone when its condition is, acknowledged or not."""
    manager = FaultManager()
    heard = listen(manager)
    manager.raise_fault(C.NO_CHARGED_PACK, "station")
    manager.clear_fault(C.NO_CHARGED_PACK, "station")
    assert manager.active() == ()
    assert [change for change, *_ in heard] == ["raised", "cleared"]


@pytest.mark.parametrize("ack_first", [True, False])
async def test_ack_latch_needs_person_and_cause_gone(ack_first: bool) -> None:
    """A fault of latch ACK ends when both have happened, in either order."""
    manager = FaultManager()
    manager.raise_fault(C.ESTOP_OPEN, "dock1.safety")
    first, second = (manager.acknowledge, manager.clear_fault)[:: 1 if ack_first else -1]
    first(C.ESTOP_OPEN, "dock1.safety")
    state = manager.active()[0].state
    assert state is (FaultState.ACKNOWLEDGED if ack_first else FaultState.RETURNED)
    assert manager.worst_effect("dock1") is Effect.SAFE_STOP
    second(C.ESTOP_OPEN, "dock1.safety")
    assert manager.active() == ()


async def test_service_latch_needs_a_technician() -> None:
    """A fault of latch SERVICE survives an acknowledgement; a technician's reset ends it once its cause is gone."""
    manager = FaultManager()
    key = (C.FIRE, "dock1.safety")
    manager.raise_fault(*key)
    manager.service_reset(*key)
    assert manager.active()[0].state is FaultState.ACKNOWLEDGED
    manager.clear_fault(*key)
    assert manager.active() == ()
    manager.raise_fault(*key)
    manager.clear_fault(*key)
    manager.acknowledge(*key)
    assert manager.active()[0].state is FaultState.RETURNED
    manager.service_reset(*key)
    assert manager.active() == ()


async def test_condition_that_comes_back_must_be_seen_again() -> None:
    """A latched fault whose condition returns is told again and needs a new acknowledgement."""
    manager = FaultManager()
    key = (C.JOURNAL_FAILED, "host")
    manager.raise_fault(*key, "disk full")
    manager.clear_fault(*key)
    manager.acknowledge(*key)
    heard = listen(manager)
    manager.raise_fault(*key, "disk gone")
    assert heard == [("raised", "JOURNAL_FAILED", "host")]
    fault = manager.active()[0]
    assert (fault.detail, fault.acknowledged, fault.state) == ("disk gone", False, FaultState.UNACKNOWLEDGED)


async def test_only_the_source_clears() -> None:
    """The same code from two sources is two faults, and each is cleared by its own source only."""
    manager = FaultManager()
    manager.raise_fault(C.NO_CHARGED_PACK, "a")
    manager.raise_fault(C.NO_CHARGED_PACK, "b")
    manager.clear_fault(C.NO_CHARGED_PACK, "a")
    manager.clear_fault(C.NO_CHARGED_PACK, "c")
    assert [fault.source for fault in manager.active()] == ["b"]


async def test_effects_by_scope() -> None:
    """A slot's fault touches the slot alone, a dock's the dock, the station's everything; the worst counts."""
    manager = FaultManager()
    manager.raise_fault(C.CHARGER_FAULT, "slot03.charger")
    manager.raise_fault(C.STEP_TIMED_OUT, "dock1.clamp")
    assert manager.worst_effect("slot03") is Effect.ISOLATE_SLOT
    assert manager.worst_effect("slot04") is None
    assert manager.worst_effect("dock1") is Effect.HOLD
    assert manager.worst_effect("dock2") is None
    assert manager.worst_effect("store") is None
    manager.raise_fault(C.ESTOP_OPEN, "dock1.safety")
    manager.raise_fault(C.JOURNAL_FAILED, "host")
    assert manager.worst_effect("dock1") is Effect.SAFE_STOP
    assert manager.worst_effect("dock2") is Effect.SAFE_STOP
    assert manager.effects() == {
        "slot03": Effect.ISOLATE_SLOT,
        "dock1": Effect.SAFE_STOP,
        "station": Effect.SAFE_STOP,
    }
    assert [fault.code for fault in manager.active()][-1] is C.CHARGER_FAULT


async def test_pending_faults_have_no_effect() -> None:
    """A condition that is still being debounced stops nothing and cannot be acknowledged."""
    manager = FaultManager()
    manager.raise_fault(C.BMS_SILENT, "slot03.pack")
    assert manager.worst_effect("slot03") is None
    with pytest.raises(FaultNotFound, match=r"1103 BMS_SILENT at slot03\.pack"):
        manager.acknowledge(C.BMS_SILENT, "slot03.pack")
    manager.close()


async def test_first_out() -> None:
    """What follows an E-stop within the window and touches its scope is secondary; what does not stands alone."""
    manager = FaultManager()
    manager.raise_fault(C.ESTOP_OPEN, "dock1.safety")
    await asyncio.sleep(0.1)
    manager.raise_fault(C.AXIS_FAULT, "dock1.clamp")
    manager.raise_fault(C.AXIS_FAULT, "dock2.clamp")
    manager.raise_fault(C.UNEXPECTED_EXCEPTION, "runner")
    await asyncio.sleep(FIRST_OUT_WINDOW_S)
    manager.raise_fault(C.LOCKS_FAULT, "dock1.mount_a.locks")
    causes = {(fault.code, fault.source): fault.caused_by for fault in manager.active()}
    estop = (C.ESTOP_OPEN, "dock1.safety")
    assert causes[estop] is None
    assert causes[C.AXIS_FAULT, "dock1.clamp"] == estop
    assert causes[C.UNEXPECTED_EXCEPTION, "runner"] == estop
    assert causes[C.AXIS_FAULT, "dock2.clamp"] is None
    assert causes[C.LOCKS_FAULT, "dock1.mount_a.locks"] is None
    assert estop in {fault.key for fault in manager.first_out()}


async def test_cause_with_a_longer_debounce_is_first_out_all_the_same() -> None:
    """A condition that began first but is told later takes over what it caused."""
    manager = FaultManager()
    manager.raise_fault(C.DRIVES_OFF, "dock1.safety")
    await asyncio.sleep(0.1)
    manager.raise_fault(C.AXIS_FAULT, "dock1.clamp")
    manager.raise_fault(C.STEP_TIMED_OUT, "dock1.clamp")
    assert [fault.code for fault in manager.first_out()] == [C.AXIS_FAULT]
    await asyncio.sleep(FAULTS[C.DRIVES_OFF].raise_after_s)
    assert [fault.code for fault in manager.first_out()] == [C.DRIVES_OFF]
    assert {fault.caused_by for fault in manager.active()} == {None, (C.DRIVES_OFF, "dock1.safety")}


async def test_when_the_cause_has_ended_what_is_left_stands_alone() -> None:
    """A secondary fault that outlives its first-out fault is shown as a first one."""
    manager = FaultManager()
    manager.raise_fault(C.ESTOP_OPEN, "dock1.safety")
    manager.raise_fault(C.AXIS_FAULT, "dock1.clamp")
    manager.acknowledge(C.ESTOP_OPEN, "dock1.safety")
    manager.clear_fault(C.ESTOP_OPEN, "dock1.safety")
    assert [fault.code for fault in manager.first_out()] == [C.AXIS_FAULT]


async def test_every_latch_ends_somehow() -> None:
    """Every fault of the catalogue can be raised, and ended by cause gone, acknowledgement and technician."""
    manager = FaultManager()
    for code in FaultCode:
        manager.raise_fault(code, "dock1.x")
    await asyncio.sleep(100.0)
    assert {fault.code for fault in manager.active()} == set(FaultCode)
    for code in FaultCode:
        manager.clear_fault(code, "dock1.x")
    await asyncio.sleep(100.0)
    assert {fault.spec.latch for fault in manager.active()} == {Latch.ACK, Latch.SERVICE}
    for fault in manager.active():
        manager.acknowledge(*fault.key)
    assert {fault.spec.latch for fault in manager.active()} == {Latch.SERVICE}
    for fault in manager.active():
        manager.service_reset(*fault.key)
    assert manager.active() == ()


async def test_listener_can_be_taken_off() -> None:
    """After unsubscribing, once or twice, a listener hears nothing."""
    manager, heard = FaultManager(), list[Change]()
    stop = manager.on_change(lambda change, _fault: heard.append(change))
    stop()
    stop()
    manager.raise_fault(C.ESTOP_OPEN, "dock1.safety")
    assert heard == []
