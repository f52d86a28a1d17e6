"""Fixtures for pytest: a NIC on a wire, and the stock kernel on its far side.

    def test_ping(nic, peer):
        ...

Installing the package is all it takes (entry point `pytest11`). The fixtures are `arena`, `netns`,
`tap`, `nic` and `peer`; the marker `harness` sets what one test wants otherwise:

    @pytest.mark.harness(mtu=9000, ring_size=64, offloads=Offloads.NONE)

After each test that used one of them conservation is checked: every page and frame of the rings is
where it belongs, no page, mbuf or mapping is out, no misuse was reported, and nothing is left open.
A test that ended with an exception (it failed, was skipped in the middle, failed as expected, or a
fixture did) is not checked: the exception still refers to what the test held.

Options of a run, also as settings in an ini file with _ for -, and the marker wins over both:
--harness-device, --harness-strict, and --harness-missing=skip, which skips the tests whose fixtures
this machine cannot provide (no /dev/net/tun, no namespaces, not that device) instead of failing
them; in the marker that is `missing="skip"`.
"""

from __future__ import annotations

import gc
import inspect
import os
import socket
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeAlias, TypeVar
from weakref import WeakSet

import pytest

from nic_harness.base.live import Resource, made_at, open_resources
from nic_harness.errors import (
    ArenaBusyError,
    CommandError,
    HarnessError,
    NamespacePermissionError,
    TunMissingError,
    TunPermissionError,
    UnsupportedError,
)
from nic_harness.memory.arena import Arena
from nic_harness.nic.device import DEVICES, wanted
from nic_harness.nic.nic import Nic
from nic_harness.wire.netns import Namespace, Process
from nic_harness.wire.tap import Tap

__all__ = ["Peer"]

Made = TypeVar("Made")
_Socket: TypeAlias = socket.socket  # Peer has a method of that name

#: Whether an exception ended the setup or the test, and what is wrong after it.
_raised = pytest.StashKey[bool]()
_problems = pytest.StashKey[list[str]]()

#: What the marker takes, and for what.
_MARKER = {
    "arena": ("pages", "max_pages", "max_mbufs", "sfbufs", "strict"),
    "tap": ("mtu", "queues", "address", "nic_address", "mac", "nic_mac", "txqueuelen"),
    "netns": ("ipv6",),
}
#: What to close after all else, in this order.
_CLOSE_LAST: tuple[type, ...] = (Nic, Tap, Namespace, Arena)
#: Taken by the check after the test: misuses that the test provokes.
_EXPECTED = "misuses"
#: What to do with a test that this machine has not the means for.
_MISSING = "missing"
_MISSING_CHOICES = ("fail", "skip")
#: What says that the machine has not.
_LACKS = (TunMissingError, TunPermissionError, NamespacePermissionError, UnsupportedError)
#: Raised inside the library without being its own, these are faults of the library.
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    SystemError,
    TypeError,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what a run can choose."""
    group = parser.getgroup("harness", "NICs of nic-harness")
    device = f"device of the nic fixture: auto, {', '.join(DEVICES)} (default: auto)"
    group.addoption("--harness-device", metavar="NAME", help=device)
    parser.addini("harness_device", device, default="auto")
    strict = "arenas without a direct map: a stale pointer faults where it is used"
    group.addoption("--harness-strict", action="store_true", default=None, help=strict)
    parser.addini("harness_strict", strict, type="bool", default=False)
    missing = (
        "tests that this machine has not the means for (TAP, namespaces, device): skip or fail"
    )
    group.addoption(
        "--harness-missing", choices=_MISSING_CHOICES, help=f"{missing} (default: fail)"
    )
    parser.addini("harness_missing", missing, default="fail")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known.

    Raises:
        pytest.UsageError: a setting has no such value.
    """
    if _setting(config, "missing") not in _MISSING_CHOICES:
        raise pytest.UsageError(
            f"harness_missing = {_setting(config, 'missing')}: it is one of "
            f"{', '.join(_MISSING_CHOICES)}"
        )
    config.addinivalue_line(
        "markers",
        "harness(**options): arguments of Arena, Namespace, Tap and Nic for the fixtures of this "
        "test; misuses=N says how many misuses it provokes, missing='skip' or 'fail' what to do "
        "where this machine cannot provide them",
    )


