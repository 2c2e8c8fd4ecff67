"""Who may ask for what: the kernel says who is at the other end, the station file which groups mean what."""

from __future__ import annotations

import grp
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

_UCRED = struct.Struct("3i")  # struct ucred of linux/socket.h: pid, uid, gid
SO_PEERGROUPS = 59  # include/uapi/asm-generic/socket.h, since Linux 4.13; Python has no name for it
_GROUPS_BYTES_MAX = 1024  # what Python's getsockopt returns at most: 256 groups


class Role(IntEnum):
    """Each may do what the ones before it may."""

    VIEWER = 1
    OPERATOR = 2
    TECHNICIAN = 3


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, by the kernel's word, when it connected."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]


class UnknownGroup(Exception):
    """The station file names a group that this computer does not have."""


class RoleTable:
    """Maps a peer to its role. Root and the controller's own user are technicians: they have the hardware anyway."""

    def __init__(self, groups: Mapping[Role, str]) -> None:
        """Look the groups' names up. Raises UnknownGroup."""
        self._gids: dict[Role, int] = {}
        for role, name in groups.items():
            try:
                self._gids[role] = grp.getgrnam(name).gr_gid
            except KeyError:
                raise UnknownGroup(f"no group {name!r} on this computer; create it: groupadd {name}") from None

    def role_of(self, peer: Peer) -> Role:
        """Return the highest role that the peer has; whoever can open the socket may look."""
        if peer.uid in {0, os.geteuid()}:
            return Role.TECHNICIAN
        held = [role for role, gid in self._gids.items() if gid == peer.gid or gid in peer.groups]
        return max(held, default=Role.VIEWER)


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel who is connected; a client cannot make this up. ``connection`` is a unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_BYTES_MAX)
    except (
        OSError
    ):  # more groups than fit, or an older kernel: the first group alone counts, which gives fewer rights
        packed = b""
    groups = frozenset(struct.unpack(f"{len(packed) // 4}I", packed[: len(packed) // 4 * 4]))
    return Peer(pid, uid, gid, groups)
