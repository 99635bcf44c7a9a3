"""The command line, one file per command group. Help never loads the server stack.

Rules: data goes to stdout, messages to stderr; `--json` prints machine-readable output. Commands other than `serve`
answer in under 0.3 s, so a command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from click import ClickException

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the program; every error ends here, as one line on stderr and an exit status.

    1: it failed. 2: wrong usage or settings. 3: no daemon is running. 130: interrupted.
    """
    _open_missing_streams()
    import click

    from semanticd.control.errors import ControlError, DaemonNotRunningError, NoSocketError
    from semanticd.domain.errors import ConfigurationError, SemanticError
    from semanticd.entrypoints.cli.program import program

    output = sys.stdout
    try:
        program(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except DaemonNotRunningError as error:
        _end(str(error), EXIT_FAILED if isinstance(error, NoSocketError) else EXIT_NOT_RUNNING)
    except ConfigurationError as error:
        _end(error.message, EXIT_USAGE)
    except (ControlError, SemanticError, ValueError) as error:
        _end(str(error), EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        _end("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has seen enough (`semanticd logs | head`).
        _give_up_output()
        sys.exit(0)
    except SystemExit:
        # So Click ends, with status 1 and another stdout, where the reader left in the middle of the output.
        if sys.stdout is output:
            raise
        _give_up_output()
        sys.exit(0)
    except OSError as error:
        _end(_system_error(error), EXIT_FAILED)


def _open_missing_streams() -> None:
    """Let a stream that the shell closed (`>&-`) lead nowhere; else the next file or socket would get its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (a descriptor that stays open)


def _give_up_output() -> None:
    """Drop buffered output for stdout: Python would fail with it again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _system_error(error: OSError) -> str:
    """Return the system's refusal; without a file's name it refused our output (a full disk, for example)."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    _give_up_output()
    return f"cannot write the output: {reason}"


def _show(error: ClickException) -> None:
    """Print a usage mistake, which repeats what was typed or what the shell found in a folder."""
    import click

    from semanticd.entrypoints.cli.output import narrate

    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        narrate(error.format_message())
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        narrate(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n")
    narrate(f"semanticd: {error.format_message()}")


def _end(message: str, status: int) -> None:
    from semanticd.entrypoints.cli.output import narrate

    try:
        sys.stdout.flush()
    except OSError:
        _give_up_output()
    narrate(f"semanticd: {message}")
    sys.exit(status)
