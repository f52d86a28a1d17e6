"""The server's side of iperf3's protocol, over a Stack: a sink and a source."""

import json
import struct
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nic_harness import Stack
from nic_harness.host.stack import Connection, Listener
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

PORT = 5201
COOKIE = 37
PATIENCE = 60.0

TEST_START = b"\x01"
TEST_RUNNING = b"\x02"
TEST_END = b"\x04"
PARAM_EXCHANGE = b"\x09"
CREATE_STREAMS = b"\x0a"
EXCHANGE_RESULTS = b"\x0d"
DISPLAY_RESULTS = b"\x0e"
IPERF_DONE = b"\x10"

UDP_CONNECT_REPLY = struct.pack("=I", 0x39383736)


@dataclass
class Counts:
    """The result of one test on our side.

    Attributes:
        received: bytes of each stream, to its end.
        sent: bytes of each stream, as the peer acknowledged them.
        numbers: of the datagrams, in the order in which they came.
    """

    received: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


def recv(connection: Connection, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data), PATIENCE)
        assert part, f"the peer finished after {data!r}"
        data += part
    return data


def recv_json(connection: Connection) -> Any:
    return json.loads(recv(connection, int.from_bytes(recv(connection, 4), "big")))


def send_json(connection: Connection, what: Any) -> None:
    data = json.dumps(what).encode()
    connection.send(len(data).to_bytes(4, "big") + data)


def serve(stack: Stack, payload: Path) -> Counts:
    """Serve one test; a source sends pieces of the file at `payload`."""
    with stack.listen(PORT) as listener, listener.accept(PATIENCE) as control:
        cookie = recv(control, COOKIE)
        control.send(PARAM_EXCHANGE)
        params = recv_json(control)
        if params.get("udp"):
            return _udp_sink(stack, control, params)
        return _tcp(listener, control, cookie, params, payload)


def _tcp(
    listener: Listener, control: Connection, cookie: bytes, params: Any, payload: Path
) -> Counts:
    control.send(CREATE_STREAMS)
    streams = []
    for _ in range(params["parallel"]):
        streams.append(listener.accept(PATIENCE))
        assert recv(streams[-1], COOKIE) == cookie
    control.send(TEST_START + TEST_RUNNING)
    counts = [0] * len(streams)
    with ThreadPoolExecutor(len(streams)) as pool:
        work: list[Future[None]]
        if params.get("reverse"):
            share = params["num"] // len(streams)
            work = [pool.submit(_source, stream, payload, share) for stream in streams]
        else:
            work = [pool.submit(_sink, stream, counts, i) for i, stream in enumerate(streams)]
        assert recv(control, 1) == TEST_END
        control.send(EXCHANGE_RESULTS)
        # What the client says it sent may still be on its way.
        said = [stream["bytes"] for stream in recv_json(control)["streams"]]
        if not params.get("reverse"):
            deadline = time.monotonic() + PATIENCE
            while counts != said and time.monotonic() < deadline:
                time.sleep(0.001)
        results = counts
        if params.get("reverse"):
            for job in work:
                job.result(PATIENCE)
            results = [stream.info().bytes_acked for stream in streams]
        _finish(control, [{"bytes": n} for n in results])
        for job in work:
            job.result(PATIENCE)
    for stream in streams:
        stream.close()
    return Counts(sent=results) if params.get("reverse") else Counts(received=counts)


def _sink(stream: Connection, counts: list[int], i: int) -> None:
    while (chain := stream.recv_chain(timeout=PATIENCE)) is not None:
        with chain:
            counts[i] += len(chain)


def _source(stream: Connection, payload: Path, size: int) -> None:
    stream.sendfile(payload, 0, size, sync=True)


def _udp_sink(stack: Stack, control: Connection, params: Any) -> Counts:
    control.send(CREATE_STREAMS)
    greeting = _datagram(stack, control)
    assert greeting is not None
    reply = Ether(src=greeting.dst, dst=greeting.src)
    reply /= IP(src=greeting[IP].dst, dst=greeting[IP].src, id=1)
    reply /= UDP(sport=PORT, dport=greeting[UDP].sport) / UDP_CONNECT_REPLY
    stack.send_frames([bytes(reply)])
    control.send(TEST_START + TEST_RUNNING)
    counts = Counts()
    number = struct.Struct("!8xQ" if params.get("udp_counters_64bit") else "!8xI")
    while (packet := _datagram(stack, control)) is not None:
        data = packet[Raw].load
        counts.numbers.append(number.unpack_from(data)[0])
        counts.received.append(len(data))
    assert recv(control, 1) == TEST_END
    control.send(EXCHANGE_RESULTS)
    recv_json(control)
    packets = max(counts.numbers, default=0)
    _finish(
        control,
        [
            {
                "bytes": sum(counts.received),
                "packets": packets,
                "errors": packets - len(counts.numbers),
            }
        ],
    )
    return counts


def _datagram(stack: Stack, control: Connection) -> Any:
    """Return the next UDP datagram for us; None if there is none and the client continues."""
    while True:
        # In this order: a state comes after the datagrams that were sent before it.
        over = control.info().readable > 0
        frames = stack.recv_unclaimed(1, timeout=0 if over else 0.05)
        for frame in frames:
            with frame:
                packet = Ether(bytes(frame))
            if UDP in packet and packet[UDP].dport == PORT:
                return packet
        if over and not frames:
            return None


def _finish(control: Connection, streams: list[dict[str, int]]) -> None:
    common = {"retransmits": -1, "jitter": 0, "errors": 0, "packets": 0}
    # The numbers that iperf3 gives streams: 1, 3, 4, ...
    ids = [1, *range(3, len(streams) + 2)]
    send_json(
        control,
        {
            "cpu_util_total": 0,
            "cpu_util_user": 0,
            "cpu_util_system": 0,
            "sender_has_retransmits": -1,
            "streams": [
                {**common, "id": i, **stream} for i, stream in zip(ids, streams, strict=True)
            ],
        },
    )
    control.send(DISPLAY_RESULTS)
    assert recv(control, 1) == IPERF_DONE
