"""`harness send`: one file over our NIC to a TCP receiver."""

from __future__ import annotations

import contextlib
import subprocess
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
    Stall,
    TapName,
    address,
    checked,
    complete_of,
    endpoint,
    faults,
)
from nic_harness.cli.output import (
    Bar,
    attached_line,
    check_json,
    console_for,
    file_line,
    open_capture,
    runs_table,
    stdout_for_commands,
    write_json,
)
from nic_harness.cli.terminal import plain
from nic_harness.cli.wire import Command, make_tap, resolve
from nic_harness.errors import CommandError, TcpUnreachableError
from nic_harness.transfer.ours import STRATEGIES, OurNic, Sent
from nic_harness.transfer.peer import ReceivingProcess
from nic_harness.transfer.receiver import Received
from nic_harness.transfer.results import About
from nic_harness.trial import Payload, Report, Run, open_payload


def _strategy(text: str) -> str:
    if text not in STRATEGIES:
        raise typer.BadParameter(f"there is no strategy {text!r}; use {' or '.join(STRATEGIES)}")
    return text


@one_line_errors
def send(
    file: Annotated[Path, typer.Argument(metavar="FILE", readable=False, help="A regular file.")],
    where: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT",
            callback=checked(endpoint),
            help="Address or name (IPv4), and port.",
        ),
    ],
    peer: Annotated[
        str | None,
        typer.Option(
            "--peer",
            metavar="COMMAND",
            help="Start this in the wire's own namespace instead of our receiver; it has to listen "
            "on HOST:PORT.",
            show_default=False,
        ),
    ] = None,
    netns: Netns = None,
    tap: TapName = None,
    ours: OurAddress = "198.18.0.2/24",
    kernel: KernelAddress = "198.18.0.1/24",
    gateway: Annotated[
        str | None,
        typer.Option(
            "--gateway",
            metavar="ADDR",
            callback=checked(address),
            help="To hosts beyond the wire; without --tap, the kernel's side is one.",
            show_default=False,
        ),
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            callback=_strategy,
            autocompletion=complete_of(*STRATEGIES),
            metavar="NAME",
            help="sf_buf, copy or direct.",
        ),
    ] = "sf_buf",
    mtu: Mtu = 1500,
    device: Device = "auto",
    fault_spec: FaultSpec = None,
    capture: CapturePath = None,
    offloads: Annotated[
        bool, typer.Option(help="Let the TAP cut super-frames and sum them.")
    ] = True,
    stall: Stall = 30,
    json_path: JsonPath = None,
    _debug: Debug = False,
) -> None:
    """Send FILE to HOST:PORT by sendfile, through our own NIC and TCP.

    Our side is a host of its own on a wire whose other end is the kernel. By default that end is
    in a network namespace made for the occasion, with a receiver of ours that listens on PORT and
    checks SHA-256; HOST is then the kernel's address there, 198.18.0.1. --peer starts a program of
    yours in its place. --netns and --tap lead to receivers that run already.
    """
    check_json(json_path, beside=capture)
    host, port = endpoint(where)
    console = console_for(json_path, capture)
    with contextlib.ExitStack() as stack:
        payload = stack.enter_context(open_payload(file))
        ip = resolve(host)
        own = netns is None and tap is None
        if own and ip != kernel.partition("/")[0]:
            raise TcpUnreachableError(
                "send to",
                f"{host}:{port}",
                "a wire of our own leads only to " + kernel.partition("/")[0],
                "use that as HOST, or reach others by --netns or --tap",
            )
        wire = make_tap(stack, netns=netns, tap=tap, kernel=kernel, address=ours, mtu=mtu)
        if gateway is None and tap is None:
            gateway = kernel.partition("/")[0]
        command: Command | None = None
        receiver: ReceivingProcess | None = None
        if peer is not None:
            if not own or wire.namespace is None:
                raise CommandError(
                    "start",
                    peer,
                    "--peer is for a namespace of our own",
                    "leave it out with --netns and --tap",
                )
            command = Command(wire.namespace, peer, stdout_for_commands(json_path, capture))
            stack.enter_context(command.process)
            command.wait_until_it_listens(ip, port)
        elif own and wire.namespace is not None:
            receiver = stack.enter_context(ReceivingProcess(wire.namespace, ip, port, digest=True))
            receiver.ready()
        bar = stack.enter_context(Bar())
        nic = stack.enter_context(
            OurNic(
                tap=wire,
                device=device,
                gateway=gateway,
                offloads=offloads,
                stall=stall,
                faults=None if fault_spec is None else faults(fault_spec),
                capture=open_capture(stack, capture),
            )
        )
        attached = nic.summary()
        console.print(file_line(payload))
        console.print(attached_line(attached))
        progress = bar.begin(f"{strategy}: send", payload.size)
        sent = nic.transfer(ip, port, payload, strategy, progress=progress)
        bar.end()
        received = None if receiver is None else receiver.result(stall)
        if command is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = command.process.wait(stall)
                console.print(f"{plain(command.process.args[0])} ended with exit code {code}")
        options = {
            "strategy": strategy,
            "mtu": mtu,
            "device": device,
            "faults": None if fault_spec is None else str(faults(fault_spec)),
            "offloads": offloads,
            "stall": stall,
        }
        about = About.now(payload.name, payload.size, options)
        report = Report(about, attached, (_run(strategy, payload, sent, received),))
    console.print(runs_table(report))
    write_json(json_path, report.to_json())
    if report.runs[0].sha256_ok is False:
        complain(f"send {payload.name}: what arrived differs from it; was it written to meanwhile?")
        raise typer.Exit(FAILED)


def _run(strategy: str, payload: Payload, sent: Sent, received: Received | None) -> Run:
    end = sent.end_ns if received is None else received.end_ns
    return Run(
        strategy=strategy,
        bytes=sent.bytes,
        seconds=(end - sent.begin_ns) / 1e9,
        cpu_ns_per_kib=sent.cpu_ns * 1024 / sent.bytes if sent.bytes else 0.0,
        syscalls=sent.syscalls,
        frames=sent.frames,
        bytes_copied=sent.bytes_copied,
        sha256_ok=None if received is None else received.sha256 == payload.sha256(),
        retransmits=sent.retransmits,
        bytes_resent=sent.bytes_resent,
    )
