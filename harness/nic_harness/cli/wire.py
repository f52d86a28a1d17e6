"""Where `harness send` puts its wire: a namespace of its own, one that is there, or a TAP."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import time
from pathlib import Path

from nic_harness.errors import (
    ArgumentError,
    CommandError,
    LinkDownError,
    NamespaceError,
    TcpUnreachableError,
)
from nic_harness.wire.existing_tap import ExistingTap
from nic_harness.wire.netns import Namespace, Process
from nic_harness.wire.tap import Tap
from nic_harness.wire.wire import Wire

#: Seconds that a command started beside us has to begin listening.
_LISTEN_PATIENCE = 10.0


def resolve(host: str) -> str:
    """Return the IPv4 address of a host.

    Raises:
        TcpUnreachableError: it has none.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as e:
        raise TcpUnreachableError(
            "look up", host, e.strerror or str(e), "name a host that has an IPv4 address"
        ) from e
    return str(found[0][4][0])


def namespace_path(text: str) -> Path:
    """Return the path of a namespace given as name, process ID or path.

    Raises:
        NamespaceError: there is none.
    """
    if text.isdigit():
        path = Path("/proc") / text / "ns/net"
    elif "/" in text:
        path = Path(text)
    else:
        path = Path("/run/netns") / text
    # Links in /proc may be there and not ours to follow; joining them tells.
    if not os.path.lexists(path):
        raise NamespaceError(
            "join",
            f"network namespace {text}",
            f"there is no {path}",
            "name one that `ip netns list` shows, a process ID, or a path",
        )
    return path


def make_tap(
    stack: contextlib.ExitStack,
    *,
    netns: str | None,
    tap: str | None,
    kernel: str,
    address: str,
    mtu: int,
) -> Wire:
    """Make or attach to the TAP that the options ask for; the stack closes it.

    Raises:
        NamespaceError, LinkError: it cannot be had.
        ArgumentError: the options contradict each other.
    """
    if tap is not None and netns is not None:
        raise ArgumentError("send by", tap, "--tap and --netns exclude each other")
    if tap is not None:
        there = stack.enter_context(ExistingTap(tap, nic_address=address))
        if not there.link().up:
            raise LinkDownError("use TAP", tap, "it is down", f"ip link set dev {tap} up")
        return there
    if netns is None:
        return stack.enter_context(Tap(mtu=mtu, address=kernel, nic_address=address))
    namespace = stack.enter_context(Namespace(join=namespace_path(netns)))
    return stack.enter_context(
        Tap(namespace, name="harness%d", mtu=mtu, address=kernel, nic_address=address)
    )


class Command:
    """A command that the user wants to have as the peer, in the wire's own namespace."""

    def __init__(self, namespace: Namespace, text: str, stdout: int | None = None) -> None:
        try:
            args = shlex.split(text)
        except ValueError as e:
            raise ArgumentError("start", text, str(e), "check the quotes") from None
        self._namespace = namespace
        self._text = text
        self.process: Process = namespace.popen(args, stdin=subprocess.DEVNULL, stdout=stdout)

    def wait_until_it_listens(self, host: str, port: int) -> None:
        """Wait until something listens on a port.

        Raises:
            CommandError: nothing did before the command ended, or within some seconds.
        """
        deadline = time.monotonic() + _LISTEN_PATIENCE
        while True:
            # Before the look: what it leaves behind in the background may listen.
            code = self.process.poll()
            if _listens(self._namespace, port):
                return
            if code is not None:
                state = f"it ended with exit code {code}"
                break
            if time.monotonic() > deadline:
                state = f"it is running, for {_LISTEN_PATIENCE:.0f} s now"
                break
            time.sleep(0.01)
        raise CommandError(
            "start",
            f"--peer {self._text!r}",
            f"nothing listens at {host}:{port}; {state}",
            "have it listen there for TCP over IPv4, in the foreground",
        )


def _listens(namespace: Namespace, port: int) -> bool:
    """Whether /proc/net/tcp or tcp6 has a socket in state 0A on the port (proc(5))."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(NamespaceError):
            for line in namespace.read(f"/proc/net/{table}").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[1].endswith(f":{port:04X}"):
                    return True
    return False
