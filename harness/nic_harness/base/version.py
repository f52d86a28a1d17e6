"""The version, which meson.build states once for C and Python."""

from nic_harness._native import ffi, lib

VERSION: str = ffi.string(lib.harness_version()).decode()
