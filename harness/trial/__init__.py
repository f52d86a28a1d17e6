"""Sendfile trials: our NIC's mapping strategies and the kernel's own sendfile, in one run."""

from harness.trial.payload import Payload, make_payload, open_payload
from harness.trial.results import Attached, Report, Run, median_run
from harness.trial.trial import STRATEGIES, USUAL, Settings, Trial, open_trial
from harness.trial.wire import Observer, Pass, Progress, Strategy

__all__ = [
    "STRATEGIES",
    "USUAL",
    "Attached",
    "Observer",
    "Pass",
    "Payload",
    "Progress",
    "Report",
    "Run",
    "Settings",
    "Strategy",
    "Trial",
    "make_payload",
    "median_run",
    "open_payload",
    "open_trial",
]
