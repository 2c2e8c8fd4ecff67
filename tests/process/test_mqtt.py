from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from controller.config_tables import MqttTable, TlsTable
from controller.records.outbox import Outbox, TopicClass
from controller.uplink import mqtt
from controller.uplink.mqtt import Backoff, MqttUplink
from tests.support.api import until
from tests.support.mosquitto import Broker, broker, find_program, password_entry

FAST = Backoff(first_s=0.02, longest_s=0.1)
ROOT = "swap"


class Cloud:
    """A subscriber whose session outlives its connections; keeps (topic, value, retained) of all it hears."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.heard: list[tuple[str, Any, bool]] = []

    def values(self, key: str) -> list[Any]:
        return [value[key] for _, value, _ in self.heard if key in value]

    async def run(self, subscribed: asyncio.Event) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's
        properties.SessionExpiryInterval = 3600
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1",
                    self._port,
                    identifier="cloud",
                    protocol=aiomqtt.ProtocolVersion.V5,
                    clean_start=False,
                    properties=properties,
                    timeout=5,
                ) as client:
                    await client.subscribe(f"{ROOT}/#", qos=1)
                    subscribed.set()
                    async for message in client.messages:
                        self.heard.append((str(message.topic), json.loads(bytes(message.payload)), message.retain))
            await asyncio.sleep(0.05)


@pytest.fixture(name="mosquitto")
def _mosquitto(tmp_path: Path) -> Iterator[Broker]:
    with broker(tmp_path) as made:
        yield made


@pytest.fixture(name="outbox")
async def _outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    made = Outbox(tmp_path / "data" / "outbox.db")
    await made.open()
    yield made
    await made.close()


def seeded(seed: int) -> random.Random:
    """Return a generator that gives the same waits every time."""
    return random.Random(seed)  # noqa: S311 - jitter is no secret


def settings(port: int, **more: Any) -> MqttTable:
    """Return settings for the broker of a test."""
    return MqttTable.model_validate(
        {"host": "127.0.0.1", "port": port, "client_id": "st1", "topic_root": ROOT, **more}
    )


def uplink_to(port: int, outbox: Outbox, **more: Any) -> MqttUplink:
    """Return an uplink that tries again fast."""
    return MqttUplink(settings(port, **more), "demo", outbox, seeded(7), FAST)


@contextlib.asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[None]:
    """Run coroutines beside the test and cancel them at its end; one that fails fails the test."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
        yield
        for task in tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def listening(port: int) -> AsyncIterator[Cloud]:
    """A cloud that has subscribed."""
    cloud, subscribed = Cloud(port), asyncio.Event()
    async with running(cloud.run(subscribed)):
        async with asyncio.timeout(10):
            await subscribed.wait()
        yield cloud


async def test_messages_arrive_under_their_topics(mosquitto: Broker, outbox: Outbox) -> None:
    """What waits and what comes is delivered with topic, id, station and time, and then forgotten."""
    await outbox.put(TopicClass.SWAP, "dock1", {"type": "swap", "n": 1})
    async with listening(mosquitto.port) as cloud, running(uplink_to(mosquitto.port, outbox).run()):
        await until(lambda: cloud.values("n") == [1])
        await outbox.put(TopicClass.PACK, "a/b+c#d", {"type": "pack", "n": 2})
        await until(lambda: cloud.values("n") == [1, 2] and outbox.count == 0)
    by_topic = {topic: value for topic, value, _ in cloud.heard}
    message = by_topic[f"{ROOT}/v1/demo/swap/dock1"]
    assert message["schema"] == "swap-station/swap/1"
    assert message["station"] == "demo"
    assert message["id"] == f"{outbox.series}/{message['seq']}"
    assert message["utc"].endswith("Z")
    assert f"{ROOT}/v1/demo/pack/a_b_c_d" in by_topic


async def test_unit_states_are_retained(mosquitto: Broker, outbox: Outbox) -> None:
    """Somebody who subscribes later sees each unit's last state and that the station is online, and no old swap."""
    uplink = uplink_to(mosquitto.port, outbox)
    async with running(uplink.run()):
        for n in range(3):
            await outbox.put(TopicClass.UNIT, "dock1", {"n": n})
        await outbox.put(TopicClass.SWAP, "dock1", {"n": 9})
        await until(lambda: outbox.count == 0 and uplink.counters["sent"] == 4)
        async with listening(mosquitto.port) as cloud:
            await until(lambda: len(cloud.heard) == 2)
    assert cloud.values("n") == [2]
    assert cloud.values("online") == [True]


