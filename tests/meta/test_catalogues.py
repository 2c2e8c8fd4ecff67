"""Tables that belong together are complete: profiles, steps, rules, faults, stations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controller.config import load_station
from controller.model.faults import FAULTS, FaultCode
from controller.model.intent import StepKind
from controller.model.interlocks import RULES, STEP_RULES
from controller.model.layout import Layout
from controller.steps import STEPS
from hal.profiles import load_register_map
from tests.support.source_tree import ROOT, here, python_files, text_of

PROFILES = ROOT / "hal" / "profiles"
REGISTER_MAPS = sorted(PROFILES.rglob("*.toml"))
DATABASES = sorted(PROFILES.rglob("*.dbc"))
STATIONS = sorted((ROOT / "deploy" / "stations").glob("*.toml"))


def _name(path: Path) -> str:
    return path.relative_to(PROFILES).with_suffix("").as_posix()


@pytest.mark.parametrize("path", REGISTER_MAPS, ids=_name)
def test_every_register_says_what_it_means(path: Path) -> None:
    """A register map names its source and its safe output, and each row its meaning."""
    profile = load_register_map(_name(path))
    assert profile.source
    assert profile.safe_output
    rows = {**profile.registers, **profile.unit_registers}
    assert rows
    assert [name for name, row in rows.items() if len(row.meaning) < 5] == []


@pytest.mark.parametrize("path", DATABASES, ids=_name)
def test_every_signal_says_what_it_means(path: Path) -> None:
    """A CAN database has a comment for each message and each signal."""
    text = text_of(path)
    silent = []
    for can_id, message in re.findall(r"^BO_ (\d+) (\w+):", text, re.MULTILINE):
        if f"CM_ BO_ {can_id} " not in text:
            silent.append(message)
        block = text.split(f"BO_ {can_id} {message}:", 1)[1].split("\nBO_ ", 1)[0]
        signals = re.findall(r"^ SG_ (\w+)", block, re.MULTILINE)
        silent += [f"{message}.{signal}" for signal in signals if f"CM_ SG_ {can_id} {signal} " not in text]
    assert silent == []


def test_every_profile_is_pinned_by_a_frame() -> None:
    """Each profile is named in the tests of golden frames, which hold its bytes."""
    pinned = text_of(ROOT / "tests" / "unit" / "test_golden_frames.py")
    assert [name for name in map(_name, [*REGISTER_MAPS, *DATABASES]) if name not in pinned] == []


def test_every_step_has_spec_and_rules() -> None:
    """Every kind of step says what it does, what confirms it, how it fails and aborts, and has rules that exist."""
    for kind in StepKind:
        spec = STEPS[kind]
        assert all((spec.title, spec.does, spec.confirmed_by, spec.if_fails, spec.if_aborted)), kind
        assert {*STEP_RULES[kind].requires, *STEP_RULES[kind].holds_while} <= set(RULES), kind
    assert set(STEPS) == set(STEP_RULES) == set(StepKind)


def test_every_rule_is_used_and_says_what_must_be_so() -> None:
    """No rule is left over, and each has a sentence for people."""
    used = {name for rules in STEP_RULES.values() for name in (*rules.requires, *rules.holds_while)}
    assert used == set(RULES)
    assert [name for name, rule in RULES.items() if not rule.text.endswith(".")] == []


def test_unlocking_requires_what_it_must() -> None:
    """No bolt is opened unless the vehicle is held and dead, the zone is safe and the pack has where to go."""
    at_least = {
        *("in_place_stable", "clamped", "park_and_brake", "high_voltage_off", "no_pack_current", "doors_closed"),
        *("curtain_armed", "zone_safe", "lift_up", "heads_engaged", "table_empty_and_reserved", "exit_reserved"),
    }
    assert at_least <= set(STEP_RULES[StepKind.UNLOCK_PACK].requires)


def test_every_fault_is_described() -> None:
    """Every fault has a title, a cause and something to do about it."""
    for code in FaultCode:
        spec = FAULTS[code]
        assert all((spec.title, spec.cause, spec.what_to_do)), code
    assert set(FAULTS) == set(FaultCode)


def test_faults_that_nothing_raises_yet_are_admitted() -> None:
    """A fault that only its row in the catalogue names cannot occur: the README says so of each."""
    source = "".join(text_of(path) for path in python_files("controller"))
    readme = text_of(ROOT / "README.md")
    never = {code.name for code in FaultCode if len(re.findall(rf"\b{code.name}\b", source)) <= 2}
    admitted = {code.name for code in FaultCode if f"`{code.name}`" in readme}
    assert admitted == never


@pytest.mark.parametrize("path", STATIONS, ids=here)
def test_delivered_stations_are_whole(path: Path) -> None:
    """Each delivered station loads, times every step with a limit above the expected time, and has a way to swap."""
    station = load_station(path)
    assert set(station.steps) == set(StepKind)
    assert [kind for kind, timing in station.steps.items() if not 0 < timing.expected_s < timing.limit_s] == []
    layout = station.layout()
    assert isinstance(layout, Layout)
    assert layout.store.slots
    assert all(dock.mounts and dock.tables for dock in layout.docks.values())
