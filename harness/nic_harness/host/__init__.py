"""A host on the wire: the stack with its connections, listeners and sendfile.

May use: nic, bsd, memory, base, errors.
Owns: the connections of each stack.

Not public: users import from nic_harness and its modules.
"""
