"""Run benchmark groups, print a table, write build/bench.json. ``python -m tests.bench [group]``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tests.bench.row import Row

GROUPS = ("can", "modbus", "swap", "start")
REPORT = Path("build/bench.json")
MARKS = {True: "met", False: "MISSED", None: ""}


def table(rows: list[Row]) -> str:
    """Return the rows as aligned text."""
    head = ("name", "value", "unit", "goal", "", "versus")
    body = [(row.name, f"{row.value:.6g}", row.unit, _goal(row), MARKS[row.met], row.versus) for row in rows]
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *body)
    )


def _goal(row: Row) -> str:
    return "" if row.goal is None else f"{'<=' if row.better == 'lower' else '>='} {row.goal:g}"


def main() -> int:
    """Run the groups asked for; 0 also when a goal is missed, since a busy machine is no wrong program."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("group", nargs="?", choices=GROUPS, help="only this group")
    group = parser.parse_args().group
    rows: list[Row] = []
    missing: list[str] = []
    for name in (group,) if group else GROUPS:
        module = f"tests.bench.bench_{name}"
        if find_spec(module) is None:
            missing.append(name)
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)  # noqa: T201 - a command's output
        rows += import_module(module).run()
    print(table(rows))  # noqa: T201 - a command's output
    if missing:
        print("no such group yet: " + ", ".join(missing))  # noqa: T201 - a command's output
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
