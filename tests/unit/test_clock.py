"""Virtual and scaled time."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import threading
import time

import pytest

from sim_hw.clock import Deadlock, ScaledLoop, run_virtual

virtual = pytest.mark.asyncio(loop_factories=["virtual"])


@virtual
async def test_sleeping_a_year_takes_exactly_a_year_of_loop_time() -> None:
    """Virtual time moves to each timer exactly, also where a float step is coarser than a nanosecond."""
    loop = asyncio.get_running_loop()
    for duration_s in (0.1, 3600.0, 86_400.0 * 365):
        due = loop.time() + duration_s
        await asyncio.sleep(duration_s)
        assert loop.time() == due


def test_a_hang_is_a_deadlock_that_names_the_task() -> None:
    """A program that waits for what nobody will ever do raises at once."""

    async def hang() -> None:
        asyncio.current_task().set_name("the hung one")  # type: ignore[union-attr] # inside a task
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="the hung one"):
        run_virtual(hang())


def test_a_spinning_program_is_a_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that never lets time pass raises instead of running for ever."""
    monkeypatch.setattr("sim_hw.clock.SPIN_LIMIT", 1000)

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - the spinning is the point
            await asyncio.sleep(0)

    with pytest.raises(Deadlock, match="spins"):
        run_virtual(spin())


@virtual
async def test_a_time_out_ends_a_hang_in_virtual_time() -> None:
    """asyncio.timeout fires at its virtual instant."""
    started = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await asyncio.Event().wait()
    assert asyncio.get_running_loop().time() == started + 10


def _random_program(seed: int) -> list[tuple[float, int]]:
    trace: list[tuple[float, int]] = []

    async def worker(number: int, rng: random.Random) -> None:
        for _ in range(50):
            await asyncio.sleep(rng.choice((0, 0.1, rng.random())))
            await asyncio.to_thread(trace.append, (asyncio.get_running_loop().time(), number))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(worker(number, random.Random(seed + number)))  # noqa: S311 - a test's dice

    run_virtual(main())
    return trace


def test_the_same_seed_gives_the_same_trace() -> None:
    """Ten tasks with random sleeps and thread hand-offs interleave the same way in every run."""
    first = _random_program(7)
    assert len(first) == 500
    assert _random_program(7) == first
    assert _random_program(8) != first


@virtual
async def test_executors_run_in_place_and_pass_errors_on() -> None:
    """Work handed to a thread runs in the loop's own thread, takes no time, and raises where it is awaited."""
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, threading.get_ident) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 // 0)
    assert loop.time() == 0


@virtual
async def test_a_thread_may_not_call_into_virtual_time() -> None:
    """A foreign thread is refused, because its order against time is nobody's to decide."""
    refusals: list[RuntimeError] = []

    def call_in(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            refusals.append(error)

    thread = threading.Thread(target=call_in, args=(asyncio.get_running_loop(),))
    thread.start()
    thread.join()
    assert len(refusals) == 1


@virtual
async def test_real_loopback_sockets_work_under_virtual_time() -> None:
    """A thousand round trips over TCP on 127.0.0.1 arrive before a pending time-out of 10 ms, each."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for number in range(1000):
        writer.write(b"%4d" % number)
        async with asyncio.timeout(0.01):
            assert await reader.readexactly(4) == b"%4d" % number
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def _on_scaled_loop(speed: float, program: object) -> None:
    with asyncio.Runner(loop_factory=lambda: ScaledLoop(speed)) as runner:
        runner.run(program)  # type: ignore[arg-type] # any awaitable


def test_scaled_time_is_never_faster_than_its_speed() -> None:
    """At speed 100 five seconds of sleeps take at least 50 ms of wall time, and end at their exact instants."""

    async def program() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(10):
            due = loop.time() + 0.5
            await asyncio.sleep(0.5)
            assert loop.time() == pytest.approx(due, abs=1e-6)

    began = time.perf_counter()
    _on_scaled_loop(100.0, program())
    assert time.perf_counter() - began >= 0.05 - 0.02  # less the lag that the loop may make up for


def test_a_stalled_host_slows_scaled_time_down() -> None:
    """A stall of 1000 scaled seconds in one callback fires no time-out of 100 s whose answer is on the socket."""

    async def program() -> None:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        with left, right:
            before = loop.time()
            async with asyncio.timeout(100.0):
                answer = asyncio.create_task(loop.sock_recv(right, 10))
                await asyncio.sleep(0)
                threading.Event().wait(0.1)  # the host does something else for 100 ms: 1000 s at this speed
                left.send(b"answer")
                assert await answer == b"answer"
            assert loop.time() - before < 100.0

    _on_scaled_loop(10_000.0, program())


def test_timers_fire_in_order_under_lag() -> None:
    """However late the host, timers fire at their own instants and in order."""
    fired: list[tuple[int, float]] = []

    async def program() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()

        def note(number: int) -> None:
            fired.append((number, loop.time() - start))

        for number in range(20):
            loop.call_at(start + number, note, number)
        threading.Event().wait(0.03)
        await asyncio.sleep(30)

    _on_scaled_loop(1000.0, program())
    assert [number for number, _ in fired] == list(range(20))
    assert all(abs(at - number) < 1e-6 for number, at in fired)


def test_a_busy_scaled_loop_still_fires_its_timers() -> None:
    """A task that never rests cannot starve timers."""

    async def program() -> None:
        loop = asyncio.get_running_loop()
        due = asyncio.Event()
        loop.call_later(1.0, due.set)
        while not due.is_set():  # noqa: ASYNC110 - never resting is the point
            await asyncio.sleep(0)

    _on_scaled_loop(1000.0, program())


def test_a_signal_reaches_a_virtual_loop() -> None:
    """Signal handlers work under virtual time, so that the application's own stop path is the one that runs."""

    async def program() -> str:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, stopped.set)
        signal.raise_signal(signal.SIGUSR1)
        while not stopped.is_set():  # noqa: ASYNC110 - virtual time goes on until the signal is seen
            await asyncio.sleep(1)
        loop.remove_signal_handler(signal.SIGUSR1)
        return "stopped"

    assert run_virtual(program()) == "stopped"
