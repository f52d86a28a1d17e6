"""mbuf(9): chains of buffers and external storage, under the kernel's names.

    from nic_harness.bsd.mbuf import m_extadd, m_freem, m_gethdr

    m = m_gethdr()
    m_extadd(m, bytearray(b"payload"), lambda buf, args: print("free again"))
    m.m_len = m.pkthdr_len = 7
    m_freem(m)

A handle owns its chain: m_cat(), m_free(), m_freem(), m_pullup() and m_prepend() take it over, and
dropping a handle frees its chain. Views of a chain must be gone before it is freed.

A free routine that is a Python callable runs on the thread that dropped the last reference. If it
raises, the call that dropped the reference finishes its work, frees what it would have returned,
and then raises that exception (an ExceptionGroup if there are several). If there is no such call,
because the chain died with its handle or C freed it on its own thread, the exception goes to
sys.unraisablehook.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Any

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base import misuse as _misuse
from nic_harness.base.owned import Owned
from nic_harness.bsd.jumbo import JumboPage, jumbo_freem
from nic_harness.bsd.sf_buf import SfBuf, sf_buf_free
from nic_harness.bsd.vm_page import PAGE_SIZE, Views
from nic_harness.errors import ArgumentError, BusyError, Deed, ResourceError, error_from_errno
from nic_harness.memory.arena import Arena, current

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "EXT_CLUSTER",
    "EXT_DISPOSABLE",
    "EXT_EXTREF",
    "EXT_JUMBOP",
    "EXT_MOD_TYPE",
    "EXT_NET_DRV",
    "EXT_PACKET",
    "EXT_SFBUF",
    "MHLEN",
    "MLEN",
    "MT_CONTROL",
    "MT_DATA",
    "MT_HEADER",
    "MT_OOBDATA",
    "MT_SONAME",
    "M_COPYALL",
    "M_EOR",
    "M_EXT",
    "M_NOWAIT",
    "M_PKTHDR",
    "M_RDONLY",
    "M_WAITOK",
    "Mbuf",
    "m_adj",
    "m_align",
    "m_cat",
    "m_copydata",
    "m_copym",
    "m_copypacket",
    "m_extadd",
    "m_free",
    "m_freem",
    "m_get",
    "m_gethdr",
    "m_leadingspace",
    "m_length",
    "m_prepend",
    "m_pullup",
    "m_split",
    "m_trailingspace",
    "m_writable",
    "mtod",
]

M_NOWAIT: int = lib.M_NOWAIT
M_WAITOK: int = lib.M_WAITOK
M_COPYALL: int = lib.M_COPYALL
M_EXT: int = lib.M_EXT
M_PKTHDR: int = lib.M_PKTHDR
M_EOR: int = lib.M_EOR
M_RDONLY: int = lib.M_RDONLY
MT_DATA: int = lib.MT_DATA
MT_HEADER: int = lib.MT_HEADER
MT_SONAME: int = lib.MT_SONAME
MT_CONTROL: int = lib.MT_CONTROL
MT_OOBDATA: int = lib.MT_OOBDATA
EXT_CLUSTER: int = lib.EXT_CLUSTER
EXT_SFBUF: int = lib.EXT_SFBUF
EXT_JUMBOP: int = lib.EXT_JUMBOP
EXT_PACKET: int = lib.EXT_PACKET
EXT_NET_DRV: int = lib.EXT_NET_DRV
EXT_MOD_TYPE: int = lib.EXT_MOD_TYPE
EXT_DISPOSABLE: int = lib.EXT_DISPOSABLE
EXT_EXTREF: int = lib.EXT_EXTREF
#: Bytes that fit inside an mbuf (MLEN), and inside one with a packet header (MHLEN).
MLEN: int = lib.MLEN
MHLEN: int = lib.MHLEN

#: The largest int of C's, and the largest type that an mbuf has room for.
_INT_MAX = (1 << 31) - 1
_TYPE_MAX = 255

FreeRoutine = Callable[[Any, Any], object]

# ---- free routines ----

_keys = itertools.count(1)
#: Storage that belongs to Python and is attached somewhere: routine, object, args, exported buffer.
_attached: dict[int, tuple[FreeRoutine, Any, Any, Any]] = {}


class _Calls(threading.local):
    """What free routines raised in each of this thread's calls into C; the innermost is last."""

    def __init__(self) -> None:
        self.raised: list[list[BaseException]] = []
        self.deferred: list[list[Callable[[], object]]] = []


