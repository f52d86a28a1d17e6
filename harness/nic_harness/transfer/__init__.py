"""One file from here to there, for `send` and `trial`: payload, sender, receiver, results.

May use: host, nic, wire, bsd, memory, base, errors.
Owns: the receiving process of each pass.

Not public: users import from nic_harness and its modules.
"""
