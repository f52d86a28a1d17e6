"""What this machine offers the harness, and how to get what is missing.

Things are tried out, with the code that will use them, rather than concluded from a version: a
namespace and a TAP are made, each device is attached to it, and a file is sent through it.
"""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
import platform
import resource
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nic_harness.errors import HarnessError, HarnessWarning, NamespacePermissionError
from nic_harness.host.stack import Stack
from nic_harness.memory.arena import Arena
from nic_harness.nic.device import DEVICES, KINDS, Offloads
from nic_harness.nic.nic import Nic
from nic_harness.wire.netns import Namespace
from nic_harness.wire.tap import Tap

__all__ = ["Finding", "Report", "State", "diagnose"]

#: Pages of the arena that is tried out: what a NIC makes for itself by default.
_PAGES = 4096

#: Descriptors that a NIC of all queues, its namespace and a few open files take.
_FILES = 256

#: What the kernel takes an offload only together with.
_STANDS_ON = dict.fromkeys(Offloads, Offloads.CSUM) | {Offloads.ECN: Offloads.CSUM | Offloads.TSO4}

#: How long the kernel's side may take to answer; an emulated machine takes its time.
_PATIENCE_S = 30

# Whether somebody who is not root may make a user namespace. Exits with the error number.
_ORDINARY_USER = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
raise SystemExit(ctypes.get_errno() if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) else 0)
"""

# What can forbid a namespace: sysctl, the value that forbids, the one that allows.
_NAMESPACE_SYSCTLS = (
    ("user.max_net_namespaces", "0", "10000"),
    ("user.max_user_namespaces", "0", "10000"),
    ("kernel.unprivileged_userns_clone", "0", "1"),  # Debian's kernels
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu's
)


class State(enum.StrEnum):
    """How a finding bears on the main job, which is a NIC on a TAP.

    OK: it is there. LACKING: it is not, and the harness does without. BROKEN: the main job cannot
    run. UNTRIED: it takes something that is broken.
    """

    OK = enum.auto()
    LACKING = enum.auto()
    BROKEN = enum.auto()
    UNTRIED = enum.auto()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the machine has or lacks.

    Attributes:
        name: what was looked at.
        state: how it bears on the main job.
        found: what there is.
        use: what the harness therefore does.
        remedy: how to get what is missing; empty when nothing is, or nothing helps.
    """

    name: str
    state: State
    found: str
    use: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in the order in which one builds on the other.

    Attributes:
        device: what Nic(device="auto") attaches here; None when there is none.
        offloads: by name, whether the TAP has them; empty when there is no TAP.
    """

    findings: tuple[Finding, ...]
    device: str | None
    offloads: dict[str, bool]

    @property
    def ok(self) -> bool:
        """Whether the main job can run."""
        return all(f.state in (State.OK, State.LACKING) for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "ok": self.ok,
            "device": self.device,
            "offloads": self.offloads,
            "findings": [asdict(f) for f in self.findings],
        }


def diagnose() -> Report:
    """Try everything out; takes about a second, and nothing of it stays."""
    with contextlib.ExitStack() as stack:
        machine = [_kernel(), _limits(), _map_count(), _huge_pages()]
        memory, arena = _arena(stack)
        network, namespace = _namespace(stack)
        ipv6 = _ipv6(namespace)
        wire, tap = _tap(stack, namespace)
        devices = [_device(tap, arena, name) for name in DEVICES]
        offloads = _probe_offloads(tap, arena)
        job, device = _main_job(tap, arena)
        findings = (
            *machine,
            memory,
            _cores(),
            _user_namespaces(),
            network,
            ipv6,
            wire,
            *devices,
            _offloads(offloads),
            job,
        )
        return Report(findings, device, offloads)


# ---- the machine ----


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text().strip()
    except OSError:
        return None


def _kernel() -> Finding:
    found = f"Linux {platform.release()} on {platform.machine()}"
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        try:
            page.madvise(22)  # MADV_POPULATE_READ
        except OSError:
            return Finding(
                "kernel",
                State.LACKING,
                f"{found}, which cannot populate mappings ahead",
                "each page of a file is faulted in when it is sent",
                "Linux 5.14 or newer",
            )
    return Finding("kernel", State.OK, found, "mapped files are populated ahead")


def _limits() -> Finding:
    def of(which: int) -> str:
        soft = resource.getrlimit(which)[0]
        return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    found = (
        f"{of(resource.RLIMIT_NOFILE)} open files, address space {of(resource.RLIMIT_AS)}, "
        f"locked memory {of(resource.RLIMIT_MEMLOCK)}"
    )
    if files != resource.RLIM_INFINITY and files < _FILES:
        return Finding(
            "limits", State.LACKING, found, "few files, queues and NICs at a time", "ulimit -n 1024"
        )
    return Finding("limits", State.OK, found, "enough")


def _map_count() -> Finding:
    most = int(_sysctl("vm.max_map_count") or 0)
    used = Path("/proc/self/maps").read_bytes().count(b"\n")
    found = f"vm.max_map_count {most}, {used} in use by this process"
    if most - used < 2 * _PAGES:
        return Finding(
            "memory mappings",
            State.LACKING,
            found,
            "an arena with a direct map; a strict one, a mapping for each page, runs out",
            "sysctl vm.max_map_count=262144",
        )
    return Finding("memory mappings", State.OK, found, "strict arenas are possible too")


def _huge_pages() -> Finding:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled").read_text()
        policy = text.partition("[")[2].partition("]")[0]
    except OSError:
        policy = "not in this kernel"
    reserved = "0"
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("HugePages_Total:"):
            reserved = line.split()[1]
    use = "4 KiB pages" if policy in ("never", "deny", "advise") else "as the kernel decides"
    found = f"transparent for shared memory: {policy}; {reserved} reserved"
    return Finding("huge pages", State.OK, found, f"{use}; the harness asks for none")


def _cores() -> Finding:
    n = len(os.sched_getaffinity(0))
    if n == 1:
        return Finding(
            "cores", State.LACKING, "1", "sender and receiver of a trial share it", "more cores"
        )
    return Finding("cores", State.OK, str(n), "sender and receiver of a trial have one each")


def _user_namespaces() -> Finding:
    name = "user namespaces"
    root = os.geteuid() == 0
    use = "the harness runs as root here" if root else "the harness runs without root"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", _ORDINARY_USER], capture_output=True)
    if done.returncode == 0:
        return Finding(name, State.OK, "anybody may make them", use)
    return Finding(
        name,
        State.LACKING,
        f"an ordinary user may not make them: {os.strerror(done.returncode)}",
        use if root else "root is needed",
        _namespace_remedy(),
    )


def _namespace_remedy() -> str:
    """Name the setting that forbids namespaces."""
    for name, forbids, allows in _NAMESPACE_SYSCTLS:
        if _sysctl(name) == forbids:
            return f"sysctl {name}={allows}"
    return "run as root; in a container, its profile has to allow them"


# ---- the harness on it ----


def _arena(stack: contextlib.ExitStack) -> tuple[Finding, Arena | None]:
    try:
        arena = stack.enter_context(Arena(_PAGES))
    except HarnessError as e:
        limits = ("-v", resource.RLIMIT_AS), ("-f", resource.RLIMIT_FSIZE)
        low = [o for o, which in limits if resource.getrlimit(which)[0] != resource.RLIM_INFINITY]
        remedy = "; ".join(f"ulimit {o} unlimited" for o in low) or e.remedy
        return Finding("arena", State.BROKEN, e.problem, remedy=remedy), None
    return Finding("arena", State.OK, f"{_PAGES} pages of 4 KiB", "what the rings point at"), arena


def _namespace(stack: contextlib.ExitStack) -> tuple[Finding, Namespace | None]:
    name = "network namespace"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HarnessWarning)  # a finding of its own says it
            namespace = stack.enter_context(Namespace())
    except HarnessError as e:
        forbidden = isinstance(e, NamespacePermissionError)
        remedy = _namespace_remedy() if forbidden else e.remedy
        return Finding(name, State.BROKEN, e.problem, remedy=remedy), None
    how = "in a user namespace" if namespace.rootless else "as root"
    return Finding(name, State.OK, f"made {how}", "the host's network is not touched"), namespace


def _ipv6(namespace: Namespace | None) -> Finding:
    name = "IPv6"
    if namespace is None:
        return Finding(name, State.UNTRIED, "no namespace to switch it off in")
    if namespace.why_ipv6:
        return Finding(
            name,
            State.LACKING,
            f"it cannot be switched off in the namespace: {namespace.why_ipv6}",
            "a TAP gets no IPv6 address, which is as quiet",
            "docker run --security-opt systempaths=unconfined, podman run --security-opt "
            "unmask=/proc/sys",
        )
    return Finding(name, State.OK, "off in the namespace", "no frames but those of the run")


def _tap(stack: contextlib.ExitStack, namespace: Namespace | None) -> tuple[Finding, Tap | None]:
    if namespace is None:
        return Finding("TAP", State.UNTRIED, "no namespace to make it in"), None
    try:
        tap = stack.enter_context(Tap(namespace))
    except HarnessError as e:
        return Finding("TAP", State.BROKEN, e.problem, remedy=e.remedy), None
    return Finding("TAP", State.OK, "/dev/net/tun works", "it is the wire"), tap


def _device(tap: Tap | None, arena: Arena | None, name: str) -> Finding:
    if tap is None or arena is None:
        return Finding(name, State.UNTRIED, "no TAP or no arena")
    try:
        with Nic(tap, arena, device=name):
            return Finding(name, State.OK, "works", f"it {KINDS[name].does}")
    except HarnessError as e:
        state = State.BROKEN if KINDS[name].everywhere else State.LACKING
        problem = e.problem.removeprefix(f"no {name}: ")
        return Finding(name, state, problem, "another device is used", e.remedy)


def _probe_offloads(tap: Tap | None, arena: Arena | None) -> dict[str, bool]:
    """Ask for each one alone, with what it stands on."""
    found: dict[str, bool] = {}
    if tap is None or arena is None:
        return found
    for offload in Offloads:
        try:
            with Nic(tap, arena, device="tap_rw", offloads=offload | _STANDS_ON[offload]):
                found[str(offload)] = True
        except HarnessError:
            found[str(offload)] = False
    return found


def _offloads(found: dict[str, bool]) -> Finding:
    if not found:
        return Finding("offloads", State.UNTRIED, "no TAP or no arena")
    have = " ".join(name for name, there in found.items() if there) or "none"
    missing = " ".join(name for name, there in found.items() if not there)
    if not missing:
        return Finding("offloads", State.OK, have, "frames of up to 64 KiB in one piece")
    return Finding(
        "offloads",
        State.LACKING,
        f"{have}; not {missing}",
        "what is missing is done frame by frame, in software",
        "uso: Linux 6.2 or newer" if missing == "uso" else "a newer kernel",
    )


def _main_job(tap: Tap | None, arena: Arena | None) -> tuple[Finding, str | None]:
    """Send a file by sendfile through the rings to the kernel's own TCP."""
    name = "main job"
    if tap is None or arena is None or tap.address is None:
        return Finding(name, State.UNTRIED, "no TAP or no arena"), None
    file = Path(__file__)
    received = b""
    try:
        with (
            Nic(tap, arena) as nic,
            Stack(nic) as stack,
            tap.namespace.socket() as server,
        ):
            server.settimeout(_PATIENCE_S)
            server.bind((str(tap.address.ip), 0))
            server.listen()
            with stack.connect(*server.getsockname()) as connection:
                peer, _ = server.accept()
                connection.sendfile(file)
            with peer:
                peer.settimeout(_PATIENCE_S)
                while part := peer.recv(1 << 16):
                    received += part
            device = nic.attached.device
    except (HarnessError, OSError) as e:
        problem = e.problem if isinstance(e, HarnessError) else str(e)
        return Finding(name, State.BROKEN, problem, remedy=getattr(e, "remedy", "")), None
    if received != file.read_bytes():
        return Finding(name, State.BROKEN, "a file that was sent arrived otherwise"), device
    return Finding(
        name, State.OK, f"a file went through {device}", f"{device} is the default"
    ), device
