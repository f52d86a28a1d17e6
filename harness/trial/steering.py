"""Which CPU the receiving kernel works on: another than the sender's, as by a card's interrupt.

What a frame costs the receiving kernel is otherwise done inside the sender's system call, on its
CPU, and a trial measures that CPU rather than the path. Receive packet steering hands it over. All
senders of a trial are treated alike, the baseline too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from harness.errors import HarnessError
from harness.netns import Namespace

#: Sysctl, below net., of a namespace: the steering of interfaces made in it (Linux 6.3).
DEFAULT_MASK = "core.rps_default_mask"


def sender_cpu() -> int:
    """Return the CPU that sending threads are to run on."""
    return min(os.sched_getaffinity(0))


def receive_mask() -> str:
    """Return the other CPUs that we may use, as sysctl takes it; "0", no steering, for none."""
    others = os.sched_getaffinity(0) - {sender_cpu()}
    mask = f"{sum(1 << cpu for cpu in others):x}"
    # Groups of 32 bits, with commas between them.
    groups = [mask[max(0, end - 8) : end] for end in range(len(mask), 0, -8)]
    return ",".join(reversed(groups))


def steer(namespace: Namespace) -> bool:
    """Let interfaces made from now on hand frames to another CPU; whether the kernel lets us."""
    try:
        namespace.sysctl(DEFAULT_MASK, receive_mask())
    except HarnessError:
        return False
    return True


@contextlib.contextmanager
def on_sender_cpu() -> Iterator[None]:
    """Run the calling thread on the sender's CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sender_cpu()})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
