"""The pages tell the truth: what they link, name and tell people to type exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from controller import docgen
from controller.cli import __main__ as swapctl
from controller.model.faults import FAULTS, FaultCode
from controller.model.intent import StepKind
from sim_hw import __main__ as simulator
from sim_hw import demo
from tests.support.source_tree import ROOT, defined_names, here, python_files, text_of, tree_of

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
TYPED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")
NAME = re.compile(r"`([\w/]+\.py):([\w.]+)`")
FILE = re.compile(r"`((?:controller|hal|sim_hw|tests|deploy|docs)/[\w./*-]+)`")
MAKE = re.compile(r"(?:^    |`)make ([a-z-]+)", re.MULTILINE)
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)


def _broken_links(path: Path) -> Iterator[str]:
    for match in LINK.finditer(text_of(path)):
        if "://" not in match[1] and not (path.parent / match[1]).exists():
            yield f"{here(path)}: {match[1]}"


def test_links_lead_somewhere() -> None:
    """Every link from page to page leads to a file."""
    assert len(PAGES) > 15
    assert [text for path in PAGES for text in _broken_links(path)] == []


def _unknown_names(text: str) -> Iterator[str]:
    for file, name in NAME.findall(text):
        path = ROOT / file
        if not path.is_file() or name not in defined_names(tree_of(path)):
            yield f"{file}:{name}"


def test_names_in_the_pages_exist() -> None:
    """Every ``file:function`` that a page names is defined in that file."""
    assert len(NAME.findall(text_of(ROOT / "docs" / "CODE_MAP.md"))) > 60
    assert [f"{here(path)}: {name}" for path in PAGES for name in _unknown_names(text_of(path))] == []


def test_the_search_for_names_can_fail() -> None:
    """A function that is gone and a file that is gone are found."""
    text = "`controller/station.py:Station.gone`, `controller/gone.py:run`, `controller/station.py:Station.run`"
    assert list(_unknown_names(text)) == ["controller/station.py:Station.gone", "controller/gone.py:run"]


def test_files_in_the_pages_exist() -> None:
    """Every path of the project that a page names is there."""
    found = [
        f"{here(path)}: {name}"
        for path in PAGES
        for name in FILE.findall(text_of(path))
        if not list(ROOT.glob(name.rstrip("/")))
    ]
    assert found == []


def test_every_file_of_the_rooms_is_on_the_map() -> None:
    """The code map names every module of the controller and the drivers, by name, pattern or room."""
    page = text_of(ROOT / "docs" / "CODE_MAP.md")
    named = re.findall(r"[\w*]+\.py", page)
    rooms = {room.rstrip("/") for room in re.findall(r"\b\w+/", page)}
    grouped = {"records", "local", "cli", "uplink", "charging", "bms", "profiles"}
    missing = [
        here(path)
        for path in python_files("controller", "hal")
        if path.parent.name not in grouped and path.stem != "__init__"
        if not any(fnmatch(path.name, pattern) for pattern in named)
    ]
    assert missing == []
    assert grouped <= rooms
    assert {path.parent.name for path in ROOT.glob("controller/*/__init__.py")} <= rooms


def test_named_make_targets_exist() -> None:
    """Every ``make`` target that a page or the gate names is in the Makefile; the README names demo and test."""
    targets = set(TARGET.findall(text_of(ROOT / "Makefile")))
    for path in (*TYPED, ROOT / "deploy" / "README.md"):
        assert set(MAKE.findall(text_of(path))) <= targets, here(path)
    assert {"demo", "test"} <= set(MAKE.findall(text_of(ROOT / "README.md")))
    assert "\nmake test\n" in text_of(ROOT / ".ci" / "run")


def _commands(text: str) -> Iterator[list[str]]:
    """Every command line of ours: indented lines and code in backticks that begin with one of our programs."""
    indented = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    for line in [*indented, *re.findall(r"`([^`\n]+)`", text)]:
        words = shlex.split(line.split("  #")[0], comments=True)
        if words and re.fullmatch(r"(\.venv/bin/)?(swapctl|python)", words[0]) and len(words) > 1:
            yield [words[0].rsplit("/", 1)[-1], *words[1:]]


def _try_to_parse(words: list[str]) -> None:
    """Parse a command as the program would. Raises SystemExit where the program would refuse it."""
    match words:
        case ["swapctl", *arguments]:
            swapctl.parser().parse_args(arguments)
        case ["python", "-m", "sim_hw", "demo", *arguments]:
            demo._arguments().parse_args(arguments)
        case ["python", "-m", "sim_hw", *arguments]:
            simulator._parser().parse_args(arguments)
        case ["python", "-m", module, *_]:
            assert module in {"controller", "controller.docgen", "tests.bench"}, module


@pytest.mark.parametrize("path", TYPED, ids=here)
def test_what_a_page_says_to_type_is_accepted(path: Path) -> None:
    """Every swapctl and simulator command on the page is one that the program takes."""
    commands = list(_commands(text_of(path)))
    if path.name == "README.md":
        assert len(commands) > 10
    for words in commands:
        try:
            _try_to_parse(words)
        except SystemExit as refused:
            pytest.fail(f"{here(path)}: {' '.join(words)} is refused ({refused.code})")


def test_a_wrong_command_is_noticed() -> None:
    """The check of commands finds one that does not exist."""
    with pytest.raises(SystemExit):
        _try_to_parse(["swapctl", "fly"])


def test_named_configurations_exist() -> None:
    """Every station file that a command on a page names is there."""
    for path in TYPED:
        for words in _commands(text_of(path)):
            if "--config" in words:
                assert (ROOT / words[words.index("--config") + 1]).is_file(), " ".join(words)


def test_generated_pages_are_listed_and_in_step() -> None:
    """Each generated page says so, is what its table gives now, and is in the README."""
    for name, page in docgen.PAGES.items():
        text = text_of(ROOT / "docs" / name)
        assert "Generated by" in text
        assert text == page(), f"{name}: python -m controller.docgen"
        assert f"docs/{name}" in text_of(ROOT / "README.md")


def test_every_fault_and_step_has_its_entry() -> None:
    """docs/FAULTS.md has a heading for every fault, docs/STEPS.md one for every step."""
    faults, steps = text_of(ROOT / "docs" / "FAULTS.md"), text_of(ROOT / "docs" / "STEPS.md")
    for code in FaultCode:
        assert f'## <a id="{FAULTS[code].number}"></a>{FAULTS[code].number} ' in faults
    for kind in StepKind:
        assert f"\n## {kind}\n" in steps


def test_every_decision_is_in_the_index_and_names_its_cost() -> None:
    """Each ADR has its number in its title, a status, a cost, and a line in the index."""
    pages = [path for path in sorted((ROOT / "docs" / "adr").glob("*.md")) if path.name != "README.md"]
    index = text_of(ROOT / "docs" / "adr" / "README.md")
    assert [path.name[:4] for path in pages] == [f"{n:04d}" for n in range(1, len(pages) + 1)]
    for path in pages:
        text = text_of(path)
        assert text.startswith(f"# {path.name[:4]} "), here(path)
        assert "\nStatus: " in text, here(path)
        assert re.search(r"^## (Cost|Consequences)", text, re.MULTILINE), here(path)
        assert f"({path.name})" in index, here(path)


def test_the_readme_names_every_station() -> None:
    """Each delivered station is in the README and has a world."""
    text = text_of(ROOT / "README.md")
    for path in (ROOT / "deploy" / "stations").glob("*.toml"):
        assert path.name in text
        assert (ROOT / "sim_hw" / "worlds" / path.name).is_file()
