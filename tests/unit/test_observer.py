"""What the observer tells, and which devices' changes a running step must hear of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from controller.model.intent import StepKind
from controller.model.interlocks import concerns, holds_violations, requires_violations
from controller.observer import KINDS, StationObserver
from hal.api import HalSet
from hal.device import Device
from hal.types import Quality, Reading, SafetyInputs
from tests.support.scene import MOUNT, OTHER_TABLE, SLOT, TABLE, scene_for

SAFE = SafetyInputs(
    estop_ok=True,
    guard_closed=True,
    curtain_clear=True,
    curtain_muted=False,
    fire=False,
    heartbeat_seen=True,
    drives_enabled=True,
    key_on_site=False,
)
BY_DEVICE = ("axes", "locks", "connectors", "chargers", "packs", "vehicles", "safety", "zones")


@pytest.fixture
def told() -> Iterator[tuple[Device[SafetyInputs], list[str], list[str]]]:
    """One device, and what listeners to its readings and to its changes have heard."""
    device: Device[SafetyInputs] = Device("dock1.safety")
    groups: dict[str, dict[str, object]] = {name: {} for name in KINDS} | {"safety": {"dock1.safety": device}}

    def listen(listener: Callable[[str], None]) -> Callable[[], None]:
        device.on_reading(listener)
        return lambda: None

    observer = StationObserver(cast("HalSet", SimpleNamespace(**groups, on_reading=listen)))
    readings: list[str] = []
    changes: list[str] = []
    observer.on_reading(readings.append)
    stop = observer.on_change(changes.append)
    yield device, readings, changes
    heard = len(changes)
    stop()
    device.publish(replace(SAFE, fire=True), 99.0)
    assert len(changes) == heard


async def test_changes_are_told_and_repetitions_are_not(
    told: tuple[Device[SafetyInputs], list[str], list[str]],
) -> None:
    """Every reading is told; as a change only a first one, another value, and every other quality."""
    device, readings, changes = told
    device.publish(SAFE, 1.0)
    assert len(changes) == 1
    device.publish(SAFE, 2.0)
    device.publish(replace(SAFE), 3.0)
    assert len(changes) == 1
    device.publish(replace(SAFE, estop_ok=False), 4.0)
    assert len(changes) == 2
    device.degrade(Quality.LOST)
    assert len(changes) == 3
    device.publish(replace(SAFE, estop_ok=False), 5.0)
    assert len(changes) == 4
    assert len(readings) == 6


class Recording(dict[str, Reading[object]]):
    """Readings that note who was asked for."""

    def __init__(self, readings: dict[str, Reading[object]], asked: set[str]) -> None:
        super().__init__(readings)
        self._asked = asked

    def get(self, key: str, default: object = None) -> object:  # type: ignore[override] # the same, and it notes
        self._asked.add(key)
        return super().get(key, cast("Reading[object]", default))


@pytest.mark.parametrize("place", [None, MOUNT, TABLE, OTHER_TABLE, SLOT])
def test_a_step_hears_of_every_device_that_its_rules_read(place: str | None) -> None:
    """Whatever device any rule of any step reads, at whatever place it acts, is one that concerns the step."""
    everything: set[str] = set()
    for kind in StepKind:
        scene = scene_for(kind)
        step = scene.step if place is None else replace(scene.step, place=place)
        asked: set[str] = set()
        snapshot = scene.snapshot()
        groups = {name: Recording(dict(getattr(snapshot, name)), asked) for name in BY_DEVICE}
        watched = replace(snapshot, **groups)  # type: ignore[arg-type] # by name
        holds_violations(watched, step, scene.layout, scene.packs)
        requires_violations(watched, step, scene.layout, scene.packs)
        assert [device for device in asked if not concerns(device, step, scene.layout)] == [], kind
        everything |= asked
    assert len(everything) >= 12  # the recording works: every dock and store device but a few is read by some rule


def test_other_slots_and_docks_do_not_concern_a_step() -> None:
    """A slot's step hears of its slot, the stacker, the store and all I/O modules, not of other slots and docks."""
    scene = scene_for(StepKind.START_CHARGER)
    other = next(slot for slot in scene.layout.store.slots if slot != SLOT)
    near = [f"{SLOT}.pack", f"{SLOT}.charger", "stacker.fork", "store.safety", "store.io", "dock1.io"]
    far = [f"{other}.pack", f"{other}.charger", f"{other}.connector", "dock1.safety", "dock1.vehicle"]
    assert [d for d in (*near, *far) if concerns(d, scene.step, scene.layout)] == near