def _setting(config: pytest.Config, name: str) -> Any:
    """Return what the command line says, or else the ini file."""
    given = config.getoption(f"harness_{name}")
    return config.getini(f"harness_{name}") if given is None else given


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Forget what a run of this test before this one left (it may be repeated)."""
    item.stash[_raised] = False
    item.stash[_problems] = []
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Report what the check found, unless what is out may be held by an exception."""
    result = yield
    problems = item.stash.get(_problems, [])
    if problems and not item.stash[_raised]:
        pytest.fail("\n".join(f"harness: {problem}" for problem in problems), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether an exception ended the test, and what its NIC had counted."""
    if call.excinfo is not None:
        item.stash[_raised] = True
        _hide_library(call.excinfo.value)
    report = yield
    if report.when != "teardown" and report.failed:
        nic = getattr(item, "funcargs", {}).get("nic")
        if isinstance(nic, Nic) and not nic.closed:
            report.sections.append(("harness", _what_it_did(nic)))
    return report


def _hide_library(error: BaseException) -> None:
    """Leave the library's lines out of the traceback: the last one shown is the user's."""
    errors, seen = [error], set()
    while errors:
        e = errors.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        errors += [linked for linked in (e.__cause__, e.__context__) if linked is not None]
        if isinstance(e, BaseExceptionGroup):
            errors += e.exceptions
        for frame, _ in traceback.walk_tb(e.__traceback__):
            if _is_library(frame):
                # pytest looks for it among the locals of a frame, and then among its globals.
                frame.f_globals.setdefault("__tracebackhide__", _is_hidden)


def _is_library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__package__")).partition(".")[0] == "nic_harness"


def _is_hidden(excinfo: pytest.ExceptionInfo[BaseException] | None) -> bool:
    """Whether a traceback goes without the library's lines: not when they are at fault."""
    if excinfo is None or isinstance(excinfo.value, HarnessError):
        return True
    *_, (last, _) = traceback.walk_tb(excinfo.tb)
    return not (isinstance(excinfo.value, _FAULTS) and _is_library(last))


def _what_it_did(nic: Nic) -> str:
    """Describe a NIC and every counter of it that is not zero."""
    lines = [str(nic)]
    for look in (nic.stats, nic.device_stats, nic.tap.stats, nic.arena.stats):
        try:
            what = look()
        except HarnessError as e:  # it may be the very reason for the failure
            lines.append(str(e))
            continue
        counted = ((name, getattr(what, name)) for name in type(what).__slots__)
        lines.append(", ".join(f"{name} {value}" for name, value in counted if value))
    misuse = nic.arena.last_misuse()
    return "\n".join(filter(None, [*lines, str(misuse or "")]))


class Peer:
    """The kernel's side of the wire: commands, Python and sockets in its namespace.

    Attributes:
        tap: the wire.
        namespace: where all of it happens.
        address: of the kernel's end, such as "198.18.0.1"; None when the TAP has none.
        nic_address: of our end, likewise.
    """

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.namespace: Namespace = tap.namespace
        self.address = None if tap.address is None else str(tap.address.ip)
        self.nic_address = None if tap.nic_address is None else str(tap.nic_address.ip)
        self._processes: list[Process] = []

    def run(
        self,
        *args: str | os.PathLike[str],
        input: str | None = None,  # noqa: A002 - as subprocess.run() calls it
        check: bool = True,
        timeout: float = 30,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its output is captured as text.

        Args:
            input: what it reads.
            check: an exit code other than 0 is an error.
            timeout: seconds, after which it is killed.

        Raises:
            CommandError: it could not be started, or failed: with what it said.
            subprocess.TimeoutExpired: it did not end in time.
        """
        done = self.namespace.run(
            args, input=input, capture_output=True, timeout=timeout, text=True
        )
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip() or "it said nothing"
            raise CommandError("run", str(args[0]), f"exit code {done.returncode}: {said}")
        return done

    def python(
        self, source: str, *args: str, check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run Python source, with this interpreter and its packages; see run().

        Args:
            source: may be indented as a whole.
            args: sys.argv[1:].
        """
        code = textwrap.dedent(source)
        return self.run(sys.executable, "-c", code, *args, check=check, timeout=timeout)

    def start(self, *args: str | os.PathLike[str]) -> Process:
        """Start a command and let it run: ended with the test; its output is kept in pipes."""
        pipe = subprocess.PIPE
        process = self.namespace.popen(
            args, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )
        self._processes.append(process)
        return process

    def socket(self, *args: Any, **kwargs: Any) -> _Socket:
        """Make a socket in the namespace; see Namespace.socket()."""
        return self.namespace.socket(*args, **kwargs)

    def packet_socket(self) -> _Socket:
        """Make an AF_PACKET socket on the kernel's end of the wire."""
        return self.tap.packet_socket()

    def close(self) -> None:
        """End what start() started."""
        while self._processes:
            with self._processes.pop():
                pass


@pytest.fixture
def _conservation(request: pytest.FixtureRequest) -> Iterator[list[Arena]]:
    """Check that nothing is left; the arenas given to it are closed when all else is."""
    _refuse_unknown(request)
    before = WeakSet(open_resources())
    arenas: list[Arena] = []
    yield arenas
    left = _left_open(before, arenas)
    if left:  # perhaps only a cycle that nobody looked at yet
        del left
        gc.collect()
        left = _left_open(before, arenas)
    problems: list[str] = request.node.stash[_problems]
    problems += [f"left open: {resource!r}\n  made at {made_at(resource)}" for resource in left]
    for resource in left:
        try:
            resource.close()
        except ArenaBusyError:
            pass
        except (
            Exception
        ) as e:  # what ended a callback's thread, a capture that could not be written
            problems.append(f"close {resource!r}: {e}")
    for arena in arenas:
        problems += _settle(arena, _marked(request).get(_EXPECTED, 0))


def _left_open(before: WeakSet[Resource], arenas: Sequence[Arena]) -> list[Resource]:
    """List what was opened and not closed, in the order to close it in."""
    left = [r for r in open_resources() if r not in before and r not in arenas]
    return sorted(left, key=lambda r: type(r) in _CLOSE_LAST and _CLOSE_LAST.index(type(r)) + 1)


def _settle(arena: Arena, expected: int) -> Iterator[str]:
    """Close an arena, and say what was wrong with it."""
    if arena.closed:
        return
    if arena.stats().misuses != expected:
        count = arena.stats().misuses
        yield f"{count} misuses, {expected} expected; the last: {arena.last_misuse()}"
    try:
        arena.close()
    except ArenaBusyError:
        gc.collect()
        try:
            arena.close()
        except ArenaBusyError as e:
            arena._let_go()
            yield str(e)


@pytest.fixture
def arena(request: pytest.FixtureRequest, _conservation: list[Arena]) -> Arena:
    """Pages, mbufs and mappings; empty again when the test ends."""
    options = _options(request, _MARKER["arena"])
    options.setdefault("strict", _setting(request.config, "strict"))
    made = _make(request, lambda: Arena(**options))
    _conservation.append(made)
    return made


@pytest.fixture
def netns(
    request: pytest.FixtureRequest,
    _conservation: list[Arena],
) -> Iterator[Namespace]:
    """Make a network namespace of the test's own."""
    with _make(request, lambda: Namespace(**_options(request, _MARKER["netns"]))) as made:
        yield made


@pytest.fixture
def tap(request: pytest.FixtureRequest, netns: Namespace) -> Iterator[Tap]:
    """Make a wire: 198.18.0.1 is the kernel, and knows the MAC address of 198.18.0.2, our end."""
    with _make(request, lambda: Tap(netns, **_options(request, _MARKER["tap"]))) as made:
        if made.nic_address is not None and made.nic_address.version == 4:
            made.static_neighbour()
        yield made


@pytest.fixture
def nic(request: pytest.FixtureRequest, tap: Tap, arena: Arena) -> Iterator[Nic]:
    """Make a NIC of ours on the wire."""
    options = _options(request, _nic_options())
    options.setdefault("device", _setting(request.config, "device"))
    try:
        wanted(options["device"], "attach NIC to", tap.name)
    except HarnessError as e:  # a name that no machine has
        _fail(str(e))
    with _make(request, lambda: Nic(tap, arena, **options)) as made:
        request.node.user_properties.append(("harness", str(made)))
        yield made
        if not made.closed:
            made.check()


@pytest.fixture
def peer(tap: Tap) -> Iterator[Peer]:
    """Make the kernel's side of the wire do something."""
    made = Peer(tap)
    yield made
    made.close()


def _nic_options() -> Sequence[str]:
    """List what Nic takes by name and no other fixture has taken already."""
    taken = {name for names in _MARKER.values() for name in names}
    parameters = inspect.signature(Nic).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in taken]


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Collect the arguments of all `harness` markers: the nearest to the test wins."""
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers("harness"):
        options = {**marker.kwargs, **options}
    return options


def _options(request: pytest.FixtureRequest, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in _marked(request).items() if name in names}


def _refuse_unknown(request: pytest.FixtureRequest) -> None:
    known = [
        *_nic_options(),
        _EXPECTED,
        _MISSING,
        *(n for names in _MARKER.values() for n in names),
    ]
    unknown = [name for name in _marked(request) if name not in known]
    if unknown:
        _fail(
            f"@pytest.mark.harness has no {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        )
    missing = _marked(request).get(_MISSING, "fail")
    if missing not in _MISSING_CHOICES:
        choices = " or ".join(map(repr, _MISSING_CHOICES))
        _fail(f"@pytest.mark.harness(missing={missing!r}): it is {choices}")


def _make(request: pytest.FixtureRequest, make: Callable[[], Made]) -> Made:
    """Make something; what this machine lacks is one line and no traceback, or a skip."""
    try:
        made = make()
    except HarnessError as e:
        why, lacks = str(e), isinstance(e, _LACKS)
    else:
        return made
    default = _setting(request.config, "missing")
    if lacks and _marked(request).get(_MISSING, default) == "skip":
        pytest.skip(f"harness: {why}")
    return _fail(why)


def _fail(why: str) -> NoReturn:
    pytest.fail(f"harness: {why}", pytrace=False)
