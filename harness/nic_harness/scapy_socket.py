"""A scapy socket over a NIC: `sniff`, `sendp`, `AsyncSniffer` and `sr1` on frames of the rings."""

from nic_harness.plugins.scapy_socket import *  # noqa: F403 - the same names, by a short path
from nic_harness.plugins.scapy_socket import __all__ as __all__
