"""The command line, one file per command group. Never loads the server stack to say what it is.

Rules: data goes to stdout, narration to stderr; `--json` prints what programs read. Commands other than `serve` answer
in under 0.3 s, so what a command needs is imported when it runs.
"""

from __future__ import annotations

import io
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
    import click

    from semanticd.control.errors import ControlError, DaemonNotRunningError
    from semanticd.domain.errors import ConfigurationError, SemanticError
    from semanticd.entrypoints.cli.program import program

    try:
        program(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except DaemonNotRunningError as error:
        _end(str(error), EXIT_NOT_RUNNING)
    except ConfigurationError as error:
        _end(error.message, EXIT_USAGE)
    except (ControlError, SemanticError, ValueError) as error:
        _end(str(error), EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        _end("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has seen enough (`semanticd logs | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _show(error: ClickException) -> None:
    """Print a usage mistake, which repeats what was typed or what the shell found in a folder."""
    from semanticd.entrypoints.cli.output import narrate

    text = io.StringIO()
    error.show(text)
    narrate(text.getvalue().rstrip("\n"))


def _end(message: str, status: int) -> None:
    from semanticd.entrypoints.cli.output import narrate

    sys.stdout.flush()
    narrate(f"semanticd: {message}")
    sys.exit(status)
