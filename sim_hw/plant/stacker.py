"""The stacker: x, z and a fork. Rising under a pack takes it, lowering sets it down; and the laws there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sim_hw.plant.axes import AxisPlant, Watch
from sim_hw.plant.core import Core
from sim_hw.plant.packs import Places
from sim_hw.station_file import FORK, StationFile, TaughtPlace

ALIGNED_MM = 5.0
FORK_OUT_MM = 20.0
FORK_REACH_MM = 3.0
HEIGHT_MM = 10.0  # within this of the pick or carry height a pack rests clearly on one side


class StackerPlant:
    """The stacker of a station. ``shuttle_ready(table)``: the shuttle stands at the exchange, down and still."""

    def __init__(self, core: Core, station: StationFile, x: AxisPlant, z: AxisPlant, fork: AxisPlant) -> None:
        self.x = x
        self.z = z
        self.fork = fork
        self.shuttle_ready: Callable[[str], bool] = lambda _table: True
        self.leaving: Callable[[str], None] = lambda _place: None
        self._core = core
        self._station = station
        self._taught = station.stacker_places
        self._carry_mm = station.carry_offset_mm
        self._places: Places | None = None

    def connect(self, places: Places) -> None:
        """Tie axes and laws together; once, at the start."""
        self._places = places
        self.x.starting.append(lambda _target: self._x_starts())
        self.z.starting.append(self._z_starts)
        self.fork.starting.append(self._fork_starts)
        self.z.gait = lambda: "creep" if self.fork_out else "normal"
        self.fork.watches.append(Watch(self._station.fork_retracted_mm + FORK_OUT_MM, self._fork_passes_clear))
        for half_mm in sorted({place.z_mm + 0.5 * self._carry_mm for place in self._taught.values()}):
            self.z.watches.append(Watch(half_mm, partial(self._z_passes_half, half_mm)))
        for depth_mm in sorted({place.fork_mm for place in self._taught.values()}):
            self.fork.watches.append(Watch(depth_mm + FORK_REACH_MM, partial(self._fork_passes_depth, depth_mm)))

    # --- geometry -------------------------------------------------------------------------------------------

    @property
    def fork_out(self) -> bool:
        """Whether the fork is out of the mast far enough to touch anything."""
        return self.fork.true_mm > self._station.fork_retracted_mm + FORK_OUT_MM

    @property
    def loaded(self) -> bool:
        """Whether a pack is on the fork."""
        return self._places is not None and self._places.at(FORK) is not None

    def place_before(self) -> str:
        """Return the taught place that the stacker stands before, at pick height, carry height or between, or ""."""
        x_mm, z_mm = self.x.true_mm, self.z.true_mm
        return next((name for name, taught in self._taught.items() if self._before(taught, x_mm, z_mm)), "")

    def _before(self, taught: TaughtPlace, x_mm: float, z_mm: float) -> bool:
        low, high = taught.z_mm - ALIGNED_MM, taught.z_mm + self._carry_mm + ALIGNED_MM
        return abs(x_mm - taught.x_mm) <= ALIGNED_MM and low <= z_mm <= high

    def fork_at(self) -> str:
        """Return the place that the fork is in, or "" while it is retracted."""
        return self.place_before() if self.fork_out else ""

    def _reaches(self, place: str) -> bool:
        return bool(place) and abs(self.fork.true_mm - self._taught[place].fork_mm) <= FORK_REACH_MM

    def _occupied(self, place: str) -> bool:
        return self._places is not None and self._places.at(place) is not None

    # --- laws and what follows from motion --------------------------------------------------------------------

    def _x_starts(self) -> None:
        if self.fork_out:
            self._core.violate("fork_out_travel", f"x moves, fork at {self.fork.true_mm:.0f} mm")

    def _z_starts(self, target_mm: float) -> None:
        if not self.fork_out:
            return
        place = self.place_before()
        allowed = self._reaches(place) and not self.fork.moving
        if not allowed or not self._before(self._taught[place], self.x.true_mm, target_mm + self.z.slip_mm):
            self._core.violate(
                "fork_out_travel", f"z moves to {target_mm:.0f} mm, fork at {self.fork.true_mm:.0f} mm"
            )

    def _fork_starts(self, _target_mm: float) -> None:
        if not self.fork_out:
            return
        place = self.place_before()
        if self.z.moving:
            self._core.violate("fork_out_travel", "the fork moves while z moves")
        if place and self._height(place) == "between" and (self.loaded or self._occupied(place)):
            self._core.violate("fork_half_borne", f"the fork leaves {place} between heights")

    def _fork_passes_clear(self, outward: bool) -> None:
        if not outward:
            return
        place = self.place_before()
        if self.x.moving or self.z.moving:
            self._core.violate("fork_out_travel", "the fork extends while x or z moves")
        if not place:
            self._core.violate("fork_nowhere", f"x {self.x.true_mm:.0f} mm, z {self.z.true_mm:.0f} mm")
            return
        height, loaded, occupied = self._height(place), self.loaded, self._occupied(place)
        if loaded and occupied:
            self._core.violate("fork_into_occupied", place)
        if (loaded and height != "carry") or (not loaded and occupied and height != "pick"):
            self._core.violate("fork_height", f"{place} at {height} height, {'loaded' if loaded else 'empty'}")
        if not self.shuttle_ready(place):
            self._core.violate("fork_into_shuttle", place)

    def _fork_passes_depth(self, depth_mm: float, outward: bool) -> None:
        place = self.place_before()
        if outward and place and self._taught[place].fork_mm == depth_mm:
            self._core.violate("fork_nowhere", f"deeper than {place}: {self.fork.true_mm:.0f} mm")

    def _height(self, place: str) -> str:
        above_mm = self.z.true_mm - self._taught[place].z_mm
        if abs(above_mm) <= HEIGHT_MM:
            return "pick"
        return "carry" if abs(above_mm - self._carry_mm) <= HEIGHT_MM else "between"

    def _z_passes_half(self, half_mm: float, upward: bool) -> None:
        place = self.place_before()
        if self._places is None or not self._reaches(place):
            return
        if abs(self._taught[place].z_mm + 0.5 * self._carry_mm - half_mm) > 1e-6:
            return
        standing, carried = self._places.at(place), self._places.at(FORK)
        if upward and standing is not None:
            self.leaving(place)
            self._places.move(standing, FORK)
        elif not upward and carried is not None:
            self._places.move(carried, place)
