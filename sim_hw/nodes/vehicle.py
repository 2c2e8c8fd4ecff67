"""The vehicle in a dock: its cyclic messages while it is heard, and its ear for the station's request."""

from __future__ import annotations

import random

from hal.types import CanFrame, DeviceSpec, VehicleRequest, VehicleStatus
from sim_hw import can_codec
from sim_hw.plant import Plant, VehiclePlant
from sim_hw.wire_can import LoopCan

# Cycle times of hal/profiles/vehicles/generic_vehicle.dbc, in ticks of 0.1 s.
_TICK_S = 0.1
_IDENTITY_TICKS = 2
_LISTEN_S = 0.5  # an empty dock is looked at this often
_REQUEST_LOST_S = 1.0  # StationRequest: silent for this long, the vehicle stays as it is
_DRIFT = 0.003
_REQUESTS = {int(request): request for request in VehicleRequest}
_PARTS_PER_MOUNT = 4  # MountIdentity: part = 4 x mount + n


class VehicleNode:
    """The vehicle's side of one dock's link."""

    def __init__(self, spec: DeviceSpec, plant: Plant, bus: LoopCan, rng: random.Random) -> None:
        self._spec = spec
        self._dock = spec.device_id.rsplit(".", 1)[0]
        self._plant = plant
        self._send = bus.attach(self.receive).send
        self._tick_s = _TICK_S * (1.0 + rng.uniform(-_DRIFT, _DRIFT))
        self._tick_number = 0
        self._mount_counters: dict[int, int] = {}
        self._heard_counter: int | None = None
        self._request_at: float | None = None
        self._running = True
        self._due_at = plant.clock.time() + rng.uniform(0.0, _TICK_S)
        self._timer = plant.clock.call_at(self._due_at, self._tick)

    def close(self) -> None:
        """Stop sending."""
        self._running = False
        self._timer.cancel()

    def _here(self) -> VehiclePlant | None:
        vehicle = self._plant.vehicles[self._dock]
        if vehicle is None or not vehicle.heard or self._plant.is_silent(self._spec.device_id):
            return None
        return vehicle

    def receive(self, frame: CanFrame) -> None:
        """Take a frame from the bus; only a sound, new StationRequest to this dock counts."""
        if not frame.extended or frame.can_id != can_codec.STATION_REQUEST | self._spec.address:
            return
        vehicle, heard = self._here(), can_codec.station_request(frame)
        if vehicle is None or heard is None:
            return
        request, counter = heard
        if counter == self._heard_counter or request not in _REQUESTS:
            return
        self._heard_counter = counter
        self._request_at = self._plant.clock.time()
        vehicle.request(_REQUESTS[request])

    def _tick(self) -> None:
        if not self._running:
            return
        vehicle = self._here()
        if vehicle is None:
            self._tick_number = 0
            self._mount_counters.clear()
            self._heard_counter = self._request_at = None
            self._again(_LISTEN_S)
            return
        self._again(self._tick_s)
        now = self._plant.clock.time()
        if self._request_at is not None and now - self._request_at >= _REQUEST_LOST_S:
            self._request_at = self._heard_counter = None
            vehicle.request_lost()
        self._send_cycle(vehicle.status(), vehicle.request_echo)
        self._tick_number += 1

    def _again(self, after_s: float) -> None:
        self._due_at += after_s
        self._timer = self._plant.clock.call_at(self._due_at, self._tick)

    def _send_cycle(self, status: VehicleStatus, echo: VehicleRequest) -> None:
        address, number = self._spec.address, self._tick_number
        flags = (
            status.park_applied,
            status.brake_applied,
            status.high_voltage_off,
            status.doors_closed,
            status.ready_to_drive,
        )
        state = can_codec.vehicle_state(flags, echo, status.pack_current_a, status.odometer_km)
        self._send(can_codec.checked(can_codec.VEHICLE_STATE | address, state, number))
        if number % _IDENTITY_TICKS == 0:
            part = number // _IDENTITY_TICKS % can_codec.TEXT_PARTS
            can_id = can_codec.VEHICLE_IDENTITY | address
            self._send(can_codec.text_part(can_id, part, status.vehicle_id, part))
        if status.mounts:
            self._send_mount(status, number)

    def _send_mount(self, status: VehicleStatus, number: int) -> None:
        address, mounts = self._spec.address, status.mounts
        index = number % len(mounts)
        mount = mounts[index]
        count = self._mount_counters.get(index, 0)
        self._mount_counters[index] = count + 1
        present = mount.pack_serial is not None
        fields = can_codec.mount_state(index, len(mounts), mount.pack_soc_pct, present=present, pack_ok=mount.pack_ok)
        self._send(can_codec.checked(can_codec.MOUNT_STATE | address, fields, count))
        turn = number % (can_codec.TEXT_PARTS * len(mounts))
        owner, part = divmod(turn, can_codec.TEXT_PARTS)
        can_id = can_codec.MOUNT_IDENTITY | address
        text = mounts[owner].pack_serial or ""
        self._send(can_codec.text_part(can_id, _PARTS_PER_MOUNT * owner + part, text, part))
