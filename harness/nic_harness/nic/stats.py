"""Counters of a NIC: those of the driver and those of the device."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DeviceStats", "NicStats", "RingPositions"]


@dataclass(frozen=True, slots=True)
class NicStats:
    """Counters of the driver since attach.

    They add up: rx_posted = rx_returned + rx_outstanding; rx_received = rx_delivered + rx_dropped;
    rx_returned = rx_pages_delivered + rx_headers_delivered + rx_recycled;
    tx_queued = tx_completed + tx_outstanding.

    Attributes:
        rx_posted: buffers put on the receive rings: pages, and with header split room for headers.
        rx_returned: buffers that came back used.
        rx_received: frames harvested.
        rx_delivered: frames passed up.
        rx_pages_delivered: pages of those.
        rx_headers_delivered: buffers with headers that were split off.
        rx_split_hit: frames whose headers were as long as header_split: their payload starts on a
            page.
        rx_split_miss: frames whose headers were not.
        rx_copied: small frames for a stack, delivered as a copy because the pool was dry.
        rx_recycled: buffers of frames dropped or copied, posted again.
        rx_bytes: bytes of frames passed up.
        rx_drop_no_page: frames dropped because the pool was dry.
        rx_drop_no_mbuf: frames dropped for want of an mbuf.
        rx_drop_short: frames shorter than an Ethernet header.
        rx_drop_stop: frames harvested while stopping.
        tx_queued: frames put on the transmit rings.
        tx_completed: frames whose buffers came back.
        tx_bytes: bytes of frames put on the rings.
        tx_busy: times a ring was full.
        tx_drop_size: frames refused as longer than the MTU allows.
        tx_linearized: frames of too many pieces, copied into fewer.
        tx_csum_soft: frames summed in software.
        tx_gso_soft: super-frames cut in software; their frames count as queued.
        tx_fault: frames not summed because a file page was gone.
        tx_stopped: frames given back unsent by close().
        rx_outstanding: buffers on the receive rings now; constant while attached.
        tx_outstanding: frames on the transmit rings now.
    """

    rx_posted: int
    rx_returned: int
    rx_received: int
    rx_delivered: int
    rx_pages_delivered: int
    rx_headers_delivered: int
    rx_split_hit: int
    rx_split_miss: int
    rx_copied: int
    rx_recycled: int
    rx_bytes: int
    rx_drop_no_page: int
    rx_drop_no_mbuf: int
    rx_drop_short: int
    rx_drop_stop: int
    tx_queued: int
    tx_completed: int
    tx_bytes: int
    tx_busy: int
    tx_drop_size: int
    tx_linearized: int
    tx_csum_soft: int
    tx_gso_soft: int
    tx_fault: int
    tx_stopped: int
    rx_outstanding: int
    tx_outstanding: int

    @property
    def rx_dropped(self) -> int:
        """Frames harvested and not passed up, for whatever reason."""
        return self.rx_drop_no_page + self.rx_drop_no_mbuf + self.rx_drop_short + self.rx_drop_stop


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """Counters of what plays the NIC, since attach.

    Attributes:
        rx_frames, rx_bytes: taken from the wire.
        tx_frames, tx_bytes: put on the wire.
        syscalls: system calls made for that.
        rx_truncated: frames longer than any buffer, dropped.
        rx_no_buffer: polls that stopped because no page was posted.
        tx_refused: frames the other side did not take.
        tx_fault: frames lost because a file page vanished under them.
        link_down: times the interface was found down.
    """

    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    syscalls: int
    rx_truncated: int
    rx_no_buffer: int
    tx_refused: int
    tx_fault: int
    link_down: int


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
