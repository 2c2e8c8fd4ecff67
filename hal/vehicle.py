"""Vehicles on CAN (profiles/vehicles): status heard, the station's request sent cyclically."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from hal.device import Guard, addressed
from hal.errors import LinkDown
from hal.streams import CanMonitor, FramePort, checksum
from hal.types import CanFrame, DeviceSpec, MountStatus, Quality, VehicleRequest, VehicleStatus

VEHICLE_IDENTITY = "VehicleIdentity"
MOUNT_IDENTITY = "MountIdentity"
REQUEST = "StationRequest"
REQUEST_PERIOD_S = 0.1
IDENTITY_PARTS = range(3)
PARTS_PER_MOUNT = 4  # part = 4 x mount + n, of which n = 3 is not used

_MESSAGES = {
    "VehicleState": None,
    VEHICLE_IDENTITY: f"{VEHICLE_IDENTITY}_part",
    "MountState": "MountState_mount",
    MOUNT_IDENTITY: f"{MOUNT_IDENTITY}_part",
}

# What is asked for once a stop is latched: nothing that releases or energises. A vehicle that is driving out is its
# driver's: nothing is asked of it, and it stays as it is.
_LATCHED = {
    VehicleRequest.NONE: VehicleRequest.NONE,
    VehicleRequest.SECURE: VehicleRequest.SECURE,
    VehicleRequest.CHECK: VehicleRequest.SECURE,
    VehicleRequest.WAKE: VehicleRequest.SECURE,
    VehicleRequest.LEAVE: VehicleRequest.NONE,
}


class CanVehicle(CanMonitor[VehicleStatus]):
    """The vehicle in one dock. See ``hal.api.VehicleLink``.

    A mount's serial is empty from the moment its first changed part is heard until all three are: a pack is there,
    and nobody knows which.
    """

    def __init__(self, spec: DeviceSpec, port: FramePort) -> None:
        super().__init__(spec, port, _MESSAGES, frozenset({VEHICLE_IDENTITY, MOUNT_IDENTITY}))
        self.guard = Guard(spec.device_id)
        self._request = VehicleRequest.NONE
        self._asking = asyncio.Event()
        self._message = self.database.get_message_by_name(REQUEST)
        self._can_id = self._message.frame_id | spec.address
        self._counter = 0

    @property
    def latched(self) -> bool:
        """Whether a stop is latched on it."""
        return self.guard.latched is not None

    def on_new_text(self, name: str, key: int) -> None:
        """Another vehicle: forget this one. Another pack on a mount: forget the other parts of its serial."""
        if name == VEHICLE_IDENTITY:
            self.parts.clear()
            return
        first = key - key % PARTS_PER_MOUNT
        for part in IDENTITY_PARTS:
            self.parts.pop((name, first + part), None)

    def assemble(self) -> VehicleStatus | None:
        """Return the status once every message of every mount was heard."""
        state = self.parts.get(("VehicleState", 0))
        vehicle_id = self.text(VEHICLE_IDENTITY, IDENTITY_PARTS)
        heard = [part for (name, _), part in self.parts.items() if name == "MountState"]
        if state is None or vehicle_id is None or not heard:
            return None
        newest = max(heard, key=lambda part: part.seen_at)
        mounts: list[MountStatus] = []
        for number in range(int(newest.values["MountState_mounts"])):
            mount = self._mount(number)
            if mount is None:
                return None
            mounts.append(mount)
        got = {name.removeprefix("VehicleState_"): value for name, value in state.values.items()}
        return VehicleStatus(
            vehicle_id=vehicle_id,
            park_applied=bool(got["park"]),
            brake_applied=bool(got["brake"]),
            high_voltage_off=bool(got["high_voltage_off"]),
            doors_closed=bool(got["doors_closed"]),
            pack_current_a=got["pack_current"],
            ready_to_drive=bool(got["ready_to_drive"]),
            odometer_km=got["odometer"],
            mounts=tuple(mounts),
            acknowledged=VehicleRequest(int(got["request_echo"])),
        )

    def _mount(self, number: int) -> MountStatus | None:
        state = self.parts.get(("MountState", number))
        first = PARTS_PER_MOUNT * number
        serial = self.text(MOUNT_IDENTITY, range(first, first + len(IDENTITY_PARTS)))
        if serial is None and self.reading.quality is Quality.GOOD:
            serial = ""  # being exchanged: the vehicle itself is known and heard
        if state is None or serial is None:
            return None
        present = bool(state.values["MountState_present"])
        return MountStatus(
            pack_serial=serial if present else None,
            pack_soc_pct=state.values["MountState_soc"],
            pack_ok=bool(state.values["MountState_pack_ok"]),
        )

    # --- the request --------------------------------------------------------------------------------------

    @property
    def request(self) -> VehicleRequest:
        """The request being sent."""
        return self._request

    def claim(self, owner: str) -> AbstractAsyncContextManager[None]:
        """Hold the device for ``owner``. See ``hal.api.Commandable``."""
        return self.guard.claim(owner)

    async def set_request(self, request: VehicleRequest) -> None:
        """Send this request from here on. See ``hal.api.VehicleLink``."""
        self.guard.check("set_request")
        before = self._request
        self._set(request)
        try:
            self._send()
        except LinkDown as error:
            if request is not VehicleRequest.NONE:
                self._set(before)
            raise addressed(error, self.device_id, "set_request") from error

    async def stop(self) -> None:
        """Ask for nothing any more; moves nothing. See ``hal.api.VehicleLink``.

        Raises:
            LinkDown: NOT_SENT; nothing is asked all the same.
        """
        self._set(VehicleRequest.NONE)
        try:
            self._send()
        except LinkDown as error:
            raise addressed(error, self.device_id, "stop") from error

    async def clear_fault(self) -> None:
        """Do nothing: the link has no faults of its own. See ``hal.api.Commandable``."""
        self.guard.check_latch("clear_fault")

    def latch(self, reason: str) -> None:
        """Refuse requests and go on with what is safe; in this loop turn."""
        self.guard.latch(reason)
        self._set(_LATCHED[self._request])
        try:
            self._send()
        except LinkDown:
            return  # it is sent again and again, and silence leaves the vehicle as it is

    def unlatch(self) -> None:
        """Allow requests again; sends nothing."""
        self.guard.latched = None

    async def keep(self) -> None:
        """Send the request cyclically for as long as there is one."""
        while True:
            await self._asking.wait()
            await asyncio.sleep(REQUEST_PERIOD_S)
            if self._request is not VehicleRequest.NONE:
                try:
                    self._send()
                except LinkDown:
                    continue  # the bus tells of itself; the request stays until it is back

    def _set(self, request: VehicleRequest) -> None:
        self._request = request
        if request is VehicleRequest.NONE:
            self._asking.clear()
        else:
            self._asking.set()

    def _send(self) -> None:
        counter = (self._counter + 1) % 16
        values = {"request": int(self._request), "counter": counter, "checksum": 0}
        data = self._message.encode({f"{REQUEST}_{name}": value for name, value in values.items()})
        data = data[:7] + bytes([checksum(self._can_id, data)])
        self.port.send(CanFrame(self._can_id, data))
        self._counter = counter