async def test_nothing_is_lost_and_order_is_kept_while_the_broker_comes_and_goes(
    mosquitto: Broker, outbox: Outbox
) -> None:
    """Over two orderly restarts of the broker every message arrives in order; repeats keep their id."""
    uplink = uplink_to(mosquitto.port, outbox)
    async with listening(mosquitto.port) as cloud, running(uplink.run()):
        for n in range(600):
            await outbox.put(TopicClass.SWAP, "dock1", {"n": n})
            if n in {200, 400}:
                mosquitto.stop()
            if n in {250, 450}:
                mosquitto.start()
        await until(lambda: outbox.count == 0 and set(cloud.values("n")) == set(range(600)))
    first_arrivals = list(dict.fromkeys(cloud.values("n")))
    assert first_arrivals == list(range(600))
    assert len(set(cloud.values("id"))) == 600
    assert uplink.counters["connects"] >= 2
    assert uplink.counters["refused"] == 0


async def test_a_killed_broker_is_survived(mosquitto: Broker, outbox: Outbox) -> None:
    """With the broker killed, messages wait on disk and the uplink says so; with it back, they are delivered."""
    uplink = uplink_to(mosquitto.port, outbox)
    async with running(uplink.run()):
        await until(lambda: uplink.state == "online")
        mosquitto.kill()
        await until(lambda: uplink.state != "online")
        for n in range(20):
            await outbox.put(TopicClass.FAULT, "dock1.clamp", {"n": n})
        await until(lambda: uplink.counters["failures"] >= 3)
        assert outbox.count == 20
        assert uplink.report()["pending"] == 20
        assert uplink.last_error
        mosquitto.start()
        async with listening(mosquitto.port) as cloud:
            await until(lambda: outbox.count == 0)
            assert not uplink.last_error
            assert cloud.values("online")[-1] is True


async def test_the_station_never_waits_for_a_frozen_broker(mosquitto: Broker, outbox: Outbox) -> None:
    """With the broker frozen in the middle of a connection every put completes; afterwards all arrive in order."""
    uplink = uplink_to(mosquitto.port, outbox)
    async with listening(mosquitto.port) as cloud, running(uplink.run()):
        await until(lambda: uplink.state == "online")
        mosquitto.freeze()
        for n in range(100):
            await outbox.put(TopicClass.SWAP, "dock1", {"n": n})
        assert outbox.count == 100
        mosquitto.thaw()
        await until(lambda: outbox.count == 0 and len(set(cloud.values("n"))) == 100)
    assert list(dict.fromkeys(cloud.values("n"))) == list(range(100))


async def test_a_killed_station_leaves_its_last_will(mosquitto: Broker, tmp_path: Path) -> None:
    """After kill -9 of the client the broker itself tells, retained, that the station is offline."""
    script = (
        "import asyncio, pathlib, random, sys\n"
        "from controller.config_tables import MqttTable\n"
        "from controller.records.outbox import Outbox\n"
        "from controller.uplink.mqtt import MqttUplink\n"
        "async def main():\n"
        "    outbox = Outbox(pathlib.Path(sys.argv[2])); await outbox.open()\n"
        f"    table = dict(host='127.0.0.1', port=int(sys.argv[1]), client_id='st1', topic_root={ROOT!r})\n"
        "    await MqttUplink(MqttTable.model_validate(table), 'demo', outbox, random.Random(1)).run()\n"
        "asyncio.run(main())\n"
    )
    async with listening(mosquitto.port) as cloud:
        command = [sys.executable, "-c", script, str(mosquitto.port), str(tmp_path / "o.db")]
        with subprocess.Popen(command) as process:  # noqa: ASYNC220 - starting a process takes no time
            await until(lambda: cloud.values("online") == [True])
            process.kill()
        await until(lambda: cloud.values("online") == [True, False])
    async with listening(mosquitto.port) as later:
        await until(lambda: bool(later.heard))
    assert later.heard[0][0] == f"{ROOT}/v1/demo/status/controller"
    assert later.values("online")[-1] is False


async def test_an_orderly_end_says_offline(mosquitto: Broker, outbox: Outbox) -> None:
    """A station that stops says so itself, once, since a clean end drops the last will."""
    uplink = uplink_to(mosquitto.port, outbox)
    async with listening(mosquitto.port) as cloud:
        async with running(uplink.run()):
            await until(lambda: cloud.values("online") == [True])
        await until(lambda: cloud.values("online") == [True, False])


async def test_a_refused_topic_stands_aside(tmp_path: Path, outbox: Outbox) -> None:
    """A message that the broker's rules refuse is kept, counted and told, and does not hold up those behind it."""
    rules = tmp_path / "acl"
    rules.write_text(f"topic readwrite {ROOT}/v1/demo/swap/#\ntopic readwrite {ROOT}/v1/demo/status/#\n")
    with broker(tmp_path, "allow_anonymous true", f"acl_file {rules}") as mosquitto:
        uplink = uplink_to(mosquitto.port, outbox)
        await outbox.put(TopicClass.FAULT, "x", {"n": 0})
        await outbox.put(TopicClass.SWAP, "dock1", {"n": 1})
        async with running(uplink.run()):
            await until(lambda: uplink.counters["sent"] == 1)
        assert uplink.counters["refused"] == 1
        assert "refuses 1 messages for good" in uplink.last_error
        assert outbox.count == 1
        assert await outbox.pending() == []


