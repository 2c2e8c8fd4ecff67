"""Composition root: builds the HAL and the services of one station, starts them in order and stops them in reverse.

Whoever starts a station (``python -m controller``, a test, the demo) makes one of these inside a running loop. The
openers of buses and lines are parameters; everything else follows from the station file.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from controller.carriers import AxisCarrier
from controller.charging.follower import ChargeFollower
from controller.config import StationConfig
from controller.events import EventBus
from controller.fault_manager import FaultManager
from controller.fault_watch import FaultWatch
from controller.health import Check, Health
from controller.local.roles import Role, RoleTable
from controller.local.server import LocalServer
from controller.logs import log_event
from controller.model.faults import FaultCode
from controller.model.layout import Layout
from controller.observer import StationObserver
from controller.records.journal import Journal
from controller.records.ledger import Ledger
from controller.records.outbox import Outbox
from controller.runner import StepRunner
from controller.service import About, Service
from controller.station import Station
from controller.steps import Hands
from controller.units import UnitParts
from controller.uplink.feed import feed_outbox
from controller.uplink.mqtt import MqttUplink
from hal.api import HalSet
from hal.factory import build_hal
from hal.types import CanLinkSpec

_log = logging.getLogger(__name__)

VERSION = "0.1.0"
POLLING_LIMIT_S = 10.0  # the slowest poller turns every second, a dead line is tried again every 5 s
STATION_BEAT_S = 15.0  # the station decides at least every second, and waits up to 10 s for its first readings


@dataclass(frozen=True, slots=True)
class Wires:
    """How buses and lines are opened; empty: as the station file says, by python-can and pymodbus."""

    openers: Mapping[str, Any] = field(default_factory=dict)


class StationApp:
    """One running station. ``run()`` until cancelled; ``ready`` is set when it serves.

    Attributes:
        events: everything that happens.
        service: what the local API offers; set when ``ready`` is.
        station: the station itself; set when ``ready`` is.
    """

    def __init__(self, config: StationConfig, wires: Wires | None = None) -> None:
        self.config = config
        self.layout: Layout = config.layout()
        self.events = EventBus()
        self.ready = asyncio.Event()
        self.service: Service
        self.station: Station
        self._wires = wires or Wires()

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            StoreError: the journal or the outbox cannot be used; nothing was started.
            SocketTaken, UnknownGroup: the local API cannot be offered; nothing was started.
        """
        directory = self.config.data.directory
        directory.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            journal, outbox = Journal(directory / "journal.db"), Outbox(directory / "outbox.db")
            for store in (journal, outbox):
                await store.open()
                stack.push_async_callback(store.close)
            ledger = Ledger(journal, self.layout)
            await ledger.open()
            stack.callback(feed_outbox(self.events, outbox))
            stack.callback(self.events.subscribe(log_event))
            await self._serve(stack, ledger, journal, outbox)

    async def _serve(self, stack: AsyncExitStack, ledger: Ledger, journal: Journal, outbox: Outbox) -> None:
        spec = self.config.hal_spec()
        hal = build_hal(spec, **self._wires.openers)
        observer = StationObserver(hal)
        stack.callback(observer.close)
        parts = UnitParts(hal, self.layout, observer, ledger, self.events)
        hands = Hands(hal, self.layout)
        runner = StepRunner(hands, observer, ledger, self.events, self.config.steps)
        faults = FaultManager()
        stack.callback(faults.close)
        can_links = frozenset(link.link_id for link in spec.links if isinstance(link, CanLinkSpec))
        watch = FaultWatch(parts, faults, can_links)
        self.station = Station(parts, AxisCarrier(runner, observer, ledger, self.layout), watch, runner.wind_up)
        health = Health(self.config.data.directory)
        self.station.alive = health.heartbeat("station", STATION_BEAT_S)
        health.watch("pollers", _polling(hal))
        uplink = (
            MqttUplink(self.config.mqtt, self.config.station.id, outbox, random.Random())  # noqa: S311 - spreads reconnects, no secret
            if self.config.mqtt
            else None
        )
        watch.also(FaultCode.DISK_LOW, "disk", health.disk_low)
        watch.also(FaultCode.EVENT_LOOP_LAG, "loop", health.lagging)
        if uplink is not None:
            watch.also(FaultCode.UPLINK_DOWN, "uplink", uplink.down)
        self.service = Service(
            self.station,
            About(
                name=self.config.station.name,
                version=VERSION,
                started_at=asyncio.get_running_loop().time(),
                links={
                    **{device.device_id: device.link_id for device in spec.devices},
                    **{link.link_id: "can" if isinstance(link, CanLinkSpec) else link.kind for link in spec.links},
                },
                health=health.report,
                uplink=uplink.report if uplink else lambda: None,
            ),
        )
        stack.callback(self.service.close)

        async def audit(record: Mapping[str, object]) -> int:
            return await journal.append("audit", record)

        server = LocalServer(self.config.local_api.socket, self.service, self._roles(), audit)
        # The socket first: where another controller serves it, no device is spoken to. The devices go on until
        # everything that uses them has wound up.
        async with server.serving(), asyncio.TaskGroup() as devices:
            own_devices = devices.create_task(hal.run(), name="hal")
            try:
                async with asyncio.TaskGroup() as services:
                    services.create_task(watch.run(), name="faults")
                    services.create_task(ChargeFollower(hal, self.layout).run(), name="charging")
                    services.create_task(health.run(), name="health")
                    if uplink is not None:
                        services.create_task(uplink.run(), name="uplink")
                    services.create_task(self._tell_ready(health), name="ready")
                    await self.station.run()
            finally:
                own_devices.cancel()

    async def _tell_ready(self, health: Health) -> None:
        await self.station.ready.wait()
        health.ready()
        self.ready.set()

    def _roles(self) -> RoleTable:
        api = self.config.local_api
        groups = {Role.OPERATOR: api.operators_group, Role.TECHNICIAN: api.technicians_group}
        return RoleTable({role: name for role, name in groups.items() if name})


def _polling(hal: HalSet) -> Check:
    """Return a check that requests go out at all. A device that does not answer is a fault, no reason to restart."""
    loop = asyncio.get_running_loop()
    last = {"total": -1, "at": loop.time()}

    def check() -> str | None:
        total = sum(sum(report.counters.values()) for report in hal.links())
        if total != last["total"]:
            last.update(total=total, at=loop.time())
        age_s = loop.time() - last["at"]
        return f"nothing was asked of any device for {age_s:.0f} s" if age_s > POLLING_LIMIT_S else None

    return check
