# Its contents are declared in native/binding/cdef.h.
from typing import Any

ffi: Any
lib: Any
