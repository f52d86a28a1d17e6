"""lwbuf(9): light handles on mappings, by the kernel's names: not cached, not counted."""

from nic_harness.bsd.lwbuf import *  # noqa: F403 - the same names, by a short path
from nic_harness.bsd.lwbuf import __all__ as __all__
