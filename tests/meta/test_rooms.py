"""Which room may know of which: production of no simulation, the simulator of no driver."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.support.source_tree import ROOT, here, imported_modules, python_files, text_of, tree_of, words

SIMULATION_WORDS = ("simulat", "mock", "fake", "emulat")
SHARED_WITH_SIMULATOR = ("hal.profiles", "hal.types", "hal.errors")
MAY_SEE_CONTROLLER = {"sim_hw/demo.py", "sim_hw/demo_view.py", "sim_hw/scenarios.py"}


def _of_simulation(text: str) -> list[tuple[int, str]]:
    return [(line, word) for line, word in words(text) if word == "sim" or word.startswith(SIMULATION_WORDS)]


def _production_files() -> list[Path]:
    data = [path for ending in ("toml", "dbc") for path in (ROOT / "hal").rglob(f"*.{ending}")]
    return [*python_files("hal", "controller"), *sorted(data)]


def test_production_knows_nothing_of_simulation() -> None:
    """No word of simulation stands in the drivers, their profiles or the controller: not even in a comment."""
    files = _production_files()
    assert len(files) > 50
    found = [f"{here(path, line)}: {word}" for path in files for line, word in _of_simulation(text_of(path))]
    assert found == []


def test_the_search_for_words_can_fail() -> None:
    """The search finds the words in identifiers of every style and in comments, and nothing in innocent words."""
    guilty = "if config.is_sim:\nSimBus()\nMOCK_BUS = 1\nx = 1  # only when simulated\nisFake()\n"
    assert [line for line, _ in _of_simulation(guilty)] == [1, 2, 3, 4, 5]
    assert _of_simulation("simple similar simultaneous assimilate SIMPLE") == []


def _imports_of_hal(tree: ast.AST) -> list[tuple[int, str]]:
    return [(line, name) for line, name in imported_modules(tree) if name.split(".")[0] == "hal"]


def _is_shared(name: str) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in SHARED_WITH_SIMULATOR)


def test_the_simulator_shares_no_driver() -> None:
    """Of hal the simulator imports profiles, value types and errors only: it cannot be wrong along with a driver."""
    found = [
        f"{here(path, line)}: {name}"
        for path in python_files("sim_hw")
        for line, name in _imports_of_hal(tree_of(path))
        if not _is_shared(name)
    ]
    assert found == []


def test_only_demo_and_scenarios_see_the_controller() -> None:
    """No other module of the simulator imports the controller."""
    found = [
        f"{here(path, line)}: {name}"
        for path in python_files("sim_hw")
        if here(path) not in MAY_SEE_CONTROLLER
        for line, name in imported_modules(tree_of(path))
        if name.split(".")[0] == "controller"
    ]
    assert found == []


def test_the_search_for_imports_can_fail() -> None:
    """Every way to write an import of a driver is found."""
    guilty = (
        "import hal.can_port\nfrom hal import codec\nfrom hal.motion import ModbusAxis\nfrom hal.types import Table\n"
    )
    found = _imports_of_hal(ast.parse(guilty))
    assert [line for line, name in found if not _is_shared(name)] == [1, 2, 3]


def test_import_contracts_hold() -> None:
    """The contracts of pyproject.toml are kept."""
    tool = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout
