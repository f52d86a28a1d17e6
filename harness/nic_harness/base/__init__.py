"""What the other rooms stand on: ownership and closing, waiting, call sites, and reports of misuse.

May use: errors.
Owns: the list of open resources, and the names of call sites.

Not public: users import from nic_harness and its modules.
"""