_calls = _Calls()


@ffi.def_extern(name="harness_ext_free")  # type: ignore[untyped-decorator]
def _ext_free(_buf: Any, args: Any) -> None:
    """Run the free routine of some storage, on whatever thread dropped the last reference."""
    routine, storage, routine_args, exported = _attached.pop(int(ffi.cast("uintptr_t", args)))
    if exported is not None:
        ffi.release(exported)
    if _calls.deferred:
        _calls.deferred[-1].append(functools.partial(_run, routine, storage, routine_args))
    else:
        _run(routine, storage, routine_args)


def _run(routine: FreeRoutine, storage: Any, args: Any) -> None:
    try:
        routine(storage, args)
    except BaseException as e:
        e.add_note(f"raised by the external free routine {routine!r}")
        if not _calls.raised:
            raise  # cffi hands it to sys.unraisablehook
        _calls.raised[-1].append(e)


class _Call:
    """A call into C that may run free routines; once it is done, it raises what they raised."""

    def __enter__(self) -> None:
        _calls.raised.append([])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raised = _calls.raised.pop()
        if value is not None and raised:
            raised.insert(0, value)
        if len(raised) == 1:
            raise raised[0]
        if raised:
            raise BaseExceptionGroup("several external free routines failed", raised)


class Deferred(_Call):
    """A call into C with a lock held: free routines run at the end, once the lock is released."""

    def __enter__(self) -> None:
        calls = _calls
        calls.raised.append([])
        calls.deferred.append([])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        calls = _calls
        for run in calls.deferred.pop():
            run()
        if calls.raised[-1]:
            super().__exit__(kind, value, trace)
        else:
            calls.raised.pop()


# ---- chains ----


