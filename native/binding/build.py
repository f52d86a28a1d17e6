"""Write the C source of the extension module nic_harness._native: build.py CDEF OUTPUT."""

import sys
from pathlib import Path

from cffi import FFI

cdef, output = sys.argv[1:]
ffi = FFI()
ffi.cdef(Path(cdef).read_text(encoding="utf-8"))
ffi.set_source("nic_harness._native", '#include "binding/binding.h"')
ffi.emit_c_code(output)
