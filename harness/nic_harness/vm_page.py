"""vm_page: pages of the arena and of open files, and what is recorded about them."""

from nic_harness.bsd.vm_page import *  # noqa: F403 - the same names, by a short path
from nic_harness.bsd.vm_page import __all__ as __all__
