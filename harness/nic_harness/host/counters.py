"""Counters, made by tools/tables from native/inet/counters.def: not to be edited."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StackStats"]


@dataclass(frozen=True, slots=True)
class StackStats:
    """Counters of a stack since it was made.

    Attributes:
        rx_frames: frames received.
        rx_arp: ARP packets for us.
        rx_ip: IP packets for us.
        rx_icmp: ICMP messages for us.
        rx_tcp: TCP segments for us.
        rx_other: frames that no protocol here takes.
        rx_bad_arp: ARP packets that make no sense.
        rx_bad_ip: IP packets with a bad header.
        rx_bad_icmp: ICMP messages that make no sense.
        rx_bad_tcp: TCP segments that make no sense.
        rx_bad_csum: packets with a wrong checksum.
        rx_fragments: IP fragments, which are not reassembled: dropped.
        rx_no_buffer: frames dropped: no mbuf, or too many ranges or unclaimed frames.
        rx_no_memory: segments dropped, whole or in part, because the budget was used up.
        rx_compacted: small segments copied, so that they hold no page of their own.
        rx_pruned: times that data out of order were given up to free memory.
        rx_paws: segments refused by their timestamp (RFC 7323, 5).
        rx_no_conn: segments for no connection.
        rx_out_of_order: segments that arrived before their turn.
        rx_duplicate: segments that brought nothing new.
        rx_beyond_window: segments outside the window.
        tx_frames: frames sent.
        tx_arp: ARP packets sent.
        tx_icmp: ICMP messages sent.
        tx_tcp: TCP segments sent.
        tx_rst: resets sent.
        tx_challenge_ack: challenge ACKs sent (RFC 5961).
        tx_retransmits: segments sent again.
        tx_fast_retransmits: losses repaired without a timeout.
        tx_rto: retransmission timeouts.
        tx_probes: window probes sent.
        tx_busy: times that the transmit ring was full.
        tx_payload: bytes of TCP payload put on the wire, first time and again.
        tx_payload_retransmitted: bytes of those that were sent again.
        tx_no_memory: times that sending by copy found room in the send buffer, and no page.
        backlog_full: SYNs and handshakes that found the listener's backlog full.
        orphans_dropped: closed connections ended before their time, by their limit.
        time_wait_dropped: connections in TIME_WAIT ended before their time, by their limit.
        conns_refused: connections refused because the table was full.
        cookies_sent: SYNs that were answered with a SYN cookie (RFC 4987): too many connections
            were half open.
        cookies_taken: of those, the ones that became connections.
    """

    rx_frames: int
    rx_arp: int
    rx_ip: int
    rx_icmp: int
    rx_tcp: int
    rx_other: int
    rx_bad_arp: int
    rx_bad_ip: int
    rx_bad_icmp: int
    rx_bad_tcp: int
    rx_bad_csum: int
    rx_fragments: int
    rx_no_buffer: int
    rx_no_memory: int
    rx_compacted: int
    rx_pruned: int
    rx_paws: int
    rx_no_conn: int
    rx_out_of_order: int
    rx_duplicate: int
    rx_beyond_window: int
    tx_frames: int
    tx_arp: int
    tx_icmp: int
    tx_tcp: int
    tx_rst: int
    tx_challenge_ack: int
    tx_retransmits: int
    tx_fast_retransmits: int
    tx_rto: int
    tx_probes: int
    tx_busy: int
    tx_payload: int
    tx_payload_retransmitted: int
    tx_no_memory: int
    backlog_full: int
    orphans_dropped: int
    time_wait_dropped: int
    conns_refused: int
    cookies_sent: int
    cookies_taken: int
