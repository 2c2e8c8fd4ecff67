"""Packs, electro-thermal, with their BMS; and the places where they are: each pack in exactly one.

Open-circuit voltage by state of charge, resistance by temperature, heat by current, cooling towards the hall's air.
The curves have the shape of published LFP and NMC cells; taper and cold derating that of common BMS limit tables.
Charging integrates in the charger's steps; a pack at rest is a formula of time.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from hal.types import PackStatus
from sim_hw.plant.core import Core, Noise
from sim_hw.world import PackModel

Curve = tuple[tuple[float, float], ...]

# open-circuit volts of one cell by state of charge in percent, 25 °C
_OCV: dict[str, Curve] = {
    "lfp": (
        (0, 2.80), (5, 3.10), (10, 3.20), (20, 3.25), (40, 3.29), (60, 3.31), (80, 3.33), (95, 3.35), (100, 3.42),
    ),
    "nmc": (
        (0, 3.00), (5, 3.35), (10, 3.48), (20, 3.57), (40, 3.65), (60, 3.80), (80, 3.99), (95, 4.12), (100, 4.19),
    ),
}  # fmt: skip
_CELL_V_MAX = {"lfp": 3.60, "nmc": 4.20}  # charging limit; the BMS opens its contactors 0.05 V above
_TAPER: Curve = ((0, 1.0), (80, 1.0), (95, 0.4), (99, 0.1), (100, 0.0))  # share of the current limit by percent
_COLD: Curve = ((-10, 0.0), (0, 0.08), (5, 0.2), (10, 0.4), (15, 0.65), (20, 0.9), (25, 1.0), (45, 1.0), (58, 0.0))
_OPEN_CELL_V = 0.05
_OPEN_OVER_A = 5.0  # current above the limit that the BMS bears for OPEN_AFTER_S
_OPEN_AFTER_S = 3.0
_OPEN_TEMPERATURE_C = 60.0
_COOLING_TAU_S = 5400.0
_ACTIVATION_K = 2400.0  # resistance doubles between 25 and 0 °C about twofold: R ~ exp(2400 (1/T - 1/298))

FAULT_OVER_CURRENT = 1
FAULT_CELL_VOLTAGE = 2
FAULT_TEMPERATURE = 3
FAULT_INTERNAL = 9


def along(curve: Curve, x: float) -> float:
    """Interpolate, flat beyond the ends."""
    index = bisect_right(curve, x, key=lambda point: point[0])
    if index == 0:
        return curve[0][1]
    if index == len(curve):
        return curve[-1][1]
    (x0, y0), (x1, y1) = curve[index - 1], curve[index]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class PackBirth:
    """A pack that enters the world: serial of at most 21 ASCII characters, charge in percent."""

    serial: str
    soc_pct: float


class PackPlant:
    """One pack and its BMS. ``place`` is a place id, or "" while a vehicle outside the station carries it."""

    def __init__(self, core: Core, birth: PackBirth, model: PackModel, ambient_c: float, boot_s: float) -> None:
        rng = core.stream(f"pack/{birth.serial}")
        self.serial = birth.serial
        self.model = model
        self.place = ""
        self.soc_pct = birth.soc_pct
        self.soh_pct = 100.0 - 0.5 * int(rng.uniform(0, 16))
        self.fault_code = 0
        self.insulation_kohm = 5000.0 + 100.0 * int(rng.uniform(0, 20))
        self.contactors_closed = False
        self.current_a = 0.0  # positive while charging
        self.silent = False  # injected: the BMS does not talk
        self.contactors_opened: Callable[[], None] | None = None
        self._core = core
        self._ambient_c = ambient_c
        self._boot_s = boot_s
        self._spread_v = rng.uniform(0.002, 0.012)
        self._spread_c = rng.uniform(0.5, 2.5)
        self._noise = Noise(core.stream(f"pack/{birth.serial}/noise"))
        self._temperature_c = ambient_c + rng.uniform(0.0, 6.0)
        self._temperature_at = core.now
        self._plugged_at: float | None = None
        self._over_since: float | None = None

    # --- reading --------------------------------------------------------------------------------------------

    @property
    def plugged(self) -> bool:
        """Whether a slot's plug is in: the BMS has supply."""
        return self._plugged_at is not None

    @property
    def talks(self) -> bool:
        """Whether the BMS sends on the slot's bus now: plugged in, booted, not made silent."""
        return self._plugged_at is not None and not self.silent and self._core.now - self._plugged_at >= self._boot_s

    @property
    def temperature_c(self) -> float:
        """Mean cell temperature now."""
        fade = math.exp(-(self._core.now - self._temperature_at) / _COOLING_TAU_S)
        return self._ambient_c + (self._temperature_c - self._ambient_c) * fade

    @property
    def open_circuit_v(self) -> float:
        """Open-circuit voltage of the pack."""
        return self.model.cells * along(_OCV[self.model.chemistry], self.soc_pct)

    @property
    def resistance_ohm(self) -> float:
        """Resistance of the pack at its temperature."""
        kelvin = self.temperature_c + 273.15
        return self.model.resistance_mohm / 1000.0 * math.exp(_ACTIVATION_K * (1.0 / kelvin - 1.0 / 298.15))

    @property
    def voltage_v(self) -> float:
        """Voltage at the cells' end of the contactors."""
        if not self.current_a:
            return self.open_circuit_v
        return self.open_circuit_v + self.current_a * self.resistance_ohm

    @property
    def charge_voltage_v_max(self) -> float:
        """What the BMS allows a charger to put out."""
        return self.model.cells * _CELL_V_MAX[self.model.chemistry]

    @property
    def charge_current_a_max(self) -> float:
        """What the BMS allows now, by charge, temperature and faults."""
        if self.fault_code:
            return 0.0
        share = along(_TAPER, self.soc_pct) * along(_COLD, self.temperature_c)
        return round(self.model.charge_current_a_max * share, 1)

    def status(self) -> PackStatus:
        """Return what the BMS says of itself now."""
        noise = self._noise.at(self._core.now)
        voltage_v, temperature_c = self.voltage_v, self.temperature_c
        cell_v = voltage_v / self.model.cells
        measured_a = self.current_a + 0.05 * noise if self.contactors_closed else 0.0
        return PackStatus(
            serial=self.serial,
            soc_pct=self.soc_pct,
            soh_pct=self.soh_pct,
            pack_voltage_v=voltage_v + 0.05 * noise,
            pack_current_a=measured_a,
            charge_voltage_v_max=self.charge_voltage_v_max,
            charge_current_a_max=self.charge_current_a_max,
            cell_voltage_v_max=cell_v + self._spread_v,
            cell_voltage_v_min=cell_v - self._spread_v,
            temperature_c_max=temperature_c + self._spread_c,
            temperature_c_min=temperature_c - self._spread_c,
            insulation_kohm=self.insulation_kohm,
            contactors_closed=self.contactors_closed,
            fault_code=self.fault_code,
        )

    # --- what is done to it ---------------------------------------------------------------------------------

    def plug(self, plugged: bool) -> None:
        """Give the BMS supply, or take it: without supply the contactors open."""
        if plugged and self._plugged_at is None:
            self._plugged_at = self._core.now
        if not plugged and self._plugged_at is not None:
            self._plugged_at = None
            self.open_contactors()

    def booted(self) -> None:
        """Have been plugged in since long before the world began."""
        self._plugged_at = self._core.now - self._boot_s

    def close_contactors(self) -> bool:
        """Close as the charger asks; False while the BMS has a fault or is not up."""
        self.contactors_closed = self.talks and not self.fault_code
        return self.contactors_closed

    def open_contactors(self) -> None:
        """Open, whatever flows."""
        was_closed, self.contactors_closed = self.contactors_closed, False
        self.current_a = 0.0
        if was_closed and self.contactors_opened is not None:
            self.contactors_opened()

    def fail(self, code: int) -> None:
        """Let the BMS find a fault: it opens its contactors."""
        if not self.fault_code:
            self.fault_code = code
            self._core.log(f"pack {self.serial} fault {code}")
        self.open_contactors()

    def heat_to(self, temperature_c: float) -> None:
        """Have this temperature from now."""
        self._temperature_c, self._temperature_at = temperature_c, self._core.now

    def integrate(self, current_a: float, lasted_s: float) -> None:
        """Have carried this current for the last ``lasted_s`` seconds; the BMS then judges its own limits."""
        heat_w = current_a * current_a * self.resistance_ohm
        self.heat_to(self.temperature_c + heat_w * lasted_s / self.model.heat_capacity_j_per_k)
        gained_pct = current_a * lasted_s / 36.0 / self.model.capacity_ah
        self.soc_pct = min(max(self.soc_pct + gained_pct, 0.0), 100.0)
        self.current_a = current_a
        self._judge(current_a)

    def _judge(self, current_a: float) -> None:
        now = self._core.now
        if current_a <= self.charge_current_a_max + _OPEN_OVER_A:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        elif now - self._over_since >= _OPEN_AFTER_S:
            self.fail(FAULT_OVER_CURRENT)
        cell_v = self.voltage_v / self.model.cells + self._spread_v
        if cell_v > _CELL_V_MAX[self.model.chemistry] + _OPEN_CELL_V:
            self.fail(FAULT_CELL_VOLTAGE)
        if self.temperature_c + self._spread_c > _OPEN_TEMPERATURE_C:
            self.fail(FAULT_TEMPERATURE)


