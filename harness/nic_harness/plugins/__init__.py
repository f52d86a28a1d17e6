"""What plugs into other programs: the pytest plugin, the scapy socket, and the doctor's findings.

May use: look, host, nic, wire, bsd, memory, base, errors.
Owns: nothing beyond a test's or a check's own objects.

Not public: users import from nic_harness and its modules.
"""