class Mbuf(Owned):
    """A chain of mbufs, named by the first; the handle owns all of them.

    Use as a context manager to free the chain at the end, if this handle still owns it.
    """

    __slots__ = ("__weakref__", "_m", "_machine", "_process", "_views")

    def __init__(self, m: Any, machine: Any) -> None:
        self._machine = machine
        self._views = Views()
        self._hold(m)

    def _hold(self, m: Any) -> None:
        # C frees it when the handle is dropped: there is no call to raise what its routines raise.
        free = functools.partial(lib.m_freem)
        free.__dict__["keeps"] = self._machine
        self._m: Any = ffi.gc(m, free)

    def __repr__(self) -> str:
        if self._m is None:
            return "<Mbuf, given away>"
        return f"<Mbuf {m_length(self)} bytes in {sum(1 for _ in self._walk())}>"

    def __len__(self) -> int:
        return m_length(self)

    def __bytes__(self) -> bytes:
        """Copy the bytes of the chain."""
        return m_copydata(self)

    @property
    def owned(self) -> bool:
        """Whether this handle still owns the chain."""
        return self._m is not None

    def _give_back(self) -> None:
        m_freem(self)

    @property
    def handle(self) -> Any:
        """The `struct mbuf *`, for calls into nic_harness._native."""
        return self._while_owned(self._m)

    def _info(self, m: Any = None) -> Any:
        info = ffi.new("struct mb_info *")
        lib.mb_describe(self.handle if m is None else m, info)
        return info

    def _walk(self) -> Iterator[Any]:
        m = self.handle
        while m != ffi.NULL:
            info = self._info(m)
            yield info
            m = info.next

    def _take(self, operation: str) -> Any:
        """Give the chain away: the caller, or C, frees it."""
        m = self.handle
        if self._views:
            raise BusyError(
                operation, repr(self), f"{len(self._views)} views of it are in use", "drop them"
            )
        self._m = None
        ffi.gc(m, None)
        return ffi.cast("struct mbuf *", m)

    @contextlib.contextmanager
    def _lent(self, operation: str) -> Iterator[Any]:
        """Lend the chain to C, as a `struct mbuf **`; C may take mbufs from its front."""
        chain = ffi.new("struct mbuf **", self._take(operation))
        try:
            with _Call():
                yield chain
        finally:
            if chain[0] != ffi.NULL:
                self._hold(chain[0])

    @property
    def m_len(self) -> int:
        """Bytes in the first mbuf; set it to how many you put there."""
        return int(self._info().len)

    @m_len.setter
    def m_len(self, length: int) -> None:
        length = check.integer("set m_len of", self, "m_len", length, 0, _INT_MAX)
        code = lib.mb_set_len(self.handle, length)
        if code:
            raise ArgumentError("set m_len of", repr(self), f"{length} bytes leave the storage")

    @property
    def pkthdr_len(self) -> int | None:
        """Bytes in the whole packet, according to its header; None without a header."""
        length = int(self._info().pkthdr_len)
        return None if length < 0 else length

    @pkthdr_len.setter
    def pkthdr_len(self, length: int) -> None:
        length = check.integer("set pkthdr_len of", self, "pkthdr_len", length, 0, _INT_MAX)
        code = lib.mb_set_pkthdr_len(self.handle, length)
        if code:
            raise ArgumentError(
                "set pkthdr_len of", repr(self), f"{length}: no header, or negative"
            )

    @property
    def m_flags(self) -> int:
        """M_* of the first mbuf."""
        return int(self._info().flags)

    @property
    def m_type(self) -> int:
        """MT_* of the first mbuf."""
        return int(self._info().type)

    @property
    def ext_type(self) -> int | None:
        """EXT_* of the first mbuf; None without external storage."""
        info = self._info()
        return int(info.ext_type) if info.flags & M_EXT else None

    @property
    def ext_refs(self) -> int:
        """References to the first mbuf's external storage; 0 if it has none."""
        return int(self._info().refs)

    @property
    def segments(self) -> tuple[memoryview, ...]:
        """The bytes, in order, one view for each mbuf; read-only if it is not writable."""
        return tuple(self._view(info, m) for info, m in self._each() if info.len)

    def _each(self) -> Iterator[tuple[Any, Any]]:
        m = self.handle
        while m != ffi.NULL:
            info = self._info(m)
            yield info, m
            m = info.next

    def _view(self, info: Any, m: Any) -> memoryview:
        address = int(ffi.cast("uintptr_t", info.data))
        return self._views.make(address, info.len, self, readonly=not lib.m_writable(m))

    def check(self) -> None:
        """Check that every window lies in its storage and that the lengths agree.

        Raises:
            ArgumentError: a check failed; perhaps pkthdr_len was never set.
        """
        if lib.mb_check(self.handle):
            raise ArgumentError("check", repr(self), "a window or a length is wrong")


def _made(m: Any, machine: Any, operation: str) -> Mbuf:
    if m == ffi.NULL:
        raise ResourceError(operation, "mbuf", "out of mbufs", "free some, or raise max_mbufs")
    return Mbuf(m, machine)


def m_get(how: int = M_NOWAIT, type: int = MT_DATA, *, arena: Arena | None = None) -> Mbuf:  # noqa: A002
    """Take an mbuf; `how` makes no difference, because nothing here sleeps.

    Raises:
        ResourceError: out of mbufs.
    """
    return _get(lib.mb_get, how, type, arena)


def m_gethdr(how: int = M_NOWAIT, type: int = MT_DATA, *, arena: Arena | None = None) -> Mbuf:  # noqa: A002
    """Take an mbuf with a packet header; see m_get()."""
    return _get(lib.mb_gethdr, how, type, arena)


