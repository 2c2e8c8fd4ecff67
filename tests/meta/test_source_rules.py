"""The rules of the code that no linter checks by itself."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.source_tree import (
    SOURCE_ROOMS,
    dotted,
    functions,
    here,
    imported_modules,
    python_files,
    text_of,
    tree_of,
)

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 550
WALL_CLOCK = {"time.time", "time.monotonic", "datetime.now", "datetime.datetime.now"}
BLOCKING = {"time.sleep", "asyncio.gather"}
WALL_CLOCK_ROOMS = {
    "controller/clock.py": "the one place for wall-clock time",
    "sim_hw/clock.py": "maps wall time to the loop's",
    "hal/can_socket.py": "kernel time stamps are wall-clock time",
    "hal/can_frames.py": "the same",
}
MARK = re.compile(r"#\s*(noqa|type: ignore)")
REASONED = re.compile(r"#\s*(?:noqa: [A-Z0-9, ]+|type: ignore\[[a-z, -]+\])(?:\s*#|\s+-\s)\s*\S")


def _long_functions(path: Path, tree: ast.Module) -> list[str]:
    sizes = ((f, (f.end_lineno or f.lineno) - f.lineno + 1) for f in functions(tree))
    return [f"{here(path, f.lineno)} {f.name}: {size} lines" for f, size in sizes if size > FUNCTION_LINES_MAX]


def test_functions_are_short() -> None:
    """No function has more than 70 lines."""
    assert [
        text for path in python_files(*SOURCE_ROOMS, "tests") for text in _long_functions(path, tree_of(path))
    ] == []


def test_files_are_short() -> None:
    """No Python file has more than 550 lines."""
    sizes = {here(path): len(text_of(path).splitlines()) for path in python_files(*SOURCE_ROOMS, "tests")}
    assert {name: size for name, size in sizes.items() if size > FILE_LINES_MAX} == {}


def test_invariants_survive_optimisation() -> None:
    """No source file uses ``assert``, which ``python -O`` removes."""
    found = [
        here(path, node.lineno)
        for path in python_files(*SOURCE_ROOMS)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


def _banned_calls(path: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        name = dotted(node)
        if name in BLOCKING or (name in WALL_CLOCK and here(path) not in WALL_CLOCK_ROOMS):
            yield f"{here(path, node.lineno)}: {name}"
    hidden = {*BLOCKING, *WALL_CLOCK}
    yield from (f"{here(path, line)}: {name}" for line, name in imported_modules(tree) if name in hidden)


def test_nothing_blocks_and_all_time_is_loop_time() -> None:
    """No source file sleeps on its thread, gathers, or reads the wall clock outside the rooms made for it."""
    files = python_files(*SOURCE_ROOMS)
    assert [text for path in files for text in _banned_calls(path, tree_of(path))] == []


def test_the_search_for_calls_can_fail() -> None:
    """Calls, references and imports by name are all found."""
    guilty = "import time\nfrom time import sleep\ntime.sleep(1)\nwait = asyncio.gather\nnow = datetime.now()\n"
    assert len(list(_banned_calls(Path("made_up.py"), ast.parse(guilty)))) == 4


def test_cancellation_is_never_dropped() -> None:
    """Nobody catches CancelledError only to go on: each such handler says why in a comment or raises."""
    silent = []
    for path in python_files(*SOURCE_ROOMS):
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ExceptHandler) or node.type is None:
                continue
            catches = {dotted(part) for part in ast.walk(node.type) if isinstance(part, ast.Name | ast.Attribute)}
            empty = all(isinstance(part, ast.Pass | ast.Continue) for part in node.body)
            if empty and catches & {"asyncio.CancelledError", "CancelledError", "BaseException"}:
                silent.append(here(path, node.lineno))
    assert silent == []


def _comments(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def _without_reason(comment: str) -> bool:
    marked = MARK.search(comment)
    return marked is not None and REASONED.match(comment, marked.start()) is None


def test_every_exemption_names_its_reason() -> None:
    """A noqa or a type-ignore names its rule and, in the same comment, why."""
    files = python_files(*SOURCE_ROOMS, "tests")
    found = [
        f"{here(path, line)}: {text}" for path in files for line, text in _comments(path) if _without_reason(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("comment", "bare"),
    [
        ("# noqa", True),
        ("# noqa: T201", True),
        ("# type: ignore[arg-type]", True),
        ("# type: ignore # no rule", True),
        ("# noqa: T201 - a command's own output", False),
        ("# noqa: N802, ARG002  # the base class fixes the name", False),
        ("# type: ignore[arg-type] # a JSON schema's properties are objects", False),
        ("# a plain comment", False),
    ],
)
def test_reasons_are_told_from_bare_marks(comment: str, bare: bool) -> None:
    """A mark without a rule or a reason is found, one with both is not."""
    assert _without_reason(comment) is bare


def test_nothing_is_left_for_later() -> None:
    """No file says that something is still to be done."""
    marks = ("TODO", "FIXME", "XXX", "HACK")
    files = python_files(*SOURCE_ROOMS, "tests")
    found = [
        here(path, line)
        for path in files
        for line, comment in _comments(path)
        if any(re.search(rf"\b{mark}\b", comment) for mark in marks)
    ]
    assert found == []
