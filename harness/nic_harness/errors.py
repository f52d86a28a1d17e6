"""One exception tree; a message is one line: operation, object, what is wrong, remedy."""

from __future__ import annotations

import errno as _errno
import os
from enum import Enum
from typing import ClassVar, Protocol, Self


class HarnessError(Exception):
    """The root of everything this package raises on purpose.

    Attributes:
        operation: what was being done, as a verb phrase ("attach NIC").
        object: what it was done to ("tap0").
        problem: what is wrong.
        remedy: what the reader can do about it; empty when the problem says it all.
        errno: the positive error number behind it, or None.
        sent: of a send that ended early: bytes that were taken before, which the peer gets unless
            the connection is over; None: nothing was being sent.
    """

    #: Used when the raiser has nothing better to say.
    default_remedy: ClassVar[str] = ""

    def __init__(
        self,
        operation: str,
        object: str = "",  # noqa: A002 - the word of the project's conventions
        problem: str = "",
        remedy: str | None = None,
        *,
        errno: int | None = None,
    ) -> None:
        self.operation = operation
        self.object = object
        self.problem = problem or (os.strerror(errno) if errno else "failed")
        self.remedy = self.default_remedy if remedy is None else remedy
        what = f"{operation} {object}".strip()
        super().__init__(f"{what}: {self.problem}" + (f"; {self.remedy}" if self.remedy else ""))
        self.errno = errno  # OSError's own __init__ clears it
        self.sent: int | None = None

    def __str__(self) -> str:
        # Some classes below are OSErrors too, which have a format of their own.
        return str(self.args[0])

    @classmethod
    def from_errno(cls, code: int, operation: str, object: str = "") -> Self:  # noqa: A002
        """Make the error that belongs to an error number (its sign is ignored)."""
        return cls(operation, object, errno=abs(code))


class HarnessWarning(RuntimeWarning):
    """Something that was asked for is not possible here, and was done without, or otherwise."""


class ClosedError(HarnessError):
    """Something was used after its close()."""


class FrameReleasedError(ClosedError):
    """A frame was used after its release()."""

    default_remedy = "take what you need before release(), or keep a slice of the view"


class ForkedError(HarnessError):
    """Something was used in a forked child of the process that it belongs to."""

    default_remedy = "make one of its own in this process"

    @classmethod
    def from_errno(cls, code: int, operation: str, object: str = "") -> Self:  # noqa: A002
        """Make the error for a call that was refused because the arena is another process's."""
        problem = "it belongs to the process that forked this one"
        return cls(operation, object, problem, errno=abs(code))


class BusyError(HarnessError):
    """Something cannot be closed or changed while parts of it are in use."""


class ArenaBusyError(BusyError):
    """An arena cannot be closed: pages, mappings or mbufs of it are still out."""


class ResourceError(HarnessError):
    """A pool, the address space, the machine's memory or a table of it has no more to give."""

    @classmethod
    def from_errno(cls, code: int, operation: str, object: str = "") -> Self:  # noqa: A002
        """Make the error that belongs to an error number (its sign is ignored)."""
        remedies = {
            _errno.EMFILE: "raise ulimit -n, or close what is not needed",
            _errno.ENFILE: "raise fs.file-max",
        }
        return cls(operation, object, remedy=remedies.get(abs(code)), errno=abs(code))


class ArgumentError(HarnessError, ValueError):
    """A value is out of its range."""


class ArgumentTypeError(ArgumentError, TypeError):
    """A value is of a type that cannot serve."""


class MtuError(ArgumentError):
    """An MTU outside of what the kernel allows for the interface."""


class WaitTimeoutError(HarnessError, TimeoutError):
    """The time given for a wait is over."""


class UnsupportedError(HarnessError):
    """Asked for by name, and this kernel or device does not have it."""


# Pages and mappings.


