"""How much memory a sender takes, measured in a process of its own.

Run as a program it sends once by sf_buf and prints what it found as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from nic_harness.errors import CommandError
from nic_harness.transfer.payload import Payload

PAGE = 4096
#: The interpreter, its modules and the descriptors of pages; issue of the project.
ALLOWANCE = 64 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """The resident set of a process that sent `bytes` by sf_buf; all in bytes.

    Attributes:
        bytes: sent.
        peak: the largest resident set, of everything: private memory, arena and mapped file pages.
        before: resident set before the arena was made: the interpreter.
        arena: pages of the arena and the window for mapped pages of files, as configured.
    """

    bytes: int
    peak: int
    before: int
    arena: int

    @property
    def within(self) -> bool:
        """Tell whether the peak is at most arena + 64 MiB."""
        return self.peak <= self.arena + ALLOWANCE

    def __str__(self) -> str:
        def mib(n: int) -> str:
            return f"{n / (1 << 20):.0f} MiB"

        verdict = "met" if self.within else "missed"
        return (
            f"resident set after {mib(self.bytes)} by sf_buf: at most {mib(self.peak)}, "
            f"{mib(self.before)} of it the interpreter; arena {mib(self.arena)} + 64 MiB: {verdict}"
        )


def measure(payload: Payload, size: int) -> Memory:
    """Send the first `size` bytes of a file from a fresh process."""
    fd = payload.fileno()
    args = [sys.executable, "-m", __name__, f"/proc/self/fd/{fd}", str(size)]
    done = subprocess.run(args, pass_fds=[fd], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise CommandError("measure", "resident set", f"exit code {done.returncode}")
    return Memory(**json.loads(done.stdout))


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def main(argv: list[str]) -> int:
    """Send once and print a Memory."""
    from nic_harness.transfer.ours import OurNic

    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("size", type=int)
    args = parser.parse_args(argv)
    before = _status("VmRSS")
    with (
        args.file.open("rb") as file,
        Payload(args.file.name, file) as payload,
        OurNic() as nic,
    ):
        payload.size = min(payload.size, args.size)
        sent = nic.strategy("sf_buf").send(payload, digest=False)
        stats = nic.arena.stats()
        arena = (stats.pages_total + stats.sfbufs_total) * PAGE
        found = Memory(sent.bytes, _status("VmHWM"), before, arena)
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
