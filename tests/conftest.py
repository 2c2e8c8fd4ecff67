"""What every test gets: a choice of loops, and a check that it left nothing behind."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest

from sim_hw.clock import VirtualClockLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run async tests on the real loop, or on those that ``@pytest.mark.asyncio(loop_factories=[...])`` names."""
    marker = item.get_closest_marker("asyncio")
    if marker is None or "loop_factories" not in marker.kwargs:
        return {"real": asyncio.SelectorEventLoop}
    return {"real": asyncio.SelectorEventLoop, "virtual": VirtualClockLoop}


@pytest.fixture
async def _task_watch() -> AsyncIterator[None]:
    yield
    for _ in range(3):  # a task that was cancelled last thing needs its turn to end
        await asyncio.sleep(0)
    leaked = asyncio.all_tasks() - {asyncio.current_task()}
    if leaked:
        pytest.fail("leaked tasks: " + ", ".join(sorted(repr(task) for task in leaked)))


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves tasks or in-memory Modbus connections behind."""
    function = getattr(request, "function", None)
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    if inspect.iscoroutinefunction(inner):
        request.getfixturevalue("_task_watch")
    yield
    transport = sys.modules.get("pymodbus.transport.transport")
    if transport is not None and transport.NullModem.is_dirty():
        transport.NullModem.connections.clear()
        transport.NullModem.listeners.clear()
        pytest.fail("in-memory Modbus connections or listeners were left open")
