"""A CAN bus between processes of one computer: the python-can interface ``swapbus`` and the hub that serves it.

Packets on the AF_UNIX SOCK_SEQPACKET socket are the kernel's ``struct can_frame`` (linux/can.h), one per packet, so
order is kept and nothing is lost while both sides read; the kernel's socket buffer is the bound. Towards the hub a
full buffer makes ``send`` fail at once, as a full transmit queue does; from the hub a client that does not read
overruns, as a slow CAN controller does. There is a hub because arbitration, bit time and errors need one place.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import can

from sim_hw.wire_can import ERROR_FLAG, LoopCan, LoopCanTap, RawFrame, message, raw_of

FRAME = struct.Struct("=IB3x8s")
BATCH = 64
SEND_BUFFER_BYTES = 4 * 2**20  # about 5000 frames for a client that is busy elsewhere, where the kernel allows it
SO_SNDBUFFORCE = 32  # asm-generic/socket.h; above net.core.wmem_max it needs CAP_NET_ADMIN


def socket_address(channel: str) -> str:
    """Return the address of a channel: ``@name`` is in Linux' abstract space, anything else is a path."""
    return "\0" + channel[1:] if channel.startswith("@") else channel


def pack(raw: RawFrame) -> bytes:
    """Return the packet of a raw frame."""
    return FRAME.pack(raw.can_id, raw.dlc, raw.data)


def unpack(packet: bytes) -> RawFrame:
    """Return the raw frame of a packet; raises ValueError if it is none."""
    if len(packet) != FRAME.size:
        raise ValueError(f"a packet of {len(packet)} bytes is no CAN frame")
    can_id, dlc, data = FRAME.unpack(packet)
    if dlc > 8:
        raise ValueError(f"a length code of {dlc} is not classic CAN")
    return RawFrame(can_id, dlc, data[:dlc])


class SwapBus(can.BusABC):
    """python-can's end: ``can.Bus(interface="swapbus", channel="@demo.packs")``.

    Holds no frame back: what ``fileno`` says to be readable is all there is.

    Raises:
        CanInitializationError: nobody serves the channel.
    """

    def __init__(self, channel: str, can_filters: can.typechecking.CanFilters | None = None, **_: object) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(socket_address(channel))
        except OSError as error:
            self._socket.close()
            raise can.CanInitializationError(f"swapbus {channel}: {error.strerror}", error.errno) from error
        self.channel_info = f"swapbus {channel}"
        self._can_protocol = can.CanProtocol.CAN_20
        super().__init__(channel=channel, can_filters=can_filters)

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        if timeout is None or timeout > 0:
            select.select([self._socket], [], [], timeout)
        try:
            packet = self._socket.recv(FRAME.size + 1)
        except BlockingIOError:
            return None, False
        except OSError as error:
            raise self._broken(str(error.strerror), error.errno) from error
        if not packet:
            raise self._broken("the hub has gone", errno.ECONNRESET)
        try:
            raw = unpack(packet)
        except ValueError as error:
            raise can.CanOperationError(str(error)) from error
        return message(raw, 0.0), False

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Hand a frame to the hub, waiting at most ``timeout`` seconds for room (None: do not wait).

        Raises:
            CanTimeoutError: no room in time. CanOperationError: the hub has gone.
        """
        packet = pack(raw_of(msg))
        if timeout:
            select.select([], [self._socket], [], timeout)
        try:
            self._socket.send(packet)
        except BlockingIOError as error:
            raise can.CanTimeoutError("transmit queue full", errno.ENOBUFS) from error
        except OSError as error:
            raise self._broken(str(error.strerror), error.errno) from error

    def _broken(self, text: str, code: int | None) -> can.CanOperationError:
        return can.CanOperationError(f"{self.channel_info}: {text}", code)

    @property
    def can_frame_socket(self) -> socket.socket:
        """The socket itself, for a reader that takes ``struct can_frame`` without python-can's message objects."""
        return self._socket

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def shutdown(self) -> None:
        """Leave the bus."""
        super().shutdown()
        self._socket.close()


class Hub:
    """Serves socket clients on a ``LoopCan``: each client is one controller on the bus.

    While the bus is down nobody can connect and the clients are cut off, as with a network interface taken down.

    Attributes:
        overruns: frames that clients did not fetch in time and lost.
        malformed: packets from clients that were no CAN frame.
    """

    def __init__(self, channel: str, wire: LoopCan) -> None:
        self._channel = channel
        self._wire = wire
        self._clients: dict[socket.socket, LoopCanTap] = {}
        self._listener: socket.socket | None = None
        self.overruns = 0
        self.malformed = 0

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    def open(self) -> None:
        """Listen; raises OSError if the channel is taken."""
        address = socket_address(self._channel)
        if not address.startswith("\0") and _is_stale(address):
            Path(address).unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            listener.bind(address)
            listener.listen(64)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Cut every client off and stop listening."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            if not self._channel.startswith("@"):
                Path(self._channel).unlink(missing_ok=True)
        for client in tuple(self._clients):
            self._drop(client)

    def follow(self, up: bool) -> None:
        """Open with the bus, close with the bus."""
        if up:
            self.open()
        else:
            self.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        client.setblocking(False)
        try:
            client.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
        except PermissionError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

        def to_client(raw: RawFrame) -> None:
            try:
                client.send(pack(raw))
            except OSError as error:  # others than these two: it has gone, which its reader finds next
                if error.errno in {errno.EAGAIN, errno.ENOBUFS}:
                    self.overruns += 1

        self._clients[client] = self._wire.attach_raw(to_client, to_client)
        asyncio.get_running_loop().add_reader(client, self._receive, client)

    def _receive(self, client: socket.socket) -> None:
        tap = self._clients[client]
        for _ in range(min(BATCH, tap.room)):
            try:
                packet = client.recv(FRAME.size + 1)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._drop(client)
                return
            try:
                raw = unpack(packet)
            except ValueError:
                self.malformed += 1
                continue
            if raw.can_id & ERROR_FLAG:
                self.malformed += 1  # no controller can send an error frame at will
            else:
                tap.send_raw(raw)
        if tap.room <= 0:
            self._pause(client, tap)

    def _pause(self, client: socket.socket, tap: LoopCanTap) -> None:
        """Let frames wait in the client's socket until the wire has taken one, so that none is lost."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(client)

        def resume() -> None:
            tap.on_room = None
            if client in self._clients:
                loop.add_reader(client, self._receive, client)

        tap.on_room = resume

    def _drop(self, client: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(client)
        self._clients.pop(client).detach()
        client.close()


def _is_stale(path: str) -> bool:
    """Whether a socket file is left over from a process that died."""
    if not os.path.lexists(path):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


@asynccontextmanager
async def serve(channel: str, wire: LoopCan) -> AsyncIterator[Hub]:
    """Serve ``wire`` on a local socket for as long as the context lasts.

    Raises:
        OSError: the channel is taken.
    """
    hub = Hub(channel, wire)
    if wire.is_up:
        hub.open()
    wire.on_up.append(hub.follow)
    try:
        yield hub
    finally:
        with suppress(ValueError):
            wire.on_up.remove(hub.follow)
        hub.close()