async def test_a_user_with_a_password_gets_in_and_a_wrong_one_is_told(tmp_path: Path, outbox: Outbox) -> None:
    """User and password from the file are used; with a wrong one the report has the reason and the trying goes on."""
    passwords, mine = tmp_path / "passwords", tmp_path / "mine"
    passwords.write_text(password_entry("st1", "secret"))
    mine.write_text("wrong\n")
    with broker(tmp_path, "allow_anonymous false", f"password_file {passwords}") as mosquitto:
        uplink = uplink_to(mosquitto.port, outbox, username="st1", password_file=str(mine))
        async with running(uplink.run()):
            await until(lambda: uplink.counters["failures"] >= 2)
            assert "authori" in uplink.last_error.lower()
            mine.write_text("secret\n")
            await until(lambda: uplink.state == "online")


async def test_tls_checks_the_broker(tmp_path: Path, outbox: Outbox) -> None:
    """Over TLS with certificates on both sides messages arrive; a broker of an unknown authority is refused."""
    _certificates(tmp_path)
    lines = ("allow_anonymous true", "require_certificate true", f"cafile {tmp_path}/ca.crt")
    with broker(tmp_path, *lines, f"certfile {tmp_path}/own.crt", f"keyfile {tmp_path}/own.key") as mosquitto:
        tls = {"ca_file": "ca.crt", "certificate_file": "own.crt", "key_file": "own.key"}
        good = TlsTable.model_validate({key: str(tmp_path / name) for key, name in tls.items()})
        uplink = uplink_to(mosquitto.port, outbox, tls=good)
        await outbox.put(TopicClass.SWAP, "dock1", {"n": 1})
        async with running(uplink.run()):
            await until(lambda: outbox.count == 0)
        stranger = good.model_copy(update={"ca_file": tmp_path / "other.crt"})
        uplink = uplink_to(mosquitto.port, outbox, tls=stranger)
        async with running(uplink.run()):
            await until(lambda: uplink.counters["failures"] >= 1)
        assert "CERTIFICATE_VERIFY_FAILED" in uplink.last_error
        assert uplink.counters["connects"] == 0


async def test_a_broker_that_says_nothing_is_given_up(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts at a port that accepts and then is silent end, close what they opened, and leave no task behind."""
    monkeypatch.setattr(mqtt, "CONNECT_LIMIT_S", 0.05)
    open_now: set[asyncio.StreamWriter] = set()
    came: list[asyncio.StreamWriter] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer)
        open_now.add(writer)
        while await reader.read(1000):
            pass
        writer.close()
        open_now.discard(writer)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    uplink = uplink_to(server.sockets[0].getsockname()[1], outbox)
    async with server:
        async with running(uplink.run()):
            await until(lambda: uplink.counters["failures"] >= 3)
            assert "timed out" in uplink.last_error
            monkeypatch.undo()
            attempts = len(came)
            await until(lambda: len(came) > attempts)  # and is cancelled in the middle of this one
        await until(lambda: not open_now)
    assert uplink.counters["connects"] == 0


def test_waits_grow_within_their_limits_and_follow_the_seed() -> None:
    """Back-off is between 1 s and a ceiling that doubles to 60 s, and equal seeds wait equally."""
    waits = [Backoff().wait_s(attempt, seeded(3)) for attempt in range(1, 40)]
    assert all(1.0 <= wait_s <= min(60.0, 2.0**attempt) for attempt, wait_s in enumerate(waits, 1))
    assert max(waits) > 8.0
    assert waits == [Backoff().wait_s(attempt, seeded(3)) for attempt in range(1, 40)]


def _certificates(folder: Path) -> None:
    """Make an authority, a certificate of it for 127.0.0.1, and a stranger's authority."""
    openssl = find_program("openssl", "openssl")
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for name in ("ca", "other"):
        _openssl(openssl, "req", "-x509", *ec, "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt",
                 "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    _openssl(
        openssl, "req", *ec[:-2], "-keyout", f"{folder}/own.key", "-out", f"{folder}/own.csr", "-subj", "/CN=own"
    )
    (folder / "ext").write_text(
        "subjectAltName=IP:127.0.0.1\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    _openssl(openssl, "x509", "-req", "-in", f"{folder}/own.csr", "-CA", f"{folder}/ca.crt", "-CAkey",
             f"{folder}/ca.key", "-CAcreateserial", "-out", f"{folder}/own.crt", "-days", "2", "-extfile",
             f"{folder}/ext")  # fmt: skip


def _openssl(program: Any, *arguments: str) -> None:
    subprocess.run([str(program.path), *arguments], check=True, capture_output=True, env=program.environment())
