"""cdef.h is compared with what the compiler made of the headers."""

import pytest
from nic_harness._native import ffi, lib

STRUCTS = ffi.list_types()[1]


@pytest.mark.parametrize("name", STRUCTS)
def test_layouts_agree(name):
    """Without this, cffi notices a struct that differs only at the first use of its members."""
    try:
        ffi.sizeof(f"struct {name}")
    except ffi.error:
        return  # opaque
    assert ffi.typeof(f"struct {name}").fields


def test_every_function_and_constant_is_there():
    assert all(getattr(lib, name, None) is not None for name in dir(lib))
