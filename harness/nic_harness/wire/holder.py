"""The process that holds a network namespace; a program that wire/netns.py starts.

It is started with -I -S and imports little, so that a namespace costs milliseconds. Nothing that it
inherits matters to it or to the commands that it starts: signals are neither blocked nor ignored,
and descriptors 0 to 2 are open.

Requests are numbered, and an answer carries the number of its request: an asker that was
interrupted before the answer came finds it later, and drops it.

Two processes: the outer one is the child that wire/netns.py waits for. It makes the namespaces
and one child, the first process of a PID namespace, which serves requests. When that one ends, for
whatever reason, the kernel kills every command started in the namespace, also those that made
themselves daemons. It ends when the control socket closes, and when the process that asked for
the namespace ends: seen through a pidfd, because PR_SET_PDEATHSIG would fire when the *thread* that
asked ends, and because a forked child of that process may keep the socket open.
"""

from __future__ import annotations

import array  # noqa: F401 - what socket.send_fds() would import later
import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import warnings  # noqa: F401 - what os.get_exec_path() would import later
from collections.abc import Iterable, Sequence
from ctypes import CDLL, c_char_p, c_int, c_ulong, c_void_p, get_errno

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_SLAVE = 2, 4, 8, 0x4000, 0x80000
PR_SET_PDEATHSIG = 1
NS_GET_USERNS = 0xB701

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_TUN_EXCL = 0x8000

#: Bytes of a message that go through the socket; a longer one goes through memory.
MAX_MESSAGE = 1 << 15
MAX_FDS = 32
MAX_READ = 1 << 16
NO_DESCRIPTOR = "descriptor"

PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)

libc = CDLL(None, use_errno=True)
libc.prctl.argtypes = [c_int, c_ulong, c_ulong, c_ulong, c_ulong]
libc.mount.argtypes = [c_char_p, c_char_p, c_char_p, c_ulong, c_void_p]


# What goes back: a message, and descriptors, which are closed here once they are sent.
Reply = tuple[dict[str, object], list[int]]


def send(
    channel: socket.socket, number: int, message: dict[str, object], fds: Sequence[int] = ()
) -> None:
    """Send a message and descriptors; a long message lies in a memory file, which goes first."""
    head, body = struct.pack("=Q", number), json.dumps(message).encode()
    if len(body) <= MAX_MESSAGE:
        socket.send_fds(channel, [head, body], fds)
        return
    with os.fdopen(os.memfd_create("message"), "wb") as memory:
        memory.write(body)
        memory.flush()
        socket.send_fds(channel, [head], [memory.fileno(), *fds])


def receive(channel: socket.socket) -> tuple[int, dict[str, Any], list[int]]:
    """Receive a message: its number, what it says, and its descriptors.

    When this process has no descriptor free for what came with it, it says so: `stage` is
    NO_DESCRIPTOR, and the descriptors are lost.

    Raises:
        ConnectionError: the other side is gone.
    """
    data, fds, flags, _ = socket.recv_fds(
        channel, MAX_MESSAGE + 8, MAX_FDS, socket.MSG_CMSG_CLOEXEC
    )
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, "the other side is gone")
    (number,) = struct.unpack_from("=Q", data)
    body = data[8:]
    if not body and fds:
        with os.fdopen(fds.pop(0), "rb") as memory:
            memory.seek(0)
            body = memory.read()
    message = json.loads(body) if body else {}
    if flags & socket.MSG_CTRUNC:
        close(fds)
        return number, {**message, "errno": errno.EMFILE, "stage": NO_DESCRIPTOR}, []
    return number, message, fds


def close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


class StageError(Exception):
    """An OSError, with the step it happened in."""

    def __init__(self, stage: str, error: int | None) -> None:
        self.stage = stage
        self.errno = error
        super().__init__(stage, error)


