"""Looking at a running process from outside: the control socket and both its sides.

May use: nic, bsd, memory, base, errors.
Owns: the control socket of this process and its thread.

Not public: users import from nic_harness and its modules.
"""