def _get(get: Callable[[Any], Any], how: int, kind: int, arena: Arena | None) -> Mbuf:
    check.integer("get", "mbuf", "how", how, 0, _INT_MAX)
    check.integer("get", "mbuf", "type", kind, 0, _TYPE_MAX)
    machine = current(arena).handle
    m = _made(get(machine.mbufs), machine, "get")
    if kind != MT_DATA:
        lib.mb_set_type(m.handle, kind)
    return m


def m_extadd(
    m: Mbuf,
    buf: Buffer | JumboPage | SfBuf,
    freef: FreeRoutine | None = None,
    args: object = None,
    flags: int = 0,
    type: int | None = None,  # noqa: A002
) -> None:
    """Attach external storage.

    Args:
        m: an mbuf without external storage.
        buf: a buffer, which stays exported until the free routine runs; a jumbo page, which this
            passes up, so that its handle no longer owns it; or an sf_buf, which the routine frees.
        freef: called once, with (buf, args), after the last reference is gone. None: jumbo_freem
            for a jumbo page, sf_buf_free for an sf_buf, nothing for a buffer.
        args: passed to `freef`.
        flags: M_RDONLY if the storage may not be written; read-only buffers and pages of files
            always have it.
        type: EXT_*; None: the type that fits `buf`.

    Raises:
        ArgumentError: the mbuf has storage already, or the buffer is empty; nothing is changed.
    """
    check.instance("attach storage to", "an mbuf", "m", m, Mbuf)
    if freef is not None:
        check.callback("attach storage to", m, "freef", freef)
    flags = check.integer("attach storage to", m, "flags", flags, 0, _INT_MAX)
    if type is not None:
        check.integer("attach storage to", m, "type", type, 0, _TYPE_MAX)
    if not isinstance(buf, JumboPage | SfBuf):
        check.buffer("attach storage to", m, "buf", buf)
    handle = m.handle
    exported = None
    if isinstance(buf, JumboPage):
        address, size = buf.kva, PAGE_SIZE
        kind = EXT_JUMBOP
        if buf._views:
            raise BusyError("attach", repr(buf), "a view of it is in use", "drop it first")
    elif isinstance(buf, SfBuf):
        address, size = buf.kva, PAGE_SIZE
        kind = EXT_SFBUF
        if buf.page._m.state == lib.VPS_FILE:
            flags |= M_RDONLY
        freef = freef or (lambda sf, _args: sf_buf_free(sf))
    else:
        exported = ffi.from_buffer(buf)
        address, size = int(ffi.cast("uintptr_t", exported)), len(exported)
        kind = EXT_MOD_TYPE
        if memoryview(buf).readonly:
            flags |= M_RDONLY
        freef = freef or (lambda _buf, _args: None)
    kind = kind if type is None else type
    if size == 0:
        raise ArgumentError("attach storage to", repr(m), "the buffer is empty")
    at = ffi.cast("char *", address)
    if isinstance(buf, JumboPage) and freef in (None, jumbo_freem):
        free = ffi.addressof(lib, "jumbo_freem")
        code = lib.m_extadd(handle, at, size, free, ffi.NULL, flags, kind)
    else:
        key = next(_keys)
        assert freef is not None
        _attached[key] = (freef, buf, args, exported)
        code = lib.m_extadd(
            handle, at, size, lib.harness_ext_free, ffi.cast("void *", key), flags, kind
        )
        if code:
            del _attached[key]
    if code:
        raise error_from_errno(code, "attach storage to", repr(m), deed=Deed.MEMORY)
    if isinstance(buf, JumboPage) and freef in (None, jumbo_freem):
        buf._leave()


def m_free(m: Mbuf) -> Mbuf | None:
    """Free the first mbuf of a chain and return the rest; the handle is used up.

    Raises:
        BusyError: a view of the chain is in use; nothing is changed.
        DoubleFreeError: the chain was given away already.
    """
    check.instance("free", "an mbuf", "m", m, Mbuf)
    machine = m._machine
    handle = _taken(m)
    with _Call():
        rest = lib.m_free(handle)
        return None if rest == ffi.NULL else Mbuf(rest, machine)


