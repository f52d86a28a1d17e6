"""The control socket: what a running process's arenas hold, asked from outside.

Served by Arena(control=True), or by every arena of a process with NIC_HARNESS_CONTROL=1 in its
environment: one small thread, which sleeps until somebody asks. Only processes of the same user are
answered (SO_PEERCRED), and only processes of the same user, or root's, are asked.

The socket has a name in the file system, not an abstract one, for those belong to a network
namespace and the asker is often in another. It is looked for under the process's own root
(/proc/PID/root) and by the PID that it has in its own PID namespace.
"""

from nic_harness.look.asking import ask, askable, processes
from nic_harness.look.protocol import ControlError

__all__ = ["ControlError", "ask", "askable", "processes"]