class Places:
    """Where the packs are. ``changed`` is called with each place that got or lost one."""

    def __init__(self, core: Core) -> None:
        self.packs: dict[str, PackPlant] = {}
        self.changed: list[Callable[[str], None]] = []
        self._core = core
        self._at: dict[str, str] = {}

    def at(self, place: str) -> PackPlant | None:
        """Return the pack in a place."""
        serial = self._at.get(place)
        return self.packs[serial] if serial is not None else None

    def move(self, pack: PackPlant, destination: str) -> None:
        """Put a pack elsewhere; "" is outside the station."""
        origin = pack.place
        other = self.at(destination) if destination else None
        if other is not None and other is not pack:
            self._core.violate("two_packs", f"{pack.serial} comes into {destination}, where {other.serial} is")
            return  # it stays where it was: both have a definite holder
        if origin:
            del self._at[origin]
        pack.place = destination
        if destination:
            self._at[destination] = pack.serial
        self._core.activity.pack_moves.append((self._core.now, pack.serial, origin, destination))
        self._core.log(f"pack {pack.serial} {origin or 'outside'} -> {destination or 'outside'}")
        for place in filter(None, (origin, destination)):
            for listener in self.changed:
                listener(place)

    def where(self) -> dict[str, str]:
        """Return serial → place, by serial."""
        return {serial: self.packs[serial].place for serial in sorted(self.packs)}