class MisuseReport(Protocol):
    """What a MisuseError tells: nic_harness.Misuse, whose docstring says what each field is."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def address(self) -> int: ...  # noqa: D102
    @property
    def page(self) -> int | None: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def history(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def site(self) -> int: ...  # noqa: D102
    @property
    def alloc_site(self) -> int: ...  # noqa: D102
    @property
    def free_site(self) -> int: ...  # noqa: D102


class MisuseError(HarnessError):
    """A call was refused, or reported, because of what was done with the page before.

    Attributes:
        misuse: the report: page, state, history, and where it was allocated, freed and misused.
    """

    misuse: MisuseReport | None = None


class DoubleFreeError(MisuseError):
    """Something was freed that is free already."""

    default_remedy = "free it once; whoever was given it owns it"


class ForeignAddressError(MisuseError):
    """An address that is no page of this pool, or not the start of one."""

    default_remedy = "free by the address that the allocation gave"


class FreeWhilePostedError(MisuseError):
    """A page was freed that the device may still write."""

    default_remedy = "wait for its completion, or detach the NIC first"


class FreeAfterStealError(MisuseError):
    """A page was freed to the pool that it had left for good."""

    default_remedy = "a stolen page is freed with vm_page_free()"


class RefCountError(MisuseError):
    """A count of references, holds or wirings would have gone below zero."""


class WriteAfterFreeError(MisuseError):
    """A page was written to while it was free (seen in strict mode, at its next allocation)."""

    default_remedy = "look for a pointer kept by whoever freed it"


class QuickNestedError(MisuseError):
    """A second quick mapping was made before the first was removed."""

    default_remedy = "remove the first one; there is one frame for each thread"


class QuickForeignError(MisuseError):
    """A quick mapping was removed that is not this thread's."""

    default_remedy = "remove what pmap_quick_enter_page() returned, on the thread that called it"


class QuickBlockingError(MisuseError):
    """A call that might sleep was made while a quick mapping was held."""

    default_remedy = "remove the quick mapping first, or use SFB_NOWAIT"


class PageStateError(MisuseError):
    """An event that the page's state does not allow."""


class SleepInterruptedError(HarnessError, InterruptedError):
    """A signal ended a sleep that asked for that (SFB_CATCH)."""


# Namespaces and TAPs.


class NamespaceError(HarnessError):
    """The network namespace of the run, or something done in it, failed."""


class NamespacePermissionError(NamespaceError, PermissionError):
    """Neither root nor allowed to make a user namespace."""


class NamespaceGoneError(NamespaceError):
    """The process that held the namespace was ended from outside."""

    default_remedy = "make a new Namespace"


class CommandError(NamespaceError):
    """A command could not be started in the namespace."""


class LinkError(HarnessError):
    """An interface could not be made or configured."""


class TunMissingError(LinkError, FileNotFoundError):
    """There is no /dev/net/tun, or no driver behind it."""


class TunPermissionError(LinkError, PermissionError):
    """/dev/net/tun is there and may not be opened."""


class LinkDownError(LinkError):
    """The kernel's side of the TAP is down."""

    default_remedy = "bring the interface up"


class DeviceGoneError(LinkError):
    """The interface behind the device was removed."""


# Rings and frames.


class RingError(HarnessError):
    """The other side of a ring broke its rules and the queue was stopped."""


class RingFullError(HarnessError):
    """The transmit ring took no more frames in the time given."""


class FrameError(HarnessError, ValueError):
    """Not a frame: shorter than an Ethernet header, or offload fields that make no sense."""


class FrameSizeError(FrameError):
    """A frame longer than the MTU allows."""


# TCP and files.


class TcpError(HarnessError, OSError):
    """A connection of ours failed."""


class TcpRefusedError(TcpError, ConnectionRefusedError):
    """The peer answered the SYN with RST: nobody listens on that port."""

    default_remedy = "check the port, and that the receiver is running"


class TcpResetError(TcpError, ConnectionResetError):
    """The peer sent RST."""


class TcpAbortedError(TcpError, ConnectionAbortedError):
    """The connection was aborted on this side."""


class TcpTimeoutError(TcpError, WaitTimeoutError):
    """The peer did not answer in time."""


