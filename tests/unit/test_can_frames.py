"""What error frames say, and how each interface is opened: the parts of CAN that need no bus."""

from __future__ import annotations

import pytest

from hal.can_frames import decode_error_frame
from hal.can_port import open_arguments
from hal.types import CanLinkSpec, LinkState


@pytest.mark.parametrize(
    ("can_id", "data", "counters", "state", "tec_rec"),
    [
        # Classes 0xA8: protocol, no acknowledge, bus error. 0x204: controller problem, with both counters.
        (0x0A8, "0000000000000000", ("protocol_errors", "no_acknowledge", "bus_errors"), None, (None, None)),
        (0x204, "0008000000000a61", ("error_warning",), LinkState.UP, (10, 97)),
        (0x204, "002000000000820a", ("error_passive",), LinkState.ERROR_PASSIVE, (130, 10)),
        (0x040, "0000000000000000", ("bus_off",), LinkState.BUS_OFF, (None, None)),
        (0x100, "0000000000000000", ("restarts",), LinkState.UP, (None, None)),
        (0x204, "0040000000000000", (), LinkState.UP, (0, 0)),
        (0x004, "0001", ("rx_overflows",), None, (None, None)),
        (0x004, "00", (), None, (None, None)),
    ],
)
def test_error_frames_say_what_the_kernel_headers_say(
    can_id: int, data: str, counters: tuple[str, ...], state: LinkState | None, tec_rec: tuple[int | None, int | None]
) -> None:
    """Classes, controller flags and counters are decoded as linux/can/error.h has them."""
    event = decode_error_frame(can_id, bytes.fromhex(data))
    assert event == (counters, state, *tec_rec)


@pytest.mark.parametrize(
    ("interface", "channel", "expected"),
    [
        ("socketcan", "can0", {}),
        ("slcan", "/dev/ttyACM0", {"bitrate": 500_000, "sleep_after_open": 0, "timeout": 0}),
        ("socketcand", "can0@10.0.0.1:29536", {"channel": "can0", "host": "10.0.0.1", "port": 29536}),
        ("udp_multicast", "239.74.163.2", {"hop_limit": 0, "fd": False}),
        ("swapbus", "@demo.packs", {"bitrate": 500_000}),
    ],
)
def test_each_interface_gets_the_arguments_that_avoid_its_traps(
    interface: str, channel: str, expected: dict[str, object]
) -> None:
    """python-can never looks at configuration files, and each interface's known traps are set aside."""
    arguments = open_arguments(CanLinkSpec("can1", interface, channel, 500_000))
    assert arguments == {"interface": interface, "channel": channel, "ignore_config": True} | expected


def test_a_socketcand_channel_without_server_is_refused() -> None:
    """A channel that names no server says what it should look like."""
    with pytest.raises(ValueError, match="can0@host:29536"):
        open_arguments(CanLinkSpec("can1", "socketcand", "can0", 500_000))
