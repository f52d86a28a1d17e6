"""`harness replay`: the frames of a capture file through our NIC again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

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
from nic_harness.cli.output import check_json, console_for, nic_lines, open_capture, write_json
from nic_harness.cli.wire import make_tap
from nic_harness.errors import CaptureCutError, CaptureDamagedError
from nic_harness.nic.nic import Nic
from nic_harness.nic.replay import Recording, Replay, read_capture


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
    direction: Annotated[
        Literal["out", "in", "both"],
        typer.Option(
            "--direction",
            help="Which frames of a FILE that says how they passed the interface: "
            "sent by it (in our captures: by our NIC), received by it, or both.",
        ),
    ] = "out",
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
    if loop != 1 and file.exists() and not file.is_file():
        raise typer.BadParameter(f"--loop: {file} is no regular file, and can be read but once")
    check_json(json_path, beside=capture)
    console = console_for(json_path, capture)
    damage: CaptureDamagedError | None = None
    with contextlib.ExitStack() as stack:
        recording = stack.enter_context(read_capture(file))  # before anything is made
        wire = make_tap(stack, netns=netns, tap=tap, kernel=kernel, address=ours, mtu=mtu)
        nic = stack.enter_context(
            Nic(
                wire,
                device=device,
                faults=None if fault_spec is None else faults(fault_spec),
                capture=open_capture(stack, capture),
            )
        )
        console.print(nic_lines(nic))
        pace = None if fast else speed
        sending = Replay(nic, speed=pace, rate=rate, direction=direction)
        sending.on_wait = lambda seconds: console.print(
            f"the next frame is due in {seconds:.0f} s; --speed, --rate or --fast sends it sooner"
        )
        with contextlib.suppress(KeyboardInterrupt):
            for turn in _times(loop):
                if turn:
                    sending.rest()
                    recording = read_capture(file)
                try:
                    with recording:
                        sending.send(recording)
                except CaptureDamagedError as e:
                    damage = e
        total, s, d = sending.figures(), nic.stats(), nic.device_stats()
    per_second = total.frames / total.seconds if total.seconds else 0.0
    notes = ""
    if total.other_direction:
        notes += f", {total.other_direction} of the other direction left out"
    if total.cut:
        notes += f", {total.cut} sent only as far as they had been captured"
    console.print(
        f"{total.frames} frames, {total.bytes} bytes in {total.seconds:.3f} s "
        f"({per_second:.0f}/s), {total.skipped} skipped{notes}, "
        f"{total.late_ns / 1e6:.3f} ms late at the worst; {d.tx_refused} refused by the kernel"
    )
    write_json(
        json_path,
        {
            "device": nic.attached.device,
            "frames": total.frames,
            "bytes": total.bytes,
            "skipped": total.skipped,
            "other_direction": total.other_direction,
            "other_link_types": recording.other_links,
            "cut": total.cut,
            "seconds": total.seconds,
            "late_ns": total.late_ns,
            "damaged_at": None if damage is None else damage.offset,
            "tx_completed": s.tx_completed,
            "tx_refused": d.tx_refused,
        },
    )
    if recording.other_frames:
        complain(f"replay {file}: {_others(recording)}, which were left out")
    if damage is not None:
        those = "those" if isinstance(damage, CaptureCutError) else "the whole ones"
        complain(f"{damage}; {those} were replayed")
    if recording.other_frames or damage is not None:
        raise typer.Exit(FAILED)


def _others(recording: Recording) -> str:
    """Say which frames were passed over."""
    n, types = recording.other_frames, ", ".join(map(str, recording.other_links))
    return f"it has {n} frame{'s' if n > 1 else ''} of other link types than Ethernet's ({types})"


def _times(loop: int) -> Iterator[int]:
    n = 0
    while loop == 0 or n < loop:
        yield n
        n += 1
