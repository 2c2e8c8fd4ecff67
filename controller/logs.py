"""Log lines for the journal: a priority that journald reads, the logger, the sentence, and structured extras."""

from __future__ import annotations

import logging

from controller.events import Event, FaultEvent, PackEvent, StepEvent, SwapEvent, UnitEvent

_log = logging.getLogger("station")

# sd-daemon(3): a line that starts with "<n>" is stored with that syslog priority.
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JournalFormatter(logging.Formatter):
    """One line per record; journald adds the time. What was passed as ``extra`` follows as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own, with the same priority."""
        extras = " ".join(f"{k}={v}" for k, v in record.__dict__.items() if k not in _STANDARD)
        text = f"{record.name}: {record.getMessage()}" + (f" [{extras}]" if extras else "")
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in text.splitlines())


def log_event(event: Event) -> None:
    """Write one line for each change that a person looks for afterwards; a step only where it failed."""
    match event:
        case UnitEvent():
            _log.info("%s %s: %s", event.unit, event.state, event.cause)
        case SwapEvent() if event.result:
            _log.info("%s at %s ended %s %s", event.swap_id, event.dock, event.result, event.detail)
        case SwapEvent():
            _log.info("%s at %s %s", event.swap_id, event.dock, event.phase)
        case PackEvent():
            _log.info("pack %s: %s -> %s", event.pack, event.origin or "vehicle", event.destination or "vehicle")
        case FaultEvent():
            level = logging.WARNING if event.state == "raised" else logging.INFO
            _log.log(
                level, "fault %d %s of %s %s: %s", event.number, event.name, event.device, event.state, event.detail
            )
        case StepEvent() if event.state == "failed":
            _log.warning("step %s %s failed: %s", event.kind, event.place or event.dock, event.detail)
