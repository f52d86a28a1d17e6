"""The bare loop of tools/limits/tap_send.c as one more strategy of a trial."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from nic_harness.errors import CommandError
from nic_harness.transfer.passes import Pass, Progress
from nic_harness.transfer.payload import Payload
from nic_harness.transfer.peer import ReceivingProcess
from nic_harness.wire.tap import Tap


class BareLoop:
    """A TAP of its own, and a C program that does nothing but writev(2) to it; a context manager.

    Args:
        program: tap_send, built.
        mtu: bytes, of the TAP.
    """

    name = "bare"

    def __init__(self, program: Path, *, mtu: int = 1500) -> None:
        self._program = program
        self.mtu = mtu
        self._tap = Tap(mtu=mtu)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tap.close()

    def send(
        self,
        payload: Payload,
        *,
        digest: bool,
        progress: Progress | None = None,  # noqa: ARG002 - nobody sees into the C program
    ) -> Pass:
        """Send the whole file once; see Strategy.send()."""
        tap, fd, file = self._tap, self._tap.fds[0], payload.fileno()
        assert tap.address is not None
        assert tap.nic_address is not None
        with ReceivingProcess(tap.namespace, str(tap.address.ip), digest=digest) as receiver:
            receiver.ready()
            args = [
                *(str(self._program), f"--fd={fd}", f"--mtu={self.mtu}", f"--port={receiver.port}"),
                *(f"--local={tap.nic_address.ip}", f"--peer={tap.address.ip}"),
                f"/proc/self/fd/{file}",
            ]
            done = subprocess.run(
                args, pass_fds=[fd, file], capture_output=True, text=True, check=False
            )
            if done.returncode:
                said = done.stderr.strip() or f"exit code {done.returncode}"
                raise CommandError("run", self._program.name, said)
            said = json.loads(done.stdout)
            received = receiver.result()
        return Pass(
            bytes=received.bytes,
            seconds=(received.end_ns - said["begin_ns"]) / 1e9,
            cpu_ns=said["cpu_ns"],
            syscalls=said["syscalls"],
            frames=said["frames"],
            bytes_copied=0,
            sha256=received.sha256,
        )
