"""pmap_quick_enter_page(9): one page, for a moment, by the kernel's names."""

from nic_harness.bsd.pmap import *  # noqa: F403 - the same names, by a short path
from nic_harness.bsd.pmap import __all__ as __all__
