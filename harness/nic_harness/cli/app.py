"""The command line: what all commands share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from inspect import cleandoc
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from nic_harness.base.version import VERSION
from nic_harness.cli.capture import capture
from nic_harness.cli.doctor import doctor
from nic_harness.cli.failure import FAILED, INTERRUPTED, USAGE, Terminated, complain, on_sigterm
from nic_harness.cli.inspect import inspect
from nic_harness.cli.listen import listen
from nic_harness.cli.options import Debug, explain, show_values
from nic_harness.cli.replay import replay
from nic_harness.cli.send import send
from nic_harness.cli.top import top
from nic_harness.cli.trial import trial


def _paragraphs(doc: str | None) -> str:
    """Join the lines of each paragraph, which typer would break again where it wraps."""
    return "\n\n".join(" ".join(p.split()) for p in cleandoc(doc or "").split("\n\n"))


class _Command(TyperCommand):
    """A command whose help says what a value is, where typer would name a type of Python's."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options and arguments; see TyperCommand."""
        return show_values(super().get_params(ctx))


class _Group(TyperGroup):
    """The command line, with the same help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options; see TyperGroup."""
        return show_values(super().get_params(ctx))


app = typer.Typer(
    cls=_Group,
    help="A NIC driver's buffer machinery as an ordinary Linux program.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (trial, send, listen, capture, replay, inspect, top, doctor):
    app.command(
        cls=_Command,
        help=_paragraphs(command.__doc__),
        # The options behind capture's COMMAND are its own.
        context_settings={"allow_interspersed_args": command is not capture},
    )(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"harness {VERSION}")
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_print_version, is_eager=True, help="Print it and end."
        ),
    ] = False,
    _debug: Debug = False,
) -> None:
    """Take the options that stand before the command."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line of `harness` and return the exit code."""
    return run_app(app, "harness", args)


def run_app(app: typer.Typer, name: str, args: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code; what goes wrong is one line."""
    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        code = app(args=args, prog_name=name, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # what cannot be written is said here, not at the interpreter's end
    except typer.TyperException as e:
        explain(e)
        where = getattr(getattr(e, "ctx", None), "command_path", name)
        if e.format_message():
            complain(f"{e.format_message()} (see {where} --help)")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return 128 + signal.SIGTERM
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        sys.stdout = None
        return FAILED
    except OSError as e:  # files that a command opens have errors of ours
        sys.stdout = None
        complain(f"write standard output: {os.strerror(e.errno or 0)}; write elsewhere")
        return FAILED
    finally:
        signal.signal(signal.SIGTERM, previous)
    return code if isinstance(code, int) else 0
