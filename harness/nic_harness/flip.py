"""Page-flip receive, zero_copy(9): whole pages of a chain become the user's by remapping."""

from nic_harness.nic.flip import *  # noqa: F403 - the same names, by a short path
from nic_harness.nic.flip import __all__ as __all__
