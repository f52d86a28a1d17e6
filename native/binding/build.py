"""Write the C source of the extension module nic_harness._native: build.py CDEF OUTPUT.

A struct of counters says in CDEF which table it is made from; its members are put in here.
"""

import re
import sys
from pathlib import Path

from cffi import FFI

cdef, output = sys.argv[1:]
NATIVE = Path(cdef).parents[1]


def members(table: re.Match[str]) -> str:
    """Return the members of a struct of counters."""
    rows = (NATIVE / table[1]).read_text(encoding="utf-8")
    return "\n".join(f"    uint64_t {name};" for name in re.findall(r"^[A-Z]+\((\w+),", rows, re.M))


ffi = FFI()
text = Path(cdef).read_text(encoding="utf-8")
ffi.cdef(re.sub(r'^#include "(.*\.def)"$', members, text, flags=re.M))
ffi.set_source("nic_harness._native", '#include "binding/binding.h"')
ffi.emit_c_code(output)
