"""Drains the outbox to an MQTT 5 broker. The only importer of aiomqtt; docs/adr/0001 says why it, and its traps.

Topics are ``<root>/v1/<station>/<class>/<object>``. Delivery is at least once: a message leaves the outbox when the
broker has acknowledged it with a good reason code, so after a lost link some come twice, with the same ``id``. Order
is that of the outbox. ``<root>/v1/<station>/status/controller`` is retained: ``online`` true, or false by last will.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiomqtt

from controller.clock import utc_now
from controller.config_tables import MqttTable, TlsTable
from controller.records.outbox import Outbox, OutboxMessage, TopicClass

if TYPE_CHECKING:  # paho is aiomqtt's own; nothing of it is needed at run time
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

_log = logging.getLogger(__name__)
logging.getLogger("mqtt").setLevel(logging.CRITICAL)  # the library's own chatter; what matters we log once

WINDOW = 20  # messages under way at once: paho's own limit (max_inflight_messages)
KEEPALIVE_S = 15  # the last will is sent after 1.5 times this
CONNECT_LIMIT_S = 10.0
ACK_LIMIT_S = 15.0
LEAVE_LIMIT_S = 3.0  # to say goodbye; a broker that does not listen learns it from the keep-alive

# Reason codes (MQTT 5, section 2.4) with which a broker refuses one message for good, so that trying again at once
# is no use: not authorised, topic name invalid, packet too large, payload format invalid.
REFUSED_FOR_GOOD = frozenset({0x87, 0x90, 0x95, 0x99})
FAILURE = 0x80  # reason codes from here on are failures

RETAINED = frozenset({TopicClass.UNIT})  # a new subscriber sees each unit's present state at once


class UplinkLost(Exception):
    """The connection cannot go on; a new one is needed."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: uniform between ``first_s`` and a ceiling that doubles up to ``longest_s``."""

    first_s: float = 1.0
    longest_s: float = 60.0

    def wait_s(self, attempt: int, rng: random.Random) -> float:
        """Return how long to wait before attempt ``attempt`` (the first retry is 1)."""
        ceiling_s = min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30))
        return rng.uniform(self.first_s, ceiling_s)


