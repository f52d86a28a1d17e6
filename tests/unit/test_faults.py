"""Faults are asked for by rates, by a seed, or by a text."""

import pytest
from nic_harness import Faults
from nic_harness._native import ffi, lib
from nic_harness.errors import ArgumentError
from nic_harness.nic.faults import RxRates, TxRates


def test_the_kinds_are_those_of_c():
    known = {ffi.string(lib.fault_name(i)).decode() for i in range(lib.FAULT_COUNT)}
    assert set(RxRates.__optional_keys__) | set(TxRates.__optional_keys__) == known


@pytest.mark.parametrize("seed", [1, 2, 1 << 40])
def test_random_is_by_seed_and_can_be_written_down(seed):
    faults = Faults.random(seed)
    assert faults == Faults.random(seed) != Faults.random(seed + 1)
    assert Faults.parse(str(faults)) == faults == Faults.parse(f"random:{seed}")
    rates = [*faults.rx.values(), *faults.tx.values()]
    assert len(rates) == len(RxRates.__optional_keys__) + len(TxRates.__optional_keys__)
    assert all(0 < rate <= 0.05 for rate in rates)


def test_a_rate_without_a_side_is_for_both():
    assert Faults.parse("drop=0.5, rx.stall=1,seed=9,delay_ns=7,stall_polls=3") == Faults(
        seed=9, rx={"drop": 0.5, "stall": 1}, tx={"drop": 0.5}, delay_ns=7, stall_polls=3
    )
    assert Faults.parse("late=0.25") == Faults(tx={"late": 0.25})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is not KEY=VALUE"),
        ("drop", "'drop' is not KEY=VALUE"),
        ("drop=lots", "could not convert string to float"),
        ("explode=1", "there is no fault 'explode'"),
        ("sideways.drop=1", "'sideways' is neither rx nor tx"),
        ("tx.stall=0.1", "there is no 'stall' in tx"),
        ("rx.late=0.1", "there is no 'late' in rx"),
        ("drop=1.5", "rx.drop=1.5"),
        ("drop=nan", "rx.drop=nan"),
        ("rx.drop=-0.1", "rx.drop=-0.1"),
        ("seed=0", "seed=0 is out of range"),
        ("random:x", "invalid literal"),
        ("delay_ns=-1", "delay_ns=-1 is out of range"),
    ],
)
def test_what_makes_no_sense_is_named(text, words):
    with pytest.raises(ArgumentError, match="read faults from") as caught:
        Faults.parse(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
