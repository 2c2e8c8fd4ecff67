"""Wall-clock time, in one place. Everything that waits or measures uses loop time instead."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> str:
    """Return the present UTC as ISO 8601 with milliseconds: ``2026-03-01T08:15:30.123Z``.

    For people and records only: the clock of an edge computer jumps, so order is by journal number, never by this.
    """
    now = datetime.now(UTC)  # noqa: TID251 - the one place that may
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
