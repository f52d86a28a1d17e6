"""A wake-up reaches every thread that sleeps, or is about to."""

import errno
import os
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nic_harness.base.waiter import Waiter, _Bell
from nic_harness.errors import ResourceError


def test_a_wake_is_for_all_whatever_the_others_do():
    waiter = Waiter()
    rounds, eager = 300, 3
    over = threading.Event()

    def again_and_again():
        while not over.is_set():
            waiter.wait(None, None)

    def once(ready):
        seen = waiter.wakes
        ready.set()
        waiter.wait(None, None, seen)
        return True

    with ThreadPoolExecutor(eager + 1) as pool:
        try:
            others = [pool.submit(again_and_again) for _ in range(eager)]
            for _ in range(rounds):
                ready = threading.Event()
                woken = pool.submit(once, ready)
                assert ready.wait(60)
                waiter.wake()
                assert woken.result(30)
            assert waiter.wakes == rounds
        finally:
            over.set()
            waiter.close()
    for other in others:
        other.result(60)
    waiter.wait(None, None)  # it is closed, so this returns at once


def test_a_wake_before_the_sleep_counts_for_who_says_so():
    waiter = Waiter()
    seen = waiter.wakes
    waiter.wake()
    waiter.wait(None, None, seen)
    waiter.wait(None, 0.01, waiter.wakes)
    waiter.wait(None, 0.01)
    waiter.close()


def interrupted_at(n, waiter):
    """Wait; the n-th call into C returns interrupted. Tell whether there were n calls."""
    calls = 0

    def count(frame, event, called):
        nonlocal calls
        if event == "c_return" and called is not sys.setprofile and frame.f_code not in DYING:
            calls += 1
            if calls == n:
                sys.setprofile(None)
                raise KeyboardInterrupt

    try:
        sys.setprofile(count)
        waiter.wait(None, 0)
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


#: What these raise is nobody's.
DYING = {_Bell.__del__.__code__}


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_interrupt_anywhere_in_a_wait_leaves_nobody_to_wait_for():
    before = descriptors()
    n, again = 0, True
    while again:
        n += 1
        waiter = Waiter()
        again = interrupted_at(n, waiter)
        # The lock is free for other threads too, and close() returns.
        closing = threading.Thread(target=lambda w=waiter: (w.wake(), w.close()), daemon=True)
        closing.start()
        closing.join(60)
        assert not closing.is_alive(), f"interrupted at call {n}"
        del waiter, closing
    assert n > 5
    assert descriptors() == before


def test_one_sleeper_needs_no_new_descriptor_and_the_next_one_is_told():
    waiter = Waiter()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ThreadPoolExecutor(1) as pool:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            waiter.wait(None, 0)
            sleeping = pool.submit(waiter.wait, None, None)
            deadline = time.monotonic() + 60
            while not waiter._asleep:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            with pytest.raises(ResourceError, match="eventfd") as caught:
                waiter.wait(None, 0)
            assert caught.value.errno == errno.EMFILE
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            waiter.close()
        sleeping.result(60)