def open_queue(name: str, flags: int) -> tuple[int, str]:
    """Open a queue of a TAP, non-blocking, and return it with the interface's name.

    Raises:
        StageError: opening /dev/net/tun ("open tun") or TUNSETIFF did not work.
    """
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise StageError("open tun", e.errno) from e
    try:
        ifr = fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as e:
        os.close(fd)
        raise StageError("TUNSETIFF", e.errno) from e
    except BaseException:
        os.close(fd)
        raise
    return fd, ifr[:16].rstrip(b"\0").decode()


def unshare(flags: int) -> None:
    if libc.unshare(flags):
        raise OSError(get_errno(), "unshare")


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def setns(fd: int, kind: int) -> None:
    if libc.setns(fd, kind):
        raise OSError(get_errno(), "setns")


def join_namespace(path: str) -> bool:
    """Join a network namespace that somebody else made; True when it took its user namespace."""
    rootless = False
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            setns(fd, CLONE_NEWNET)
        except PermissionError:
            # Whoever made the user namespace that it belongs to may do anything in there.
            owner = fcntl.ioctl(fd, NS_GET_USERNS)
            setns(owner, CLONE_NEWUSER)
            setns(fd, CLONE_NEWNET)
            os.close(owner)
            rootless = True
        os.close(fd)
        unshare(CLONE_NEWPID | CLONE_NEWNS)
    except OSError as e:
        raise StageError("join", e.errno) from e
    return rootless


def enter_namespaces() -> bool:
    """Leave for namespaces of our own; True when it took a user namespace."""
    flags = CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS
    try:
        unshare(flags)
    except OSError as e:
        if e.errno != errno.EPERM:
            raise StageError("namespace", e.errno) from e
    else:
        return False
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER | flags)
    except OSError as e:
        raise StageError("user namespace", e.errno) from e
    try:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"0 {uid} 1")
        write("/proc/self/gid_map", f"0 {gid} 1")
    except OSError as e:
        raise StageError("user namespace", e.errno) from e
    return True


def mount_views() -> None:
    """Mount a /proc and a /sys of the new namespaces, where that is allowed."""
    if libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None):
        return
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    libc.mount(b"proc", b"/proc", b"proc", flags, None)
    libc.mount(b"sysfs", b"/sys", b"sysfs", flags, None)


