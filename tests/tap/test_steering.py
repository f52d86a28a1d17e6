"""Frames come to the queue that the steering program chooses."""

import pytest
from nic_harness import Nic, Offloads, Tap
from nic_harness.errors import ArgumentError, UnsupportedError

BYTE = 20


def frame(value):
    return b"\xff" * 12 + b"\x88\xb5" + bytes(6) + bytes([value]) + bytes(43)


def test_a_byte_of_the_frame_says_which_queue():
    with Tap(queues=2) as tap:
        try:
            tap.steer(BYTE)
        except UnsupportedError as e:
            pytest.skip(str(e))
        with Nic(tap, offloads=Offloads.NONE) as nic, tap.packet_socket(0) as kernel:
            for value in range(100):
                kernel.send(frame(value))
            for queue in range(2):
                got = []
                while len(got) < 50:
                    for f in nic.recv(timeout=30, queue=queue):
                        got.append(f.data[BYTE])
                        f.release()
                assert got == list(range(queue, 100, 2))
            tap.steer(None)
            kernel.send(frame(1))
            nic.check()


def test_offset_out_of_range_is_named():
    with Tap() as tap, pytest.raises(ArgumentError, match="byte=-1"):
        tap.steer(-1)
