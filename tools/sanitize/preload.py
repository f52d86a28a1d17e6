"""Bring a sanitizer's runtime into this Python, and into no program that it starts.

A sanitizer's Python runs this when it starts (tools/setup). The runtime must be in the process
before anything else, hence the second start. Handed down, it would also judge gcc, qemu and nft.
"""

import functools
import os
import sys

OPTIONS = {
    # Python keeps much until it exits, all of it leaks to LeakSanitizer. The C tests are looked at.
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    # Python's own allocator would hide where the blocks of ffi.new() end.
    "PYTHONMALLOC": "malloc",
}


@functools.cache  # in a virtual environment, site reads its .pth files twice
def ensure(runtime: str) -> None:
    """Return with the shared library `runtime` preloaded, or start this Python again with it."""
    if os.environ.pop("LD_PRELOAD", None) != runtime:
        environment = OPTIONS | os.environ | {"LD_PRELOAD": runtime}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
