"""Decisions: pure functions and tables. No asyncio, no I/O, no clock, no logging."""
