"""The project's own files, read once, for the tests that look at the project itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOMS = ("hal", "controller", "sim_hw")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def text_of(path: Path) -> str:
    """Return a file's text."""
    return path.read_text(encoding="utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    """Return a Python file's syntax tree."""
    return ast.parse(text_of(path), str(path))


def python_files(*rooms: str) -> list[Path]:
    """Return every Python file of these top folders, sorted."""
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def here(path: Path, line: int | None = None) -> str:
    """Return where something is, as a person would type it."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return name if line is None else f"{name}:{line}"


def functions(tree: ast.AST) -> Iterator[Function]:
    """Return every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Return (line, dotted name) of all that is imported; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def dotted(node: ast.expr) -> str:
    """Return ``a.b.c`` of a chain of attributes; empty for anything else."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


def defined_names(tree: ast.Module) -> set[str]:
    """Return what a module defines: ``f``, ``C``, ``C.method``, and module constants."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, Function)}
        elif isinstance(node, Function):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def words(text: str) -> Iterator[tuple[int, str]]:
    """Return (line, word) in lower case, identifiers split: ``isSimBus_2`` is is, sim, bus."""
    for number, line in enumerate(text.splitlines(), start=1):
        for match in re.finditer(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", line):
            yield number, match.group().lower()
