"""Log lines for the journal: a priority that journald reads, the logger, the sentence, and structured extras."""

from __future__ import annotations

import logging

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
