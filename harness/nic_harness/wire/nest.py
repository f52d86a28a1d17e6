"""A second network namespace inside the first; a program that trial/veth.py starts, with -I -S.

Without root, a veth pair can only join namespaces of one user namespace; so the far one is made
here, by a process that already is in the near one.

It leaves for a namespace of its own, says so, waits for a line that says that an interface was put
into it, configures that by netdevice(7) ioctls, and becomes the command on its command line.

    nest.py [--no-offloads] [--nft RULES] IFNAME ADDRESS NETMASK COMMAND...
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
IFF_UP, IFF_RUNNING = 0x1, 0x40
SIOCETHTOOL = 0x8946
#: linux/ethtool.h: ETHTOOL_S... of segmentation (TSO, GSO), receive merging (GRO) and checksums.
OFFLOADS = {"tso": 0x1F, "gso": 0x24, "gro": 0x2C, "tx": 0x17, "rx": 0x15}


def set_address(sock: socket.socket, request: int, ifname: str, address: str) -> None:
    """One of the SIOCSIF... requests that take a struct sockaddr_in."""
    ifreq = struct.pack("16sHH4s16x", ifname.encode(), socket.AF_INET, 0, socket.inet_aton(address))
    fcntl.ioctl(sock, request, ifreq)


def switch_offloads_off(sock: socket.socket, ifname: str) -> None:
    """Have an interface do as a wire: what `ethtool -K IFNAME tso off gso off ...` does.

    Raises:
        OSError: the kernel refused.
    """
    for command in OFFLOADS.values():
        value = ctypes.create_string_buffer(struct.pack("=II", command, 0))  # struct ethtool_value
        ifreq = struct.pack("16sP16x", ifname.encode(), ctypes.addressof(value))
        fcntl.ioctl(sock, SIOCETHTOOL, ifreq)


def steer() -> None:
    """Let interfaces to come hand received frames to any CPU but our first (Linux 6.3).

    As a card's interrupt would. Otherwise the sender's system call does all of the receiving
    kernel's work too, which at MTU 1500 costs sendfile(2) over veth a third of its speed.
    """
    cpus = os.sched_getaffinity(0)
    mask = f"{sum(1 << cpu for cpu in cpus - {min(cpus)}):x}"
    # Groups of 32 bits, with commas between them.
    groups = [mask[max(0, end - 8) : end] for end in range(len(mask), 0, -8)]
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/core/rps_default_mask").write_text(",".join(reversed(groups)))


def main(argv: list[str]) -> None:
    """Do what the module says; it returns only when that failed."""
    parser = argparse.ArgumentParser(prog="nest")
    parser.add_argument("--no-offloads", action="store_true")
    parser.add_argument("--nft", metavar="RULES")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    ifname, address, netmask, *command = args.rest
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    steer()
    try:
        os.write(sys.stdout.fileno(), b'{"nested": true}\n')
    except BrokenPipeError:
        return
    if not sys.stdin.readline():
        return
    if args.nft:
        nft = subprocess.run(
            ["nft", "--file", "-"], input=args.nft, text=True, stderr=subprocess.PIPE
        )
        if nft.returncode:
            print(json.dumps({"error": f"nft: {nft.stderr.strip()}"}), flush=True)
            return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if args.no_offloads:
            switch_offloads_off(sock, ifname)
        set_address(sock, SIOCSIFADDR, ifname, address)
        set_address(sock, SIOCSIFNETMASK, ifname, netmask)
        flags = struct.pack("16sH22x", ifname.encode(), IFF_UP | IFF_RUNNING)
        fcntl.ioctl(sock, SIOCSIFFLAGS, flags)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
