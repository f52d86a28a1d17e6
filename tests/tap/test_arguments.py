"""Every public function and constructor, with values that it cannot use, by its own signature.

What is wrong is an ArgumentError (an ArgumentTypeError for a type that cannot serve), which names
operation, object and remedy, and changes nothing. Which values are wrong is told by annotations.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import os
import typing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, is_typeddict

import pytest
from nic_harness import Arena, Faults, Nic, Offload, Stack, Tap
from nic_harness.bsd import jumbo, lwbuf, mbuf, sf_buf
from nic_harness.errors import ArgumentError, ArgumentTypeError, HarnessError
from nic_harness.flip import UserArea
from nic_harness.scapy_socket import NicSocket

MODULES = (
    "nic_harness",
    *(
        f"nic_harness.{name}"
        for name in (
            "control",
            "flip",
            "jumbo",
            "lwbuf",
            "mbuf",
            "pbuf",
            "pmap",
            "replay",
            "scapy_socket",
            "sf_buf",
            "vm_page",
        )
    ),
)

#: Numbers that some argument of C's could not hold, or that would wait for ever.
NUMBERS = (-1, -(1 << 31) - 1, 1 << 31, 1 << 32, 1 << 63, 1 << 64, 1 << 200)
TIMES = (math.nan, math.inf, -math.inf, -1, -0.001, 1e300)
NO_NUMBER = (True, "1", b"1", 1.5, math.nan, [1], object())
NO_TIME = (True, "1", b"1", [1], object())
NO_TEXT = (1, b"tap0", 1.5, ["tap0"], object())
NO_FLAG = ("yes", 1.5, 2, object(), [True])
NO_BYTES = ("text", 1, 1.5, [1, 2], object(), memoryview(bytes(8))[::2])
NO_OBJECT = ("tap0", 1, 1.5, True, object(), [])
NOT_CALLED = ("print", 1, object())

#: Names that an interface cannot have.
NAMES = ("", "x" * 16, "x" * 20, "a/b", "a b", "..", "a:b", "nul\0")
ADDRESSES = ("", "198.18.0.1", "198.18.0.300/24", "198.18.0.1/40", "x", "::1", "nul\0")
MACS = ("", "zz", "02:00", "01:00:00:00:00:00", "ff:ff:ff:ff:ff:ff")


def wrong_for(name: str, kind: Any) -> Iterator[tuple[Any, type[HarnessError]]]:
    """Give values that an argument of this name and annotation refuses, and the error for each."""
    kinds = typing.get_args(kind) if typing.get_origin(kind) in UNIONS else (kind,)
    kinds = tuple(typing.get_origin(k) or k for k in kinds if k is not Any)
    if any(
        k in (object, Any)
        or not isinstance(k, type)
        or is_typeddict(k)
        or getattr(k, "_is_protocol", False)
        for k in kinds
    ):
        return
    if not kinds:
        return
    if type(None) not in kinds:
        yield None, ArgumentTypeError
    if kinds[0] is bool:
        yield from ((value, ArgumentTypeError) for value in NO_FLAG)
    elif float in kinds:
        yield from ((value, ArgumentTypeError) for value in NO_TIME)
        if name in ("timeout", "seconds", "remain"):
            yield from ((value, ArgumentError) for value in TIMES)
    elif {*kinds} <= {int, type(None)}:
        yield from ((value, ArgumentTypeError) for value in NO_NUMBER)
    elif str in kinds:
        wrong = (value for value in NO_TEXT if not isinstance(value, kinds))
        yield from ((value, ArgumentTypeError) for value in wrong)
    elif bytes in kinds:
        yield from ((value, ArgumentTypeError) for value in NO_BYTES)
    elif Callable in kinds or kinds[0] is typing.get_origin(Callable[[], None]):
        yield from ((value, ArgumentTypeError) for value in NOT_CALLED)
    elif not any(k.__module__ in ("builtins", "typing", "collections.abc") for k in kinds):
        wrong = (value for value in NO_OBJECT if not isinstance(value, kinds))
        yield from ((value, ArgumentError) for value in wrong)


UNIONS = (typing.Union, type(int | None))


class Ready:
    """One of each thing that a public function can be given."""

    def __init__(self, stack: ExitStack) -> None:
        self.tap = stack.enter_context(Tap(queues=2))
        self.arena = stack.enter_context(Arena(2048))
        self.nic = stack.enter_context(Nic(self.tap, self.arena, device="tap_rw"))
        self.stack = stack.enter_context(Stack(self.nic, queue=1, unclaimed=4))
        self.listener = stack.enter_context(self.stack.listen(80))
        server = stack.enter_context(self.tap.namespace.socket())
        server.bind(("198.18.0.1", 5001))
        server.listen()
        self.connection = self.stack.connect("198.18.0.1", 5001)
        stack.callback(self.connection.abort)
        self.page = stack.enter_context(jumbo.jumbo_pg_alloc())
        self.mbuf = stack.enter_context(mbuf.m_gethdr())
        self.file = stack.enter_context(Path("/dev/zero").open("rb"))  # noqa: SIM115 - it is
        memory = os.memfd_create("file")
        stack.callback(os.close, memory)
        os.ftruncate(memory, 8192)
        self.object = stack.enter_context(sf_buf.VmObject(memory))
        self.sf_buf = stack.enter_context(sf_buf.sf_buf_alloc(self.page))
        self.lwbuf = stack.enter_context(lwbuf.lwbuf_alloc(self.page))
        self.area = stack.enter_context(UserArea(4))
        self.scapy = stack.enter_context(NicSocket(self.nic))
        self.receiver = stack.enter_context(self.nic.on_frames(print))
        self.process = stack.enter_context(self.tap.namespace.popen(["sleep", "600"]))

    def counts(self) -> tuple[Any, ...]:
        """Tell what a refused call must not change."""
        a = self.arena.stats()
        return (
            a.pages_in_use,
            a.mbufs_in_use,
            a.sfbufs_in_use,
            a.sfbufs_wired,
            a.misuses,
            self.tap.namespace.link(self.tap.name).mtu,
            self.connection.info().unsent,
            len(list(Path("/proc/self/fd").iterdir())),
        )

    def instances(self) -> dict[type, Any]:
        own = (getattr(self, name) for name in vars(self))
        return {type(thing): thing for thing in own} | {
            type(self.tap.namespace): self.tap.namespace
        }


@pytest.fixture(name="ready")
def _ready() -> Iterator[Ready]:
    with ExitStack() as stack:
        ready = Ready(stack)
        yield ready
    vars(ready).clear()  # a handle keeps its arena's memory


#: Made by the library only: results, and handles on what C made.
MADE_HERE = {
    "Burst", "Chain", "Connection", "Frame", "Listener", "Process", "Receiver",
    "Buf", "FilePage", "JumboPage", "Lwbuf", "Mbuf", "OwnedPage", "Page", "QuickMapping", "SfBuf",
    "StolenPage", "Views",
}  # fmt: skip

#: Arguments that are needed, by name, where the signature has no default.
NEEDED: dict[str, Callable[[Ready], Any]] = {
    "address": lambda _: "198.18.0.1/24",
    "Namespace.add_neighbour.address": lambda _: "198.18.0.3",
    "area": lambda r: r.area,
    "args": lambda _: ["true"],
    "bp": lambda _: None,
    "buf": lambda _: bytearray(8),
    "byte": lambda _: 20,
    "callback": lambda _: print,
    "data": lambda _: b"data",
    "file": lambda r: r.object,
    "frame": lambda _: bytes(60),
    "frames": lambda _: [bytes(60)],
    "gateway": lambda _: "198.18.0.1",
    "host": lambda _: "198.18.0.1",
    "index": lambda _: 0,
    "len0": lambda _: 0,
    "length": lambda _: 0,
    "limit": lambda _: 1,
    "link": lambda r: r.tap.name,
    "lwb": lambda r: r.lwbuf,
    "m": lambda r: r.mbuf,
    "mac": lambda _: "02:00:00:00:00:01",
    "n": lambda r: r.mbuf,
    "name": lambda r: r.tap.name,
    "nic": lambda r: r.nic,
    "number": lambda _: 0,
    "pa": lambda _: 0,
    "mtu": lambda _: 1500,
    "page": lambda r: r.page,
    "pages": lambda _: 1,
    "path": lambda _: "/proc/net/dev",
    "peer": lambda _: "veth1",
    "pid": lambda _: os.getpid(),
    "pindex": lambda _: 0,
    "port": lambda _: 5001,
    "quick": lambda _: 0,
    "seed": lambda _: 1,
    "sf": lambda r: r.sf_buf,
    "source": lambda r: r.mbuf,
    "tap": lambda r: r.tap,
    "text": lambda _: "drop=0.1",
    "x": lambda _: bytes(60),
}


def public() -> Iterator[tuple[str, Any, str | None]]:
    """List what a user can call: its name, itself, and the name of its class."""
    seen = set()
    for name in MODULES:
        module = importlib.import_module(name)
        for attribute in module.__all__:
            thing = getattr(module, attribute)
            if (
                not callable(thing)
                or id(thing) in seen
                or (
                    type(thing) is not type
                    and inspect.isclass(type(thing))
                    and not inspect.isfunction(thing)
                    and not inspect.isclass(thing)
                )
            ):
                continue
            seen.add(id(thing))
            if not inspect.isclass(thing):
                yield attribute, thing, None
                continue
            result = dataclasses.is_dataclass(thing) and thing not in (Offload, Faults)
            error = issubclass(thing, BaseException)
            if error or (result and attribute not in MADE_HERE):
                continue
            if attribute not in MADE_HERE and "__init__" in vars(thing) and not result:
                yield attribute, thing, None
            for method, function in vars(thing).items():
                plain = inspect.isfunction(function) or isinstance(function, classmethod)
                if plain and not method.startswith("_") and "Any" not in str(thing.__mro__):
                    yield f"{attribute}.{method}", getattr(thing, method), attribute


PUBLIC = {name: (thing, owner) for name, thing, owner in public()}


def parameters(thing: Any) -> dict[str, tuple[inspect.Parameter, Any]]:
    function = thing.__init__ if inspect.isclass(thing) else thing
    modules = vars(importlib.import_module(thing.__module__))
    names = {**vars(typing), **modules, "Buffer": typing.Any, "npt": None}
    try:
        hints = typing.get_type_hints(function, names)
    except (NameError, AttributeError):
        hints = {}
    found = inspect.signature(thing).parameters
    return {
        name: (p, hints.get(name, Any))
        for name, p in found.items()
        if name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


def call(ready: Ready, name: str, argument: str, value: Any) -> Any:
    thing, owner = PUBLIC[name]
    given = {}
    for key, (p, _) in parameters(thing).items():
        if key != argument and p.default is p.empty and not key.startswith("_"):
            given[key] = NEEDED.get(f"{name}.{key}", NEEDED.get(key))(ready)
    given[argument] = value
    if owner is not None and not inspect.ismethod(thing):
        (instance,) = [i for k, i in ready.instances().items() if k.__name__ == owner][:1]
        return thing(instance, **given)
    return thing(**given)


@pytest.mark.parametrize("name", [name for name, (thing, _) in PUBLIC.items() if parameters(thing)])
def test_what_an_argument_cannot_be(ready: Ready, name: str) -> None:
    thing, owner = PUBLIC[name]
    if owner is not None and not inspect.ismethod(thing):
        have = {k.__name__ for k in ready.instances()}
        if owner not in have:
            pytest.skip(f"there is no {owner} here")
    before = ready.counts()
    for argument, (_, kind) in parameters(thing).items():
        if argument.startswith("_"):
            continue
        for value, error in wrong_for(argument, kind):
            try:
                call(ready, name, argument, value)
            except error as e:
                assert e.operation, f"{argument}={value!r}"  # noqa: PT017 - the value is told, too
            except BaseException as e:
                raise AssertionError(f"{argument}={value!r}: {e!r}") from e
            else:
                raise AssertionError(f"{argument}={value!r} was taken")
    assert ready.counts() == before


@pytest.mark.parametrize("tap", ["tap0", None, 1, Tap])
def test_what_is_no_tap(tap: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="attach NIC to a TAP: tap="):
        Nic(tap)
