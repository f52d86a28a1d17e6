"""Frames of a capture file sent through a NIC again, at their times or others."""

from nic_harness.nic.replay import *  # noqa: F403 - the same names, by a short path
from nic_harness.nic.replay import __all__ as __all__
