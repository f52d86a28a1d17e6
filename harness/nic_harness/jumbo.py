"""jumbo(9): page-sized receive buffers, by the kernel's names."""

from nic_harness.bsd.jumbo import *  # noqa: F403 - the same names, by a short path
from nic_harness.bsd.jumbo import __all__ as __all__
