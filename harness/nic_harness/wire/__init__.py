"""The wire: a network namespace, the TAP in it, its addresses, and the programs that hold them.

May use: base, errors.
Owns: the processes and descriptors of each namespace and TAP.

Not public: users import from nic_harness and its modules.
"""
