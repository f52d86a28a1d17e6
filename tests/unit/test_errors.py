"""The exception tree: one class for each kind, one line for each message."""

import errno
import os

import pytest
from nic_harness import errors
from nic_harness.errors import Deed, HarnessError, error_from_errno
from nic_harness.nic.device import create

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HarnessError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_message(kind):
    error = kind("send", "frame", "too long", "raise the MTU", errno=errno.EMSGSIZE)
    assert str(error) == "send frame: too long; raise the MTU"
    assert (error.operation, error.object, error.errno) == ("send", "frame", errno.EMSGSIZE)
    assert str(kind("send", "frame", "too long", "")) == "send frame: too long"
    assert str(kind("attach", problem="no", remedy="")) == "attach: no"
    assert kind.__doc__


@pytest.mark.parametrize(
    ("code", "deed", "kind", "builtin"),
    [
        (errno.ECONNREFUSED, Deed.TCP, errors.TcpRefusedError, ConnectionRefusedError),
        (errno.ECONNRESET, Deed.TCP, errors.TcpResetError, ConnectionResetError),
        (errno.EPIPE, Deed.TCP, errors.TcpClosedError, BrokenPipeError),
        (errno.ETIMEDOUT, Deed.TCP, errors.TcpTimeoutError, TimeoutError),
        (errno.ENETDOWN, Deed.DEVICE, errors.LinkDownError, HarnessError),
        (errno.EINVAL, Deed.MEMORY, errors.ArgumentError, ValueError),
        (errno.EBADF, Deed.FILE, errors.FileError, OSError),
        (errno.EBADF, Deed.DEVICE, errors.LinkError, HarnessError),
        (errno.EBADF, Deed.LINK, errors.LinkError, HarnessError),
        (errno.EXDEV, Deed.MEMORY, HarnessError, Exception),
    ],
)
def test_from_errno_of_either_sign(code, deed, kind, builtin):
    for number in (code, -code):
        error = error_from_errno(number, "do", "it", deed=deed)
        assert type(error) is kind
        assert isinstance(error, builtin)
        assert error.errno == code
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["tap_rw", "auto"])
def test_a_bad_descriptor_of_a_tap_is_no_file(name):
    fd = os.dup(2)
    os.close(fd)
    with pytest.raises(errors.LinkError, match="open queues of tap0: Bad file desc") as caught:
        create([fd], name, "tap0")
    assert caught.value.errno == errno.EBADF
    assert not isinstance(caught.value, errors.FileError)
