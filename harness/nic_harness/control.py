"""The control socket: what a running process's arenas hold, asked from outside."""

from nic_harness.look.control import *  # noqa: F403 - the same names, by a short path
from nic_harness.look.control import __all__ as __all__
