"""The `harness` command: one module for each of its commands.

May use: trial, transfer, plugins, look, host, nic, wire, bsd, memory, base, errors.
Owns: the terminal: nothing below prints.

Not public: users import from nic_harness and its modules.
"""

from nic_harness.cli.app import main

__all__ = ["main"]
