"""The NIC: queues, frames, bursts, the device and its wrappers, replay, page flip.

May use: bsd, memory, wire, base, errors.
Owns: the rings of each NIC, and the threads that receive from them.

Not public: users import from nic_harness and its modules.
"""