class MqttUplink:
    """The connection to the cloud. ``run()`` owns it; nothing of the station ever waits for it.

    Attributes:
        state: connecting, online or waiting (for the next attempt).
        counters: connects, sent, refused (set aside by the broker's word), failures.
        last_error: why the last connection ended; empty while all is well.
    """

    def __init__(
        self,
        settings: MqttTable,
        station_id: str,
        outbox: Outbox,
        rng: random.Random,
        backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings
        self._station_id = station_id
        self._prefix = f"{settings.topic_root}/v1/{station_id}"
        self._outbox = outbox
        self._rng = rng
        self._backoff = backoff or Backoff()
        self.state = "connecting"
        self.counters = {"connects": 0, "sent": 0, "refused": 0, "failures": 0}
        self.last_error = ""

    def report(self) -> dict[str, object]:
        """Return what ``swapctl status`` shows of the uplink."""
        return {
            "state": self.state,
            "pending": self._outbox.count,
            "dropped": self._outbox.dropped,
            "last_error": self.last_error,
            "counters": dict(self.counters),
        }

    def down(self) -> str | None:
        """Return why there is no connection now; None: there is one."""
        return None if self.state == "online" else self.last_error or self.state

    async def run(self) -> None:
        """Connect, drain, reconnect, until cancelled. Whatever fails is counted, told once, and tried again."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            began_at = loop.time()
            self.state = "connecting"
            try:
                async with self._connection() as client:
                    await self._drain(client)
            except Exception as error:  # noqa: BLE001 - no failure of the uplink may reach the station
                self._note(error)
            # A broker that takes us in and drops us again is no success: only time counts as one.
            attempt = 1 if loop.time() - began_at > self._backoff.longest_s else attempt + 1
            self.state = "waiting"
            await asyncio.sleep(self._backoff.wait_s(attempt, self._rng))

    def _note(self, error: Exception) -> None:
        self.counters["failures"] += 1
        text = str(error) or type(error).__name__
        if text != self.last_error:
            _log.warning("uplink to %s:%s: %s", self._settings.host, self._settings.port, text)
        self.last_error = text

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Client]:
        """Connect with a new client, say online, and at the end say goodbye, bounded."""
        status = f"{self._prefix}/status/controller"
        client = _Client(
            hostname=self._settings.host,
            port=self._settings.port,
            identifier=self._settings.client_id,
            username=self._settings.username,
            password=self._password(),
            tls_context=_tls_context(self._settings.tls),
            protocol=aiomqtt.ProtocolVersion.V5,
            will=aiomqtt.Will(status, self._status(online=False), qos=1, retain=True),
            keepalive=KEEPALIVE_S,
            timeout=CONNECT_LIMIT_S,
            max_inflight_messages=WINDOW,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        await client.enter()
        try:
            await _acknowledged(client, [client.begin(status, self._status(online=True), retain=True)])
            self.counters["connects"] += 1
            self.state = "online"
            if self.last_error:
                _log.info("uplink to %s:%s is back", self._settings.host, self._settings.port)
                self.last_error = ""
            await self._outbox.retry_refused()
            yield client
        finally:
            await self._leave(client, status)

    async def _leave(self, client: _Client, status: str) -> None:
        """A clean end drops the last will, so it has to be said in so many words."""
        try:
            async with asyncio.timeout(LEAVE_LIMIT_S):
                if not client.lost.done():
                    await _acknowledged(client, [client.begin(status, self._status(online=False), retain=True)])
        except (aiomqtt.MqttError, UplinkLost, TimeoutError, OSError):
            pass  # the last will says it instead
        finally:
            await client.leave()

    async def _drain(self, client: _Client) -> None:
        """Send what waits, in order, and then what comes; returns never, raises when the link is lost."""
        while True:
            self._outbox.added.clear()
            messages = await self._outbox.pending(WINDOW)
            if messages:
                await self._send(client, messages)
            else:
                await _first_of(client, self._outbox.added)

    async def _send(self, client: _Client, messages: Sequence[OutboxMessage]) -> None:
        acks = [
            client.begin(self._topic(message), self._payload(message), retain=message.topic_class in RETAINED)
            for message in messages
        ]
        try:
            await _acknowledged(client, acks)
        finally:  # what was acknowledged before the link was lost need not go again
            codes = {m.id: ack.result() for m, ack in zip(messages, acks, strict=True) if _has_result(ack)}
            good = [number for number, code in codes.items() if code < FAILURE]
            bad = [number for number, code in codes.items() if code in REFUSED_FOR_GOOD]
            if good:
                await self._outbox.sent(good)
            if bad:
                await self._outbox.refused(bad)
            self.counters["sent"] += len(good)
            self.counters["refused"] += len(bad)
        for code in codes.values():
            if code >= FAILURE and code not in REFUSED_FOR_GOOD:
                raise UplinkLost(f"the broker refuses messages for now: reason 0x{code:02x}")
        if bad:
            self.last_error = f"the broker refuses {len(bad)} messages for good (rights, topic or size)"

    # --- words -----------------------------------------------------------------------------------------------------

    def _topic(self, message: OutboxMessage) -> str:
        # Ids come from devices too: a serial must not become a topic level or a wildcard.
        name = re.sub(r"[^A-Za-z0-9._-]", "_", message.object_id) or "_"
        return f"{self._prefix}/{message.topic_class}/{name}"

    def _payload(self, message: OutboxMessage) -> bytes:
        return _json(
            {
                "schema": f"swap-station/{message.topic_class}/1",
                "id": f"{self._outbox.series}/{message.id}",
                "seq": message.id,
                "station": self._station_id,
                "utc": message.utc,
                **message.payload,
            }
        )

    def _status(self, *, online: bool) -> bytes:
        body = {"schema": "swap-station/status/1", "station": self._station_id, "online": online}
        return _json({**body, "utc": utc_now()} if online else body)

    def _password(self) -> str | None:
        path = self._settings.password_file
        if path is None:
            return None
        lines = path.read_text(encoding="utf-8").splitlines()
        return lines[0] if lines else ""


class _TidySslSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho 2.1 leaves it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class _Client(aiomqtt.Client):
    """aiomqtt's client with what it lacks: the PUBACK's reason code, ordered sending, and an end that is an end.

    Used once per connection: one that was cancelled while connecting cannot be used again (2.5.1).
    """

    _acks: dict[int, asyncio.Future[int]]

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the connection has ended, for whatever reason."""
        return self._disconnected

    async def enter(self) -> None:
        """Connect, or leave nothing open. A cancellation waits for the library's connecting thread, bounded."""
        self._acks = {}
        entering = asyncio.get_running_loop().create_task(self.__aenter__())
        try:
            await asyncio.shield(entering)
        except BaseException:
            if not entering.done() and not self._connected.done():
                self._connected.set_exception(aiomqtt.MqttError("given up"))  # no use waiting for the broker's word
                self._connected.exception()
            try:
                await asyncio.wait({entering}, timeout=CONNECT_LIMIT_S)
            finally:
                entering.cancel()
                await self._discard()
            raise

    async def leave(self) -> None:
        """Disconnect. Raises nothing of the link's: it is over either way."""
        with contextlib.suppress(aiomqtt.MqttError, OSError, TimeoutError):
            async with asyncio.timeout(LEAVE_LIMIT_S):
                await self.__aexit__(None, None, None)
        await self._discard()

    async def _discard(self) -> None:
        """Close what the library leaves open after a failed or lost connection: socket, reader, task, errors."""
        self._client.disconnect()
        if self.lost.done() and not self.lost.cancelled():
            self.lost.exception()  # or asyncio reports it as forgotten
        for ack in self._acks.values():
            ack.cancel()
        if self._misc_task is not None:
            self._misc_task.cancel()
            await asyncio.wait({self._misc_task})

    def begin(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[int]:
        """Hand a QoS 1 message over for sending; the future has the PUBACK's reason code. Raises UplinkLost."""
        info = self._client.publish(topic, payload, 1, retain)
        if info.rc != 0:
            raise UplinkLost(f"cannot publish: {aiomqtt.MqttCodeError(info.rc)}")
        ack: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._acks[info.mid] = ack
        return ack

    def _on_publish(
        self,
        client: Any,  # noqa: ANN401 - paho's types, as aiomqtt passes them on
        userdata: Any,  # noqa: ANN401 - the same
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        ack = self._acks.pop(mid, None)
        if ack is not None and not ack.done():
            ack.set_result(reason_code.value)
        super()._on_publish(client, userdata, mid, reason_code, properties)


async def _acknowledged(client: _Client, acks: Sequence[asyncio.Future[int]]) -> None:
    """Wait for every acknowledgement. Raises UplinkLost when the link ends first, or one takes too long."""
    deadline = asyncio.get_running_loop().time() + ACK_LIMIT_S
    while waiting := {ack for ack in acks if not ack.done()}:
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise UplinkLost(f"no acknowledgement within {ACK_LIMIT_S:.0f} s")
        either: set[asyncio.Future[Any]] = {*waiting, client.lost}
        await asyncio.wait(either, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if client.lost.done() and not all(ack.done() for ack in acks):
            raise UplinkLost(f"connection lost: {client.lost.exception() or 'closed'}")


async def _first_of(client: _Client, event: asyncio.Event) -> None:
    """Wait for ``event``; raises UplinkLost if the link ends first."""
    waiting = asyncio.get_running_loop().create_task(event.wait())
    try:
        either: set[asyncio.Future[Any]] = {waiting, client.lost}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if client.lost.done():
        raise UplinkLost(f"connection lost: {client.lost.exception() or 'closed'}")


def _has_result(ack: asyncio.Future[int]) -> bool:
    return ack.done() and not ack.cancelled() and ack.exception() is None


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def _tls_context(tls: TlsTable | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.create_default_context(cafile=str(tls.ca_file))
    context.sslsocket_class = _TidySslSocket
    if tls.certificate_file is not None:
        context.load_cert_chain(str(tls.certificate_file), None if tls.key_file is None else str(tls.key_file))
    return context