def m_freem(m: Mbuf | None) -> None:
    """Free a chain; None is allowed. See m_free()."""
    check.instance("free", "an mbuf", "m", m, Mbuf, NoneType)
    if m is not None:
        handle = _taken(m)
        with _Call():
            lib.m_freem(handle)


def _taken(m: Mbuf) -> Any:
    if m._m is None:
        # Its mbufs may belong to something else by now, so C must not be asked.
        raise _misuse.report(m._machine, lib.MISUSE_DOUBLE_FREE, ffi.NULL, 0, "free", repr(m))
    return m._take("free")


def m_copym(m: Mbuf, off: int = 0, length: int = M_COPYALL, how: int = M_NOWAIT) -> Mbuf:
    """Copy a window of a chain, sharing its external storage; `m` is left as it is.

    Raises:
        ArgumentError: the window reaches beyond the chain.
        ResourceError: out of mbufs.
    """
    check.instance("copy", "an mbuf", "m", m, Mbuf)
    check.integer("copy", m, "off", off, 0, _INT_MAX)
    check.integer("copy", m, "length", length, 0, _INT_MAX)
    check.integer("copy", m, "how", how, 0, _INT_MAX)
    total = m_length(m)
    if off < 0 or length < 0 or off > total or (length != M_COPYALL and off + length > total):
        raise ArgumentError("copy", repr(m), f"{off}+{length} reaches beyond the chain")
    with _Call():
        return _made(lib.m_copym(m.handle, off, length, how), m._machine, "copy")


def m_copypacket(m: Mbuf, how: int = M_NOWAIT) -> Mbuf:
    """Copy the whole packet, sharing its external storage.

    Raises:
        ArgumentError: it has no packet header.
        ResourceError: out of mbufs.
    """
    check.instance("copy", "an mbuf", "m", m, Mbuf)
    check.integer("copy", m, "how", how, 0, _INT_MAX)
    if m.pkthdr_len is None:
        raise ArgumentError("copy", repr(m), "it has no packet header")
    with _Call():
        return _made(lib.m_copypacket(m.handle, how), m._machine, "copy")


def m_split(m: Mbuf, len0: int, how: int = M_NOWAIT) -> Mbuf:
    """Cut a chain in two: `m` keeps the first `len0` bytes; return the rest.

    Raises:
        ArgumentError: the chain is shorter than that.
        ResourceError: out of mbufs; the chain is as it was.
    """
    check.instance("split", "an mbuf", "m", m, Mbuf)
    check.integer("split", m, "len0", len0, 0, _INT_MAX)
    check.integer("split", m, "how", how, 0, _INT_MAX)
    if not 0 <= len0 <= m_length(m):
        raise ArgumentError("split", repr(m), f"it has no byte {len0}")
    if m._views:
        raise BusyError("split", repr(m), f"{len(m._views)} views of it are in use", "drop them")
    return _made(lib.m_split(m.handle, len0, how), m._machine, "split")


def m_pullup(m: Mbuf, length: int) -> Mbuf:
    """Make the first bytes contiguous; the handle is used up, even on failure.

    Raises:
        ArgumentError: the chain is shorter, or `length` is more than MHLEN; the chain was freed.
        ResourceError: out of mbufs; the chain was freed.
    """
    check.instance("pull up", "an mbuf", "m", m, Mbuf)
    check.integer("pull up", m, "length", length, -_INT_MAX, _INT_MAX)
    what, fits = repr(m), 0 <= length <= MHLEN and length <= m_length(m)
    handle = m._take("pull up")
    with _Call():
        found = lib.m_pullup(handle, length)
        if found == ffi.NULL and not fits:
            raise ArgumentError("pull up", what, f"{length} bytes are more than it has, or MHLEN")
        return _made(found, m._machine, "pull up")


