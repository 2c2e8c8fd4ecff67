"""The other end of a CAN benchmark: serves ``swapbus`` to one client and sends it frames, in a process of its own.

``python -m tests.bench.can_feeder CHANNEL RATE``: frames as struct can_frame on standard input; RATE in frames/s,
0 for as fast as the client reads. Ends when the client leaves.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

from sim_hw.can_plugin import FRAME, SEND_BUFFER_BYTES, SO_SNDBUFFORCE, socket_address

BURST_S = 0.01


def main() -> None:
    """Serve one client."""
    channel, rate = sys.argv[1], float(sys.argv[2])
    data = sys.stdin.buffer.read()
    packets = [data[at : at + FRAME.size] for at in range(0, len(data), FRAME.size)]
    burst = int(rate * BURST_S) or len(packets)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(socket_address(channel))
        listener.listen(1)
        print("ready", flush=True)  # noqa: T201 - what the parent waits for
        client, _ = listener.accept()
        with client:
            try:
                client.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
            except PermissionError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            client.recv(1)  # the client says that it is reading
            began = time.perf_counter()
            pause = threading.Event()
            for at in range(0, len(packets), burst):
                for packet in packets[at : at + burst]:
                    client.send(packet)
                if rate:
                    pause.wait(max(0.0, began + (at + burst) / rate - time.perf_counter()))
            client.recv(1)


if __name__ == "__main__":
    main()
