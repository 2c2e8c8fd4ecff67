"""The framer that pymodbus is given: requests go out as it encodes them, modbus_frames.py judges what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pymodbus.framer import FramerBase, FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU, ModbusPDU

from hal.modbus_frames import Answer, Ask, Stream


class Carrier(ModbusPDU):
    """Brings an Answer through pymodbus."""

    def __init__(self, ask: Ask, answer: Answer) -> None:
        super().__init__(dev_id=ask.unit, transaction_id=ask.transaction)
        self.answer = answer


class JudgingFramer(FramerBase):
    """What pymodbus calls with bytes: hands them to the stream, with the request that is on the wire.

    Attributes:
        ask: the request on the wire; None: whatever comes is unasked.
        heard_at: loop time of the newest bytes.
    """

    def __init__(self, stream: Stream, broken: Callable[[str], None]) -> None:
        super().__init__(DecodePDU(is_server=False))
        self.stream = stream
        self.ask: Ask | None = None
        self.heard_at = float("-inf")
        self._broken = broken

    def buildFrame(self, message: ModbusPDU) -> bytes:  # noqa: N802 - pymodbus' name
        """Encode a request and expect its answer from here on."""
        self.ask = Ask(message.dev_id, message.function_code, message.address, message.count, message.transaction_id)
        return super().buildFrame(message)

    def handleFrame(self, data: bytes, exp_devid: int, exp_tid: int) -> tuple[int, ModbusPDU | None]:  # noqa: N802, ARG002 - pymodbus' name and signature
        """Take all new bytes, so that pymodbus keeps none; return the answer once it is whole."""
        self.heard_at = asyncio.get_running_loop().time()
        ask = self.ask
        answer = self.stream.take(data, ask)
        if self.stream.broken:
            self._broken(self.stream.broken)
        if answer is None or ask is None:
            return len(data), None
        self.ask = None
        return len(data), Carrier(ask, answer)

    def settle(self) -> None:
        """Expect nothing more: the request has ended."""
        self.ask = None
        self.stream.settle()


class TcpFramer(JudgingFramer, FramerSocket):
    """Encodes as pymodbus does on TCP."""


class RtuFramer(JudgingFramer, FramerRTU):
    """Encodes as pymodbus does on RTU."""
