"""The receiver's process, as seen by the program that starts it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from nic_harness.errors import CommandError, TcpResetError, WaitTimeoutError
from nic_harness.transfer import receiver
from nic_harness.transfer.receiver import Received
from nic_harness.wire.netns import Namespace

#: Seconds within which a process that has nothing to wait for must answer.
PATIENCE = 20.0


def program(address: str, port: int = 0, *, digest: bool = False) -> list[str]:
    """Return the command line of the receiver."""
    args = [sys.executable, "-I", "-S", receiver.__file__, address, str(port)]
    return [*args, "--digest"] if digest else args


class ReceivingProcess:
    """A receiver for one connection, in a namespace; use as a context manager.

    Args:
        namespace: where it runs.
        address: the address that it listens on.
        port: the port that it listens on; 0 lets the kernel choose.
        digest: compute the SHA-256 of everything that arrives.
        wrapper: a command to run it with, put in front of its own.

    Attributes:
        port: the port that it listens on, once ready() has returned.
    """

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        port: int = 0,
        *,
        digest: bool = False,
        wrapper: tuple[str, ...] = (),
    ) -> None:
        self.address = address
        self.port = port
        self.process = namespace.popen(
            [*wrapper, *program(address, port, digest=digest)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.__exit__(kind, value, trace)

    @property
    def _where(self) -> str:
        return f"{self.address}:{self.port}"

    def line(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Return the next line that it prints, as an object.

        Raises:
            WaitTimeoutError: it printed nothing in time.
            CommandError: it ended, or could not listen.
        """
        pipe = self.process.stdout
        assert pipe is not None
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while b"\n" not in self._unread:
            if not poll.poll(timeout * 1000):
                raise WaitTimeoutError(
                    "hear from receiver on", self._where, f"nothing in {timeout:g} s"
                )
            more = os.read(pipe.fileno(), 1 << 16)
            if not more:
                raise CommandError("hear from receiver on", self._where, "it ended early")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def tell(self, text: str) -> None:
        """Send it a line."""
        pipe = self.process.stdin
        assert pipe is not None
        pipe.write(text.encode() + b"\n")
        pipe.flush()

    def ready(self) -> None:
        """Wait until it listens."""
        said = self.line()
        if "error" in said:
            raise CommandError("listen on", self._where, said["error"])
        self.port = said["listening"]

    def result(self, timeout: float = PATIENCE) -> Received:
        """Wait until it has read the end of the stream, and return what it received.

        Raises:
            TcpResetError: its connection was reset.
            WaitTimeoutError, CommandError: as for line().
        """
        said = self.line(timeout)
        if "error" in said:
            raise TcpResetError("receive on", self._where, said["error"])
        return Received(**said)
