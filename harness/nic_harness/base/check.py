"""Arguments, before anything is changed: one function for each kind of value.

Each takes what is being done and to what, for the message, and the name and value of the argument.
A wrong type is an ArgumentTypeError, which is a TypeError too; a value out of its range is an
ArgumentError, which is a ValueError. True and False are no numbers here: they are usually an
argument in the wrong place.
"""

from __future__ import annotations

import ipaddress
import math
import operator as _operator
import os
import reprlib
import threading
from collections.abc import Sequence
from typing import Any

from nic_harness.errors import ArgumentError, ArgumentTypeError

__all__ = [
    "address",
    "buffer",
    "callback",
    "flag",
    "instance",
    "integer",
    "interface_address",
    "interface_name",
    "mac",
    "path",
    "program",
    "rate",
    "seconds",
    "text",
]

#: Bytes of an interface's name, without the NUL (IFNAMSIZ - 1, linux/if.h).
_NAME_MAX = 15

_repr = reprlib.Repr()
_repr.maxlong = _repr.maxstring = _repr.maxother = 60


def _wrong(
    operation: str, what: object, name: str, value: object, wanted: str
) -> ArgumentTypeError:
    problem = f"{name}={_repr.repr(value)} is a {type(value).__name__}"
    return ArgumentTypeError(operation, _named(what), problem, f"{wanted} is wanted")


def _named(what: object) -> str:
    return what if isinstance(what, str) else repr(what)


def integer(operation: str, what: object, name: str, value: Any, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`, both included; numpy's will do."""
    if type(value) is not int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise _wrong(operation, what, name, value, "a whole number")
        value = _operator.index(value)
    if not low <= value <= high:
        problem = f"{name}={_repr.repr(value)} is out of range"
        raise ArgumentError(operation, _named(what), problem, f"{low} to {high} is wanted")
    return int(value)


def seconds(operation: str, what: object, value: float | None, name: str = "timeout") -> None:
    """See that a time to wait is one, 0 or more; None is for ever."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(operation, what, name, value, "a number of seconds, or None,")
    if not 0 <= value <= threading.TIMEOUT_MAX:  # nan is not either
        problem = f"{name}={_repr.repr(value)} is no time to wait"
        remedy = "give 0 seconds or more; None waits for ever"
        raise ArgumentError(operation, _named(what), problem, remedy)


def rate(operation: str, what: object, name: str, value: Any) -> None:
    """See that a number is more than 0, and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(operation, what, name, value, "a number")
    if not (value > 0 and math.isfinite(value)):
        problem = f"{name}={_repr.repr(value)} is out of range"
        raise ArgumentError(operation, _named(what), problem, "more than 0 is wanted")


def instance(operation: str, what: object, name: str, value: object, *kinds: type[Any]) -> None:
    """See that a value is an object of one of some classes."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise _wrong(operation, what, name, value, wanted)


def flag(operation: str, what: object, name: str, value: object) -> None:
    """See that a value is True or False."""
    if not isinstance(value, bool):
        raise _wrong(operation, what, name, value, "True or False")


def text(operation: str, what: object, name: str, value: object) -> None:
    """See that a value is a string, of characters that C can be given."""
    if not isinstance(value, str):
        raise _wrong(operation, what, name, value, "a string")
    if "\0" in value:
        raise ArgumentError(operation, _named(what), f"{name}={value!r} has a NUL in it")


def path(operation: str, what: object, name: str, value: object) -> None:
    """See that a value can be the path of a file."""
    if not isinstance(value, str | os.PathLike):
        raise _wrong(operation, what, name, value, "a path")
    text(operation, what, name, os.fspath(value))


def callback(operation: str, what: object, name: str, value: object) -> None:
    """See that a value can be called."""
    if not callable(value):
        raise _wrong(operation, what, name, value, "something to call")


def buffer(operation: str, what: object, name: str, value: Any) -> None:
    """See that a value is a contiguous buffer of bytes.

    No view of it is kept: the frames of an exception would hold it, and with it the buffer.
    """
    try:
        with memoryview(value) as view:
            view.cast("B").release()
    except TypeError:
        problem = f"{name}: a {type(value).__name__} is no contiguous buffer of bytes"
        remedy = "bytes, a bytearray or memoryview is wanted"
        raise ArgumentTypeError(operation, _named(what), problem, remedy) from None
    except ValueError as e:  # a view that was released
        raise ArgumentError(operation, _named(what), f"{name}: {e}") from None


def interface_name(operation: str, value: Any) -> None:
    """See that an interface may have a name, as dev_valid_name() of the kernel does."""
    text(operation, "interface", "name", value)
    long = len(value.encode("utf-8", "surrogateescape")) > _NAME_MAX
    if long or value in ("", ".", "..") or any(c in "/:" or c.isspace() for c in value):
        raise ArgumentError(
            operation,
            value or "''",
            "not a name for an interface",
            f"1 to {_NAME_MAX} characters are possible, but no /, : or space",
        )


def mac(operation: str, what: object, name: str, value: Any) -> bytes:
    """Return the six bytes of one card's MAC address."""
    text(operation, what, name, value)
    try:
        raw = bytes.fromhex(value.replace(":", ""))
    except ValueError:
        raw = b""
    if len(raw) != 6:
        remedy = 'write it like "02:00:00:00:00:01"'
        raise ArgumentError(
            operation, _named(what), f"{name}: MAC address {value!r} is not six bytes", remedy
        )
    if raw[0] & 1:
        problem, remedy = f"{name}={value!r} is the address of a group", "use one card's"
        raise ArgumentError(operation, _named(what), problem, remedy)
    return raw


def address(
    operation: str, what: object, name: str, value: Any
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of a host."""
    text(operation, what, name, value)
    try:
        return ipaddress.ip_address(value)
    except ValueError as e:
        raise ArgumentError(operation, _named(what), f"{name} {value!r}: {e}") from None


def program(operation: str, args: Any) -> None:
    """See that a value is a command and its arguments, one string or path each."""
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise _wrong(operation, "a command", "args", args, "a list of strings")
    for i, arg in enumerate(args):
        plain = os.fsdecode(arg) if isinstance(arg, bytes) else arg
        path(operation, "a command", f"args[{i}]", plain)


def interface_address(
    operation: str, what: object, name: str, value: Any
) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Return an address with the length of its prefix, which must be there.

    Without one the network would be a single address, and nothing on the wire would be reached.
    """
    text(operation, what, name, value)
    try:
        parsed = ipaddress.ip_interface(value)
    except ValueError as e:
        raise ArgumentError(operation, _named(what), f"{name} {value!r}: {e}") from None
    if "/" not in value:
        usual = 24 if parsed.version == 4 else 64
        problem = f"{name} {value!r} has no prefix length"
        remedy = f'say which network it is in, such as "{value}/{usual}"'
        raise ArgumentError(operation, _named(what), problem, remedy)
    return parsed
