"""A wake-up reaches every thread that sleeps, or is about to."""

import threading
from concurrent.futures import ThreadPoolExecutor

from harness._waiter import Waiter


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
    waiter.wait(None, None)  # it is closed: nobody sleeps


def test_a_wake_before_the_sleep_counts_for_who_says_so():
    waiter = Waiter()
    seen = waiter.wakes
    waiter.wake()
    waiter.wait(None, None, seen)
    waiter.wait(None, 0.01, waiter.wakes)
    waiter.wait(None, 0.01)
    waiter.close()
