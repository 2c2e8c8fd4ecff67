"""An emulated CAN adapter on a pty, of which the kernel's slcan driver makes a real SocketCAN interface.

Unlike vcan the interface has a bit rate, error frames, an error state and bus-off, all under the test's control.
Needs a Linux kernel of 6.0 or later with the slcan module.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import subprocess
import termios
import tty
from pathlib import Path
from types import TracebackType
from typing import Self

N_SLCAN = 17  # linux/tty.h, the line discipline
NETWORK_DEVICES = Path("/sys/class/net")


def ip_link(*arguments: str) -> None:
    """Run ``ip link``; raises CalledProcessError where the kernel refuses."""
    subprocess.run(["ip", "link", *arguments], check=True, capture_output=True)


class SlcanAdapter:
    """The adapter's end of the serial line. Creating it creates the interface ``name``; leaving it unplugs it."""

    def __init__(self) -> None:
        before = {path.name for path in NETWORK_DEVICES.iterdir()}
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        fcntl.ioctl(self._slave, termios.TIOCSETD, struct.pack("i", N_SLCAN))
        (self.name,) = {path.name for path in NETWORK_DEVICES.iterdir()} - before
        self.lines: list[str] = []
        self._buffer = b""
        self._changed = asyncio.Event()
        self._plugged = True
        asyncio.get_running_loop().add_reader(self._master, self._read)

    def _read(self) -> None:
        try:
            self._buffer += os.read(self._master, 4096)
        except OSError:
            return
        *lines, self._buffer = self._buffer.split(b"\r")
        self.lines += [line.decode() for line in lines]
        self._changed.set()

    async def said(self, line: str) -> None:
        """Wait until the host has sent this line: a frame or a command of the slcan protocol."""
        async with asyncio.timeout(10):
            while line not in self.lines:
                self._changed.clear()
                await self._changed.wait()

    async def up(self, bitrate: int = 500_000) -> None:
        """Set the bit rate and bring the interface up, which waits until the adapter has read the commands."""
        await asyncio.to_thread(ip_link, "set", self.name, "type", "can", "bitrate", str(bitrate))
        await asyncio.to_thread(ip_link, "set", self.name, "up")

    async def down(self) -> None:
        """Take the interface down."""
        await asyncio.to_thread(ip_link, "set", self.name, "down")

    def line(self, text: str) -> None:
        """Send a line to the host: ``t1232abcd`` a frame, ``e1a`` errors, ``sb000255`` state and both counters.

        States: a(ctive), w(arning), p(assive), b(us-off), then the receive and transmit counters, three digits each.
        """
        os.write(self._master, text.encode() + b"\r")

    def unplug(self) -> None:
        """Take the adapter away; the interface vanishes."""
        if self._plugged:
            self._plugged = False
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._slave)
            os.close(self._master)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unplug()
