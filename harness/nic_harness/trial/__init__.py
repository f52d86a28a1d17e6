"""Sendfile trials: our NIC's mapping strategies and the kernel's own sendfile, in one run.

May use: transfer, host, nic, wire, bsd, memory, base, errors.
Owns: the baseline's namespaces and veth pair.

Not public: users import from nic_harness and its modules.
"""

from nic_harness.transfer.passes import Contender, Observer, Pass, Progress
from nic_harness.transfer.payload import Payload, make_payload, open_payload
from nic_harness.transfer.results import Report, Run, Setup, median_run
from nic_harness.trial.trial import STRATEGIES, USUAL, Settings, Trial, open_trial

__all__ = [
    "STRATEGIES",
    "USUAL",
    "Contender",
    "Observer",
    "Pass",
    "Payload",
    "Progress",
    "Report",
    "Run",
    "Settings",
    "Setup",
    "Trial",
    "make_payload",
    "median_run",
    "open_payload",
    "open_trial",
]
