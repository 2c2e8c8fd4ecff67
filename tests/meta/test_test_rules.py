"""What every test of this project keeps to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.source_tree import Function, dotted, functions, here, python_files, tree_of

REAL_KERNEL = "tests/socketcan/"  # its interfaces come up in their own time
AVOIDED = ("skip", "skipif", "xfail", "importorskip", "flaky", "repeat", "rerun")


def _test_files() -> list[Path]:
    return [path for path in python_files("tests") if path.name.startswith("test_")]


def _tests(tree: ast.Module) -> Iterator[Function]:
    return (function for function in functions(tree) if function.name.startswith("test_"))


def test_every_test_states_its_property() -> None:
    """Every test has a docstring whose first paragraph is its property."""
    found = [
        here(path, test.lineno)
        for path in _test_files()
        for test in _tests(tree_of(path))
        if not ast.get_docstring(test)
    ]
    assert found == []


def test_names_of_test_modules_are_unique() -> None:
    """Two test modules of the same name hide each other in reports."""
    names = [path.name for path in _test_files()]
    assert sorted(names) == sorted(set(names))


def _dodges(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        name = dotted(node)
        if name.startswith("pytest.") and name.rsplit(".", 1)[-1] in AVOIDED:
            yield node.lineno


def test_no_test_is_skipped_retried_or_expected_to_fail() -> None:
    """A test holds or it does not."""
    found = [here(path, line) for path in python_files("tests") for line in _dodges(tree_of(path))]
    assert found == []


def test_the_search_for_dodges_can_fail() -> None:
    """Marks and calls are both found."""
    guilty = "@pytest.mark.skipif(True)\ndef test_x():\n    pytest.skip('no')\n"
    assert len(list(_dodges(ast.parse(guilty)))) == 2


def _real_waits(tree: ast.Module) -> Iterator[int]:
    """Sleeps in async tests on the real loop, but those in a ``while``, which look for something again and again."""
    for test in _tests(tree):
        if isinstance(test, ast.AsyncFunctionDef) and not any(
            "virtual" in ast.unparse(m) for m in test.decorator_list
        ):
            yield from (node.lineno for node in _outside_loops(test) if isinstance(node, ast.Call) and _sleeps(node))


def _outside_loops(test: Function) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = list(test.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.While):
            yield node
            waiting += ast.iter_child_nodes(node)


def _sleeps(call: ast.Call) -> bool:
    just_a_turn = bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
    return dotted(call.func) == "asyncio.sleep" and not just_a_turn


def test_no_test_sleeps_in_real_time() -> None:
    """A test that waits in real time waits for something; a fixed sleep is for the virtual clock."""
    found = []
    for path in _test_files():
        tree = tree_of(path)
        found += [here(path, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Call) if _blocks(node)]
        all_virtual = any("virtual" in ast.unparse(node) for node in tree.body if _is_pytestmark(node))
        if not all_virtual and not here(path).startswith(REAL_KERNEL):
            found += [here(path, line) for line in _real_waits(tree)]
    assert found == []


def _blocks(call: ast.Call) -> bool:
    return dotted(call.func) == "time.sleep"


def _is_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(dotted(target) == "pytestmark" for target in node.targets)


def test_the_search_for_sleeps_can_fail() -> None:
    """A sleep on the real loop is found; a yield, a bounded look again and a virtual sleep are not."""
    guilty = "async def test_x():\n    await asyncio.sleep(0.1)\n    await asyncio.sleep(0)\n"
    assert list(_real_waits(ast.parse(guilty))) == [2]
    again = "async def test_x():\n    while not ready():\n        await asyncio.sleep(0.1)\n"
    virtual = "@pytest.mark.asyncio(loop_factories=['virtual'])\nasync def test_x():\n    await asyncio.sleep(9)\n"
    assert [*_real_waits(ast.parse(again)), *_real_waits(ast.parse(virtual))] == []
