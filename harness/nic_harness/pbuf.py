"""pbuf(9): physical I/O buffers, by the kernel's names."""

from nic_harness.bsd.pbuf import *  # noqa: F403 - the same names, by a short path
from nic_harness.bsd.pbuf import __all__ as __all__
