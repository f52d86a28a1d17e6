"""A NIC in figures: its rings; what it counts is in counters.py."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RingPositions"]


@dataclass(frozen=True, slots=True)
class RingPositions:
    """A ring at one moment: positions that count to 65536 and begin again.

    From `taken` to `used` are entries that the driver has yet to take, from `used` to `avail` those
    that the device has.

    Attributes:
        size: descriptors.
        avail: the driver's producer: entries published.
        used: the device's producer: entries it is through with.
        taken: the driver's consumer.
    """

    size: int
    avail: int
    used: int
    taken: int
