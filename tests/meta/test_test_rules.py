"""What every test of this project keeps to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.source_tree import Function, dotted, functions, here, python_files, tree_of

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
    """Sleeps of a fixed time; in a test on the virtual loop they take none."""
    for function in functions(tree):
        if any("virtual" in ast.unparse(mark) for mark in function.decorator_list):
            continue
        for node in _own_nodes(function):
            if not isinstance(node, ast.Call):
                continue
            name = dotted(node.func)
            if name == "time.sleep" or (name == "asyncio.sleep" and _is_long(node)):
                yield node.lineno


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it, which are looked at by themselves."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [part for part in ast.iter_child_nodes(node) if not isinstance(part, Function)]


def _is_long(call: ast.Call) -> bool:
    return not (call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0)


def test_no_test_sleeps_in_real_time() -> None:
    """A test that waits in real time waits for something; a fixed sleep is for the virtual clock."""
    found = []
    for path in _test_files():
        tree = tree_of(path)
        all_virtual = any("virtual" in ast.unparse(node) for node in tree.body if _is_pytestmark(node))
        found += [] if all_virtual else [here(path, line) for line in _real_waits(tree)]
    assert found == []


def _is_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(dotted(target) == "pytestmark" for target in node.targets)


def test_the_search_for_sleeps_can_fail() -> None:
    """A sleep of the thread and one of the real loop are found; a yield and a virtual sleep are not."""
    guilty = "async def test_x():\n    time.sleep(1)\n    await asyncio.sleep(0.1)\n    await asyncio.sleep(0)\n"
    assert len(list(_real_waits(ast.parse(guilty)))) == 2
    virtual = "@pytest.mark.asyncio(loop_factories=['virtual'])\nasync def test_x():\n    await asyncio.sleep(9)\n"
    assert list(_real_waits(ast.parse(virtual))) == []
