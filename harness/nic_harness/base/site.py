"""Where something was done: return addresses of C, and lines of Python that stand for them.

A page's record has room for one address. A line of Python is stored there as a number with the
highest bit set, which no address in a program has.
"""

from __future__ import annotations

import sys
import threading
from types import CodeType
from typing import Any

from nic_harness._native import ffi, lib

_PYTHON = 1 << 63

#: Rooms whose lines are never the user's. The rooms above them (plugins, transfer, trial, cli) use
#: the library like any other program, and their lines are named.
_LIBRARY = frozenset(
    (
        "nic_harness",
        *(
            f"nic_harness.{room}"
            for room in ("base", "memory", "bsd", "wire", "nic", "host", "look")
        ),
    )
)

_lock = threading.Lock()
_numbers: dict[tuple[CodeType, int], tuple[int, Any]] = {}
_names: list[str] = []


def caller() -> Any:
    """Return the line that called into the library, as a `void *` that stands for it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") in _LIBRARY:
        frame = frame.f_back
    key = (frame.f_code, frame.f_lineno)
    found = _numbers.get(key)
    if found is None:
        with _lock:
            found = _numbers.get(key)
            if found is None:
                number = _PYTHON | len(_names)
                _names.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
                found = _numbers[key] = (number, ffi.cast("void *", number))
    return found[1]


def number(site: Any) -> int:
    """Return a site as a page's record stores it and name() takes it."""
    return int(ffi.cast("uintptr_t", site))


def name(site: int) -> str:
    """Name a site: "file.py:12", "function+0x12 (library)", "library+0x1234"; "-" for none."""
    if site & _PYTHON:
        number = site & ~_PYTHON
        return _names[number] if number < len(_names) else f"{site:#x}"
    text = ffi.new("char[256]")
    lib.harness_site_name(site, text, len(text))
    return str(ffi.string(text).decode(errors="replace"))
