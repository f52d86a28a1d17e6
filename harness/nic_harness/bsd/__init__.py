"""The BSD interfaces by their own names: vm_page, jumbo, sf_buf, lwbuf, pbuf, pmap, mbuf.

May use: memory, base, errors.
Owns: nothing; every page, mapping and mbuf belongs to an arena.

Not public: users import from nic_harness and its modules.
"""
