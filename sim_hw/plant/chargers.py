"""Charger modules: states, current ramp, constant current then constant voltage, watchdog, derating, faults.

While current may flow the module computes in steps, short in a ramp and long when steady; between steps the current
is a straight line, so that reading it changes nothing. A module at rest has no timer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hal.types import ChargerState
from sim_hw.plant.core import Core, Noise, Timer
from sim_hw.plant.packs import PackPlant
from sim_hw.world import ChargerWorld

RAMP_STEP_S = 0.25
STEADY_STEP_S = 2.0
STEADY_A = 0.5  # change within a long step that still counts as steady
NO_CURRENT_A = 0.05
DERATE_FROM_C = 65.0  # full current below, none at TRIP_C
TRIP_C = 85.0
_WARMING_C_PER_A = 0.15  # steady temperature above the air per ampere
_TAU_S = 300.0


@dataclass(frozen=True, slots=True)
class ChargerLimits:
    """From the charger's profile."""

    voltage_v_max: float
    current_a_max: float
    ramp_a_per_s: float
    watchdog_s: float


class ChargerPlant:
    """One module. ``load`` returns the pack that its plug is truly engaged on."""

    def __init__(
        self, core: Core, device_id: str, limits: ChargerLimits, world: ChargerWorld, ambient_c: float
    ) -> None:
        self.device_id = device_id
        self.limits = limits
        self.fault = "none"
        self.setpoint_voltage_v = 0.0
        self.setpoint_current_a = 0.0
        self.watchdog_tripped = False
        self.load: Callable[[], PackPlant | None] = lambda: None
        self._core = core
        self._world = world
        self._ambient_c = ambient_c
        self._temperature_c = ambient_c
        self._rng = core.stream(device_id)
        self._noise = Noise(core.stream(f"{device_id}/noise"))
        self._state = ChargerState.STANDBY
        self._pack: PackPlant | None = None
        self._from_a = 0.0
        self._to_a = 0.0
        self._step_at = 0.0
        self._step_s = RAMP_STEP_S
        self._written_at = 0.0
        self._timer: Timer | None = None
        self._watching: Timer | None = None

    # --- reading --------------------------------------------------------------------------------------------

    @property
    def state(self) -> ChargerState:
        """The module's state."""
        return ChargerState.FAULT if self.fault != "none" else self._state

    @property
    def current_a(self) -> float:
        """The true current now."""
        if self._pack is None:
            return 0.0
        share = min((self._core.now - self._step_at) / self._step_s, 1.0)
        return self._from_a + share * (self._to_a - self._from_a)

    @property
    def output_current_a(self) -> float:
        """The measured current."""
        if self._pack is None:
            return 0.0
        return max(self.current_a + self._world.current_noise_a * self._noise.at(self._core.now), 0.0)

    @property
    def output_voltage_v(self) -> float:
        """The measured voltage: the pack's once its contactors are closed, else none."""
        if self._pack is None or not self._pack.contactors_closed:
            return 0.0
        true_v = self._pack.open_circuit_v + self.current_a * self._pack.resistance_ohm
        return true_v + self._world.voltage_noise_v * self._noise.at(self._core.now)

    @property
    def temperature_c(self) -> float:
        """Hottest point inside."""
        return self._temperature_c

    # --- commands -------------------------------------------------------------------------------------------

    def write(self, on: bool, voltage_v: float, current_a: float) -> str | None:
        """Take wanted state and limits; feeds the module's watchdog. ``out_of_range`` above the module's maximum."""
        if not 0.0 <= voltage_v <= self.limits.voltage_v_max or not 0.0 <= current_a <= self.limits.current_a_max:
            return "out_of_range"
        changed = (voltage_v, current_a) != (
            self.setpoint_voltage_v,
            self.setpoint_current_a,
        ) or self.watchdog_tripped
        self.setpoint_voltage_v, self.setpoint_current_a = voltage_v, current_a
        self.feed()
        if self.fault != "none":
            return None  # limits are taken, the output stays off
        if on and self._state in {ChargerState.STANDBY, ChargerState.STOPPING}:
            self._start()
        elif not on and self._state in {ChargerState.STARTING, ChargerState.CHARGING}:
            self._become(ChargerState.STOPPING)
            self._steps()
        elif changed and self._state is ChargerState.CHARGING:
            self._steps()
        return None

    def clear(self) -> None:
        """Clear a fault; the output stays off."""
        self.fault = "none"

    def feed(self) -> None:
        """Take note that the station still writes set-points."""
        self._written_at = self._core.now
        self.watchdog_tripped = False

    def fail(self, fault: str) -> None:
        """Let the module fail now: the output drops at once."""
        self.fault = fault
        self._core.log(f"{self.device_id} fault {fault}")
        self._rest()

    def unplugged(self) -> None:
        """The plug is no longer engaged on a pack: what flows breaks off."""
        if self._pack is None:
            return
        if self.current_a > 1.0:
            self._core.violate("charger_unengaged", f"{self.device_id} at {self.current_a:.1f} A")
        self.fail("no_pack_voltage")

    # --- working --------------------------------------------------------------------------------------------

    def _become(self, state: ChargerState) -> None:
        if state is not self._state:
            self._state = state
            self._core.log(f"{self.device_id} {state.name}")
            busy = state in {ChargerState.STARTING, ChargerState.STOPPING}
            if busy:
                self._core.activity.begin(self.device_id, state.name.lower(), self._core.now)
            else:
                self._core.activity.end(self.device_id, self._core.now)

    def _start(self) -> None:
        if self._pack is not None:  # asked for again before the contactors opened
            self._become(ChargerState.CHARGING)
            self._steps()
            return
        self._become(ChargerState.STARTING)
        self._watch()
        self._again(self._world.start_s * self._core.spread(self._rng), self._connect)

    def _connect(self) -> None:
        """Pre-charge is over: the pack's contactors close, or there is no voltage to be seen."""
        pack = self.load()
        if pack is None or not pack.close_contactors():
            self.fail("no_pack_voltage")
            return
        self._pack = pack
        pack.contactors_opened = self._contactors_opened
        self._from_a = self._to_a = 0.0
        self._step_at = self._core.now
        self._become(ChargerState.CHARGING)
        self._steps()

    def _contactors_opened(self) -> None:
        if self._pack is not None:
            self.fail("no_pack_voltage")

    def _again(self, delay_s: float, callback: Callable[[], object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._core.after(delay_s, callback)

    def _steps(self) -> None:
        """Go on from the current that flows now towards the target, one step."""
        if self._pack is None:  # stopped while starting
            self._again(self._world.stop_s, self._rest)
            return
        now = self._core.now
        flown_a, lasted_s = self.current_a, now - self._step_at
        pack = self._pack
        if lasted_s > 0.0:
            pack.integrate(0.5 * (self._from_a + flown_a), lasted_s)
            if self._pack is None:  # the BMS opened its contactors
                return
            pack.current_a = flown_a
        self._warm(flown_a, lasted_s)
        if self.fault != "none":
            return
        target_a = self._target_a(pack)
        if self._state is ChargerState.STOPPING and flown_a <= NO_CURRENT_A:
            self._from_a = self._to_a = 0.0
            self._step_at = now
            self._again(self._world.stop_s * self._core.spread(self._rng), self._rest)
            return
        self._step_s = STEADY_STEP_S if abs(target_a - flown_a) <= STEADY_A else RAMP_STEP_S
        most_a = self.limits.ramp_a_per_s * self._step_s
        self._from_a, self._step_at = flown_a, now
        self._to_a = flown_a + min(max(target_a - flown_a, -most_a), most_a)
        self._again(self._step_s, self._steps)

    def _target_a(self, pack: PackPlant) -> float:
        if self._state is not ChargerState.CHARGING or self.watchdog_tripped:
            return 0.0
        voltage_a = (self.setpoint_voltage_v - pack.open_circuit_v) / pack.resistance_ohm
        derate = min(max((TRIP_C - self._temperature_c) / (TRIP_C - DERATE_FROM_C), 0.0), 1.0)
        return max(min(self.setpoint_current_a, voltage_a, self.limits.current_a_max * derate), 0.0)

    def _warm(self, current_a: float, lasted_s: float) -> None:
        steady_c = self._ambient_c + _WARMING_C_PER_A * current_a
        self._temperature_c += (steady_c - self._temperature_c) * min(lasted_s / _TAU_S, 1.0)
        if self._temperature_c >= TRIP_C:
            self.fail("over_temperature")

    def heat_to(self, temperature_c: float) -> None:
        """Injected: have this temperature from now."""
        self._temperature_c = temperature_c

    def _rest(self) -> None:
        """Be off: no current, contactors open, no timer."""
        pack, self._pack = self._pack, None
        if pack is not None:
            pack.contactors_opened = None
            pack.open_contactors()
        self._from_a = self._to_a = 0.0
        for timer in (self._timer, self._watching):
            if timer is not None:
                timer.cancel()
        self._timer = self._watching = None
        self._become(ChargerState.STANDBY)

    def _watch(self) -> None:
        """Look again when the newest set-point is ``watchdog_s`` old; one timer at a time."""
        if self._watching is not None:
            self._watching.cancel()
        deadline = self._written_at + self.limits.watchdog_s
        if self._core.now >= deadline:
            if not self.watchdog_tripped:
                self.watchdog_tripped = True
                self._core.log(f"{self.device_id} watchdog tripped")
                if self._state is ChargerState.CHARGING:
                    self._steps()
            deadline = self._core.now + self.limits.watchdog_s
        self._watching = self._core.clock.call_at(deadline, self._watch)
