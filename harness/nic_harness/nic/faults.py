"""Faults on demand: a device in front of any other, which misbehaves at given rates by a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypedDict, get_type_hints

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.errors import ArgumentError

__all__ = ["FaultStats", "Faults", "RxRates", "TxRates"]


class _Rates(TypedDict, total=False):
    """What can happen to a frame in either direction."""

    drop: float
    duplicate: float
    reorder: float
    truncate: float
    corrupt: float
    delay: float
    alloc: float


class RxRates(_Rates, total=False):
    """Rates of receive faults, 0 to 1, as a share of the frames.

    `drop` and `duplicate` do what they say. `corrupt` flips one bit, after the checksum is
    complete, as on a wire. `reorder` lets the next few frames pass, and `delay` holds a frame back
    for up to `delay_ns`. `truncate` cuts at a random length. `short_used` reports fewer bytes than
    were written. `trailer` adds up to 64 zero bytes behind the frame, if its last page has room.
    `stall` is a share of the polls: the device does nothing for up to `stall_polls`. `alloc` is a
    share of the driver's allocations: it makes them fail, and the frame is dropped.
    """

    short_used: float
    trailer: float
    stall: float


class TxRates(_Rates, total=False):
    """Rates of transmit faults: as in RxRates, and `late` completions, in any order.

    `alloc` is a share of the frames that the driver must copy or cut before sending: the driver
    returns ENOMEM, and the frame stays with its owner.
    """

    late: float


@dataclass(frozen=True, slots=True)
class FaultStats:
    """How often each kind of fault occurred."""

    rx: dict[str, int]
    tx: dict[str, int]

    @property
    def total(self) -> int:
        """Faults of all kinds, in both directions."""
        return sum(self.rx.values()) + sum(self.tx.values())


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, and how often: Nic(tap, faults=Faults(rx={"drop": 0.01})).

    The same seed and the same frames at the same polls give the same faults.

    Attributes:
        seed: 1 to 2**64 - 1.
        rx, tx: rates, 0 to 1, by kind; see RxRates and TxRates.
        delay_ns: the longest delay of a frame or completion, ns; a reordered frame waits up to 7/8
            of it.
        stall_polls: the longest stall, polls.

    Raises:
        ArgumentError: that direction has no such kind, or a value is out of range.
    """

    seed: int = 1
    rx: RxRates = field(default_factory=RxRates)
    tx: TxRates = field(default_factory=TxRates)
    delay_ns: int = 1_000_000
    stall_polls: int = 16

    def __post_init__(self) -> None:
        sides: Any = (("rx", self.rx, RxRates), ("tx", self.tx, TxRates))
        for side, rates, kinds in sides:
            check.instance("make", "faults", side, rates, Mapping)
            for kind, rate in rates.items():
                _check_rate(side, kind, rate, kinds)
        for what, value, low, bits in (
            ("seed", self.seed, 1, 64),
            ("delay_ns", self.delay_ns, 0, 63),
            ("stall_polls", self.stall_polls, 0, 31),
        ):
            check.integer("make", "faults", what, value, low, (1 << bits) - 1)

    @classmethod
    def random(cls, seed: int, most: float = 0.05) -> Self:
        """Choose every rate by the seed, log-uniformly from a thousandth of `most` to `most`."""
        check.integer("choose", "faults", "seed", seed, 1, (1 << 64) - 1)
        check.rate("choose", "faults", "most", most)
        _check_rate_value("most", most)
        dice = random.Random(seed)
        rx, tx = RxRates(), TxRates()
        for rates, kinds in ((rx, RxRates), (tx, TxRates)):
            for kind in sorted(get_type_hints(kinds)):
                rate = round(most * 10 ** -dice.uniform(0, 3), 6)
                rates[kind] = rate  # type: ignore[literal-required]
        return cls(seed=seed, rx=rx, tx=tx)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a specification, such as str() of Faults returns.

        "random:7" is random(7). Otherwise it is "KEY=VALUE,...": a rate is "rx.drop=0.01" or, for
        both directions, "drop=0.01"; the other keys are seed, delay_ns and stall_polls.

        Raises:
            ArgumentError: the text is not a valid specification.
        """
        check.text("read", "faults", "text", text)
        try:
            if text.startswith("random:"):
                return cls.random(int(text.removeprefix("random:")))
            rx, tx, plain = _parse(text)
            return cls(rx=rx, tx=tx, **plain)
        except ValueError as e:
            problem = str(e)
            if isinstance(e, ArgumentError):
                problem = ": ".join(filter(None, (e.problem, e.remedy)))
            raise ArgumentError(
                "read faults from", repr(text), problem, 'like "seed=7,rx.drop=0.01,corrupt=0.001"'
            ) from None

    def __str__(self) -> str:
        rates = [f"{s}.{k}={v!r}" for s in ("rx", "tx") for k, v in getattr(self, s).items() if v]
        return ",".join(
            [
                f"seed={self.seed}",
                *rates,
                f"delay_ns={self.delay_ns}",
                f"stall_polls={self.stall_polls}",
            ]
        )

    def _wrap(self, inner: Any, out: Any) -> int:
        """Make the device around another one; return 0 or a negative error number."""
        config = ffi.new("struct faults_config *")
        config.seed = self.seed
        config.delay_ns = self.delay_ns
        config.stall_polls = self.stall_polls
        for kind, name in enumerate(_names()):
            config.rx[kind] = round(self.rx.get(name, 0) * lib.FAULT_RATE_ONE)
            config.tx[kind] = round(self.tx.get(name, 0) * lib.FAULT_RATE_ONE)
        return int(lib.faults_create(inner, config, out))


def _names() -> list[str]:
    """List the kinds in the order that C has them."""
    return [ffi.string(lib.fault_name(i)).decode() for i in range(lib.FAULT_COUNT)]


def _check_rate(side: str, kind: str, rate: float, kinds: type) -> None:
    known = sorted(get_type_hints(kinds))
    if kind not in known:
        raise ArgumentError(
            "make", "faults", f"there is no {kind!r} in {side}", f"there are {', '.join(known)}"
        )
    _check_rate_value(f"{side}.{kind}", rate)


def _check_rate_value(name: str, rate: Any) -> None:
    check.instance("make", "faults", name, rate, int, float)
    if not 0 <= rate <= 1:
        raise ArgumentError("make", "faults", f"{name}={rate}", "a rate is 0 to 1")


def _parse(text: str) -> tuple[RxRates, TxRates, dict[str, int]]:
    rx, tx, plain = RxRates(), TxRates(), {}
    sides: dict[str, tuple[Any, type]] = {"rx": (rx, RxRates), "tx": (tx, TxRates)}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals:
            raise ValueError(f"{part!r} is not KEY=VALUE")
        if key in ("seed", "delay_ns", "stall_polls"):
            plain[key] = int(value)
            continue
        side, dot, kind = key.rpartition(".")
        if dot and side not in sides:
            raise ValueError(f"{side!r} is neither rx nor tx")
        both = [s for s in sides.values() if kind in get_type_hints(s[1])]
        wanted = [sides[side]] if dot else both
        if not wanted:
            raise ValueError(f"there is no fault {kind!r}")
        for rates, _ in wanted:
            rates[kind] = float(value)
    return rx, tx, plain


def fault_stats(device: Any) -> FaultStats:
    """Read the counters of a device that Faults made."""
    s = ffi.new("struct faults_stats *")
    lib.faults_get_stats(device, s)
    names: Mapping[int, str] = dict(enumerate(_names()))
    return FaultStats(
        rx={name: s.rx[i] for i, name in names.items() if s.rx[i]},
        tx={name: s.tx[i] for i, name in names.items() if s.tx[i]},
    )
