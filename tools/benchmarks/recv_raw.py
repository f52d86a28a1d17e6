"""scapy's own L2 socket, for `tools/bench rings`: run in the namespace of an interface.

For each line on standard input: take what waits on the socket, and print how many frames that were
and the nanoseconds of this thread's own time that they took.
"""

from __future__ import annotations

import contextlib
import sys
import time

from scapy.arch.linux import L2Socket

_RCVBUFFORCE = 33  # SO_RCVBUFFORCE, asm-generic/socket.h


def main(interface: str) -> None:
    """Serve until standard input ends."""
    sock = L2Socket(iface=interface)
    sock.ins.setblocking(False)
    sock.ins.setsockopt(1, _RCVBUFFORCE, 64 << 20)
    sock.ins.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
    print("ready", flush=True)
    for _line in sys.stdin:
        frames = 0
        start = time.thread_time_ns()
        with contextlib.suppress(BlockingIOError):
            while True:
                frames += sock.recv_raw()[1] is not None
        print(frames, time.thread_time_ns() - start, flush=True)
    sock.close()


if __name__ == "__main__":
    main(sys.argv[1])
