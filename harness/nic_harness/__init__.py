"""A NIC driver's buffer machinery, whole and real, as an ordinary Linux program.

    from nic_harness import Nic, Tap

    with Tap() as tap, Nic(tap) as nic:
        for frame in nic:
            print(len(frame), frame.segments)

Tap makes the wire, in a network namespace of its own; Nic puts rings on it. The scapy socket is in
nic_harness.scapy_socket, which imports scapy.
"""

from nic_harness.base.misuse import Misuse
from nic_harness.base.version import VERSION
from nic_harness.errors import HarnessError
from nic_harness.host.counters import StackStats
from nic_harness.host.stack import (
    Connection,
    Listener,
    SendfileResult,
    Stack,
    StackMemory,
    Strategy,
    TcpInfo,
    TcpState,
)
from nic_harness.look import answering as _answering
from nic_harness.memory import arena as _arena
from nic_harness.memory.arena import Arena, ArenaStats
from nic_harness.memory.stats import Stats, stats
from nic_harness.nic.burst import Burst
from nic_harness.nic.capture import Capture, CaptureStats
from nic_harness.nic.counters import DeviceStats, NicStats
from nic_harness.nic.faults import Faults, FaultStats
from nic_harness.nic.frame import Chain, Frame, Gso, Offload
from nic_harness.nic.nic import Attached, Nic, Offloads
from nic_harness.nic.receiver import Receiver
from nic_harness.wire.netns import LinkInfo, LinkStats, Namespace, Process
from nic_harness.wire.tap import Tap

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
    "StackMemory",
    "StackStats",
    "Stats",
    "Strategy",
    "Tap",
    "TcpInfo",
    "TcpState",
    "stats",
]

# look/ stands above memory/, which may not know it.
_arena.watcher = _arena.Watcher(_answering.wanted, _answering.enter, _answering.leave)

__version__ = VERSION
