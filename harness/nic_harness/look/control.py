"""The control socket: asking a running process, from outside, what its arenas hold.

Arena(control=True) serves it, and so does every arena of a process that has NIC_HARNESS_CONTROL=1
in its environment: one small thread, which sleeps until a question comes. It answers only processes
of the same user (SO_PEERCRED), and ask() asks only processes of the same user or of root.

The socket has a name in the file system. An abstract name belongs to a network namespace, and the
asking process is often in another one. ask() looks for the name under the process's own root
(/proc/PID/root), by the PID that the process has in its own PID namespace.
"""

from nic_harness.look.asking import ask, askable, processes
from nic_harness.look.protocol import ControlError

__all__ = ["ControlError", "ask", "askable", "processes"]
