"""Options and arguments that several commands take, and how their text is read."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nic_harness.errors import ArgumentError
from nic_harness.nic.device import DEVICES
from nic_harness.nic.faults import Faults

_debug = False


def _remember_debug(wanted: bool) -> bool:
    global _debug
    _debug = _debug or wanted
    return wanted


def debug_wanted() -> bool:
    """Whether --debug was given, before or after the command."""
    return _debug


Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_remember_debug, help="Show tracebacks.", show_default=False),
]

#: What Linux allows for a TAP; the kernel's own limits are looked at again when it is made.
Mtu = Annotated[
    int, typer.Option("--mtu", min=68, max=65521, metavar="BYTES", help="MTU of the wire.")
]


def _device(text: str) -> str:
    if text != "auto" and text not in DEVICES:
        raise typer.BadParameter(
            f"there is no device {text!r}; use auto, {', '.join(DEVICES[:-1])} or {DEVICES[-1]}"
        )
    return text


def complete_device(incomplete: str) -> list[tuple[str, str]]:
    """Complete the name of a device."""
    names = {"auto": "the fastest that works"} | dict.fromkeys(DEVICES, "")
    return [(n, text) for n, text in names.items() if n.startswith(incomplete)]


def complete_of(*names: str) -> Callable[[str], list[str]]:
    """Make a completion out of a few names."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def complete_list(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Make a completion of "NAME,NAME": the last name, out of those not named yet."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        left = [n for n in names if n not in before.split(",") and n.startswith(last)]
        return [f"{before}{comma}{n}" for n in left]

    return complete


def complete_netns(incomplete: str) -> list[str]:
    """Complete the name of a network namespace, as `ip netns` has them."""
    try:
        names = sorted(entry.name for entry in Path("/run/netns").iterdir())
    except OSError:
        return []
    return [name for name in names if name.startswith(incomplete)]


Device = Annotated[
    str,
    typer.Option(
        "--device",
        callback=_device,
        autocompletion=complete_device,
        metavar="NAME",
        help=f"What plays the NIC: {', '.join(DEVICES)}, or auto, the fastest that works.",
    ),
]

FaultSpec = Annotated[
    str | None,
    typer.Option(
        "--faults",
        metavar="SPEC",
        callback=lambda text: checked(faults)(text),
        help="What the device does wrong: random:SEED, or rates: rx.drop=0.01,seed=7.",
        show_default=False,
    ),
]

CapturePath = Annotated[
    Path | None,
    typer.Option(
        "--capture",
        "-w",
        readable=False,
        metavar="FILE",
        help="Write what passes the NIC, both ways, to a pcapng file; - for standard output.",
        show_default=False,
    ),
]

Netns = Annotated[
    str | None,
    typer.Option(
        "--netns",
        metavar="NAME|PID|PATH",
        autocompletion=complete_netns,
        help="Put the wire into a network namespace that is there, where the receiver runs.",
        show_default=False,
    ),
]

TapName = Annotated[
    str | None,
    typer.Option(
        "--tap",
        metavar="NAME",
        help="Use a TAP that is there, made for you by ip tuntap and bridged or routed.",
        show_default=False,
    ),
]

OurAddress = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="ADDR/LEN",
        callback=lambda text: checked(interface)(text),
        help="Of our side.",
    ),
]

KernelAddress = Annotated[
    str,
    typer.Option(
        "--kernel",
        metavar="ADDR/LEN",
        callback=lambda text: checked(interface)(text),
        help="Of the kernel's side of the wire it makes.",
    ),
]

Stall = Annotated[
    float,
    typer.Option(
        "--stall",
        min=0.1,
        max=86400,
        metavar="SECONDS",
        help="Give up after so long without progress: a peer that never reads.",
    ),
]

JsonPath = Annotated[
    Path | None,
    typer.Option(
        "--json",
        readable=False,
        metavar="PATH",
        help="Write the result as JSON; - for standard output, where nothing else is printed then.",
        show_default=False,
    ),
]

MadeSize = Annotated[
    str,
    typer.Option(
        "--size",
        metavar="SIZE",
        callback=lambda text: checked(size)(text),
        help="Of the file that is made when none is named: 64M, 1G.",
    ),
]

#: What a value is called in help, where an option does not say it itself.
_VALUES = {bool: "", int: "N", float: "N", Path: "PATH"}


def show_values(params: list[Any]) -> list[Any]:
    """Give each option a word for its value: none for a flag, N for a number."""
    for param in params:
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: None  # noqa: ARG005 -- its name says it
        elif param.metavar is None:
            flag = getattr(param, "is_bool_flag", False)
            kind = bool if flag else param.type_descriptor.annotation
            param.metavar = _VALUES.get(kind)
    return params


def explain(e: typer.TyperException) -> None:
    """Say in words of ours what is wrong with a value that typer did not take."""
    errors = getattr(e.__cause__, "errors", None)
    if not isinstance(e, typer.BadParameter) or errors is None:
        return
    found = errors()[0]
    given, limits = str(found["input"]), found.get("ctx", {})
    if given.lower() == "nan":
        found["type"] = "finite_number"
    low, high = (getattr(e.param, which, None) for which in ("min", "max"))
    match found["type"]:
        case "greater_than_equal" | "less_than_equal":
            limit = next(iter(limits.values()))
            room = f"less than {limit}" if "ge" in limits else f"more than {limit}"
            if low is not None and high is not None:
                room = f"not within {low} to {high}"
            e.message = f"{given} is {room}"
        case "int_parsing" | "int_from_float" | "int_parsing_size":
            e.message = f"{given!r} is not a whole number"
        case "float_parsing" | "finite_number":
            e.message = f"{given!r} is not a number"
        case "value_error":
            e.message = e.message.removeprefix("Value error, ")


_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def checked(read: Callable[[str], object]) -> Callable[[str], str]:
    """Make a callback that lets a text through if it can be read; None, not given, passes."""

    def check(text: str) -> str:
        if text is not None:
            read(text)
        return text

    return check


def size(text: str) -> int:
    """Read a size: "1G", "64KiB", "4097"; units are powers of 1024."""
    match = re.fullmatch(r"(\d+)\s*([kmgt]?)(i?b)?", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a size; 4097, 64K, 1GiB are")
    return int(match[1]) * _UNITS[match[2]]


def faults(text: str) -> Faults:
    """Read a specification of faults."""
    try:
        return Faults.parse(text)
    except ArgumentError as e:
        raise typer.BadParameter(f"{text!r}: {e.problem}; {e.remedy}") from None


def endpoint(text: str) -> tuple[str, int]:
    """Read HOST:PORT."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT, with a port of 1 to 65535")
    return host, int(port)


def interface(text: str) -> str:
    """Read ADDRESS/LENGTH, IPv4."""
    try:
        if "/" not in text:
            raise ValueError("it has no prefix length")
        return str(ipaddress.IPv4Interface(text))
    except ValueError as e:
        raise typer.BadParameter(f"{text!r} is not ADDRESS/LENGTH: {e}") from None


def address(text: str) -> str:
    """Read an IPv4 address."""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an IPv4 address") from None
