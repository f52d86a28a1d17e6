"""A NIC driver's buffer machinery, whole and real, as an ordinary Linux program.

    from harness import Nic, Tap

    with Tap() as tap, Nic(tap) as nic:
        for frame in nic:
            print(len(frame), frame.segments)

Tap makes the wire, in a network namespace of its own; Nic puts rings on it. The scapy socket is in
harness.scapy_socket, which imports scapy.
"""

from harness._native import ffi, lib
from harness._stats import Stats, stats
from harness.arena import Arena, ArenaStats, Misuse
from harness.burst import Burst
from harness.capture import Capture, CaptureStats
from harness.errors import HarnessError
from harness.faults import Faults, FaultStats
from harness.frame import Chain, Frame, Gso, Offload
from harness.netns import LinkInfo, LinkStats, Namespace, Process
from harness.nic import Attached, DeviceStats, Nic, NicStats, Offloads
from harness.receiver import Receiver
from harness.stack import (
    Connection,
    Listener,
    SendfileResult,
    Stack,
    StackStats,
    Strategy,
    TcpInfo,
    TcpState,
)
from harness.tap import Tap

__all__ = [
    "Arena",
    "ArenaStats",
    "Attached",
    "Burst",
    "Capture",
    "CaptureStats",
    "Chain",
    "Connection",
    "DeviceStats",
    "FaultStats",
    "Faults",
    "Frame",
    "Gso",
    "HarnessError",
    "LinkInfo",
    "LinkStats",
    "Listener",
    "Misuse",
    "Namespace",
    "Nic",
    "NicStats",
    "Offload",
    "Offloads",
    "Process",
    "Receiver",
    "SendfileResult",
    "Stack",
    "StackStats",
    "Stats",
    "Strategy",
    "Tap",
    "TcpInfo",
    "TcpState",
    "stats",
]

__version__: str = ffi.string(lib.harness_version()).decode()
