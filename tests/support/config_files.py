"""Station files for tests: the delivered ones, and copies with a change."""

from __future__ import annotations

import re
from pathlib import Path

from controller.config import ConfigError, load_station

STATIONS = Path(__file__).parents[2] / "deploy" / "stations"
DEMO = STATIONS / "demo.toml"
ALL = sorted(STATIONS.glob("*.toml"))


def changed(folder: Path, *changes: tuple[str, str], station: Path = DEMO) -> Path:
    """Return a copy of a station file in which each first text, found exactly as given, became the second."""
    text = station.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text, f"{old!r} is not in {station.name}"
        text = text.replace(old, new, 1)
    path = folder / "station.toml"
    path.write_text(text, encoding="utf-8")
    return path


def without_row(folder: Path, *starts: str, station: Path = DEMO) -> Path:
    """Return a copy of a station file without the lines that begin so."""
    text = station.read_text(encoding="utf-8")
    for start in starts:
        text, count = re.subn(rf"^{re.escape(start)}.*\n", "", text, count=1, flags=re.MULTILINE)
        assert count == 1, f"no line begins with {start!r}"
    path = folder / "station.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path) -> dict[str, str]:
    """Return key path → message of every mistake in a file; several at one path are joined."""
    try:
        load_station(path)
    except ConfigError as error:
        found: dict[str, str] = {}
        for problem in error.errors:
            found[problem.key_path] = " / ".join(filter(None, (found.get(problem.key_path), problem.message)))
        return found
    return {}
