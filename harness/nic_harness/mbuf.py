"""mbuf(9): chains of buffers and external storage, by the kernel's names."""

from nic_harness.bsd.mbuf import *  # noqa: F403 - the same names, by a short path
from nic_harness.bsd.mbuf import __all__ as __all__