class Server:
    """The first process of the namespace."""

    def __init__(self, control: socket.socket, watch: int | None) -> None:
        self.control = control
        self.watch = watch
        self.statuses: dict[int, int] = {}  # pid of a command -> where its wait status goes
        self.sigchld, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        poll = select.poll()
        for fd in (self.control.fileno(), self.sigchld, self.watch):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.sigchld:
                    os.read(self.sigchld, 4096)
                    self.reap()
                elif fd == self.watch or not self.answer():
                    return

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            out = self.statuses.pop(pid, None)
            if out is not None:
                with contextlib.suppress(BrokenPipeError):
                    os.write(out, struct.pack("=i", status))
                os.close(out)

    def answer(self) -> bool:
        """One request; False when there will be no more."""
        try:
            number, request, fds = receive(self.control)
        except ConnectionError:
            return False
        out: list[int] = []
        try:
            if "errno" in request:
                raise StageError(request["stage"], request["errno"])
            reply, out = getattr(self, "do_" + request.pop("do"))(fds, **request)
        except StageError as e:
            reply = {"errno": e.errno, "stage": e.stage}
        except OSError as e:
            reply = {"errno": e.errno, "stage": ""}
        except Exception as e:
            reply = {"errno": 0, "stage": repr(e)}
        try:
            send(self.control, number, reply, out)
        except ConnectionError:
            pass  # the next receive says so
        except OSError as e:
            with contextlib.suppress(OSError):
                send(self.control, number, {"errno": e.errno, "stage": "answer"})
        close([*fds, *out])
        return True

    def do_socket(self, _: list[int], family: int, type: int, proto: int) -> Reply:  # noqa: A002
        return {}, [socket.socket(family, type, proto).detach()]

    def do_read(self, _: list[int], path: str) -> Reply:
        fd = os.open(path, os.O_RDONLY)
        try:
            return {"text": os.read(fd, MAX_READ).decode("utf-8", "replace")}, []
        finally:
            os.close(fd)

    def do_write(self, _: list[int], path: str, text: str) -> Reply:
        write(path, text)
        return {}, []

    def do_tap(self, _: list[int], name: str, queues: int) -> Reply:
        fds = []
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)
        try:
            for i in range(queues):
                # The first queue makes the interface, and must not find one.
                excl = IFF_TUN_EXCL if i == 0 else 0
                fd, name = open_queue(name, flags | excl)
                fds.append(fd)
        except StageError:
            for fd in fds:
                os.close(fd)
            raise
        return {"name": name}, fds

    def do_spawn(
        self, fds: list[int], argv: list[str], env: dict[str, str], cwd: str | None
    ) -> Reply:
        """Start a command on three descriptors: its pidfd, and where its status will come.

        A fourth descriptor is the folder it starts in, when that has no path.
        """
        try:
            os.chdir(fds[3] if cwd is None else cwd)
        except OSError as e:
            raise StageError("chdir", e.errno) from e
        # What is said into a socket can be looked at without taking it out.
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, ours:
            pid = spawn(argv, env, fds[:3])
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                raise
            self.statuses[pid] = ours.detach()
            return {"pid": pid}, [pidfd, theirs.detach()]

    def do_kill(self, _: list[int], pid: int) -> Reply:
        """End a command whose descriptors reached nobody."""
        if pid in self.statuses:
            os.kill(pid, signal.SIGKILL)
        return {}, []


def spawn(argv: list[str], env: dict[str, str], fds: list[int]) -> int:
    """Start a command, as execvpe(3) finds it in the PATH of its environment."""
    program = argv[0]
    folders = [""] if "/" in program else os.get_exec_path(env)
    problem = errno.ENOENT
    for folder in folders:
        try:
            return os.posix_spawn(
                f"{folder}/{program}" if folder else program,
                argv,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, i) for i, fd in enumerate(fds)],
                setsid=True,
                setsigmask=[],
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                problem = e.errno or 0
                if problem != errno.EACCES:
                    break
    raise StageError("spawn", problem)


def forget_signals() -> None:
    """Undo what was inherited: the mask, and which signals are ignored."""
    for number in signal.valid_signals():
        # SIGPIPE and SIGXFSZ are ignored by Python itself, which makes errors of them.
        if signal.getsignal(number) is signal.SIG_IGN and number not in PYTHONS_OWN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def main(argv: list[str]) -> int:
    forget_signals()
    control = socket.socket(fileno=int(argv[1]))
    control.set_inheritable(False)
    parent = int(argv[2])
    # The terminal's Ctrl-C goes to its foreground group: to the program, which then closes us.
    os.setsid()
    try:
        watch = os.pidfd_open(parent)
    except OSError:
        watch = None  # not in this kernel or container: the control socket has to do
    if os.getppid() != parent:
        return 1
    try:
        rootless = join_namespace(argv[3]) if len(argv) > 3 else enter_namespaces()
        pid = os.fork()
    except StageError as e:
        send(control, 0, {"errno": e.errno, "stage": e.stage})
        return 1
    except OSError as e:
        send(control, 0, {"errno": e.errno, "stage": "fork"})
        return 1
    if pid:
        control.close()
        os.waitpid(pid, 0)
        return 0
    # Nothing is left when the outer process is killed; it has one thread, so this is exact.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    mount_views()
    server = Server(control, watch)
    send(control, 0, {"rootless": rootless})
    server.serve()
    return 0


if __name__ == "__main__":
    # No clean-up of the interpreter: the kernel's is complete.
    os._exit(main(sys.argv))
