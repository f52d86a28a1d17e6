"""`harness replay`: the frames of a capture file through our NIC again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from nic_harness.cli.failure import FAILED, complain, one_line_errors
from nic_harness.cli.options import (
    CapturePath,
    Debug,
    Device,
    FaultSpec,
    JsonPath,
    KernelAddress,
    Mtu,
    Netns,
    OurAddress,
    TapName,
    faults,
)
from nic_harness.cli.output import check_json, console_for, nic_lines, write_json
from nic_harness.cli.wire import make_tap
from nic_harness.errors import CaptureDamagedError
from nic_harness.nic.capture import Capture
from nic_harness.nic.nic import Nic
from nic_harness.nic.replay import Recorded, Replayed, read_capture
from nic_harness.nic.replay import replay as replay_frames


@one_line_errors
def replay(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", readable=False, help="pcap or pcapng, also .gz.")
    ],
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            min=0.001,
            metavar="N",
            help="Frames each second; without it they keep their recorded times.",
            show_default=False,
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option("--speed", min=0.000001, help="Times as fast as they were recorded.")
    ] = 1.0,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as possible.")] = False,
    loop: Annotated[
        int, typer.Option("--loop", min=0, help="How often to send the file; 0: until Ctrl-C.")
    ] = 1,
    netns: Netns = None,
    tap: TapName = None,
    ours: OurAddress = "198.18.0.2/24",
    kernel: KernelAddress = "198.18.0.1/24",
    mtu: Mtu = 1500,
    device: Device = "auto",
    fault_spec: FaultSpec = None,
    capture: CapturePath = None,
    json_path: JsonPath = None,
    _debug: Debug = False,
) -> None:
    """Send the frames of FILE to the kernel's side of a wire, at their recorded times.

    The wire is made in a namespace of its own, in one that is there (--netns), or it is a TAP that
    is there (--tap). Frames that the MTU does not allow are skipped and counted.
    """
    if fast and rate is not None:
        raise typer.BadParameter("--fast and --rate exclude each other")
    check_json(json_path)
    console = console_for(json_path)
    frames: list[Recorded] = []
    cut: CaptureDamagedError | None = None
    try:
        frames.extend(read_capture(file))  # what is wrong with it is said before anything is made
    except CaptureDamagedError as e:
        cut = e
    with contextlib.ExitStack() as stack:
        wire = make_tap(stack, netns=netns, tap=tap, kernel=kernel, address=ours, mtu=mtu)
        nic = stack.enter_context(
            Nic(
                wire,
                device=device,
                faults=None if fault_spec is None else faults(fault_spec),
                capture=None if capture is None else Capture(capture),
            )
        )
        console.print(nic_lines(nic))
        gap = _gap(frames, None if fast else speed, rate)
        total = Replayed(0, 0, 0, 0.0, 0)
        with contextlib.suppress(KeyboardInterrupt):
            for turn in _times(loop):
                if turn:
                    time.sleep(gap)
                    total = replace(total, seconds=total.seconds + gap)
                total = _add(total, _once(nic, frames, None if fast else speed, rate))
        s, d = nic.stats(), nic.device_stats()
    per_second = total.frames / total.seconds if total.seconds else 0.0
    console.print(
        f"{total.frames} frames, {total.bytes} bytes in {total.seconds:.3f} s "
        f"({per_second:.0f}/s), {total.skipped} skipped, "
        f"{total.late_ns / 1e6:.3f} ms late at the worst; {d.tx_refused} refused by the kernel"
    )
    write_json(
        json_path,
        {
            "device": nic.attached.device,
            "frames": total.frames,
            "bytes": total.bytes,
            "skipped": total.skipped,
            "seconds": total.seconds,
            "late_ns": total.late_ns,
            "tx_completed": s.tx_completed,
            "tx_refused": d.tx_refused,
        },
    )
    if cut is not None:
        complain(f"{cut}; those were replayed")
        raise typer.Exit(FAILED)


def _gap(frames: list[Recorded], speed: float | None, rate: float | None) -> float:
    """Seconds from the last frame to the first of the next turn: as between two of them."""
    if rate is not None:
        return 1 / rate
    if speed is None or len(frames) < 2:
        return 0.0
    times = [frame.ns for frame in frames if frame.ns is not None]
    return max(0, times[-1] - times[0]) / (len(frames) - 1) / speed / 1e9 if times else 0.0


def _times(loop: int) -> Iterator[int]:
    n = 0
    while loop == 0 or n < loop:
        yield n
        n += 1


def _once(nic: Nic, frames: list[Recorded], speed: float | None, rate: float | None) -> Replayed:
    return replay_frames(nic, frames, speed=speed, rate=rate)


def _add(a: Replayed, b: Replayed) -> Replayed:
    return Replayed(
        a.frames + b.frames,
        a.bytes + b.bytes,
        a.skipped + b.skipped,
        a.seconds + b.seconds,
        max(a.late_ns, b.late_ns),
    )
