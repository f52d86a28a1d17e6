"""How the command line fails: one line that names what and the remedy, and an exit code."""

from __future__ import annotations

import errno
import functools
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

import typer

from nic_harness.cli import options
from nic_harness.cli.terminal import plain
from nic_harness.errors import ArgumentError, HarnessError

FAILED = 1
USAGE = 2
INTERRUPTED = 130

P = ParamSpec("P")
T = TypeVar("T")


class Terminated(BaseException):
    """SIGTERM came: everything is closed on the way out, as after Ctrl-C."""


def on_sigterm(_number: int, _frame: object) -> NoReturn:
    """Handle SIGTERM; see signal.signal()."""
    raise Terminated


def complain(message: str) -> None:
    """Print one line, whatever the message has in it."""
    print(f"harness: {plain(' '.join(message.split()))}", file=sys.stderr)


def one_line_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Turn what goes wrong in a command into one line and an exit code.

    With --debug, the traceback is printed first.
    """

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        cause: Exception
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.TyperException):
            raise
        except KeyboardInterrupt:
            complain("interrupted")
            raise
        except ArgumentError as e:
            code, message, cause = USAGE, str(e), e
        except HarnessError as e:
            code, message, cause = FAILED, str(e), e
        except BrokenPipeError:
            raise
        except OSError as e:
            # Files that we open have errors of ours; run_app() says this one.
            if e.errno == errno.ENOSPC and not options.debug_wanted():
                raise
            code, message, cause = FAILED, _unexpected(e), e
        except Exception as e:
            code, message, cause = FAILED, _unexpected(e), e
        if options.debug_wanted():
            for line in "".join(traceback.format_exception(cause)).splitlines():
                print(plain(line), file=sys.stderr)
        complain(message)
        raise typer.Exit(code)

    return guarded


def _unexpected(e: Exception) -> str:
    what = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
    return f"unexpected {what}; run with --debug and report what it prints"