def m_prepend(m: Mbuf, length: int, how: int = M_NOWAIT) -> Mbuf:
    """Make room in front; the handle is used up, even on failure.

    Raises:
        ResourceError: out of mbufs, or `length` is more than MHLEN; the chain was freed.
    """
    check.instance("prepend to", "an mbuf", "m", m, Mbuf)
    check.integer("prepend to", m, "length", length, 0, _INT_MAX)
    check.integer("prepend to", m, "how", how, 0, _INT_MAX)
    if length < 0:
        raise ArgumentError("prepend to", repr(m), f"{length} bytes")
    handle = m._take("prepend to")
    with _Call():
        return _made(lib.m_prepend(handle, length, how), m._machine, "prepend to")


def m_adj(m: Mbuf, length: int) -> None:
    """Cut up to `length` bytes off the head or, if it is negative, -`length` off the tail."""
    check.instance("adjust", "an mbuf", "m", m, Mbuf)
    check.integer("adjust", m, "length", length, -_INT_MAX, _INT_MAX)
    lib.m_adj(m.handle, max(-(1 << 31), min(length, (1 << 31) - 1)))


def m_cat(m: Mbuf, n: Mbuf) -> None:
    """Append `n` to `m`; the handle `n` is used up. The packet header of `n` is ignored.

    Raises:
        ArgumentError: both are the same chain.
    """
    check.instance("append to", "an mbuf", "m", m, Mbuf)
    check.instance("append to", m, "n", n, Mbuf)
    head = m.handle
    if m is n:
        raise ArgumentError("append", repr(n), "a chain cannot be appended to itself")
    lib.m_cat(head, n._take("append"))


def m_length(m: Mbuf) -> int:
    """Count the bytes in the chain."""
    check.instance("measure", "an mbuf", "m", m, Mbuf)
    return int(lib.m_length(m.handle, ffi.NULL))


def m_copydata(m: Mbuf, off: int = 0, length: int | None = None) -> bytes:
    """Copy bytes out of a chain; the arena's `bytes_copied` counts them.

    Raises:
        ArgumentError: the bytes reach beyond the chain.
    """
    check.instance("copy from", "an mbuf", "m", m, Mbuf)
    check.integer("copy from", m, "off", off, 0, _INT_MAX)
    if length is not None:
        check.integer("copy from", m, "length", length, 0, _INT_MAX)
    length = m_length(m) - off if length is None else length
    if off < 0 or length < 0 or off + length > m_length(m):
        raise ArgumentError("copy from", repr(m), f"{off}+{length} reaches beyond the chain")
    to = ffi.new("char[]", length)
    code = lib.m_copydata(m.handle, off, length, to)
    if code:
        raise error_from_errno(code, "copy from", repr(m), deed=Deed.MEMORY)
    return bytes(ffi.buffer(to))


def mtod(m: Mbuf) -> memoryview:
    """Return the bytes of the first mbuf in place; read-only if it is not writable."""
    check.instance("look at", "an mbuf", "m", m, Mbuf)
    return m._view(m._info(), m.handle)


def m_align(m: Mbuf, length: int) -> None:
    """Place the data of an empty mbuf at its end, `length` bytes, so that headers fit in front.

    Raises:
        ArgumentError: it is not empty, or not that large.
    """
    check.instance("align", "an mbuf", "m", m, Mbuf)
    check.integer("align", m, "length", length, 0, _INT_MAX)
    info = m._info()
    if info.len or not 0 <= length <= info.size:
        raise ArgumentError("align", repr(m), f"it is not empty, or has no room for {length} bytes")
    lib.m_align(m.handle, length)


def m_writable(m: Mbuf) -> bool:
    """Whether the first mbuf's bytes may be written: not read-only and not shared."""
    check.instance("look at", "an mbuf", "m", m, Mbuf)
    return bool(lib.m_writable(m.handle))


def m_leadingspace(m: Mbuf) -> int:
    """Count the bytes that may be written in front."""
    check.instance("look at", "an mbuf", "m", m, Mbuf)
    return int(lib.m_leadingspace(m.handle))


def m_trailingspace(m: Mbuf) -> int:
    """Count the bytes that may be written behind the first mbuf's."""
    check.instance("look at", "an mbuf", "m", m, Mbuf)
    return int(lib.m_trailingspace(m.handle))
