"""The exception tree: one class for each kind, one line for each message."""

import errno

import pytest
from nic_harness import errors
from nic_harness.errors import HarnessError, error_from_errno

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
    ("code", "kind", "builtin"),
    [
        (errno.ECONNREFUSED, errors.TcpRefusedError, ConnectionRefusedError),
        (errno.ECONNRESET, errors.TcpResetError, ConnectionResetError),
        (errno.EPIPE, errors.TcpClosedError, BrokenPipeError),
        (errno.ETIMEDOUT, errors.TcpTimeoutError, TimeoutError),
        (errno.ENETDOWN, errors.LinkDownError, HarnessError),
        (errno.EINVAL, errors.ArgumentError, ValueError),
        (errno.EXDEV, HarnessError, Exception),
    ],
)
def test_from_errno_of_either_sign(code, kind, builtin):
    for number in (code, -code):
        error = error_from_errno(number, "do", "it")
        assert type(error) is kind
        assert isinstance(error, builtin)
        assert error.errno == code
        assert "\n" not in str(error)