class TcpUnreachableError(TcpError):
    """No route, or nobody answered ARP."""

    default_remedy = "check the address and netmask of both sides"


class TcpClosedError(TcpError, BrokenPipeError):
    """Sent after shutdown(), or not connected."""


class FileError(HarnessError, OSError):
    """A file cannot be sent: not readable, not a file, or reading it failed."""


class CaptureDamagedError(FileError):
    """A capture file is damaged; the frames before that are good.

    Attributes:
        offset: of the block or record that is damaged, bytes from the begin of the file, unpacked.
    """

    offset: int = 0


class CaptureCutError(CaptureDamagedError):
    """A capture file ends in the middle of a record; the frames before it are good."""


class Deed(Enum):
    """What was done by a call into C: one error number means another thing in each."""

    MEMORY = "memory"
    DEVICE = "device"
    TCP = "tcp"
    FILE = "file"
    LINK = "link"


#: What an error number means whatever was done.
_ALWAYS: dict[int, type[HarnessError]] = {
    _errno.ENOMEM: ResourceError,
    _errno.EMFILE: ResourceError,
    _errno.ENFILE: ResourceError,
    _errno.EBUSY: BusyError,
    _errno.EINTR: SleepInterruptedError,
    _errno.EINVAL: ArgumentError,
    _errno.EOPNOTSUPP: UnsupportedError,
    _errno.EOWNERDEAD: ForkedError,
}

#: Frames and the queues of a device.
_DEVICE: dict[int, type[HarnessError]] = {
    _errno.ENETDOWN: LinkDownError,
    _errno.ENODEV: DeviceGoneError,
    _errno.EPROTO: RingError,
    _errno.ENOBUFS: RingFullError,
    _errno.EMSGSIZE: FrameSizeError,
    _errno.EIO: LinkError,
    _errno.EBADF: LinkError,
    _errno.EACCES: LinkError,
    _errno.EPERM: LinkError,
    _errno.EFAULT: LinkError,
}

_BY_ERRNO: dict[Deed, dict[int, type[HarnessError]]] = {
    Deed.MEMORY: _ALWAYS | {_errno.EFAULT: ArgumentError},
    Deed.DEVICE: _ALWAYS | _DEVICE,
    Deed.TCP: _ALWAYS
    | {
        _errno.ENETDOWN: LinkDownError,
        _errno.ENODEV: DeviceGoneError,
        _errno.EPROTO: RingError,
        _errno.ECONNREFUSED: TcpRefusedError,
        _errno.ECONNRESET: TcpResetError,
        _errno.ECONNABORTED: TcpAbortedError,
        _errno.ETIMEDOUT: TcpTimeoutError,
        _errno.EHOSTUNREACH: TcpUnreachableError,
        _errno.ENETUNREACH: TcpUnreachableError,
        _errno.EPIPE: TcpClosedError,
        _errno.ENOTCONN: TcpClosedError,
        _errno.EADDRINUSE: TcpError,
        _errno.EIO: FileError,  # of sendfile(), whose page could not be read
    },
    Deed.FILE: _ALWAYS
    | {
        _errno.EIO: FileError,
        _errno.EBADF: FileError,
        _errno.EACCES: FileError,
        _errno.EFAULT: FileError,
    },
    Deed.LINK: _ALWAYS
    | {
        _errno.ENETDOWN: LinkDownError,
        _errno.ENODEV: DeviceGoneError,
        _errno.EBADF: LinkError,
        _errno.EPERM: LinkError,
    },
}


def error_from_errno(
    code: int,
    operation: str,
    object: str = "",  # noqa: A002 - the word of the project's conventions
    *,
    deed: Deed,
) -> HarnessError:
    """Make the exception for a C call that returned a negative error number.

    Args:
        code: the error number, of either sign.
        operation: what was being done.
        object: what it was done to.
        deed: the kind of operation, which decides what the error number means.
    """
    return _BY_ERRNO[deed].get(abs(code), HarnessError).from_errno(code, operation, object)
