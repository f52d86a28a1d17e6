"""sf_buf(9): mappings of pages, by the kernel's names, and the files that pages come from."""

from nic_harness.bsd.sf_buf import *  # noqa: F403 - the same names, by a short path
from nic_harness.bsd.sf_buf import __all__ as __all__
