"""A network namespace for one run, and what can be done in it.

The namespace has no name and no file: it lives in a process of its own and is gone with it, at
close() or at the latest when this process ends, however it ends. Without root it lives in a user
namespace (user_namespaces(7)). Nothing on the host changes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, TypeAlias

from nic_harness.base import check as _check  # run() has a parameter of that name
from nic_harness.base.descriptors import above_stdio, descriptors_for, is_inherited
from nic_harness.base.live import Closing, track
from nic_harness.base.owner import Owner, close_owned, own, this_process
from nic_harness.errors import (
    ClosedError,
    CommandError,
    HarnessWarning,
    LinkError,
    NamespaceError,
    NamespaceGoneError,
    NamespacePermissionError,
    ResourceError,
    TunMissingError,
    TunPermissionError,
    UnsupportedError,
    WaitTimeoutError,
)
from nic_harness.wire import holder as _holder
from nic_harness.wire.rtnl import LinkInfo, LinkStats, Rtnl

if TYPE_CHECKING:
    from pyroute2 import IPRoute  # type: ignore[import-untyped]

__all__ = ["LinkInfo", "LinkStats", "Namespace", "Process"]

StdIo: TypeAlias = int | IO[Any] | None
_Socket: TypeAlias = socket.socket  # Namespace has a method of that name

_ROOT_REMEDY = "run as root, or allow user namespaces"


_INT_MAX = (1 << 31) - 1
#: Queues that one NIC can have (NIC_MAX_QUEUES).
_MAX_QUEUES = 16


class Namespace(Closing):
    """An anonymous network namespace; use as a context manager.

    Commands started in it see a PID namespace of their own, and where the kernel allows it a /proc
    and a /sys. All of them are killed when it closes.

    Args:
        ipv6: leave IPv6 on. Off by default, so that no router solicitation or neighbour discovery
            turns up among frames that somebody counts.
        join: path of a network namespace that is there already, such as /run/netns/NAME or
            /proc/PID/ns/net: the same can be done in it, it is left as it is, and it stays.

    Attributes:
        rootless: it took a user namespace to make or join it.
        why_ipv6: why IPv6 is on although it was not asked for; empty when it is not. A TAP made
            here then gets no IPv6 address by itself, which keeps it as quiet (HarnessWarning).

    Raises:
        NamespacePermissionError: neither root nor allowed to make a user namespace.
        NamespaceError: the kernel refused for another reason.
    """

    rootless: bool
    why_ipv6: str = ""

    def __init__(self, *, ipv6: bool = False, join: str | Path | None = None) -> None:
        self._owner = this_process()
        self._stop: weakref.finalize[Any, Any] | None = None
        _check.flag("make", "network namespace", "ipv6", ipv6)
        if join is not None:
            _check.path("join", "network namespace", "join", join)
        self._lock = threading.Lock()
        self._number = 0  # of the last request
        with _making():
            self._control, holder = _start_holder([] if join is None else [str(join)])
        # Also runs when the interpreter ends.
        self._stop = weakref.finalize(self, _end_holder, self._control, holder, self._owner)
        try:
            try:
                _, reply, _ = _holder.receive(self._control)
            except ConnectionError:
                raise NamespaceGoneError(
                    "make", "network namespace", "its process ended at once"
                ) from None
            if "errno" in reply:
                if join is not None:
                    raise _join_error(reply["errno"], str(join))
                raise _namespace_error(reply["errno"], reply["stage"])
            self.rootless = reply["rootless"]
            self._netlink = self.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._netlink.settimeout(None)
            self._rtnl = Rtnl(self._netlink)
            if join is None:
                if not ipv6:
                    self._disable_ipv6()
                self.set_link("lo", up=True)
        except BaseException:
            self.close()
            raise
        track(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "rootless" if self.rootless else "root"
        state += "" if self._owner.here else f" of process {self._owner.pid}"
        return f"<Namespace {state}>"

    def __del__(self) -> None:
        if self._stop is not None and self._stop.alive and self._owner.here:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._stop is None or not self._stop.alive

    def close(self) -> None:
        """Kill every command in the namespace and let go of it; again has no effect.

        Sockets and TAP queues handed out keep what they refer to until they are closed too.
        """
        netlink = getattr(self, "_netlink", None)
        if netlink is not None:
            netlink.close()
        if self._stop is not None:
            self._stop()

    def _forked(self) -> None:
        """Close the copies that keep the namespace; numbers of sockets are still theirs here."""
        self._lock = threading.Lock()
        self._control.close()
        self._netlink.close()

    def _request(
        self, do: str, fds: Sequence[int] = (), **args: Any
    ) -> tuple[dict[str, Any], list[int]]:
        """Ask the holder; the reply and the descriptors that came with it."""
        if self.closed:
            raise ClosedError(do, "network namespace", "it is closed")
        self._owner.check(do, "network namespace")
        with self._lock:
            self._number += 1
            number = self._number
            try:
                with descriptors_for(do, "network namespace"):
                    _holder.send(self._control, number, {"do": do, **args}, fds)
                while True:
                    answered, reply, out = _holder.receive(self._control)
                    if answered == number:
                        break
                    # Of a request that a signal handler's exception broke off.
                    _drop_answer(reply, out)
            except ConnectionError:
                raise NamespaceGoneError(
                    do, "network namespace", "the process that held it was ended"
                ) from None
            except OSError as e:
                raise NamespaceError(do, "network namespace", errno=e.errno) from e
        if reply.get("stage") == _holder.NO_DESCRIPTOR:
            if "pid" in reply:
                self._request("kill", pid=reply["pid"])
            raise ResourceError.from_errno(errno.EMFILE, do, "network namespace")
        return reply, out

    def _ask(self, do: str, what: str, **args: Any) -> tuple[dict[str, Any], list[int]]:
        reply, fds = self._request(do, **args)
        if "errno" in reply:
            raise NamespaceError(do, what, reply["stage"], errno=reply["errno"] or None)
        return reply, fds

    # Sockets and files

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,  # noqa: A002 - as socket.socket() calls it
        proto: int = 0,
    ) -> _Socket:
        """Make a socket that lives in the namespace, to be used from here.

        Any family: a server of the kernel's own TCP (AF_INET), a sniffer (AF_PACKET), netlink.
        """
        for name, value in (("family", family), ("type", type), ("proto", proto)):
            _check.integer("make", "socket", name, value, 0, _INT_MAX)
        _, fds = self._ask(
            "socket",
            f"{family}/{type}",
            family=int(family),
            type=int(type) | socket.SOCK_CLOEXEC,
            proto=proto,
        )
        return socket.socket(fileno=fds[0])

    def packet_socket(self, link: str, proto: int = 0x0003) -> _Socket:
        """Make an AF_PACKET socket on an interface: whole frames, both directions (packet(7)).

        Args:
            link: name of the interface.
            proto: EtherType it sees; ETH_P_ALL by default, 0 for a socket that only sends.
        """
        _check.interface_name("open packet socket on", link)
        _check.integer("open packet socket on", link, "proto", proto, 0, 0xFFFF)
        sock = self.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            sock.bind((link, proto))
        except OSError as e:
            sock.close()
            raise LinkError("open packet socket on", link, errno=e.errno) from e
        return sock

    def read(self, path: str | Path) -> str:
        """Read a small file as the namespace sees it, such as /proc/net/dev; at most 64 KiB."""
        _check.path("read", "a file", "path", path)
        return str(self._ask("read", str(path), path=str(path))[0]["text"])

    def write(self, path: str | Path, text: str) -> None:
        """Put a text into a file as the namespace sees it, at once."""
        _check.path("write", "a file", "path", path)
        _check.text("write", str(path), "text", text)
        self._ask("write", str(path), path=str(path), text=text)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read a network sysctl of the namespace, or set it.

        Args:
            name: dotted, without the leading "net.": "ipv4.tcp_congestion_control".
            value: what to set it to.

        Returns: the value it had (None given) or has now.
        """
        _check.text("look at", "a sysctl", "name", name)
        _check.instance("set", name, "value", value, str, int, NoneType)
        path = "/proc/sys/net/" + name.replace(".", "/")
        if value is not None:
            self.write(path, str(value))
        return self.read(path).strip()

    def _disable_ipv6(self) -> None:
        try:
            for which in ("all", "default"):
                self.sysctl(f"ipv6.conf.{which}.disable_ipv6", 1)
        except NamespaceError as e:
            if e.errno == errno.ENOENT:  # a kernel without IPv6 is as quiet as we want it
                return
            if e.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            self.why_ipv6 = (
                "/proc/sys is read-only here, as in an ordinary container"
                if e.errno == errno.EROFS
                else f"/proc/sys may not be written here: {e.problem}"
            )
            warnings.warn(
                f"IPv6 could not be switched off in a network namespace: {self.why_ipv6}; "
                "its TAPs get no IPv6 address instead",
                HarnessWarning,
                stacklevel=_outside(),
            )

    # Links

    @contextlib.contextmanager
    def _links(self) -> Iterator[Rtnl]:
        """Ask the kernel about interfaces, one thread at a time."""
        self._owner.check("configure", "network namespace")
        with self._lock:
            if self.closed:
                raise ClosedError("configure", "network namespace", "it is closed")
            yield self._rtnl

    def link(self, name: str) -> LinkInfo:
        """Look up an interface: its MTU and limits, MAC, state and statistics."""
        _check.interface_name("look up interface", name)
        with self._links() as links:
            return links.link(name)

    def set_link(
        self,
        name: str,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        txqueuelen: int | None = None,
        ipv6_address: bool | None = None,
    ) -> None:
        """Change what is given of an interface.

        Args:
            name: the interface.
            up: administrative state.
            mtu: bytes.
            mac: colon-separated.
            txqueuelen: frames; for a TAP, the room of the queue towards the NIC.
            ipv6_address: whether the kernel gives it an IPv6 address when it comes up. Without one
                it neither solicits routers nor looks for duplicates.
        """
        _check.interface_name("configure interface", name)
        if up is not None:
            _check.flag("configure interface", name, "up", up)
        for what, value in (("mtu", mtu), ("txqueuelen", txqueuelen)):
            if value is not None:
                _check.integer("configure interface", name, what, value, 0, _INT_MAX)
        if mac is not None:
            _check.mac("configure interface", name, "mac", mac)
        if ipv6_address is not None:
            _check.flag("configure interface", name, "ipv6_address", ipv6_address)
        with self._links() as links:
            links.set_link(
                name, up=up, mtu=mtu, mac=mac, txqueuelen=txqueuelen, ipv6_address=ipv6_address
            )

    def add_veth(self, name: str, peer: str, pid: int, mtu: int) -> None:
        """Make a veth pair; its end `peer` is in the network namespace of process `pid`."""
        _check.interface_name("add veth pair", name)
        _check.interface_name("add veth pair", peer)
        _check.integer("add veth pair", name, "pid", pid, 1, _INT_MAX)
        _check.integer("add veth pair", name, "mtu", mtu, 0, _INT_MAX)
        with self._links() as links:
            links.add_veth(name, peer, pid, mtu)

    def delete_link(self, name: str) -> None:
        """Remove an interface."""
        _check.interface_name("remove interface", name)
        with self._links() as links:
            links.delete_link(name)

    def add_address(self, name: str, address: str) -> None:
        """Give an interface an address, "192.0.2.1/24" or "2001:db8::1/64"."""
        _check.interface_name("add address to", name)
        checked = _check.interface_address("add address to", name, "address", address)
        with self._links() as links:
            links.add_address(name, checked)

    def add_neighbour(self, name: str, address: str, mac: str) -> None:
        """Make a permanent neighbour entry: no ARP or neighbour discovery for it."""
        _check.interface_name("add neighbour to", name)
        checked = _check.address("add neighbour to", name, "address", address)
        _check.mac("add neighbour to", name, "mac", mac)
        with self._links() as links:
            links.add_neighbour(name, checked, mac)

    def add_default_route(self, name: str, gateway: str) -> None:
        """Send what has no other route to a gateway on an interface."""
        _check.interface_name("add default route to", name)
        checked = _check.address("add default route to", name, "gateway", gateway)
        with self._links() as links:
            links.add_route(name, checked)

    def iproute(self) -> IPRoute:
        """Open pyroute2's IPRoute on the namespace, for what is not here; close it after use.

        Raises:
            UnsupportedError: an asyncio loop runs in this thread, in which IPRoute cannot be used.
        """
        # Without asyncio there is no loop, and importing it takes long.
        asyncio = sys.modules.get("asyncio")
        if asyncio is not None and asyncio._get_running_loop() is not None:
            raise UnsupportedError(
                "open IPRoute on",
                "network namespace",
                "pyroute2's IPRoute cannot be used in a running asyncio loop",
                "open and use it in a function that asyncio.to_thread() calls",
            )
        from pyroute2 import IPRoute

        sock = self.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
        return IPRoute(fileno=sock.detach())

    def open_tap(self, name: str = "tap0", *, queues: int = 1) -> tuple[str, list[int]]:
        """Make a TAP interface: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, one descriptor per queue.

        Most people want harness.Tap instead.

        Args:
            name: of the interface; "tap%d" lets the kernel number it.
            queues: above 1, the interface has IFF_MULTI_QUEUE.

        Returns: the interface's name, and the queues' descriptors, non-blocking; the caller's to
        close. The interface goes when the last one is closed.

        Raises:
            TunMissingError: there is no /dev/net/tun.
            TunPermissionError: it may not be opened.
            LinkError: the name is taken or not allowed, or the kernel refused.
        """
        _check.interface_name("make TAP", name)
        _check.integer("make TAP", name, "queues", queues, 1, _MAX_QUEUES)
        reply, fds = self._request("tap", name=name, queues=queues)
        if "errno" in reply:
            raise _tap_error(reply["errno"], reply["stage"], name)
        if self.why_ipv6:
            try:
                self.set_link(reply["name"], ipv6_address=False)
            except BaseException:
                _holder.close(fds)
                raise
        return reply["name"], fds

    # Commands

    def popen(
        self,
        args: Sequence[str | bytes | os.PathLike[str]],
        *,
        stdin: StdIo = None,
        stdout: StdIo = None,
        stderr: StdIo = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        text: bool = False,
    ) -> Process:
        """Start a command in the namespace, in a session of its own.

        It starts with no signal blocked or ignored, however this process has them.

        Args:
            args: the program, looked up in PATH, and its arguments.
            stdin, stdout, stderr: as subprocess.Popen takes them: None (this process's, or DEVNULL
                where that is closed), PIPE, DEVNULL, a descriptor or a file; STDOUT for stderr.
            cwd: where it starts; None: where this process is.
            env: its whole environment; None: that of this process.
            text: pipes carry str (UTF-8) instead of bytes.

        Raises:
            CommandError: it could not be started.
        """
        _check.program("start", args)
        _check.flag("start", "a command", "text", text)
        if cwd is not None:
            _check.path("start", "a command", "cwd", cwd)
        argv = [os.fsdecode(a) for a in args]
        if not argv:
            raise CommandError("start", "a command", "no program was named")
        ends: list[int | None] = [None, None, None]  # our ends of pipes
        passed: list[int] = []
        opened: list[int] = []
        try:
            with descriptors_for("start", argv[0]):
                for i, given in enumerate((stdin, stdout, stderr)):
                    if given == subprocess.PIPE:
                        r, w = os.pipe2(os.O_CLOEXEC)
                        theirs, ends[i] = (r, w) if i == 0 else (w, r)
                        opened.append(theirs)
                    elif given == subprocess.DEVNULL or (given is None and not is_inherited(i)):
                        theirs = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                        opened.append(theirs)
                    elif given == subprocess.STDOUT:
                        if i != 2:
                            raise ValueError("STDOUT can only be used for stderr")
                        theirs = passed[1]
                    elif given is None:
                        theirs = i
                    else:
                        theirs = given if isinstance(given, int) else given.fileno()
                        _check_open(theirs, argv[0])
                    passed.append(theirs)
                try:
                    where: str | None = str(Path.cwd() / os.fsdecode(cwd or ""))
                except FileNotFoundError:  # it was removed; it is a place to be in all the same
                    where = None if cwd is None else os.fsdecode(cwd)
                if where is None:
                    opened.append(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                    passed.append(opened[-1])
            reply, fds = self._request(
                "spawn",
                passed,
                argv=argv,
                env={
                    os.fsdecode(name): os.fsdecode(value)
                    for name, value in (os.environ if env is None else env).items()
                },
                cwd=where,
            )
            if "errno" in reply:
                raise _command_error(reply["errno"], reply["stage"], argv[0], cwd)
            process = Process(argv, fds[0], fds[1], ends, text)
            ends = []
            return process
        finally:
            for fd in opened:
                os.close(fd)
            for end in ends:
                if end is not None:
                    os.close(end)

    def run(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        input: bytes | str | None = None,  # noqa: A002 - as subprocess.run() calls it
        capture_output: bool = False,
        check: bool = False,
        timeout: float | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        text: bool = False,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a command in the namespace to its end, as subprocess.run() does.

        Args:
            timeout: seconds, after which it is killed.

        Raises:
            subprocess.CalledProcessError: with check, when its exit code is not 0.
            subprocess.TimeoutExpired: it did not end in time.
            CommandError: it could not be started.
        """
        _check.seconds("run", "a command", timeout)
        _check.flag("run", "a command", "capture_output", capture_output)
        _check.flag("run", "a command", "check", check)
        _check_input("run", "a command", input)
        pipe = subprocess.PIPE if capture_output else None
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.popen(
            args, stdin=stdin, stdout=pipe, stderr=pipe, cwd=cwd, env=env, text=text
        ) as process:
            try:
                out, err = process.communicate(input, timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            code = process.wait()
        if check and code:
            raise subprocess.CalledProcessError(code, process.args, out, err)
        return subprocess.CompletedProcess(process.args, code, out, err)


def _check_input(operation: str, what: object, value: object) -> None:
    """See that a value can be what a command reads."""
    if value is not None and not isinstance(value, str):
        _check.buffer(operation, what, "input", value)


class Process:
    """A command running in a namespace; the part of subprocess.Popen that is mostly used.

    Attributes:
        args: the command line.
        pid: its process ID as this process sees it.
        returncode: exit code; -N when signal N ended it; None while it runs.
        stdin, stdout, stderr: our ends of the pipes asked for, or None.
    """

    def __init__(
        self, args: list[str], pidfd: int, status: int, ends: Sequence[int | None], text: bool
    ) -> None:
        self.args = args
        self._pidfd = own(pidfd)
        self._status = socket.socket(fileno=status)
        self._status.settimeout(None)
        self._text = text
        self.returncode: int | None = None
        self._owner = this_process()
        self._fds = weakref.finalize(self, _let_go_of, pidfd, self._status, self._owner)
        try:
            with descriptors_for("start", args[0]):
                self.pid = _pid_of(pidfd)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._fds()
            raise
        mode = ("w", "r", "r") if text else ("wb", "rb", "rb")
        self.stdin, self.stdout, self.stderr = (
            None if fd is None else os.fdopen(fd, m, encoding="utf-8" if text else None)
            for fd, m in zip(ends, mode, strict=True)
        )

    def __repr__(self) -> str:
        return f"<Process {self.args[0]} pid={self.pid} returncode={self.returncode}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pipes and end it: nothing outlives the block, but in a forked child."""
        if self._owner.here:
            if self.poll() is None:
                self.kill()
            self.wait()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._fds()

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._collect(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds.
        """
        _check.seconds("wait for", self, timeout)
        code = self._collect(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def _collect(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._owner.check("wait for", self.args[0])
            poll = select.poll()
            poll.register(self._status, select.POLLIN)
            if poll.poll(None if timeout is None else max(0, timeout * 1000)):
                # It stays there, for the next one who looks when a signal handler raises here.
                data = self._status.recv(4, socket.MSG_PEEK)
                # Nothing to read: the namespace was closed and the kernel killed it with the rest.
                status = struct.unpack("=i", data)[0] if data else signal.SIGKILL
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens when it has ended."""
        _check.integer("send a signal to", self, "number", number, 0, signal.NSIG - 1)
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(
        self,
        input: bytes | str | None = None,  # noqa: A002 - as subprocess calls it
        timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Feed stdin, read stdout and stderr to their ends, and wait.

        Returns: (stdout, stderr), bytes or str, None for what is no pipe.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds; what was read is lost.
        """
        _check.seconds("communicate with", self, timeout)
        _check_input("communicate with", self, input)
        deadline = None if timeout is None else time.monotonic() + timeout
        data = memoryview(input.encode() if isinstance(input, str) else input or b"")
        read: dict[int, bytearray] = {}
        with selectors.DefaultSelector() as selector:
            if self.stdin is not None:
                if data:
                    os.set_blocking(self.stdin.fileno(), False)
                    selector.register(self.stdin.fileno(), selectors.EVENT_WRITE)
                else:
                    self.stdin.close()
            for pipe in (self.stdout, self.stderr):
                if pipe is not None:
                    read[pipe.fileno()] = bytearray()
                    selector.register(pipe.fileno(), selectors.EVENT_READ)
            while selector.get_map():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    assert timeout is not None
                    raise subprocess.TimeoutExpired(self.args, timeout)
                for key, _ in selector.select(left):
                    if key.fd in read:
                        got = os.read(key.fd, 1 << 16)
                        read[key.fd] += got
                        done = not got
                    else:
                        try:
                            data = data[os.write(key.fd, data) :]
                            done = not data
                        except BrokenPipeError:
                            done = True
                        if done and self.stdin is not None:
                            selector.unregister(key.fd)
                            self.stdin.close()
                            continue
                    if done:
                        selector.unregister(key.fd)
        out: list[Any] = []
        for pipe in (self.stdout, self.stderr):
            if pipe is None:
                out.append(None)
                continue
            whole = bytes(read[pipe.fileno()])
            out.append(whole.decode("utf-8", "replace") if self._text else whole)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return out[0], out[1]


def _outside() -> int:
    """Return the stack level of the line outside of this package, for warnings.warn()."""
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] == package and frame.f_back:
        level, frame = level + 1, frame.f_back
    return level


def _let_go_of(pidfd: int, status: socket.socket, owner: Owner) -> None:
    if owner.here:
        close_owned(pidfd)
    status.close()


def _check_open(fd: int, program: str) -> None:
    try:
        os.fstat(fd)
    except OSError as e:
        raise CommandError(
            "start", program, f"descriptor {fd}, for it to use, is not open", errno=e.errno
        ) from None


def _command_error(
    code: int, stage: str, program: str, cwd: str | os.PathLike[str] | None
) -> CommandError:
    if stage == "chdir":
        where = "in this folder, which was removed" if cwd is None else f"in {cwd}"
        return CommandError("start", f"{program} {where}", remedy="check its name", errno=code)
    if code == errno.E2BIG:
        remedy = "pass less in its arguments and environment (execve(2) has the limits)"
    elif code in (errno.EMFILE, errno.ENFILE):
        remedy = "raise ulimit -n before the namespace is made"
    else:
        remedy = "check its name"
    problem = "" if code else stage
    return CommandError("start", program, problem, remedy, errno=code or None)


def _drop_answer(reply: dict[str, Any], fds: list[int]) -> None:
    """Undo what was asked for by a request that nobody waits for any more."""
    if "pid" in reply and fds:  # a command, by its pidfd
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fds[0], signal.SIGKILL)
    _holder.close(fds)


@contextlib.contextmanager
def _making() -> Iterator[None]:
    """Name what keeps the holder from being started."""
    what = "network namespace"
    try:
        with descriptors_for("make", what):
            yield
    except OSError as e:
        problem = f"its process could not be started: {e.strerror}"
        raise NamespaceError("make", what, problem, errno=e.errno) from e


def _start_holder(arguments: list[str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the process that makes and holds a namespace, and the channel to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            ours.settimeout(None)  # whatever socket.setdefaulttimeout() was told
            number = above_stdio(theirs.fileno())
        try:
            # -I -S and by its path: it needs nothing but the standard library, and starts in a
            # third of the time.
            python = [sys.executable, "-I", "-S"]
            if sys.flags.utf8_mode:  # names of files are to be the same bytes there
                python += ["-X", "utf8"]
            holder = subprocess.Popen(
                [*python, _holder.__file__, str(number), str(os.getpid()), *arguments],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # What may be too long is not for it. LD_PRELOAD: a sanitizer's thread would keep
                # it from making a user namespace.
                env={
                    k: v
                    for k, v in os.environ.items()
                    if k.startswith(("LANG", "LC_", "LD_")) and k != "LD_PRELOAD"
                },
            )
        finally:
            os.close(number)
    except BaseException:
        ours.close()
        raise
    return ours, holder


def _pid_of(pidfd: int) -> int:
    """Return the process ID behind a pidfd, in our PID namespace (pidfd_open(2), fdinfo)."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii").splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1


def _end_holder(control: socket.socket, holder: subprocess.Popen[bytes], owner: Owner) -> None:
    """End the holder and reap it; in a forked child, only let go of the socket."""
    if not owner.here:
        control.close()
        holder.returncode = 0  # somebody else's child: no warning about it here
        return
    with contextlib.suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)
    control.close()
    try:
        holder.wait(5)
    except subprocess.TimeoutExpired:
        holder.kill()
        holder.wait()


def _join_error(code: int, path: str) -> NamespaceError:
    if code in (errno.EPERM, errno.EACCES):
        remedy = "run as root, or as the user who made it"
        return NamespacePermissionError("join", f"network namespace {path}", "", remedy, errno=code)
    remedy = "name one that `ip netns list` shows, or a process ID"
    problem = "it is not a network namespace" if code in (errno.EINVAL, errno.ENOTTY) else ""
    return NamespaceError("join", f"network namespace {path}", problem, remedy, errno=code)


def _namespace_error(code: int, stage: str) -> NamespaceError:
    if code in (errno.EPERM, errno.EACCES):
        return NamespacePermissionError(
            "make",
            f"network {stage}".replace("network user", "user"),
            errno=code,
            remedy=_why_no_userns(),
        )
    if code == errno.ENOSPC:
        remedy = (
            "raise user.max_user_namespaces, user.max_net_namespaces and user.max_pid_namespaces"
        )
        return NamespacePermissionError(
            "make", stage, "the limit of namespaces is reached", remedy, errno=code
        )
    if code in (errno.EINVAL, errno.ENOSYS):
        return NamespaceError(
            "make", stage, "this kernel has no such namespaces", "run as root", errno=code
        )
    return NamespaceError("make", stage, errno=code or None, remedy=_ROOT_REMEDY)


def _why_no_userns() -> str:
    """Say which switch keeps user namespaces from us."""
    if os.geteuid() == 0:  # verify_root_map(): takes CAP_SETFCAP, which this root has not either
        return "run as an ordinary user, or with CAP_SYS_ADMIN"
    for path, off, remedy in (
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ):
        try:
            if Path(path).read_text(encoding="ascii").strip() == off:
                return f"run as root, or: sysctl -w {remedy}"
        except OSError:
            continue
    return "run as root, or in a container with CAP_SYS_ADMIN or user namespaces"


def tun_error(code: int) -> LinkError:
    """Make the error for /dev/net/tun that could not be opened."""
    if code in (errno.ENOENT, errno.ENOTDIR):
        return TunMissingError(
            "open",
            "/dev/net/tun",
            "there is no such device",
            "load it: modprobe tun (in a container: --device /dev/net/tun)",
            errno=code,
        )
    if code in (errno.ENODEV, errno.ENXIO):
        return TunMissingError(
            "open", "/dev/net/tun", "no driver behind it", "load it: modprobe tun", errno=code
        )
    if code in (errno.EACCES, errno.EPERM):
        return TunPermissionError(
            "open",
            "/dev/net/tun",
            "not permitted",
            "run as root, or: chmod 666 /dev/net/tun",
            errno=code,
        )
    return LinkError("open", "/dev/net/tun", errno=code)


def _tap_error(code: int, stage: str, name: str) -> LinkError:
    if stage == "open tun":
        return tun_error(code)
    if code == errno.EBUSY:
        return LinkError("make TAP", name, "an interface of that name is there already", errno=code)
    if code == errno.EINVAL:
        return LinkError(
            "make TAP", name, "not a name for an interface", "at most 15 characters, no / or space"
        )
    if code == errno.EPERM:
        return TunPermissionError("make TAP", name, "not permitted", _ROOT_REMEDY, errno=code)
    return LinkError("make TAP", name, stage, errno=code or None)


def wait_for_link(namespace: Namespace, name: str, timeout: float = 5.0) -> None:
    """Wait until an interface has a carrier.

    Raises:
        WaitTimeoutError: it has none after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not namespace.link(name).carrier:
        if time.monotonic() > deadline:
            raise WaitTimeoutError("wait for carrier of", name, f"none after {timeout} s")
        time.sleep(0.01)
