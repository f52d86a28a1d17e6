"""Counters, made by tools/tables from native/{nic,device}/counters.def: not to be edited."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DROPS", "DeviceStats", "NicStats"]

#: What a frame can be lost to, by the counter that counts it.
DROPS = {
    "rx_drop_no_page": "pool dry",
    "rx_drop_no_mbuf": "no mbuf",
    "rx_drop_short": "too short",
    "rx_drop_stop": "stopping",
    "tx_drop_size": "too long to send",
    "tx_fault": "file page gone",
    "tx_stopped": "unsent",
    "rx_truncated": "longer than any buffer",
    "tx_refused": "refused by the kernel",
}


@dataclass(frozen=True, slots=True)
class NicStats:
    """Counters of the driver since attach.

    They add up: rx_posted = rx_returned + rx_outstanding; rx_received = rx_delivered + rx_dropped;
    rx_returned = rx_pages_delivered + rx_headers_delivered + rx_recycled; tx_queued = tx_completed
    + tx_outstanding.

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
        rx_frames: frames taken from the wire.
        rx_bytes: bytes of those.
        tx_frames: frames put on the wire.
        tx_bytes: bytes of those.
        syscalls: system calls made for that.
        rx_truncated: frames longer than any buffer, dropped.
        rx_no_buffer: polls that stopped because no buffer was posted.
        tx_refused: frames that the other side refused: EINVAL, or too short.
        tx_fault: frames lost because a page of a file vanished under them: EFAULT.
        link_down: times that the interface was found down: EIO.
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
