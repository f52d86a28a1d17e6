"""Writing frames to a pcapng file as they pass a NIC in either direction, with their time."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base.version import VERSION
from nic_harness.errors import ArgumentError, BusyError, FileError, HarnessError

__all__ = ["Capture", "CaptureStats"]

_PAUSE_S = 0.01  # between two reads of a device that had little to report
_READ = 1 << 20  # bytes read from the device at a time
_BLOCK = 4096  # bytes for a block other than a frame; the names in it are short


@dataclass(frozen=True, slots=True)
class CaptureStats:
    """Frames seen; `received` + `sent` = `kept` + `dropped`.

    Attributes:
        received, sent: frames in each direction.
        kept: frames in the file, or on their way there.
        dropped: frames not kept because the file was too slow; make the buffer larger.
    """

    received: int
    sent: int
    kept: int
    dropped: int


class Capture:
    """Copies what passes a NIC to a pcapng file: Nic(tap, capture=Capture("out.pcapng")).

    A thread writes the file, which is complete when the NIC is closed. Times are in ns, each frame
    has its direction and queue, and an interface statistics block stands at the end. Super-frames
    are kept as they pass, with checksums not yet computed, as tcpdump gets them from the kernel.

    Args:
        file: a path, or a binary file, which stays open.
        snaplen: bytes kept of each frame, at most.
        buffer: bytes between the device and the thread; frames that find it full are dropped from
            the capture and counted.
        at: "driver": what the driver sees, faults included; "wire": the far side of the faults.

    Raises:
        ArgumentError: a value is out of range.
        FileError: the file cannot be opened.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        snaplen: int = 1 << 18,
        buffer: int = 16 << 20,
        at: Literal["driver", "wire"] = "driver",
    ) -> None:
        snaplen = check.integer("capture", "frames", "snaplen", snaplen, 1, 1 << 18)
        buffer = check.integer("capture", "frames", "buffer", buffer, 1 << 12, 1 << 32)
        check.text("capture", "frames", "at", at)
        if not hasattr(file, "write"):
            check.path("capture", "frames", "file", file)
        if at not in ("driver", "wire"):
            raise ArgumentError("capture", "frames", f"at={at!r}", "at the driver or the wire")
        self.at = at
        self.snaplen = snaplen
        self.buffer = buffer
        self.name = "the capture"
        self._owns_file = isinstance(file, str | os.PathLike)
        if isinstance(file, str | os.PathLike):
            self.name = os.fspath(file)
            try:
                self._file: BinaryIO = Path(file).open("wb", buffering=0)  # noqa: SIM115 - until close()
            except OSError as e:
                raise FileError(
                    "write", self.name, remedy="name another file", errno=e.errno
                ) from e
        else:
            self._file = file
        self._lock = threading.Lock()  # the device is not read while it goes away
        self._device: Any = None
        self._last: CaptureStats | None = None
        self._failed: Exception | None = None

    def stats(self) -> CaptureStats:
        """Count frames; once its NIC is closed, return the last figures."""
        with self._lock:
            if self._device is not None:
                s = ffi.new("struct capture_stats *")
                lib.capture_get_stats(self._device, s)
                self._last = CaptureStats(s.received, s.sent, s.kept, s.dropped)
        return self._last or CaptureStats(0, 0, 0, 0)

    def _wrap(self, inner: Any, out: Any) -> int:
        """Make the device around another one; return 0 or a negative error number."""
        if self._device is not None or self._last is not None:
            raise BusyError("capture", self.name, "it belongs to a NIC already", "make another")
        code = int(lib.capture_create(inner, self.snaplen, self.buffer, out))
        if code == 0:
            self._device = out[0]
        return code

    def _start(self, interface: str, mac: bytes, device: str) -> None:
        """Begin writing, once the NIC is attached."""
        self._records = ffi.new("char[]", _READ)
        most = _READ // ffi.sizeof("struct capture_record") + 1
        self._blocks = ffi.new("char[]", _READ + most * lib.PCAPNG_MORE)
        self._taken = ffi.new("size_t *")
        self._began = time.time_ns()
        self._stop_now = threading.Event()
        self._write_section()
        self._write_interface(interface, mac, device)
        self._thread = threading.Thread(target=self._run, name="harness-capture", daemon=True)
        self._thread.start()

    def _write_section(self) -> None:
        system = platform.uname()
        block = ffi.new("char[]", _BLOCK)
        names = (system.machine, f"{system.system} {system.release}", f"nic-harness {VERSION}")
        n = lib.pcapng_section(block, _BLOCK, *(name.encode() for name in names))
        self._write(ffi.buffer(block, n))

    def _write_interface(self, name: str, mac: bytes, device: str) -> None:
        block = ffi.new("char[]", _BLOCK)
        text = f"the NIC on {name}, {device}".encode()
        n = lib.pcapng_interface(block, _BLOCK, self.snaplen, name.encode(), text, mac)
        self._write(ffi.buffer(block, n))

    def _write_statistics(self, s: CaptureStats, kernel_dropped: int) -> None:
        summary = ffi.new("struct pcapng_summary *")
        summary.began, summary.ended = self._began, time.time_ns()
        summary.seen, summary.kept, summary.dropped = s.received + s.sent, s.kept, s.dropped
        summary.dropped_before = kernel_dropped
        block = ffi.new("char[]", _BLOCK)
        n = lib.pcapng_statistics(block, _BLOCK, summary)
        self._write(ffi.buffer(block, n))

    def _run(self) -> None:
        while not self._stop_now.is_set():
            if self._drain() < self.buffer // 4:
                self._stop_now.wait(_PAUSE_S)

    def _drain(self) -> int:
        """Write what the device has kept since the last call; return its size in bytes."""
        total = 0
        while got := lib.capture_read(self._device, self._records, _READ):
            n = lib.pcapng_packets(self._records, got, self._blocks, len(self._blocks), self._taken)
            assert self._taken[0] == got
            self._write(ffi.buffer(self._blocks, n))
            total += got
        if total and self._failed is None:
            with contextlib.suppress(OSError):  # the next write reports it
                self._file.flush()
        return total

    def _write(self, data: Any) -> None:
        # After a failure the frames are still read from the device, and discarded.
        if self._failed is None:
            try:
                # A file opened here is unbuffered: a forked child would write a buffer too, at
                # its end.
                left = memoryview(data)
                while left:
                    left = left[self._file.write(left) or len(left) :]
            except (OSError, ValueError) as e:
                self._failed = e

    def _stop(self, kernel_dropped: int) -> None:
        """Write the rest. The device's queues stand still, and the device goes away after this.

        Args:
            kernel_dropped: frames that the other side dropped before they arrived here.
        """
        self._stop_now.set()
        self._thread.join()
        self._drain()
        s = self.stats()
        with self._lock:
            self._device = None
        self._write_statistics(s, kernel_dropped)

    def _abandon(self) -> None:
        """Forget the device: the NIC could not be attached after all."""
        self._device = None

    def close(self) -> None:
        """Close the file if it was opened here; the NIC does this when it is closed.

        Raises:
            FileError: something could not be written, and the file is not complete.
        """
        failed, self._failed = self._failed, None
        try:
            self._file.flush()
        except (OSError, ValueError) as e:
            failed = failed or e
        if self._owns_file:
            with contextlib.suppress(OSError):  # flush() above has reported it
                self._file.close()
        if failed is not None:
            raise self._error(failed)

    def _error(self, e: Exception) -> HarnessError:
        number = e.errno if isinstance(e, OSError) else None
        return FileError(
            "write",
            self.name,
            "" if number else str(e),
            "the capture is not complete",
            errno=number,
        )
