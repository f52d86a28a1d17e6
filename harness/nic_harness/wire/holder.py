"""The process that holds a network namespace; a program that wire/netns.py starts.

It is started with -I -S and imports little, so that a namespace costs milliseconds.

Two processes: the outer one is the child that wire/netns.py waits for. It makes the namespaces
and one child, the first process of a PID namespace, which serves requests. When that one ends, for
whatever reason, the kernel kills every command started in the namespace, also those that made
themselves daemons. It ends when the control socket closes, and when the process that asked for
the namespace ends: seen through a pidfd, because PR_SET_PDEATHSIG would fire when the *thread* that
asked ends, and because a forked child of that process may keep the socket open.
"""

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
from ctypes import CDLL, c_char_p, c_int, c_ulong, c_void_p, get_errno

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

MAX_MESSAGE = 1 << 17
MAX_FDS = 32

libc = CDLL(None, use_errno=True)
libc.prctl.argtypes = [c_int, c_ulong, c_ulong, c_ulong, c_ulong]
libc.mount.argtypes = [c_char_p, c_char_p, c_char_p, c_ulong, c_void_p]


# What goes back: a message, and descriptors, which are closed here once they are sent.
Reply = tuple[dict[str, object], list[int]]


class StageError(Exception):
    """An OSError, with the step it happened in."""

    def __init__(self, stage: str, error: int | None) -> None:
        self.stage = stage
        self.errno = error
        super().__init__(stage, error)


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
        data, fds, _, _ = socket.recv_fds(
            self.control, MAX_MESSAGE, MAX_FDS, socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return False
        out: list[int] = []
        try:
            request = json.loads(data)
            reply, out = getattr(self, "do_" + request.pop("do"))(fds, **request)
        except StageError as e:
            reply = {"errno": e.errno, "stage": e.stage}
        except OSError as e:
            reply = {"errno": e.errno, "stage": ""}
        except Exception as e:
            reply = {"errno": 0, "stage": repr(e)}
        # When the other side is gone, the next receive says so.
        with contextlib.suppress(OSError):
            socket.send_fds(self.control, [json.dumps(reply).encode()], out)
        for fd in [*fds, *out]:
            os.close(fd)
        return True

    def do_socket(self, _: list[int], family: int, type: int, proto: int) -> Reply:  # noqa: A002
        return {}, [socket.socket(family, type, proto).detach()]

    def do_read(self, _: list[int], path: str) -> Reply:
        fd = os.open(path, os.O_RDONLY)
        try:
            return {"text": os.read(fd, MAX_MESSAGE // 2).decode("utf-8", "replace")}, []
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
                try:
                    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                except OSError as e:
                    raise StageError("open tun", e.errno) from e
                fds.append(fd)
                # The first queue makes the interface, and must not find one.
                excl = IFF_TUN_EXCL if i == 0 else 0
                ifr = struct.pack("16sH22x", name.encode(), flags | excl)
                try:
                    ifr = fcntl.ioctl(fd, TUNSETIFF, ifr)
                except OSError as e:
                    raise StageError("TUNSETIFF", e.errno) from e
                name = ifr[:16].rstrip(b"\0").decode()
        except StageError:
            for fd in fds:
                os.close(fd)
            raise
        return {"name": name}, fds

    def do_spawn(self, fds: list[int], argv: list[str], env: dict[str, str], cwd: str) -> Reply:
        """Start a command on three descriptors: its pidfd, and where its status will come."""
        try:
            os.chdir(cwd)
        except OSError as e:
            raise StageError("chdir", e.errno) from e
        try:
            pid = os.posix_spawnp(
                argv[0],
                argv,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, i) for i, fd in enumerate(fds)],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as e:
            raise StageError("spawn", e.errno) from e
        pidfd = os.pidfd_open(pid)
        status, self.statuses[pid] = os.pipe2(os.O_CLOEXEC)
        return {}, [pidfd, status]


def main(argv: list[str]) -> int:
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
        control.send(json.dumps({"errno": e.errno, "stage": e.stage}).encode())
        return 1
    except OSError as e:
        control.send(json.dumps({"errno": e.errno, "stage": "fork"}).encode())
        return 1
    if pid:
        control.close()
        os.waitpid(pid, 0)
        return 0
    # Nothing is left when the outer process is killed; it has one thread, so this is exact.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    mount_views()
    server = Server(control, watch)
    control.send(json.dumps({"rootless": rootless}).encode())
    server.serve()
    return 0


if __name__ == "__main__":
    # No clean-up of the interpreter: the kernel's is complete.
    os._exit(main(sys.argv))
