"""A slot's BMS link: the pack that is plugged in sends its cyclic messages with the slot's bus address."""

from __future__ import annotations

import random

from hal.types import DeviceSpec, PackStatus
from sim_hw import can_codec
from sim_hw.plant import Plant
from sim_hw.wire_can import LoopCan, RawFrame

# Cycle times of hal/profiles/packs/generic_pack.dbc, in ticks of 0.1 s.
_TICK_S = 0.1
_CELLS_TICKS = 5
_IDENTITY_TICKS = 2
_WAKE_S = 0.5  # how soon after it gets power a pack starts to talk, at most
_DRIFT = 0.003  # no two clocks tick alike


class PackNode:
    """The BMS behind one slot's plug: silent without a pack there, without power, or while a fault silences it."""

    def __init__(self, spec: DeviceSpec, plant: Plant, bus: LoopCan, rng: random.Random) -> None:
        self._spec = spec
        self._slot = spec.device_id.rsplit(".", 1)[0]
        self._plant = plant
        self._send = bus.attach_raw(None, _ignore).send
        self._tick_s = _TICK_S * (1.0 + rng.uniform(-_DRIFT, _DRIFT))
        self._wake_s = _WAKE_S * rng.uniform(0.8, 1.0)
        self._tick_number = 0
        self._part = 0
        self._counters = {"fast": 0, "cells": 0}
        self._running = True
        self._due_at = plant.clock.time() + rng.uniform(0.0, _TICK_S)
        self._timer = plant.clock.call_at(self._due_at, self._tick)

    def close(self) -> None:
        """Stop sending."""
        self._running = False
        self._timer.cancel()

    def _tick(self) -> None:
        if not self._running:
            return
        pack = self._plant.pack_on_bus(self._slot)
        if pack is None or self._plant.is_silent(self._spec.device_id):
            self._tick_number = 0
            self._again(self._wake_s)
            return
        self._again(self._tick_s)
        status = pack.status()
        self._send_fast(status)
        if self._tick_number % _CELLS_TICKS == 0:
            self._send_cells(status)
        if self._tick_number % _IDENTITY_TICKS == 0:
            self._send_identity(status)
        self._tick_number += 1

    def _again(self, after_s: float) -> None:
        self._due_at += after_s
        self._timer = self._plant.clock.call_at(self._due_at, self._tick)

    def _send_fast(self, status: PackStatus) -> None:
        address, count = self._spec.address, self._counters["fast"]
        self._counters["fast"] = count + 1
        state = can_codec.pack_state(
            status.soc_pct, status.soh_pct, status.fault_code, contactors=status.contactors_closed
        )
        electric = can_codec.pack_electric(status.pack_voltage_v, status.pack_current_a, status.insulation_kohm)
        limits = can_codec.pack_limits(status.charge_voltage_v_max, status.charge_current_a_max)
        self._send(can_codec.checked(can_codec.PACK_STATE | address, state, count))
        self._send(can_codec.checked(can_codec.PACK_ELECTRIC | address, electric, count))
        self._send(can_codec.checked(can_codec.PACK_LIMITS | address, limits, count))

    def _send_cells(self, status: PackStatus) -> None:
        count = self._counters["cells"]
        self._counters["cells"] = count + 1
        cells = can_codec.pack_cells(
            status.cell_voltage_v_max, status.cell_voltage_v_min, status.temperature_c_max, status.temperature_c_min
        )
        self._send(can_codec.checked(can_codec.PACK_CELLS | self._spec.address, cells, count))

    def _send_identity(self, status: PackStatus) -> None:
        part = self._part
        self._part = (part + 1) % can_codec.TEXT_PARTS
        self._send(can_codec.text_part(can_codec.PACK_IDENTITY | self._spec.address, part, status.serial, part))


def _ignore(_error: RawFrame) -> None:
    """Do nothing about errors on the bus: the BMS sends on."""
