"""A socket whose packets are ``struct can_frame``, read without python-can's message objects: SocketCAN first."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable

from hal.can_frames import EXTENDED, FRAME, QueueFull, RawFrame
from hal.types import CanFrame

RECEIVE_BUFFER_BYTES = 4 * 2**20  # 10 900 frames; the default of 212 992 holds 278, 70 ms of a full 500 kbit/s bus
TIMESPEC = struct.Struct("@ll")
SO_RCVBUFFORCE, SO_TIMESTAMPNS, SO_RXQ_OVFL = 33, 35, 40  # asm-generic/socket.h
ANCILLARY_BYTES = socket.CMSG_SPACE(TIMESPEC.size) + socket.CMSG_SPACE(4)


class SocketCanTransport:
    """A CAN_RAW socket, or another that keeps packets apart and carries the same layout.

    Takes over the socket: non-blocking, larger receive buffer, drops reported.

    Args:
        raw_socket: bound or connected, on SocketCAN with SO_TIMESTAMPNS set.
        close: closes the socket and whatever else goes with it.
        counters: ``dropped`` is counted here.
    """

    def __init__(self, raw_socket: socket.socket, close: Callable[[], None], counters: Counter[str]) -> None:
        self._socket = raw_socket
        self._close = close
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._failure: OSError | None = None
        self._dropped = 0
        self._known_empty_at = self._loop.time()  # nothing can have arrived before this and still be unread
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        except PermissionError:  # CAP_NET_ADMIN; without it net.core.rmem_max is the bound
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    def start(self, ready: Callable[[], None]) -> None:
        """Call ``ready`` whenever there is something to read."""
        self._loop.add_reader(self._socket, ready)

    def read(self, limit: int) -> tuple[list[RawFrame], bool]:
        """Return what is waiting, and whether to come back at once; raises OSError when the interface has died."""
        if self._failure is not None:
            raise self._failure
        frames: list[RawFrame] = []
        now = self._loop.time()
        # The kernel stamps frames with the wall clock, which only serves to tell how long ago that was.
        wall = time.clock_gettime(time.CLOCK_REALTIME)
        for _ in range(limit):
            try:
                packet, ancillary, _, _ = self._socket.recvmsg(FRAME.size + 1, ANCILLARY_BYTES)
            except BlockingIOError:
                self._known_empty_at = now
                return frames, False
            except OSError as error:
                if not frames:
                    raise
                self._failure = error  # what came before it still counts
                return frames, True
            if len(packet) != FRAME.size:
                if packet:
                    self._counters["invalid_frames"] += 1
                    continue
                self._failure = ConnectionResetError(errno.ECONNRESET, "the other end has closed")
                return frames, True
            can_id, dlc, data = FRAME.unpack(packet)
            # A step of the wall clock moves the stamp no further than the time in which the frame can have come.
            at = min(max(now - self._age_s(ancillary, wall), self._known_empty_at), now)
            frames.append(RawFrame(can_id, dlc, data[:dlc], at))
        return frames, False  # the descriptor stays readable

    def _age_s(self, ancillary: list[tuple[int, int, bytes]], wall: float) -> float:
        """Return how long ago the kernel stamped a frame, and count what it says that it dropped."""
        age_s = 0.0
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = TIMESPEC.unpack_from(value)
                age_s = wall - seconds - nanoseconds * 1e-9
            elif level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                self._count_dropped(int.from_bytes(value, sys.byteorder))
        return age_s

    def _count_dropped(self, total: int) -> None:
        """Count what is new: the kernel counts from the socket's birth, in 32 bits."""
        self._counters["dropped"] += (total - self._dropped) & 0xFFFF_FFFF
        self._dropped = total

    def write(self, frame: CanFrame) -> None:
        """Send; raises QueueFull, or OSError when the interface has died."""
        can_id = frame.can_id | (EXTENDED if frame.extended else 0)
        try:
            self._socket.send(FRAME.pack(can_id, len(frame.data), frame.data))
        except OSError as error:
            if error.errno in {errno.ENOBUFS, errno.EAGAIN}:
                raise QueueFull("transmit queue full") from error
            raise

    async def close(self) -> None:
        """Close the socket."""
        self._loop.remove_reader(self._socket)
        self._close()
