"""The memory of a run: the arena, and the figures of its pools.

May use: base, errors.
Owns: the open arenas of this process, and which of them is current.

Not public: users import from nic_harness and its modules.
"""
